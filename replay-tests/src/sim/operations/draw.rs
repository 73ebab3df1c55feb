//! What operations are drawn from: the state as it is, and randomness.

use std::collections::BTreeMap;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::attachment::{AttachMode, Connector};
use tephra_domain::command::{Command, MetadataChange};
use tephra_domain::effect::EffectKey;
use tephra_domain::ids::{
    AttachmentId, BackendName, DebtId, ImageId, OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeId,
    VolumeTypeId,
};
use tephra_domain::image::ImageFacts;
use tephra_domain::ledger::Ledger;
use tephra_domain::units::SizeGib;
use tephra_domain::volume::{USES, VolumeState};
use uuid::Uuid;

use crate::sim::seeds::fresh_id;

/// The projects that ask.
pub const PROJECTS: [&str; 3] = ["alpha", "beta", "gamma"];

/// Somebody asks for something.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who.
    pub actor: Actor,
    /// What.
    pub command: Command,
}

/// Somebody who asks.
pub struct Who(pub Actor);

impl Who {
    /// What they ask for.
    pub fn asks(self, command: Command) -> Ask {
        Ask { actor: self.0, command }
    }
}

/// A fresh id of any kind.
pub struct Fresh(Uuid);

impl From<Fresh> for VolumeId {
    fn from(fresh: Fresh) -> Self {
        Self::from_uuid(fresh.0)
    }
}

impl From<Fresh> for SnapshotId {
    fn from(fresh: Fresh) -> Self {
        Self::from_uuid(fresh.0)
    }
}

impl From<Fresh> for AttachmentId {
    fn from(fresh: Fresh) -> Self {
        Self::from_uuid(fresh.0)
    }
}

impl From<Fresh> for ImageId {
    fn from(fresh: Fresh) -> Self {
        Self::from_uuid(fresh.0)
    }
}

impl From<Fresh> for VolumeTypeId {
    fn from(fresh: Fresh) -> Self {
        Self::from_uuid(fresh.0)
    }
}

/// Draws what operations are about.
pub struct Draw<'a> {
    /// The state at the end of the log.
    pub ledger: &'a Ledger,
    /// What is on the backends that is none of the ledger's.
    pub strangers: &'a [(PoolId, Box<str>, SizeGib)],
    /// Where randomness comes from.
    pub random: &'a mut fastrand::Rng,
}

fn actor(project: &ProjectId, role: Role) -> Who {
    let user = UserId::new(format!("{}-{role:?}", project.as_str()));
    Who(Actor { user, project: project.clone(), role, address: None })
}

