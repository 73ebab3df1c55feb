//! A whole control plane in memory, one call at a time: commands go in, effects come out, and the
//! history is kept. Time and ids are the world's own, so that the same calls give the same history.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::actor::{Actor, Role};
use tephra_domain::attachment::{AttachmentState, Connector};
use tephra_domain::backend::{BORROWS, BackendDescription, LENDS};
use tephra_domain::command::{
    Command, Context, CreateAttachment, CreateSnapshot, CreateVolume, CreateVolumeType, ManageSnapshot,
    ManageVolume,
};
use tephra_domain::decide::{Verdict, submit};
use tephra_domain::effect::{BackendObject, DueEffect, EffectKey, Failure, Outcome};
use tephra_domain::event::Commit;
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{
    AttachmentId, BackendName, CommandId, OperationId, PoolId, PoolName, Position, ProjectId, RequestId,
    SnapshotId, UserId, VolumeId, ZoneName,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::{Usage, UsageCount};
use tephra_domain::rejection::Rejection;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::{Volume, VolumeSource, VolumeState};
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use uuid::Uuid;

use crate::sim_backend::{Contents, SimBackend};

/// The project that the world's user acts for.
pub const PROJECT: &str = "alpha";

/// The control plane, its backends and its history.
#[derive(Clone, Debug)]
pub struct World {
    /// The state.
    pub ledger: Ledger,
    /// The backends, all in one.
    pub storage: SimBackend,
    /// Everything that happened, in order.
    pub history: Vec<Commit>,
    /// How full the pools are said to be.
    pub pools: Vec<PoolStats>,
    /// The time of the next decision.
    pub now: Timestamp,
    next_id: u128,
}

/// A size, for tests.
///
/// # Panics
/// If it is not between 1 and the largest.
pub fn gib(size_gib: u32) -> SizeGib {
    SizeGib::new(size_gib).unwrap_or_else(|| panic!("{size_gib} is not a size"))
}

/// A user of a project.
pub fn actor(project: &str, role: Role) -> Actor {
    Actor { user: UserId::new("somebody"), project: ProjectId::new(project), role, address: None }
}

/// The pool of a backend that has one pool.
pub fn pool(backend: &str) -> PoolId {
    PoolId { backend: BackendName::new(backend), pool: PoolName::new(backend) }
}

impl Default for World {
    fn default() -> Self {
        Self::with_backends(&["one"], true)
    }
}

impl World {
    /// A new ledger with the default type and these backends, each with one thick pool of 100 GiB;
    /// earlier ones have a little more room.
    pub fn with_backends(backends: &[&str], native_revert: bool) -> Self {
        let mut world = Self {
            ledger: Ledger::default(),
            storage: SimBackend::default(),
            history: Vec::new(),
            pools: Vec::new(),
            now: Timestamp(1_750_000_000_000_000),
            next_id: 1,
        };
        world.must(Command::CreateVolumeType(Box::new(CreateVolumeType {
            volume_type: DEFAULT_TYPE_ID,
            name: DEFAULT_TYPE_NAME.into(),
            description: None,
            is_public: true,
            extra_specs: BTreeMap::new(),
        })));
        for (n, name) in backends.iter().enumerate() {
            world.must(Command::RegisterBackend {
                backend: BackendName::new(*name),
                description: Box::new(BackendDescription {
                    host: "host".into(),
                    driver: "sim".into(),
                    availability_zone: ZoneName::new("nova"),
                    pools: vec![PoolName::new(*name)],
                    native_revert,
                    capabilities: BTreeMap::new(),
                }),
            });
            let free_gib = 100.0 - f64::from(u8::try_from(n).unwrap_or(u8::MAX));
            world.pools.push(PoolStats {
                pool: pool(name),
                is_up: true,
                total_gib: 100.0,
                free_gib,
                provisioned_gib: 0.0,
                max_over_subscription_ratio: 20.0,
                reserved_percentage: 0,
                thin: false,
                capabilities: BTreeMap::new(),
                reported_at: world.now,
            });
        }
        world
    }

    /// The same, with executors that read all of the backends.
    pub fn with_neighbours(backends: &[&str], native_revert: bool) -> Self {
        let mut world = Self::with_backends(backends, native_revert);
        let names: Vec<BackendName> = backends.iter().map(|name| BackendName::new(*name)).collect();
        for backend in &names {
            let Some(known) = world.ledger.backends.get(backend) else { continue };
            let description = Box::new(known.description.clone().reading(&names));
            world.must(Command::RegisterBackend { backend: backend.clone(), description });
        }
        world
    }

    /// The same, with executors of processes of their own, of which the first lends what it holds.
    pub fn with_a_lender(backends: &[&str], native_revert: bool) -> Self {
        let mut world = Self::with_backends(backends, native_revert);
        for (number, backend) in backends.iter().map(|name| BackendName::new(*name)).enumerate() {
            let Some(known) = world.ledger.backends.get(&backend) else { continue };
            let mut description = Box::new(known.description.clone());
            let word = if number == 0 { LENDS } else { BORROWS };
            description.capabilities.insert(word.to_owned(), "True".to_owned());
            world.must(Command::RegisterBackend { backend, description });
        }
        world
    }

    /// Lets no new volume onto a pool.
    pub fn fill(&mut self, backend: &str) {
        for stats in self.pools.iter_mut().filter(|stats| stats.pool == pool(backend)) {
            stats.free_gib = 0.0;
        }
    }

    /// An id that was not there before.
    pub fn fresh(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(0x4000_8000_0000_0000_0000 | (self.next_id << 96) | self.next_id)
    }

    /// Submits a command as `actor`.
    pub fn submit_as(&mut self, actor: Actor, command: &Command) -> Verdict {
        self.now = self.now.plus_ms(1);
        let ctx = Context {
            command: CommandId::from_uuid(self.fresh()),
            request: RequestId::new("req-test"),
            actor,
            now: self.now,
            idempotency: None,
            pools: self.pools.clone(),
        };
        self.submit_with(ctx, command)
    }

    /// Submits a command with everything about it given.
    pub fn submit_with(&mut self, ctx: Context, command: &Command) -> Verdict {
        let verdict = submit(&mut self.ledger, command, &ctx);
        if let Verdict::Accepted { commit, .. } = &verdict {
            self.history.push(commit.clone());
        }
        verdict
    }

    /// Submits as a member of [`PROJECT`]: the names of the events, or the rejection.
    ///
    /// # Errors
    /// The rejection.
    pub fn when(&mut self, command: Command) -> Result<Vec<&'static str>, Rejection> {
        self.when_as(actor(PROJECT, Role::Member), command)
    }

    /// Submits as an administrator: the names of the events, or the rejection.
    ///
    /// # Errors
    /// The rejection.
    pub fn when_admin(&mut self, command: Command) -> Result<Vec<&'static str>, Rejection> {
        self.when_as(actor(PROJECT, Role::Admin), command)
    }

    /// Submits as anybody: the names of the events, or the rejection.
    ///
    /// # Errors
    /// The rejection.
    pub fn when_as(&mut self, actor: Actor, command: Command) -> Result<Vec<&'static str>, Rejection> {
        match self.submit_as(actor, &command) {
            Verdict::Accepted { commit, .. } => Ok(commit.events.iter().map(|event| event.name()).collect()),
            Verdict::NothingToDo | Verdict::Repeated { .. } => Ok(Vec::new()),
            Verdict::Rejected(rejection) => Err(rejection),
        }
    }

    /// Submits as an administrator what must be accepted.
    ///
    /// # Panics
    /// If it is not.
    pub fn must(&mut self, command: Command) {
        if let Err(rejection) = self.when_admin(command.clone()) {
            panic!("{command:?} was rejected: {rejection}");
        }
    }

    /// Reports an outcome as an executor: the names of the events, or the rejection.
    ///
    /// # Errors
    /// The rejection.
    pub fn report(&mut self, key: EffectKey, outcome: Outcome) -> Result<Vec<&'static str>, Rejection> {
        self.when_as(Actor::system(), Command::ReportOutcome { key, outcome })
    }

    /// Performs one effect on the simulated storage and reports what came of it.
    ///
    /// # Errors
    /// The rejection of the report.
    pub fn perform(&mut self, due: &DueEffect) -> Result<Vec<&'static str>, Rejection> {
        let outcome = match self.storage.perform(&due.pool, &due.effect) {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure),
        };
        self.report(due.key, outcome)
    }

    /// The next effect that is due, in the order of operations; waits for it if it is later.
    pub fn next_due(&mut self) -> Option<DueEffect> {
        let due = self.ledger.all_due().into_iter().min_by_key(|due| due.not_before)?;
        self.now = self.now.max(due.not_before);
        Some(due)
    }

    /// Performs effects until none is due.
    ///
    /// # Panics
    /// If that does not come to an end.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(due) = self.next_due() else { return };
            self.perform(&due).unwrap_or_else(|rejection| panic!("{due:?} was refused: {rejection}"));
        }
        panic!("effects are due for ever: {:?}", self.ledger.all_due());
    }

    /// Reports the effect that is due as failed, without performing it.
    ///
    /// # Panics
    /// If none is due, or the report is refused.
    pub fn fail_next(&mut self, failure: Failure) -> Vec<&'static str> {
        let due = self.next_due().unwrap_or_else(|| panic!("nothing is due"));
        self.report(due.key, Outcome::Failed(failure)).unwrap_or_else(|r| panic!("{due:?}: {r}"))
    }

    /// A command to create a blank volume, and its id.
    pub fn new_volume(&mut self, size_gib: u32) -> (VolumeId, Command) {
        self.new_volume_from(Some(size_gib), VolumeSource::Blank)
    }

    /// A command to create a volume from something, and its id.
    pub fn new_volume_from(&mut self, size_gib: Option<u32>, source: VolumeSource) -> (VolumeId, Command) {
        let id = VolumeId::from_uuid(self.fresh());
        let create = CreateVolume {
            volume: id,
            name: Some("v".into()),
            description: None,
            size: size_gib.map(gib),
            source,
            volume_type: None,
            availability_zone: None,
            metadata: BTreeMap::new(),
        };
        (id, Command::CreateVolume(Box::new(create)))
    }

    /// An available volume of the project, its data marked with `tag`.
    pub fn given_volume(&mut self, size_gib: u32, tag: u64) -> VolumeId {
        let (id, command) = self.new_volume(size_gib);
        self.when(command).unwrap_or_else(|rejection| panic!("{rejection}"));
        self.settle();
        self.write(id, tag);
        id
    }

    /// Marks a volume's data.
    pub fn write(&mut self, id: VolumeId, tag: u64) {
        let pool = self.ledger.volumes.get(&id).and_then(|volume| volume.pool.clone());
        if let Some(pool) = pool {
            self.storage.write(&pool, BackendObject::Volume(id), tag);
        }
    }

    /// What marks a volume's data.
    pub fn tag(&self, id: VolumeId) -> Option<u64> {
        let pool = self.ledger.volumes.get(&id)?.pool.clone()?;
        self.storage.contents(&pool, BackendObject::Volume(id)).map(|contents| contents.tag)
    }

    /// A command to take a snapshot, and its id.
    pub fn new_snapshot(&mut self, volume: VolumeId) -> (SnapshotId, Command) {
        let id = SnapshotId::from_uuid(self.fresh());
        let create = CreateSnapshot {
            snapshot: id,
            volume,
            name: Some("s".into()),
            description: None,
            force: false,
            metadata: BTreeMap::new(),
        };
        (id, Command::CreateSnapshot(Box::new(create)))
    }

    /// An available snapshot.
    pub fn given_snapshot(&mut self, volume: VolumeId) -> SnapshotId {
        let (id, command) = self.new_snapshot(volume);
        self.when(command).unwrap_or_else(|rejection| panic!("{rejection}"));
        self.settle();
        id
    }

    /// Puts something on a backend that the ledger knows nothing of.
    pub fn given_stranger(&mut self, backend: &str, name: &str, size_gib: u32, tag: u64) {
        let contents = Contents { size: gib(size_gib), tag };
        self.storage.strangers.insert((pool(backend), name.into()), contents);
    }

    /// What marks the data of something that the ledger knows nothing of.
    pub fn stranger(&self, backend: &str, name: &str) -> Option<u64> {
        self.storage.strangers.get(&(pool(backend), name.into())).map(|contents| contents.tag)
    }

    /// A command to take something over as a volume, and its id.
    pub fn new_managed(&mut self, backend: &str, name: &str, size_gib: u32) -> (VolumeId, Command) {
        let id = VolumeId::from_uuid(self.fresh());
        let manage = ManageVolume {
            volume: id,
            pool: pool(backend),
            name: name.into(),
            size: gib(size_gib),
            display_name: Some("taken over".into()),
            description: None,
            volume_type: None,
            availability_zone: None,
            metadata: BTreeMap::new(),
            bootable: false,
        };
        (id, Command::ManageVolume(Box::new(manage)))
    }

    /// A command to take something over as a snapshot, and its id.
    pub fn new_managed_snapshot(
        &mut self,
        volume: VolumeId,
        name: &str,
        size_gib: u32,
    ) -> (SnapshotId, Command) {
        let id = SnapshotId::from_uuid(self.fresh());
        let manage = ManageSnapshot {
            snapshot: id,
            volume,
            name: name.into(),
            size: gib(size_gib),
            display_name: None,
            description: None,
            metadata: BTreeMap::new(),
        };
        (id, Command::ManageSnapshot(Box::new(manage)))
    }

    /// Begins to connect a volume to a server, with an export of its own.
    ///
    /// # Panics
    /// If that is refused.
    pub fn connect(&mut self, volume: VolumeId) -> AttachmentId {
        let attachment = AttachmentId::from_uuid(self.fresh());
        let connector = Connector { host: Some("host".into()), ..Connector::default() };
        self.must(Command::CreateAttachment(Box::new(CreateAttachment {
            volume,
            attachment,
            instance: Some(attachment.to_string().into()),
            mode: None,
            connector: Some(connector),
            connector_mode: None,
        })));
        attachment
    }

    /// A volume's status.
    pub fn volume_state(&self, id: VolumeId) -> VolumeState {
        self.ledger.volumes.get(&id).map_or(VolumeState::Absent, |volume| volume.status.state())
    }

    /// A snapshot's status.
    pub fn snapshot_state(&self, id: SnapshotId) -> SnapshotState {
        self.ledger.snapshots.get(&id).map_or(SnapshotState::Absent, |snapshot| snapshot.status.state())
    }

    /// The operation that is open, if it is only one.
    pub fn open_operation(&self) -> Option<OperationId> {
        match self.ledger.operations.sorted().as_slice() {
            [(id, _)] => Some(**id),
            [] | [_, _, ..] => None,
        }
    }

    /// What must hold at every moment, whatever has happened.
    ///
    /// # Panics
    /// If it does not, naming what is wrong.
    pub fn check_invariants(&self) {
        self.check_state();
        self.check_replay();
    }

    /// The part of [`Self::check_invariants`] that looks at the state alone and needs no history.
    ///
    /// # Panics
    /// If it does not hold, naming what is wrong.
    pub fn check_state(&self) {
        self.check_statuses_have_operations();
        self.check_totals();
    }

    /// What must hold once nothing is due any more, besides: every operation has ended, and the
    /// backends hold what the ledger says and what is held for operators.
    ///
    /// # Panics
    /// If it does not, naming what is wrong.
    pub fn check_at_rest(&self) {
        self.check_invariants();
        self.check_state_at_rest();
    }

    /// The part of [`Self::check_at_rest`] that needs no history.
    ///
    /// # Panics
    /// If it does not hold, naming what is wrong.
    pub fn check_state_at_rest(&self) {
        self.check_state();
        assert!(self.ledger.operations.is_empty(), "open: {:?}", self.ledger.operations.sorted());
        assert!(self.ledger.claims.is_empty(), "claims: {:?}", self.ledger.claims.sorted());
        let mut expected: Vec<(PoolId, BackendObject)> = Vec::new();
        for (id, debt) in self.ledger.debts.sorted() {
            assert!(debt.held, "debt {id} is not paid");
            expected.push((debt.pool.clone(), debt.object));
        }
        for (id, volume) in self.ledger.volumes.sorted() {
            let object = BackendObject::Volume(*id);
            let Some(pool) = &volume.pool else { continue };
            let is_there = self.storage.contents(pool, object).is_some();
            assert!(
                is_there || volume.status.state() != VolumeState::Available,
                "{object} is available but not there"
            );
            if is_there {
                expected.push((pool.clone(), object));
            }
        }
        for (id, snapshot) in self.ledger.snapshots.sorted() {
            let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: *id };
            let is_there = self.storage.contents(&snapshot.pool, object).is_some();
            assert!(
                is_there || snapshot.status.state() != SnapshotState::Available,
                "{object} is available but not there"
            );
            if is_there {
                expected.push((snapshot.pool.clone(), object));
            }
        }
        self.check_exports();
        expected.sort();
        let actual: Vec<_> = self.storage.objects.keys().cloned().collect();
        assert_eq!(actual, expected, "objects on backends against ledger and held debts");
    }

    /// Exports are what attachments say; where one failed, it may be there or not.
    fn check_exports(&self) {
        let mut unsure = BTreeSet::new();
        let mut expected = BTreeSet::new();
        for (_, volume) in self.ledger.volumes.sorted() {
            for attachment in volume.attachments.iter().filter(|attachment| attachment.has_export()) {
                let Some(pool) = &volume.pool else { continue };
                let entry = (pool.clone(), attachment.id);
                match attachment.status.state() {
                    AttachmentState::ErrorAttaching | AttachmentState::ErrorDetaching => {
                        unsure.insert(entry);
                    }
                    AttachmentState::Absent
                    | AttachmentState::Reserved
                    | AttachmentState::Connecting
                    | AttachmentState::Attaching
                    | AttachmentState::Attached
                    | AttachmentState::Disconnecting => {
                        expected.insert(entry);
                    }
                }
            }
        }
        let actual: BTreeSet<_> = self.storage.exports.keys().cloned().collect();
        let actual: BTreeSet<_> = actual.difference(&unsure).cloned().collect();
        assert_eq!(actual, expected, "exports on backends against attachments");
    }

    fn check_attachments(&self, volume: &Volume) {
        for attachment in &volume.attachments {
            let state = attachment.status.state();
            let operation = attachment.status.operation();
            let open = operation.is_some_and(|op| self.ledger.operations.contains_key(&op));
            assert_eq!(state.is_transitional(), open, "attachment {} is {}", attachment.id, state.as_str());
        }
        let used = Volume::use_of(volume.attachments.iter());
        let state = volume.status.state();
        if state == VolumeState::Available {
            assert_eq!(used, VolumeState::Available, "{volume:?}");
        }
        assert!(state != VolumeState::InUse || !volume.attachments.is_empty(), "{volume:?}");
        assert!(state != VolumeState::Deleting || !volume.is_held(), "{volume:?}");
        assert_eq!(self.ledger.exported.contains_key(&volume.id), volume.has_exports(), "{volume:?}");
    }

    fn check_statuses_have_operations(&self) {
        for (id, volume) in self.ledger.volumes.sorted() {
            let state = volume.status.state();
            let open = volume.status.operation().is_some_and(|op| self.ledger.operations.contains_key(&op));
            assert_eq!(state.is_transitional(), open, "volume {id} is {}", state.as_str());
            self.check_attachments(volume);
        }
        for (id, snapshot) in self.ledger.snapshots.sorted() {
            let state = snapshot.status.state();
            let open = snapshot.status.operation().is_some_and(|op| self.ledger.operations.contains_key(&op));
            assert_eq!(state.is_transitional(), open, "snapshot {id} is {}", state.as_str());
        }
    }

    fn check_totals(&self) {
        let mut usage: BTreeMap<ProjectId, Usage> = BTreeMap::new();
        let mut pools: BTreeMap<PoolId, (i64, i64)> = BTreeMap::new();
        for (_, volume) in self.ledger.volumes.sorted() {
            let gigabytes = i64::from(volume.charged_gib());
            let count = UsageCount { volumes: 1, snapshots: 0, gigabytes };
            usage.entry(volume.project.clone()).or_default().add(volume.volume_type, count, 1);
            if let Some(pool) = &volume.pool {
                let entry = pools.entry(pool.clone()).or_default();
                *entry = (entry.0 + 1, entry.1 + gigabytes);
            }
        }
        for (_, snapshot) in self.ledger.snapshots.sorted() {
            let gigabytes = i64::from(snapshot.size.gib());
            let count = UsageCount { volumes: 0, snapshots: 1, gigabytes };
            usage.entry(snapshot.project.clone()).or_default().add(snapshot.volume_type, count, 1);
        }
        let folded: BTreeMap<_, _> =
            self.ledger.usage.sorted().into_iter().map(|(id, row)| (id.clone(), row.clone())).collect();
        assert_eq!(folded, usage, "usage against the sum over what exists");
        let folded: BTreeMap<_, _> = self
            .ledger
            .pools
            .sorted()
            .into_iter()
            .map(|(id, row)| (id.clone(), (row.volumes, row.provisioned_gib)))
            .filter(|(_, row)| *row != (0, 0))
            .collect();
        assert_eq!(folded, pools, "pools against the sum over what exists");
    }

    fn check_replay(&self) {
        let mut replayed = Ledger::default();
        for (position, commit) in (1..).map(Position).zip(&self.history) {
            apply_commit(&mut replayed, position, commit).unwrap_or_else(|illegal| panic!("{illegal}"));
        }
        assert_eq!(replayed.volumes.sorted(), self.ledger.volumes.sorted());
        assert_eq!(replayed.snapshots.sorted(), self.ledger.snapshots.sorted());
        assert_eq!(replayed.operations.sorted(), self.ledger.operations.sorted());
        assert_eq!(replayed.debts.sorted(), self.ledger.debts.sorted());
        assert_eq!(replayed.usage.sorted(), self.ledger.usage.sorted());
        assert_eq!(replayed.claims.sorted(), self.ledger.claims.sorted());
    }
}
