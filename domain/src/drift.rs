//! Drift: what the ledger says is on a pool, against what the backend shows there.
//!
//! Pure: an [`Expectation`] is taken from the state, a list of [`FoundObject`]s comes from the
//! executor, and [`compare`] says where they differ. Looking takes time in which the ledger goes
//! on, so the expectation is taken before and after it, and only what both say is held against the
//! backend. What an open operation is changing is left out altogether.

use std::collections::{BTreeMap, BTreeSet};

use crate::debt::CleanupDebt;
use crate::effect::{BackendObject, Effect};
use crate::ids::{DebtId, PoolId, VolumeId};
use crate::operation::{Access, Operation, ResourceKey};
use crate::snapshot::{Snapshot, SnapshotState};
use crate::units::SizeGib;
use crate::volume::{Volume, VolumeState};

/// What kind of thing a backend shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundKind {
    /// It stands by itself.
    Volume,
    /// It is a snapshot.
    Snapshot {
        /// The name of what it is a snapshot of, where the backend knows.
        of: Option<Box<str>>,
    },
}

/// Something that a backend shows on a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundObject {
    /// Its name; for objects of ours the one that the ledger gives ([`BackendObject`]'s
    /// `Display`), whatever the backend has to call them.
    pub name: Box<str>,
    /// Volume or snapshot.
    pub kind: FoundKind,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether somebody uses it, as far as looking can tell without disturbing anybody.
    pub in_use: bool,
}

/// What the ledger says of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// It is there, with this size.
    Kept { object: BackendObject, size: SizeGib },
    /// It is there, and nobody knows its size for certain.
    KeptAnySize { object: BackendObject, size: SizeGib },
    /// It may be there: what was to make or remove it failed.
    Uncertain,
    /// It should be gone.
    Owed { debt: DebtId, object: BackendObject, held: bool },
}

/// What the ledger says is on a pool, at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    pool: PoolId,
    entries: BTreeMap<Box<str>, Entry>,
    /// Volumes that an open operation changes, with whatever belongs to them.
    changing: BTreeSet<VolumeId>,
    /// Names that an open operation is about.
    in_work: BTreeSet<Box<str>>,
}

/// One difference, or something that is owed and still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The ledger has it, the backend does not.
    Missing {
        /// What is missing.
        object: BackendObject,
        /// The size that it should have.
        size: SizeGib,
    },
    /// Both have it, with different sizes.
    WrongSize {
        /// Which.
        object: BackendObject,
        /// The ledger's word.
        size: SizeGib,
        /// The backend's.
        bytes: u64,
    },
    /// The backend has it, the ledger does not.
    Unknown(FoundObject),
    /// It should be gone, and is a cleanup debt already: no drift, but not nothing either.
    Owed {
        /// The debt.
        debt: DebtId,
        /// What is owed.
        object: BackendObject,
        /// Whether it waits for an operator.
        held: bool,
    },
}

impl Finding {
    /// Whether ledger and backend disagree: a debt is known to both.
    pub const fn is_drift(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::WrongSize { .. } | Self::Unknown(_) => true,
            Self::Owed { .. } => false,
        }
    }

    /// A stable word for the kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::WrongSize { .. } => "wrong_size",
            Self::Unknown(_) => "unknown",
            Self::Owed { .. } => "owed",
        }
    }

    /// The object's name on the backend.
    pub fn name(&self) -> Box<str> {
        match self {
            Self::Missing { object, .. } | Self::WrongSize { object, .. } | Self::Owed { object, .. } => {
                object.to_string().into()
            }
            Self::Unknown(found) => found.name.clone(),
        }
    }
}

