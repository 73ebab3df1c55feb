//! A pure control plane over a real backend, and the operations that are tried on it.
//!
//! How an operation has to end follows from its attempts. One at which nothing was done succeeds, also
//! right after one at which something was; one that failed is repeated, as often as the ledger says. So a
//! command that fails once, an answer that is lost once and an executor that dies leave no trace: what was
//! asked for is there, with no debt and no failure on record. Only where the very last attempt at a step
//! failed too, the step's table says what follows: all is undone, or what could not be tidied up is
//! owed, and paid as soon as nothing is in the way. Nothing else is accepted.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::process::{Command as Process, Stdio};

use tephra_domain::command::{Command, CreateVolumeFromImage};
use tephra_domain::drift::{Expectation, FoundKind, FoundObject, compare};
use tephra_domain::effect::{BackendObject, Direction, DueEffect, EffectKey, Failure, Outcome};
use tephra_domain::ids::{PoolName, SnapshotId, VolumeId};
use tephra_domain::operation::{IfItFails, MAX_TRIES};
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};
use tephra_executors::backend::Backend;
use tephra_executors::image::act;
use tephra_replay_tests::world::{World, pool};

use crate::image::OneImage;
use crate::sabotage::{At, Fault, Saboteur};

/// The backend's name in the ledger.
const BACKEND: &str = "one";

/// Debts are retried for ever: a fault lets them go after so many attempts.
const DEBT_ATTEMPTS: u32 = 2;

/// What volumes hold, as a byte that is repeated: at first, later, and if nobody wrote.
const OLD: u8 = 0x11;
const NEW: u8 = 0x22;
const BLANK: u8 = 0;

/// Where it is written: near the beginning and at the very end. Everything else is zeroes.
const PLACES: [u64; 2] = [4096, GIB - 4096];

/// How long all volumes are.
const GIB: u64 = 1 << 30;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    CreateFromImage,
    CreateFromSnapshot,
    CreateFromVolume,
    Revert,
    RevertByCopying,
}

/// A fault in the n-th effect of an operation.
#[derive(Clone, Copy, Debug)]
struct FaultAt {
    effect: usize,
    at: At,
    /// At every attempt, not only at the first.
    for_good: bool,
}

/// A backend, and what it is to its lab.
pub struct Storage<'a> {
    pub backend: &'a dyn Backend,
    pub saboteur: &'a Saboteur,
    /// An image with what [`image_content`] writes.
    pub image: &'a OneImage,
    /// The only pool that is used.
    pub pool: PoolName,
    /// Everything that is there, whatever the backend may say of it.
    pub everything: &'a (dyn Fn() -> Vec<String> + Sync),
    /// Whether snapshots are among that.
    pub shows_snapshots: bool,
    /// Whether all of a volume is looked at, and not only what was written: where it is known what holds
    /// no data, that takes no longer.
    pub looks_everywhere: bool,
}

/// The commands of `qemu-io` that write a byte where it is looked for.
fn written(byte: u8) -> [String; 2] {
    PLACES.map(|at| format!("write -P {byte} {at} 4096"))
}

/// What the image of a [`Storage`] is filled with.
pub fn image_content() -> [String; 2] {
    written(OLD)
}

struct Stage<'a> {
    storage: &'a Storage<'a>,
    world: World,
    operation: Operation,
    volume: VolumeId,
    snapshot: Option<SnapshotId>,
    made: Option<VolumeId>,
}

/// How a run went.
#[derive(Default)]
struct Run {
    effects: usize,
    struck: bool,
    /// What the tables say of the steps at which every attempt failed.
    given_up: Vec<IfItFails>,
}

impl Run {
    /// Whether everything was to be undone.
    fn is_undone(&self) -> bool {
        self.given_up.contains(&IfItFails::Undo)
    }
}

/// Tries an operation with every fault at every command, and says how many faults there were.
pub async fn unwind(storage: &Storage<'_>, operation: Operation, faults: &[(Fault, bool)]) -> usize {
    let mut tried = 0;
    for (fault, for_good) in faults {
        let mut effect = 0;
        'effects: loop {
            for command in 0.. {
                let fault_at = FaultAt { effect, at: At { command, fault: *fault }, for_good: *for_good };
                let run = attempt(storage, operation, Some(fault_at)).await;
                if run.struck {
                    tried += 1;
                    continue;
                }
                if effect + 1 >= run.effects {
                    break 'effects;
                }
                break;
            }
            effect += 1;
        }
    }
    tried
}

