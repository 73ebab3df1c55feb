//! Makes a history through the real sequencer's decisions: a drawn sequence of commands over three
//! backends that fail now and then, until everything that can happen has happened.

mod attached;
mod from_images;
mod taken_over;
mod turns;
mod uploaded;

pub use attached::record_attached;
pub use from_images::record_from_images;
pub use taken_over::record_taken_over;
pub use turns::record_turns;
pub use uploaded::record_uploaded;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::attachment::AttachMode;
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{
    AttachVolume, Command, CreateSnapshot, CreateVolume, CreateVolumeType, MetadataChange, VolumeTypeRef,
};
use tephra_domain::effect::{Failure, FailureKind, Outcome};
use tephra_domain::event::Idempotency;
use tephra_domain::ids::{
    AttachmentId, BackendName, CommandId, IdempotencyKey, PoolId, PoolName, ProjectId, RequestId, SnapshotId,
    UserId, VolumeId, VolumeTypeId, ZoneName,
};
use tephra_domain::quota::QuotaResource;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::{Volume, VolumeSource, VolumeState};
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use tephra_journal::gateway::Submission;
use tephra_journal::sequencer::{BatchContext, CaughtUp, Decided, Pending, SequencerCore};
use uuid::Uuid;

const BACKENDS: [&str; 3] = ["one", "two", "three"];
const ROUNDS: usize = 1_500;

/// Draws commands, and keeps the blocks.
pub struct Recorder {
    pub core: SequencerCore<()>,
    pub blocks: Vec<Arc<[u8]>>,
    waiting: VecDeque<Pending<()>>,
    now: Timestamp,
    random: u64,
    ids: u128,
}

/// The history of a seed.
pub fn record(seed: u64) -> Recorder {
    let mut recorder = Recorder::new(seed);
    recorder.prepare();
    for _ in 0..ROUNDS {
        for _ in 0..=recorder.draw(4) {
            let (actor, command) = recorder.next_command();
            recorder.ask(actor, command);
        }
        recorder.report();
        recorder.decide();
    }
    recorder
}

impl Recorder {
    fn new(seed: u64) -> Self {
        Self {
            core: SequencerCore::new(CaughtUp::default()),
            blocks: Vec::new(),
            waiting: VecDeque::new(),
            now: Timestamp(1_790_000_000_000_000),
            random: seed,
            ids: u128::from(seed) << 64,
        }
    }

    /// The history of a seed in which one member of a project asks for one thing a round.
    fn of(seed: u64, rounds: usize, next: impl Fn(&mut Self) -> (Role, Command)) -> Self {
        let mut recorder = Self::new(seed);
        recorder.prepare();
        for _ in 0..rounds {
            let (role, command) = next(&mut recorder);
            recorder.ask(actor("alpha", role), command);
            recorder.report();
            recorder.decide();
        }
        recorder
    }