impl Expectation {
    /// What is to be expected on `pool`. The rows may be of any pool, in any order.
    pub fn of<'a>(
        pool: &PoolId,
        volumes: impl IntoIterator<Item = &'a Volume>,
        snapshots: impl IntoIterator<Item = &'a Snapshot>,
        debts: impl IntoIterator<Item = &'a CleanupDebt>,
        operations: impl IntoIterator<Item = &'a Operation>,
    ) -> Self {
        let mut expectation = Self {
            pool: pool.clone(),
            entries: BTreeMap::new(),
            changing: BTreeSet::new(),
            in_work: BTreeSet::new(),
        };
        for volume in volumes {
            expectation.volume(volume);
        }
        for snapshot in snapshots {
            expectation.snapshot(snapshot);
        }
        for debt in debts.into_iter().filter(|debt| debt.pool == *pool) {
            let entry = Entry::Owed { debt: debt.id, object: debt.object, held: debt.held };
            expectation.entries.entry(debt.object.to_string().into()).or_insert(entry);
        }
        for operation in operations {
            expectation.operation(operation);
        }
        expectation
    }

    /// Takes a volume in, if it is on the pool.
    pub fn volume(&mut self, volume: &Volume) {
        if volume.pool.as_ref() != Some(&self.pool) {
            return;
        }
        let object = BackendObject::Volume(volume.id);
        let size = volume.size;
        let entry = match volume.status.state() {
            VolumeState::Available
            | VolumeState::Maintenance
            | VolumeState::Reserved
            | VolumeState::Attaching
            | VolumeState::InUse
            | VolumeState::Detaching
            | VolumeState::Uploading => Entry::Kept { object, size },
            VolumeState::ErrorExtending | VolumeState::ErrorRestoring | VolumeState::ErrorBackingUp => {
                Entry::KeptAnySize { object, size }
            }
            VolumeState::Absent
            | VolumeState::Error
            | VolumeState::ErrorDeleting
            | VolumeState::ErrorManaging => Entry::Uncertain,
            VolumeState::Creating
            | VolumeState::Deleting
            | VolumeState::Extending
            | VolumeState::Reverting
            | VolumeState::Verifying
            | VolumeState::Managing
            | VolumeState::Unmanaging => {
                self.changing.insert(volume.id);
                Entry::Uncertain
            }
        };
        self.entries.insert(object.to_string().into(), entry);
    }

    /// Takes a snapshot in, if it is on the pool.
    pub fn snapshot(&mut self, snapshot: &Snapshot) {
        if snapshot.pool != self.pool {
            return;
        }
        let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: snapshot.id };
        let entry = match snapshot.status.state() {
            SnapshotState::Available => Entry::Kept { object, size: snapshot.size },
            SnapshotState::Absent | SnapshotState::Error | SnapshotState::ErrorDeleting => Entry::Uncertain,
            SnapshotState::Creating
            | SnapshotState::Deleting
            | SnapshotState::Restoring
            | SnapshotState::Verifying
            | SnapshotState::Unmanaging => {
                self.changing.insert(snapshot.volume);
                Entry::Uncertain
            }
        };
        self.entries.insert(object.to_string().into(), entry);
    }

    /// Takes an open operation in: whatever it may touch is not looked at.
    fn operation(&mut self, operation: &Operation) {
        for (key, access) in operation.kind.uses() {
            match (key, access) {
                (ResourceKey::Volume(volume), Access::Exclusive) => {
                    self.changing.insert(volume);
                }
                // readers change nothing; a snapshot belongs to a volume that is used too
                (ResourceKey::Volume(_), Access::Shared)
                | (ResourceKey::Snapshot(_), Access::Exclusive | Access::Shared) => {}
            }
        }
        for step in operation.kind.steps() {
            for effect in std::iter::once(&step.effect).chain(&step.undo) {
                self.in_work(effect);
            }
        }
    }

    fn in_work(&mut self, effect: &Effect) {
        self.in_work.insert(effect.target().to_string().into());
        if let Some(name) = effect.outside_name() {
            self.in_work.insert(name.into());
        }
    }

    fn is_changing(&self, name: &str, volume: Option<VolumeId>) -> bool {
        self.in_work.contains(name) || volume.is_some_and(|volume| self.changing.contains(&volume))
    }

    /// Whether the name is known to the ledger on this pool, in whatever way.
    pub fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.in_work.contains(name)
    }
}

/// Where the ledger, which said `before` before the backend was looked at and `after` afterwards,
/// and what was `found` differ. In the order of names.
pub fn compare(before: &Expectation, after: &Expectation, found: &[FoundObject]) -> Vec<Finding> {
    let by_name: BTreeMap<&str, &FoundObject> = found.iter().map(|object| (&*object.name, object)).collect();
    let mut findings: BTreeMap<(Box<str>, Option<Box<str>>), Finding> = BTreeMap::new();
    for (name, entry) in &before.entries {
        // what changed meanwhile may have been looked at in either state
        if after.entries.get(name) != Some(entry) {
            continue;
        }
        let seen = by_name.get(&**name);
        if let Some(finding) = held_against(before, after, name, *entry, seen.copied()) {
            findings.insert((name.clone(), None), finding);
        }
    }
    for object in found {
        let of_volume = volume_of(object);
        let is_known = [before, after]
            .into_iter()
            .any(|word| word.knows(&object.name) || word.is_changing(&object.name, of_volume));
        if !is_known {
            let of = match &object.kind {
                FoundKind::Snapshot { of } => of.clone(),
                FoundKind::Volume => None,
            };
            findings.insert((object.name.clone(), of), Finding::Unknown(object.clone()));
        }
    }
    findings.into_values().collect()
}

fn held_against(
    before: &Expectation,
    after: &Expectation,
    name: &str,
    entry: Entry,
    seen: Option<&FoundObject>,
) -> Option<Finding> {
    let is_changing = |object: BackendObject| {
        let volume = Some(object.volume());
        before.is_changing(name, volume) || after.is_changing(name, volume)
    };
    match (entry, seen) {
        (Entry::Kept { object, size } | Entry::KeptAnySize { object, size }, None) => {
            (!is_changing(object)).then_some(Finding::Missing { object, size })
        }
        (Entry::Kept { object, size }, Some(found)) => {
            let differs = found.bytes != size.bytes() && !is_changing(object);
            differs.then_some(Finding::WrongSize { object, size, bytes: found.bytes })
        }
        (Entry::Owed { debt, object, held }, Some(_)) => Some(Finding::Owed { debt, object, held }),
        (Entry::KeptAnySize { .. } | Entry::Uncertain, Some(_))
        | (Entry::Uncertain | Entry::Owed { .. }, None) => None,
    }
}

/// The volume that a found object is or belongs to, as far as its names say.
fn volume_of(found: &FoundObject) -> Option<VolumeId> {
    let name = match &found.kind {
        FoundKind::Volume => Some(&found.name),
        FoundKind::Snapshot { of } => of.as_ref(),
    };
    name?.strip_prefix("volume-")?.parse().ok()
}
