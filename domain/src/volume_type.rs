//! Volume types: the names under which operators offer kinds of storage.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::ids::{ProjectId, VolumeTypeId};
use crate::units::Timestamp;

/// The type that every ledger starts with, and that is used where nobody names one
/// (Cinder: `__DEFAULT__`, since Train).
pub const DEFAULT_TYPE_NAME: &str = "__DEFAULT__";

/// The id of [`DEFAULT_TYPE_NAME`], the same in every ledger.
pub const DEFAULT_TYPE_ID: VolumeTypeId =
    VolumeTypeId::from_uuid(Uuid::from_u128(0x7e94_7a00_0000_4000_8000_0000_0000_0001));

/// What happens to a volume type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeTypeEvent {
    /// An administrator created it.
    Created {
        /// Unique among types.
        name: Box<str>,
        /// For people.
        description: Option<Box<str>>,
        /// Whether every project may use it.
        is_public: bool,
        /// What the scheduler and the backends are told.
        extra_specs: BTreeMap<String, String>,
    },
    /// Name, description or visibility changed.
    Updated {
        /// Unique among types.
        name: Box<str>,
        /// For people.
        description: Option<Box<str>>,
        /// Whether every project may use it.
        is_public: bool,
    },
    /// The whole set of extra specs from now on.
    ExtraSpecsReplaced {
        /// What the scheduler and the backends are told.
        extra_specs: BTreeMap<String, String>,
    },
    /// A project may use a private type.
    AccessGranted {
        /// The project.
        project: ProjectId,
    },
    /// A project may no longer use a private type.
    AccessRevoked {
        /// The project.
        project: ProjectId,
    },
    /// It is gone; no volume uses it.
    Deleted,
}

/// A volume type as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeType {
    /// Which.
    pub id: VolumeTypeId,
    /// Unique among types.
    pub name: Box<str>,
    /// For people.
    pub description: Option<Box<str>>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// What the scheduler and the backends are told.
    pub extra_specs: BTreeMap<String, String>,
    /// Who may use it if it is private.
    pub access: BTreeSet<ProjectId>,
    /// Since when it exists.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
    /// How many volumes and snapshots have this type. A type in use cannot be deleted.
    pub users: u64,
}

impl VolumeType {
    /// Whether volumes of this type may be attached more than once
    /// (extra spec `multiattach`, value `<is> True`).
    pub fn is_multiattach(&self) -> bool {
        self.extra_specs.get("multiattach").is_some_and(|value| value == "<is> True")
    }

    /// Whether `project` may use it.
    pub fn is_usable_by(&self, project: &ProjectId) -> bool {
        self.is_public || self.access.contains(project)
    }
}