async fn attempt(storage: &Storage<'_>, operation: Operation, fault: Option<FaultAt>) -> Run {
    let mut stage = Stage::open(storage, operation).await;
    let run = stage.run(fault).await;
    let case = format!("{operation:?} with {fault:?}");
    let lasts = run.struck && fault.is_some_and(|fault| fault.for_good);
    assert!(lasts || run.given_up.is_empty(), "{case}: nothing was in the way any more");
    stage.check(&run, &case).await;
    stage.clear(&case).await;
    run
}

fn from_image(world: &mut World, image: &OneImage) -> (VolumeId, Command) {
    let (volume, command) = world.new_volume_from(Some(1), VolumeSource::Image(image.facts.id));
    let Command::CreateVolume(create) = command else { unreachable!("it creates a volume") };
    let create = CreateVolumeFromImage { create: *create, image: image.facts.clone() };
    (volume, Command::CreateVolumeFromImage(Box::new(create)))
}

impl<'a> Stage<'a> {
    /// The operation is accepted, and nothing of it done.
    async fn open(storage: &'a Storage<'a>, operation: Operation) -> Self {
        storage.saboteur.plan(None);
        let native = operation != Operation::RevertByCopying;
        let mut world = World::with_backends(&[BACKEND], native);
        let (volume, create) = match operation {
            Operation::CreateFromImage => from_image(&mut world, storage.image),
            Operation::Create
            | Operation::CreateFromSnapshot
            | Operation::CreateFromVolume
            | Operation::Revert
            | Operation::RevertByCopying => world.new_volume(1),
        };
        world.when(create).unwrap();
        let mut stage = Self { storage, world, operation, volume, snapshot: None, made: None };
        if matches!(operation, Operation::Create | Operation::CreateFromImage) {
            stage.made = Some(volume);
            return stage;
        }
        stage.run(None).await;
        stage.write(OLD).await;
        let (snapshot, take) = stage.world.new_snapshot(volume);
        stage.world.when(take).unwrap();
        stage.run(None).await;
        stage.snapshot = Some(snapshot);
        stage.write(NEW).await;
        let command = match operation {
            Operation::Create | Operation::CreateFromImage => unreachable!("it is on its way"),
            Operation::Revert | Operation::RevertByCopying => {
                Command::RevertVolume { volume, snapshot: Some(snapshot) }
            }
            Operation::CreateFromSnapshot => stage.make(VolumeSource::Snapshot(snapshot)),
            Operation::CreateFromVolume => stage.make(VolumeSource::Volume(volume)),
        };
        stage.world.when(command).unwrap();
        stage
    }

    fn make(&mut self, source: VolumeSource) -> Command {
        let (made, command) = self.world.new_volume_from(Some(1), source);
        self.made = Some(made);
        command
    }

    /// Goes on until nothing is due.
    async fn run(&mut self, fault: Option<FaultAt>) -> Run {
        let mut run = Run::default();
        let mut last: Option<DueEffect> = None;
        let mut failures = 0;
        while let Some(due) = self.world.next_due() {
            let again = last.as_ref().is_some_and(|last| last.effect == due.effect);
            run.effects += usize::from(!again);
            let gives_in = matches!(due.key, EffectKey::Debt { attempt, .. } if attempt > DEBT_ATTEMPTS);
            let at = fault
                .filter(|fault| fault.effect + 1 == run.effects && (!again || fault.for_good) && !gives_in)
                .map(|fault| fault.at);
            let (struck, result) = self.perform(&due, at).await;
            run.struck |= struck;
            if !again {
                failures = 0;
            }
            match result {
                Ok(()) => {
                    self.world.report(due.key, Outcome::Done).unwrap();
                }
                Err(failure) => {
                    assert!(struck, "with {fault:?}, an attempt of its own: {due:?}: {failure}");
                    failures += 1;
                    run.given_up.extend(self.report_failure(&due, failures, failure));
                }
            }
            self.world.check_invariants();
            last = Some(due);
        }
        run
    }