    /// A number below `below` (SplitMix64).
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut draw = self.random;
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (draw ^ (draw >> 31)) % below
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let count = u64::try_from(from.len()).unwrap();
        if count == 0 {
            return None;
        }
        from.get(usize::try_from(self.draw(count)).unwrap()).cloned()
    }

    fn fresh(&mut self) -> Uuid {
        self.ids += 1;
        uuid::Builder::from_random_bytes(self.ids.to_be_bytes()).into_uuid()
    }

    fn ask(&mut self, actor: Actor, command: Command) {
        let id = self.fresh();
        let idempotency = (self.draw(5) == 0).then(|| Idempotency {
            key: IdempotencyKey::new(format!("key-{}", self.draw(200))),
            fingerprint: [7; 32],
        });
        let submission = Submission {
            id: CommandId::from_uuid(id),
            request: RequestId::new(format!("req-{id}")),
            actor,
            idempotency,
            command,
        };
        self.waiting.push_back((submission, ()).into());
    }

    fn decide(&mut self) {
        while !self.waiting.is_empty() {
            self.now = self.now.plus_ms(i64::try_from(self.draw(90_000)).unwrap());
            let pools = BACKENDS.iter().map(|backend| pool_stats(backend, self.now)).collect();
            let context = BatchContext { now: self.now, pools, block_id: self.fresh() };
            match self.core.decide_batch(&mut self.waiting, context) {
                Decided::Answers(_) => {}
                // Now and then somebody else was quicker, and it is all decided again.
                Decided::Append(_) if self.draw(10) == 0 => drop(self.core.overtaken(&mut self.waiting)),
                Decided::Append(batch) => {
                    self.blocks.push(batch.bytes);
                    self.core.acknowledged().unwrap();
                }
            }
        }
    }

    fn prepare(&mut self) {
        self.ask(
            Actor::system(),
            Command::CreateVolumeType(Box::new(CreateVolumeType {
                volume_type: DEFAULT_TYPE_ID,
                name: DEFAULT_TYPE_NAME.into(),
                description: Some("Default Volume Type".into()),
                is_public: true,
                extra_specs: BTreeMap::new(),
            })),
        );
        for backend in BACKENDS {
            self.ask(Actor::system(), registration(backend, "host"));
        }
        let limits = [(QuotaResource::Volumes, 60), (QuotaResource::Gigabytes, 5_000)].into();
        self.ask(Actor::system(), Command::SetQuotaDefaults { limits });
        let limits = [(QuotaResource::Snapshots, -1)].into();
        self.ask(Actor::system(), Command::SetQuotaDefaults { limits });
        self.decide();
    }

    /// Says how about half of all that is due turned out.
    fn report(&mut self) {
        for due in self.core.ledger().all_due() {
            if self.draw(2) == 0 {
                continue;
            }
            let outcome = match self.draw(10) {
                0..=6 => Outcome::Done,
                _ => {
                    let kind = self.pick(FailureKind::ALL).unwrap();
                    Outcome::Failed(Failure::new(kind, "the backend said no"))
                }
            };
            self.ask(Actor::system(), Command::ReportOutcome { key: due.key, outcome });
        }
    }

    /// Creates a blank volume.
    fn a_new_volume(&mut self) -> Command {
        Command::CreateVolume(Box::new(self.a_blank_volume()))
    }

    fn a_blank_volume(&mut self) -> CreateVolume {
        CreateVolume {
            volume: VolumeId::from_uuid(self.fresh()),
            name: None,
            description: None,
            size: Some(self.a_size()),
            source: VolumeSource::Blank,
            volume_type: None,
            availability_zone: None,
            metadata: self.some_metadata(),
        }
    }

    /// Attaches a volume the old way.
    fn an_attach(&mut self, volume: VolumeId, host: &str) -> Command {
        Command::AttachVolume(Box::new(AttachVolume {
            volume,
            attachment: AttachmentId::from_uuid(self.fresh()),
            instance: None,
            host: Some(host.into()),
            mountpoint: "/dev/vdb".into(),
            mode: AttachMode::ReadWrite,
        }))
    }

    /// Mostly one that is at rest: most commands ask for that.
    fn a_volume(&mut self) -> VolumeId {
        let any_will_do = self.draw(5) == 0;
        self.a_volume_where(|volume| any_will_do || volume.status.state() == VolumeState::Available)
    }

    fn a_volume_where(&mut self, fits: impl Fn(&Volume) -> bool) -> VolumeId {
        let rows = self.core.ledger().volumes.sorted().into_iter();
        let ids: Vec<VolumeId> = rows.filter(|(_, volume)| fits(volume)).map(|(id, _)| *id).collect();
        self.pick(&ids).unwrap_or_else(|| VolumeId::from_uuid(Uuid::nil()))
    }

    fn a_snapshot(&mut self) -> SnapshotId {
        let rows = self.core.ledger().snapshots.sorted();
        let ids: Vec<SnapshotId> = rows.into_iter().map(|(id, _)| *id).collect();
        self.pick(&ids).unwrap_or_else(|| SnapshotId::from_uuid(Uuid::nil()))
    }

    fn a_type(&mut self) -> VolumeTypeId {
        let rows = self.core.ledger().volume_types.sorted();
        let ids: Vec<VolumeTypeId> = rows.into_iter().map(|(id, _)| *id).collect();
        self.pick(&ids).unwrap_or(DEFAULT_TYPE_ID)
    }

    fn a_size(&mut self) -> SizeGib {
        SizeGib::new(1 + u32::try_from(self.draw(20)).unwrap()).unwrap()
    }

    fn some_metadata(&mut self) -> BTreeMap<String, String> {
        (0..self.draw(3)).map(|n| (format!("key-{n}"), format!("value-{}", self.draw(100)))).collect()
    }

    fn a_change(&mut self) -> MetadataChange {
        match self.draw(3) {
            0 => MetadataChange::Merge(self.some_metadata()),
            1 => MetadataChange::Replace(self.some_metadata()),
            _ => MetadataChange::Remove("key-0".to_owned()),
        }
    }

    fn create_volume(&mut self) -> Command {
        let source = match self.draw(6) {
            0 => VolumeSource::Snapshot(self.a_snapshot()),
            1 => VolumeSource::Volume(self.a_volume()),
            _ => VolumeSource::Blank,
        };
        let size = (source == VolumeSource::Blank || self.draw(2) == 0).then(|| self.a_size());
        let volume_type = (self.draw(4) == 0).then(|| VolumeTypeRef::Id(self.a_type()));
        Command::CreateVolume(Box::new(CreateVolume {
            volume: VolumeId::from_uuid(self.fresh()),
            name: (self.draw(2) == 0).then(|| "data".into()),
            description: None,
            size,
            source,
            volume_type,
            availability_zone: None,
            metadata: self.some_metadata(),
        }))
    }

    fn next_command(&mut self) -> (Actor, Command) {
        let project = ["alpha", "beta"][usize::try_from(self.draw(2)).unwrap()];
        let member = actor(project, Role::Member);
        let admin = actor(project, Role::Admin);
        let volume = self.a_volume();
        let snapshot = self.a_snapshot();
        match self.draw(100) {
            0..=15 => (member, self.create_volume()),
            16..=31 => {
                let create = CreateSnapshot {
                    snapshot: SnapshotId::from_uuid(self.fresh()),
                    volume,
                    name: Some("point".into()),
                    description: None,
                    force: self.draw(5) == 0,
                    metadata: self.some_metadata(),
                };
                (admin, Command::CreateSnapshot(Box::new(create)))
            }
            32..=42 => {
                let volume = self.a_volume_where(|volume| {
                    volume.status.state() == VolumeState::Available && !volume.snapshots.is_empty()
                });
                let latest =
                    self.core.ledger().volumes.get(&volume).and_then(|row| row.snapshots.last().copied());
                (admin, Command::RevertVolume { volume, snapshot: latest })
            }
            43..=53 => {
                // Mostly those in error: they would only pile up.
                let any_will_do = self.draw(4) == 0;
                let volume = self
                    .a_volume_where(|volume| any_will_do || volume.status.state() != VolumeState::Available);
                (
                    admin,
                    Command::DeleteVolume { volume, cascade: self.draw(2) == 0, force: self.draw(3) == 0 },
                )
            }
            54..=59 => (admin, Command::DeleteSnapshot { snapshot, force: self.draw(4) == 0 }),
            60..=65 => {
                let to = SizeGib::new(20 + u32::try_from(self.draw(40)).unwrap()).unwrap();
                (admin, Command::ExtendVolume { volume, to, online: false })
            }
            66..=69 => {
                // Only `available` asks the backend, and can fail.
                let asks = self.draw(2) == 0;
                let to = if asks { VolumeState::Available } else { self.pick(VolumeState::ALL).unwrap() };
                (admin, Command::ResetVolumeStatus { volume, to })
            }
            70..=73 => {
                // Only `available` asks the backend, and can fail.
                let asks = self.draw(2) == 0;
                let to = if asks { SnapshotState::Available } else { self.pick(SnapshotState::ALL).unwrap() };
                (admin, Command::ResetSnapshotStatus { snapshot, to })
            }
            74..=77 => (admin, Command::RecoverVolume { volume }),
            78..=81 => self.small_volume_change(admin, volume),
            82..=84 => {
                let change = self.a_change();
                (admin, Command::ChangeSnapshotMetadata { snapshot, change })
            }
            85 => (admin, Command::UpdateSnapshot { snapshot, name: Some(None), description: None }),
            86..=91 => (admin, self.type_command()),
            92..=94 => (admin, self.quota_command(project)),
            95..=97 => (admin, self.backend_command()),
            _ => {
                let debts: Vec<_> =
                    self.core.ledger().debts.sorted().into_iter().map(|(id, _)| *id).collect();
                match self.pick(&debts) {
                    Some(debt) => (admin, Command::ReleaseDebt { debt }),
                    None => (admin, Command::RecoverVolume { volume }),
                }
            }
        }
    }

    fn small_volume_change(&mut self, admin: Actor, volume: VolumeId) -> (Actor, Command) {
        let command = match self.draw(4) {
            0 => Command::UpdateVolume {
                volume,
                name: Some(Some("renamed".into())),
                description: Some(None),
                metadata: None,
            },
            1 => Command::ChangeVolumeMetadata { volume, change: self.a_change() },
            2 => Command::SetVolumeBootable { volume, bootable: self.draw(2) == 0 },
            _ => Command::SetVolumeReadonly { volume, readonly: self.draw(2) == 0 },
        };
        (admin, command)
    }

    fn type_command(&mut self) -> Command {
        let volume_type = self.a_type();
        let project = ProjectId::new("alpha");
        match self.draw(6) {
            0 => Command::CreateVolumeType(Box::new(CreateVolumeType {
                volume_type: VolumeTypeId::from_uuid(self.fresh()),
                name: format!("type-{}", self.draw(1_000)).into(),
                description: None,
                is_public: self.draw(2) == 0,
                extra_specs: BTreeMap::new(),
            })),
            1 => Command::UpdateVolumeType {
                volume_type,
                name: None,
                description: Some(Some("described".into())),
                is_public: None,
            },
            2 => Command::DeleteVolumeType { volume_type },
            3 => Command::ChangeExtraSpecs { volume_type, change: self.a_change() },
            4 => Command::GrantTypeAccess { volume_type, project },
            _ => Command::RevokeTypeAccess { volume_type, project },
        }
    }

    fn quota_command(&mut self, project: &str) -> Command {
        let project = ProjectId::new(project);
        let limits = [(QuotaResource::Volumes, 40 + i64::try_from(self.draw(60)).unwrap())].into();
        match self.draw(3) {
            0 => Command::SetQuotaLimits { project, limits },
            1 => Command::ClearQuotaLimits { project },
            _ => Command::SetQuotaDefaults { limits },
        }
    }

    fn backend_command(&mut self) -> Command {
        let name = self.pick(&BACKENDS).unwrap();
        let backend = BackendName::new(name);
        match self.draw(4) {
            0 => Command::DisableBackend { backend, reason: Some("disks".into()) },
            1 | 2 => Command::EnableBackend { backend },
            _ => registration(name, ["host", "other-host"][usize::try_from(self.draw(2)).unwrap()]),
        }
    }
}

fn actor(project: &str, role: Role) -> Actor {
    Actor { user: UserId::new("somebody"), project: ProjectId::new(project), role, address: None }
}

fn registration(backend: &str, host: &str) -> Command {
    Command::RegisterBackend {
        backend: BackendName::new(backend),
        description: Box::new(BackendDescription {
            host: host.into(),
            driver: "directory".into(),
            availability_zone: ZoneName::new("nova"),
            pools: vec![PoolName::new(backend)],
            native_revert: backend != "three",
            capabilities: BTreeMap::new(),
        }),
    }
}

fn pool_stats(backend: &str, now: Timestamp) -> PoolStats {
    PoolStats {
        pool: PoolId { backend: BackendName::new(backend), pool: PoolName::new(backend) },
        is_up: true,
        total_gib: 2_000.0,
        free_gib: 2_000.0,
        provisioned_gib: 0.0,
        max_over_subscription_ratio: 20.0,
        reserved_percentage: 0,
        thin: true,
        capabilities: BTreeMap::new(),
        reported_at: now,
    }
}
