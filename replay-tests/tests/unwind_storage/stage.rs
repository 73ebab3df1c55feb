//! A pure control plane over a real backend, and the operations that are tried on it.

use std::process::{Command as Process, Stdio};

use tephra_domain::command::{Command, CreateVolumeFromImage};
use tephra_domain::drift::{Expectation, FoundObject, compare};
use tephra_domain::effect::{BackendObject, DueEffect, EffectKey, Outcome};
use tephra_domain::ids::{PoolName, SnapshotId, VolumeId};
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

/// Where it is written: near the beginning and at the very end of one GiB.
const PLACES: [u64; 2] = [4096, (1 << 30) - 4096];

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
struct Run {
    effects: usize,
    struck: bool,
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
    stage.check(&case).await;
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
        let mut run = Run { effects: 0, struck: false };
        let mut last: Option<DueEffect> = None;
        while let Some(due) = self.world.next_due() {
            let again = last.as_ref().is_some_and(|last| last.effect == due.effect);
            run.effects += usize::from(!again);
            let gives_in = matches!(due.key, EffectKey::Debt { attempt, .. } if attempt > DEBT_ATTEMPTS);
            let at = fault
                .filter(|fault| fault.effect + 1 == run.effects && (!again || fault.for_good) && !gives_in)
                .map(|fault| fault.at);
            run.struck |= self.perform(&due, at).await;
            self.world.check_invariants();
            last = Some(due);
        }
        run
    }

    /// Whether what was planned has happened.
    async fn perform(&mut self, due: &DueEffect, at: Option<At>) -> bool {
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
        let outcome = result.map_or_else(Outcome::Failed, |()| Outcome::Done);
        self.world.report(due.key, outcome).unwrap();
        struck
    }

    async fn write(&self, byte: u8) {
        let written = self.qemu_io(BackendObject::Volume(self.volume), &written(byte)).await;
        assert!(written.is_ok(), "{written:?}");
    }

    async fn assert_holds(&self, object: BackendObject, byte: u8, case: &str) {
        let commands = PLACES.map(|at| format!("read -P {byte} {at} 4096"));
        let read = self.qemu_io(object, &commands).await;
        assert!(read.is_ok(), "{case}: {object} does not hold {byte:#x}: {read:?}");
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

    /// Every operation has ended, the data is right, and the storage holds what the ledger and its
    /// debts say.
    async fn check(&self, case: &str) {
        let ledger = &self.world.ledger;
        assert!(ledger.operations.is_empty() && ledger.claims.is_empty(), "{case}: something is open");
        assert!(ledger.debts.sorted().iter().all(|(_, debt)| debt.held), "{case}: a debt is not paid");
        let expectation = Expectation::of(
            &pool(BACKEND),
            ledger.volumes.sorted().into_iter().map(|(_, volume)| volume),
            ledger.snapshots.sorted().into_iter().map(|(_, snapshot)| snapshot),
            ledger.debts.sorted().into_iter().map(|(_, debt)| debt),
            std::iter::empty(),
        );
        let findings = compare(&expectation, &expectation, &self.found().await);
        assert!(findings.iter().all(|finding| !finding.is_drift()), "{case}: {findings:?}");
        self.check_source(case).await;
        if let Some(made) = self.made {
            let state = self.world.volume_state(made);
            if state != VolumeState::Available {
                assert_eq!(state, VolumeState::Error, "{case}");
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

    async fn check_source(&self, case: &str) {
        let Some(snapshot) = self.snapshot else { return };
        assert_eq!(self.world.snapshot_state(snapshot), SnapshotState::Available, "{case}");
        self.assert_holds(BackendObject::Snapshot { volume: self.volume, snapshot }, OLD, case).await;
        let volume = self.world.ledger.volumes.get(&self.volume).unwrap();
        let is_revert = matches!(self.operation, Operation::Revert | Operation::RevertByCopying);
        let expected = if is_revert && volume.last_failure.is_none() { OLD } else { NEW };
        if volume.status.state() == VolumeState::Available {
            return self.assert_holds(BackendObject::Volume(self.volume), expected, case).await;
        }
        assert!(is_revert && volume.status.state() == VolumeState::Error, "{case}: {:?}", volume.status);
        let (_, safety) = self.world.ledger.held_safety_snapshot_of(self.volume).expect("a way back");
        self.assert_holds(safety, NEW, case).await;
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
