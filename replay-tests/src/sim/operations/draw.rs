//! What operations are drawn from: the state as it is, and randomness.

use std::collections::BTreeMap;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::command::{Command, MetadataChange};
use tephra_domain::effect::EffectKey;
use tephra_domain::ids::{
    BackendName, DebtId, OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::units::SizeGib;
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