    /// A step is tried again until it was tried often enough, and what follows then is what its table says.
    /// A debt is tried for ever, which needs no look here: it has to be paid in the end.
    fn report_failure(&mut self, due: &DueEffect, failures: u8, failure: Failure) -> Option<IfItFails> {
        let says = self.says_of_failure(due.key);
        let events = self.world.report(due.key, Outcome::Failed(failure)).unwrap();
        let says = says?;
        let follows = match says {
            _ if failures < MAX_TRIES => "StepAttemptFailed",
            IfItFails::Undo => "UndoStarted",
            IfItFails::OweCleanup | IfItFails::GoOn => "StepWaived",
        };
        assert!(events.contains(&follows), "attempt {failures} at {due:?} failed: {events:?}");
        (failures == MAX_TRIES).then_some(says)
    }

    /// What the table says of a step that fails.
    fn says_of_failure(&self, key: EffectKey) -> Option<IfItFails> {
        let EffectKey::Step { operation, direction: Direction::Forward, step, .. } = key else { return None };
        let operation = self.world.ledger.operations.get(&operation).unwrap();
        Some(operation.kind.steps()[usize::from(step)].if_it_fails)
    }

    /// Whether what was planned has happened, and what the ledger hears of the attempt.
    async fn perform(&self, due: &DueEffect, at: Option<At>) -> (bool, Result<(), Failure>) {
        let Storage { backend, saboteur, image, pool, .. } = self.storage;
        let perform = || act(*backend, Some(&image.images), pool, &due.effect);
        saboteur.plan(at);
        let mut result = perform().await;
        let struck = saboteur.has_struck();
        saboteur.plan(None);
        if struck && at.is_some_and(|at| at.fault == Fault::Dies) {
            // nobody heard of the first attempt
            result = perform().await;
            assert_eq!(result, Ok(()), "{due:?} after its executor had died");
        }
        (struck, result)
    }

    async fn write(&self, byte: u8) {
        let written = self.qemu_io(BackendObject::Volume(self.volume), &written(byte)).await;
        assert!(written.is_ok(), "{written:?}");
    }

    async fn assert_holds(&self, object: BackendObject, byte: u8, case: &str) {
        let commands = PLACES.map(|at| format!("read -P {byte} {at} 4096"));
        let read = self.qemu_io(object, &commands).await;
        assert!(read.is_ok(), "{case}: {object} does not hold {byte:#x}: {read:?}");
        if self.storage.looks_everywhere {
            self.assert_equals(object, byte, case).await;
        }
    }