impl Draw<'_> {
    /// A number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        self.random.u32(0..end.max(1))
    }

    /// One of these.
    pub fn choose<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        self.random.choice(from).cloned()
    }

    /// An id that was not there before.
    pub fn fresh(&mut self) -> Fresh {
        Fresh(fresh_id(self.random))
    }

    /// A project.
    pub fn project(&mut self) -> ProjectId {
        ProjectId::new(PROJECTS[self.random.usize(0..PROJECTS.len())])
    }

    /// Mostly a member of this project; now and then a stranger, a reader or an administrator.
    pub fn owner(&mut self, project: &ProjectId) -> Who {
        match self.below(24) {
            0 => {
                let other = self.project();
                actor(&other, Role::Member)
            }
            1 => actor(project, Role::Reader),
            2 | 3 => actor(project, Role::Admin),
            _ => actor(project, Role::Member),
        }
    }

    /// Mostly an administrator; now and then somebody who would like to be one.
    pub fn admin(&mut self) -> Who {
        let project = self.project();
        let role = if self.below(20) == 0 { Role::Member } else { Role::Admin };
        actor(&project, role)
    }

    /// Mostly the system itself; now and then somebody who pretends to be.
    pub fn system(&mut self) -> Who {
        if self.below(12) == 0 { self.admin() } else { Who(Actor::system()) }
    }

    /// A volume with its project; now and then one that is not there.
    pub fn volume(&mut self) -> Option<(VolumeId, ProjectId)> {
        if self.below(32) == 0 {
            return Some((self.fresh().into(), self.project()));
        }
        let rows = self.ledger.volumes.sorted();
        let (id, row) = self.random.choice(rows)?;
        Some((*id, row.project.clone()))
    }

    /// A volume in this status, if there is one.
    pub fn volume_in(&mut self, state: VolumeState) -> Option<(VolumeId, ProjectId)> {
        let rows = self.ledger.volumes.sorted().into_iter();
        let rows: Vec<_> = rows.filter(|(_, row)| row.status.state() == state).collect();
        match self.random.choice(rows) {
            Some((id, row)) if self.below(8) != 0 => Some((*id, row.project.clone())),
            Some(_) | None => self.volume(),
        }
    }

    /// An attachment with its volume and project; now and then one that is not there.
    pub fn attachment(&mut self) -> Option<(VolumeId, AttachmentId, ProjectId)> {
        let rows = self.ledger.volumes.sorted().into_iter();
        let all: Vec<_> = rows
            .flat_map(|(id, row)| row.attachments.iter().map(|one| (*id, one.id, row.project.clone())))
            .collect();
        match self.random.choice(all) {
            Some(found) if self.below(24) != 0 => Some(found),
            Some(_) | None => {
                let (volume, project) = self.volume()?;
                Some((volume, self.fresh().into(), project))
            }
        }
    }

    /// The id of a new attachment of a volume; now and then one that is taken.
    pub fn attachment_id(&mut self, volume: VolumeId) -> AttachmentId {
        let taken = self.ledger.volumes.get(&volume).and_then(|row| row.attachments.first());
        match taken.map(|one| one.id) {
            Some(taken) if self.below(24) == 0 => taken,
            Some(_) | None => self.fresh().into(),
        }
    }

    /// A server, or none.
    pub fn instance(&mut self) -> Option<Box<str>> {
        let number = self.below(5);
        (number > 0).then(|| format!("server-{number}").into())
    }

    /// A host that connects; now and then without what a target needs to know of it.
    pub fn connector(&mut self) -> Connector {
        let number = self.below(4);
        let knows_initiator = self.below(20) != 0;
        Connector {
            host: Some(format!("compute-{number}").into()),
            initiator: knows_initiator.then(|| format!("iqn.1994-05.com.example:{number}").into()),
            ip: Some(format!("192.0.2.{}", 10 + number).into()),
            mountpoint: None,
            multipath: false,
            enforce_multipath: false,
        }
    }

    /// Whether a server may write, or nothing.
    pub fn attach_mode(&mut self) -> Option<AttachMode> {
        match self.below(4) {
            0 => Some(AttachMode::ReadOnly),
            1 => Some(AttachMode::ReadWrite),
            _ => None,
        }
    }

    /// A volume that is at rest, but not as it should be, if there is one.
    pub fn volume_at_odds(&mut self) -> Option<(VolumeId, ProjectId)> {
        let rows = self.ledger.volumes.sorted().into_iter();
        let is_at_odds = |state: VolumeState| !state.is_transitional() && !USES.contains(&state);
        let rows: Vec<_> = rows.filter(|(_, row)| is_at_odds(row.status.state())).collect();
        match self.random.choice(rows) {
            Some((id, row)) => Some((*id, row.project.clone())),
            None => self.volume(),
        }
    }

    /// A volume of which something is owed or held, if there is one.
    pub fn volume_with_debts(&mut self) -> Option<(VolumeId, ProjectId)> {
        let debts = self.ledger.debts.sorted().into_iter();
        let volumes =
            debts.filter(|(_, debt)| debt.object.is_snapshot()).map(|(_, debt)| debt.object.volume());
        let rows: Vec<_> =
            volumes.filter_map(|id| Some((id, self.ledger.volumes.get(&id)?.project.clone()))).collect();
        match self.random.choice(rows) {
            Some(found) => Some(found),
            None => self.volume(),
        }
    }

    /// A volume that has snapshots, if there is one.
    pub fn volume_with_snapshots(&mut self) -> Option<(VolumeId, ProjectId)> {
        let rows = self.ledger.volumes.sorted().into_iter();
        let rows: Vec<_> = rows.filter(|(_, row)| !row.snapshots.is_empty()).collect();
        match self.random.choice(rows) {
            Some((id, row)) if self.below(16) != 0 => Some((*id, row.project.clone())),
            Some(_) | None => self.volume(),
        }
    }

    /// A snapshot with its project; now and then one that is not there.
    pub fn snapshot(&mut self) -> Option<(SnapshotId, ProjectId)> {
        if self.below(32) == 0 {
            return Some((self.fresh().into(), self.project()));
        }
        let rows = self.ledger.snapshots.sorted();
        let (id, row) = self.random.choice(rows)?;
        Some((*id, row.project.clone()))
    }

    /// Volumes on which an operation is open.
    pub fn busy_volumes(&self) -> Vec<VolumeId> {
        let rows = self.ledger.volumes.sorted().into_iter();
        rows.filter(|(_, row)| row.status.state().is_transitional()).map(|(id, _)| *id).collect()
    }

    /// Snapshots on which an operation is open.
    pub fn busy_snapshots(&self) -> Vec<SnapshotId> {
        let rows = self.ledger.snapshots.sorted().into_iter();
        rows.filter(|(_, row)| row.status.state().is_transitional()).map(|(id, _)| *id).collect()
    }

    /// An image, as the store says it is: small, larger than most volumes, for large disks only, or
    /// not there yet.
    pub fn image(&mut self) -> ImageFacts {
        const GIB: u64 = 1 << 30;
        let number = self.below(6);
        let (status, size_bytes, min_disk_gib) = match number {
            0 => ("queued", None, 0),
            1 => ("active", Some(3 * GIB + 1), 0),
            2 => ("active", Some(GIB), 4),
            3 => ("active", None, 1),
            _ => ("active", Some(GIB), 0),
        };
        let metadata = (0..number % 3).map(|n| (format!("key-{n}"), format!("image-{number}"))).collect();
        let id = ImageId::from_uuid(Uuid::from_u128(0x1a6e_0000 + u128::from(number)));
        ImageFacts { id, status: status.into(), size_bytes, min_disk_gib, metadata }
    }

    /// A volume type; now and then one that is not there.
    pub fn volume_type(&mut self) -> Option<VolumeTypeId> {
        if self.below(24) == 0 {
            return Some(self.fresh().into());
        }
        let rows = self.ledger.volume_types.sorted();
        self.random.choice(rows).map(|(id, _)| *id)
    }

    /// A private volume type, if there is one.
    pub fn private_type(&mut self) -> Option<VolumeTypeId> {
        let rows = self.ledger.volume_types.sorted().into_iter();
        let rows: Vec<_> = rows.filter(|(_, row)| !row.is_public).collect();
        self.random.choice(rows).map(|(id, _)| *id)
    }

    /// A volume type's name.
    pub fn volume_type_name(&mut self) -> Option<Box<str>> {
        let rows = self.ledger.volume_types.sorted();
        self.random.choice(rows).map(|(_, row)| row.name.clone())
    }

    /// A backend; now and then one that is not there.
    pub fn backend(&mut self) -> Option<BackendName> {
        if self.below(16) == 0 {
            return Some(BackendName::new("no such backend"));
        }
        let rows = self.ledger.backends.sorted();
        self.random.choice(rows).map(|(name, _)| name.clone())
    }

    /// Something on a backend that is none of the ledger's, as it is, or not quite.
    pub fn stranger(&mut self) -> Option<(PoolId, Box<str>, SizeGib)> {
        let (pool, name, size) = self.choose(self.strangers)?;
        match self.below(10) {
            0 => Some((pool, "nothing-of-that-name".into(), size)),
            1 => Some((pool, name, SizeGib::new(7)?)),
            2 => {
                let volumes = self.ledger.volumes.sorted();
                let (id, _) = self.random.choice(volumes)?;
                Some((pool, format!("volume-{id}").into(), size))
            }
            _ => Some((pool, name, size)),
        }
    }

    /// A display name, or none.
    pub fn name(&mut self) -> Option<Box<str>> {
        match self.below(6) {
            0 => None,
            n => Some(format!("name-{n}").into()),
        }
    }

    /// Keys and values.
    pub fn metadata(&mut self) -> BTreeMap<String, String> {
        (0..self.below(3)).map(|n| (format!("key-{n}"), format!("value-{n}"))).collect()
    }

    /// A change to keys and values, sometimes to one that is not there.
    pub fn metadata_change(&mut self) -> MetadataChange {
        match self.below(3) {
            0 => MetadataChange::Merge(self.metadata()),
            1 => MetadataChange::Replace(self.metadata()),
            _ => MetadataChange::Remove(format!("key-{}", self.below(3))),
        }
    }

    /// An attempt that the ledger waits for.
    pub fn due_attempt(&mut self) -> Option<EffectKey> {
        let due = self.ledger.all_due();
        self.random.choice(due).map(|due| due.key)
    }

    /// An attempt that was overtaken, or that there never was.
    pub fn stale_attempt(&mut self) -> Option<EffectKey> {
        Some(match self.due_attempt() {
            Some(EffectKey::Step { operation, direction, step, attempt }) => {
                EffectKey::Step { operation, direction, step, attempt: attempt.saturating_sub(1) }
            }
            Some(EffectKey::Debt { debt, attempt }) => {
                EffectKey::Debt { debt, attempt: attempt.saturating_sub(1) }
            }
            None => EffectKey::Debt { debt: self.unknown_debt(), attempt: 1 },
        })
    }

    /// A debt that there never was.
    pub fn unknown_debt(&mut self) -> DebtId {
        DebtId { operation: OperationId::from_uuid(fresh_id(self.random)), ordinal: 0 }
    }
}