    /// The whole object is what was written, and zeroes.
    async fn assert_equals(&self, object: BackendObject, byte: u8, case: &str) {
        let expected = tempfile::NamedTempFile::new().unwrap();
        expected.as_file().set_len(GIB).unwrap();
        for at in PLACES {
            expected.as_file().write_all_at(&[byte; 4096], at).unwrap();
        }
        let content = self.storage.backend.content(&self.storage.pool, object).await.unwrap();
        let mut compare = Process::new("qemu-img");
        compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(expected.path()).arg(&content.location);
        let output = compare.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{case}: {object} holds more than {byte:#x} was written: {said}");
    }

    async fn qemu_io(&self, object: BackendObject, commands: &[String]) -> Result<(), String> {
        let content = self.storage.backend.content(&self.storage.pool, object).await;
        let content = content.map_err(|failure| failure.to_string())?;
        let mut program = Process::new("qemu-io");
        if object.is_snapshot() {
            program.arg("-r");
        }
        program.args(["-f", "raw"]).arg(&content.location).stdin(Stdio::null());
        for command in commands {
            program.args(["-c", command]);
        }
        let output = program.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() && !said.contains("failed") { Ok(()) } else { Err(said.into_owned()) }
    }

    async fn found(&self) -> Vec<FoundObject> {
        self.storage.backend.list(&self.storage.pool).await.unwrap()
    }

    /// Every operation has ended as it had to, the data is right, and the storage holds what the ledger
    /// says and nothing else.
    async fn check(&self, run: &Run, case: &str) {
        let ledger = &self.world.ledger;
        assert!(ledger.operations.is_empty() && ledger.claims.is_empty(), "{case}: something is open");
        // only an undo that fails holds one, and nothing was done to any
        assert!(ledger.debts.is_empty(), "{case}: a debt is not paid");
        let expectation = Expectation::of(
            &pool(BACKEND),
            ledger.volumes.sorted().into_iter().map(|(_, volume)| volume),
            ledger.snapshots.sorted().into_iter().map(|(_, snapshot)| snapshot),
            std::iter::empty(),
            std::iter::empty(),
        );
        let found = self.found().await;
        let findings = compare(&expectation, &expectation, &found);
        assert!(findings.is_empty(), "{case}: {findings:?}");
        self.check_objects(run, &found, case);
        self.check_source(run, case).await;
        if let Some(made) = self.made {
            let expected = if run.is_undone() { VolumeState::Error } else { VolumeState::Available };
            assert_eq!(self.world.volume_state(made), expected, "{case}");
            self.check_record(made, run, case);
            if run.is_undone() {
                return;
            }
            let byte = match self.operation {
                Operation::CreateFromImage | Operation::CreateFromSnapshot => OLD,
                Operation::CreateFromVolume => NEW,
                Operation::Create | Operation::Revert | Operation::RevertByCopying => BLANK,
            };
            self.assert_holds(BackendObject::Volume(made), byte, case).await;
        }
    }

    /// Drift says nothing of what may be there or not. Here it is known.
    fn check_objects(&self, run: &Run, found: &[FoundObject], case: &str) {
        let snapshot =
            self.snapshot.map(|snapshot| BackendObject::Snapshot { volume: self.volume, snapshot });
        let source = snapshot.map(|_| BackendObject::Volume(self.volume));
        let made = self.made.filter(|_| !run.is_undone()).map(BackendObject::Volume);
        let expected: BTreeSet<String> =
            snapshot.into_iter().chain(source).chain(made).map(|object| object.to_string()).collect();
        let names: BTreeSet<String> = found.iter().map(|found| found.name.to_string()).collect();
        assert_eq!(names, expected, "{case}");
        let shown = self.storage.shows_snapshots;
        let counted = found.iter().filter(|found| shown || found.kind == FoundKind::Volume).count();
        let everything = (self.storage.everything)();
        assert_eq!(everything.len(), counted, "{case}: there is {everything:?}");
    }

    /// A failure is on record if, and only if, what was asked for was not done.
    fn check_record(&self, volume: VolumeId, run: &Run, case: &str) {
        let volume = self.world.ledger.volumes.get(&volume).unwrap();
        assert_eq!(volume.last_failure.is_some(), run.is_undone(), "{case}: {:?}", volume.last_failure);
    }

    async fn check_source(&self, run: &Run, case: &str) {
        let Some(snapshot) = self.snapshot else { return };
        assert_eq!(self.world.snapshot_state(snapshot), SnapshotState::Available, "{case}");
        assert_eq!(self.world.volume_state(self.volume), VolumeState::Available, "{case}");
        self.assert_holds(BackendObject::Snapshot { volume: self.volume, snapshot }, OLD, case).await;
        let is_revert = matches!(self.operation, Operation::Revert | Operation::RevertByCopying);
        if is_revert {
            self.check_record(self.volume, run, case);
        }
        let expected = if is_revert && !run.is_undone() { OLD } else { NEW };
        self.assert_holds(BackendObject::Volume(self.volume), expected, case).await;
    }

    /// An operator deletes everything, and nothing is left.
    async fn clear(&mut self, case: &str) {
        let volumes = self.world.ledger.volumes.sorted();
        let volumes: Vec<VolumeId> = volumes.into_iter().map(|(id, _)| *id).collect();
        for volume in volumes {
            self.world.must(Command::DeleteVolume { volume, cascade: true, force: true });
            self.run(None).await;
        }
        let ledger = &self.world.ledger;
        assert!(
            ledger.debts.is_empty() && ledger.volumes.is_empty(),
            "{case}: something is left in the ledger"
        );
        let left = (self.storage.everything)();
        assert!(left.is_empty(), "{case}: left on the storage: {left:?}");
    }
}
