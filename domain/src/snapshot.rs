//! A snapshot: its statuses, and which event leads from which status to which.

#![allow(missing_docs, reason = "statuses, events and fields carry Cinder's own words")]

use std::collections::BTreeMap;

use crate::effect::Failure;
use crate::event::IllegalEvent;
use crate::ids::{OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId};
use crate::units::{SizeGib, Timestamp};
use crate::volume::FailureRecord;

/// Where a snapshot stands (`SnapshotStatus` of `cinder/objects/fields.py`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// An operation is taking it.
    Creating { operation: OperationId },
    /// At rest, usable.
    Available,
    /// An operation is removing it. If that touches nothing, it is again what it was.
    Deleting { operation: OperationId, from: SnapshotState },
    /// Its volume is being reverted to it.
    Restoring { operation: OperationId },
    /// An operator asked for a status, and the backend is being asked whether it is true.
    Verifying { operation: OperationId, from: SnapshotState },
    /// An operation is giving it up. If that fails, it is again what it was.
    Unmanaging { operation: OperationId, from: SnapshotState },
    /// Unusable; see `last_failure`.
    Error,
    /// The backend did not remove it.
    ErrorDeleting,
}

/// [`SnapshotStatus`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotState {
    /// No such snapshot.
    Absent,
    Creating,
    Available,
    Deleting,
    Restoring,
    Verifying,
    Error,
    ErrorDeleting,
    Unmanaging,
}

/// [`SnapshotEvent`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotEventKind {
    CreateAccepted,
    Created,
    CreateFailed,
    DeleteAccepted,
    Deleted,
    DeleteFailed,
    RestoreAccepted,
    RestoreEnded,
    ResetAccepted,
    StatusReset,
    ResetFailed,
    DetailsUpdated,
    MetadataReplaced,
    ManageAccepted,
    Managed,
    ManageFailed,
    UnmanageAccepted,
    Unmanaged,
    UnmanageFailed,
}

use SnapshotEventKind as K;
use SnapshotState as S;

/// Every status change that can happen. What is not here is refused by [`Snapshot::apply`].
pub const TRANSITIONS: &[(SnapshotState, SnapshotEventKind, SnapshotState)] = &[
    (S::Absent, K::CreateAccepted, S::Creating),
    (S::Creating, K::Created, S::Available),
    (S::Creating, K::CreateFailed, S::Error),
    // manage: Cinder has no word of its own for it
    (S::Absent, K::ManageAccepted, S::Creating),
    (S::Creating, K::Managed, S::Available),
    (S::Creating, K::ManageFailed, S::Error),
    // unmanage: from where it may be deleted; if it fails, back to what it was
    (S::Available, K::UnmanageAccepted, S::Unmanaging),
    (S::Error, K::UnmanageAccepted, S::Unmanaging),
    (S::Unmanaging, K::Unmanaged, S::Absent),
    (S::Unmanaging, K::UnmanageFailed, S::Available),
    (S::Unmanaging, K::UnmanageFailed, S::Error),
    // delete: at rest by anybody who may; from a transitional status only by force
    (S::Available, K::DeleteAccepted, S::Deleting),
    (S::Error, K::DeleteAccepted, S::Deleting),
    (S::ErrorDeleting, K::DeleteAccepted, S::Deleting),
    (S::Creating, K::DeleteAccepted, S::Deleting),
    (S::Verifying, K::DeleteAccepted, S::Deleting),
    (S::Unmanaging, K::DeleteAccepted, S::Deleting),
    (S::Deleting, K::Deleted, S::Absent),
    (S::Deleting, K::DeleteFailed, S::ErrorDeleting),
    // if it certainly touched nothing, back to what it was
    (S::Deleting, K::DeleteFailed, S::Available),
    (S::Deleting, K::DeleteFailed, S::Error),
    // its volume's revert: back to available however that ends
    (S::Available, K::RestoreAccepted, S::Restoring),
    (S::Restoring, K::RestoreEnded, S::Available),
    // reset to available asks the backend first
    (S::Error, K::ResetAccepted, S::Verifying),
    (S::ErrorDeleting, K::ResetAccepted, S::Verifying),
    (S::Available, K::ResetAccepted, S::Verifying),
    (S::Creating, K::ResetAccepted, S::Verifying),
    (S::Deleting, K::ResetAccepted, S::Verifying),
    (S::Verifying, K::ResetAccepted, S::Verifying),
    (S::Unmanaging, K::ResetAccepted, S::Verifying),
    (S::Verifying, K::StatusReset, S::Available),
    (S::Verifying, K::ResetFailed, S::Error),
];

/// Statuses that an operator may set without asking the backend.
pub const RESETTABLE: &[SnapshotState] = &[S::Error, S::ErrorDeleting];

/// Events that change something else than the status, and may happen in any status.
pub const STATUS_NEUTRAL: &[SnapshotEventKind] = &[K::DetailsUpdated, K::MetadataReplaced];

/// Statuses from which an owner may delete (`volume/api.py`, `delete_snapshot`).
pub const DELETABLE: &[SnapshotState] = &[S::Available, S::Error];

/// Whether `event` may lead from one status to the other.
pub fn is_transition(from: SnapshotState, event: SnapshotEventKind, to: SnapshotState) -> bool {
    TRANSITIONS.contains(&(from, event, to))
        || (STATUS_NEUTRAL.contains(&event) && from == to && from != S::Absent)
        || (event == K::StatusReset && from != S::Absent && from != S::Restoring && RESETTABLE.contains(&to))
}

impl SnapshotState {
    /// All of them.
    pub const ALL: &[Self] = &[
        S::Absent,
        S::Creating,
        S::Available,
        S::Deleting,
        S::Restoring,
        S::Verifying,
        S::Error,
        S::ErrorDeleting,
        S::Unmanaging,
    ];

    /// Cinder's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            S::Absent => "deleted",
            S::Creating => "creating",
            S::Available => "available",
            S::Deleting => "deleting",
            S::Restoring => "restoring",
            S::Verifying => "verifying",
            S::Error => "error",
            S::ErrorDeleting => "error_deleting",
            S::Unmanaging => "unmanaging",
        }
    }

    /// Whether an operation must be open on a snapshot in this status, and never otherwise.
    pub const fn is_transitional(self) -> bool {
        match self {
            S::Creating | S::Deleting | S::Restoring | S::Verifying | S::Unmanaging => true,
            S::Absent | S::Available | S::Error | S::ErrorDeleting => false,
        }
    }
}

impl SnapshotStatus {
    /// The status without its data.
    pub const fn state(&self) -> SnapshotState {
        match self {
            Self::Creating { .. } => S::Creating,
            Self::Available => S::Available,
            Self::Deleting { .. } => S::Deleting,
            Self::Restoring { .. } => S::Restoring,
            Self::Verifying { .. } => S::Verifying,
            Self::Unmanaging { .. } => S::Unmanaging,
            Self::Error => S::Error,
            Self::ErrorDeleting => S::ErrorDeleting,
        }
    }

    /// A status at rest, from its name without data. Nothing for transitional ones.
    pub const fn at_rest(state: SnapshotState) -> Option<Self> {
        match state {
            S::Available => Some(Self::Available),
            S::Error => Some(Self::Error),
            S::ErrorDeleting => Some(Self::ErrorDeleting),
            S::Absent | S::Creating | S::Deleting | S::Restoring | S::Verifying | S::Unmanaging => None,
        }
    }

    /// What a client is shown (see [`crate::volume::VolumeStatus::wire_name`]).
    pub const fn wire_name(&self) -> &'static str {
        match self {
            Self::Verifying { from, .. } => from.as_str(),
            Self::Creating { .. }
            | Self::Available
            | Self::Deleting { .. }
            | Self::Restoring { .. }
            | Self::Unmanaging { .. }
            | Self::Error
            | Self::ErrorDeleting => self.state().as_str(),
        }
    }

    /// What it was when its deletion was accepted, or its giving up, if it is in one of these.
    const fn left_from(&self) -> Option<SnapshotState> {
        match self {
            Self::Deleting { from, .. } | Self::Unmanaging { from, .. } => Some(*from),
            Self::Creating { .. }
            | Self::Available
            | Self::Restoring { .. }
            | Self::Verifying { .. }
            | Self::Error
            | Self::ErrorDeleting => None,
        }
    }

    /// The operation that owns a transitional status.
    pub const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Creating { operation }
            | Self::Deleting { operation, .. }
            | Self::Restoring { operation }
            | Self::Verifying { operation, .. }
            | Self::Unmanaging { operation, .. } => Some(*operation),
            Self::Available | Self::Error | Self::ErrorDeleting => None,
        }
    }
}

/// The content of [`SnapshotEvent::CreateAccepted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCreateAccepted {
    /// The operation that takes it.
    pub operation: OperationId,
    /// The volume.
    pub volume: VolumeId,
    /// The owner.
    pub project: ProjectId,
    /// Who asked for it.
    pub user: UserId,
    /// Display name.
    pub name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// The volume's size at that moment.
    pub size: SizeGib,
    /// The volume's type at that moment.
    pub volume_type: VolumeTypeId,
    /// The volume's pool, where the snapshot lives too.
    pub pool: PoolId,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
}

/// What happens to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotEvent {
    CreateAccepted(Box<SnapshotCreateAccepted>),
    Created,
    CreateFailed {
        operation: OperationId,
        failure: Failure,
    },
    DeleteAccepted {
        operation: OperationId,
    },
    Deleted,
    /// Back to what it was if it certainly was not touched, else `error_deleting`.
    DeleteFailed {
        operation: OperationId,
        failure: Failure,
    },
    /// Its volume is being reverted to it.
    RestoreAccepted {
        operation: OperationId,
    },
    /// The revert is over, well or not: the snapshot itself was only read.
    RestoreEnded,
    /// An operator wants it available; the backend is asked.
    ResetAccepted {
        operation: OperationId,
    },
    /// An operator (or the backend's answer to an operator) set this status.
    StatusReset {
        to: SnapshotState,
    },
    ResetFailed {
        operation: OperationId,
        failure: Failure,
    },
    DetailsUpdated {
        name: Option<Box<str>>,
        description: Option<Box<str>>,
    },
    MetadataReplaced {
        metadata: BTreeMap<String, String>,
    },
    /// Something that the volume's pool has already becomes a snapshot of it.
    ManageAccepted {
        accepted: Box<SnapshotCreateAccepted>,
        /// What the backend calls it until then.
        name: Box<str>,
    },
    Managed,
    ManageFailed {
        operation: OperationId,
        failure: Failure,
    },
    UnmanageAccepted {
        operation: OperationId,
    },
    /// The ledger forgets it; the backend keeps it.
    Unmanaged,
    /// `restored`: it certainly is what it was.
    UnmanageFailed {
        operation: OperationId,
        failure: Failure,
        restored: bool,
    },
}

impl SnapshotEvent {
    /// The event without its data.
    pub const fn kind(&self) -> SnapshotEventKind {
        match self {
            Self::CreateAccepted(_) => K::CreateAccepted,
            Self::Created => K::Created,
            Self::CreateFailed { .. } => K::CreateFailed,
            Self::DeleteAccepted { .. } => K::DeleteAccepted,
            Self::Deleted => K::Deleted,
            Self::DeleteFailed { .. } => K::DeleteFailed,
            Self::RestoreAccepted { .. } => K::RestoreAccepted,
            Self::RestoreEnded => K::RestoreEnded,
            Self::ResetAccepted { .. } => K::ResetAccepted,
            Self::StatusReset { .. } => K::StatusReset,
            Self::ResetFailed { .. } => K::ResetFailed,
            Self::DetailsUpdated { .. } => K::DetailsUpdated,
            Self::MetadataReplaced { .. } => K::MetadataReplaced,
            Self::ManageAccepted { .. } => K::ManageAccepted,
            Self::Managed => K::Managed,
            Self::ManageFailed { .. } => K::ManageFailed,
            Self::UnmanageAccepted { .. } => K::UnmanageAccepted,
            Self::Unmanaged => K::Unmanaged,
            Self::UnmanageFailed { .. } => K::UnmanageFailed,
        }
    }
}

/// A snapshot as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub volume: VolumeId,
    pub project: ProjectId,
    pub user: UserId,
    pub name: Option<Box<str>>,
    pub description: Option<Box<str>>,
    /// The volume's size when it was taken.
    pub size: SizeGib,
    pub status: SnapshotStatus,
    pub volume_type: VolumeTypeId,
    pub pool: PoolId,
    pub metadata: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// The last operation on it that failed.
    pub last_failure: Option<Box<FailureRecord>>,
}

impl Snapshot {
    /// The snapshot that [`SnapshotEvent::CreateAccepted`] brings about.
    pub fn accepted(id: SnapshotId, at: Timestamp, event: &SnapshotCreateAccepted) -> Self {
        Self {
            id,
            volume: event.volume,
            project: event.project.clone(),
            user: event.user.clone(),
            name: event.name.clone(),
            description: event.description.clone(),
            size: event.size,
            status: SnapshotStatus::Creating { operation: event.operation },
            volume_type: event.volume_type,
            pool: event.pool.clone(),
            metadata: event.metadata.clone(),
            created_at: at,
            updated_at: None,
            last_failure: None,
        }
    }

    /// Takes one event in. `Ok(false)` says that the snapshot is gone with it.
    ///
    /// # Errors
    /// [`IllegalEvent`] if [`TRANSITIONS`] has no such change: the history is not a history.
    pub fn apply(&mut self, at: Timestamp, event: &SnapshotEvent) -> Result<bool, IllegalEvent> {
        let from = self.status.state();
        let to = self.target_of(event);
        if !is_transition(from, event.kind(), to) {
            return Err(IllegalEvent {
                resource: self.id.to_string(),
                state: from.as_str(),
                event: format!("{:?}", event.kind()),
            });
        }
        self.updated_at = Some(at);
        match event {
            SnapshotEvent::CreateAccepted(_)
            | SnapshotEvent::ManageAccepted { .. }
            | SnapshotEvent::Deleted
            | SnapshotEvent::Unmanaged => return Ok(false),
            SnapshotEvent::Created | SnapshotEvent::Managed | SnapshotEvent::RestoreEnded => {
                self.status = SnapshotStatus::Available;
            }
            SnapshotEvent::DeleteAccepted { operation } => {
                self.status = SnapshotStatus::Deleting { operation: *operation, from };
            }
            SnapshotEvent::RestoreAccepted { operation } => {
                self.status = SnapshotStatus::Restoring { operation: *operation };
            }
            SnapshotEvent::ResetAccepted { operation } => {
                self.status = SnapshotStatus::Verifying { operation: *operation, from };
            }
            SnapshotEvent::UnmanageAccepted { operation } => {
                self.status = SnapshotStatus::Unmanaging { operation: *operation, from };
            }
            SnapshotEvent::CreateFailed { operation, failure }
            | SnapshotEvent::ManageFailed { operation, failure }
            | SnapshotEvent::UnmanageFailed { operation, failure, .. }
            | SnapshotEvent::DeleteFailed { operation, failure }
            | SnapshotEvent::ResetFailed { operation, failure } => {
                self.last_failure =
                    Some(Box::new(FailureRecord { operation: *operation, at, failure: failure.clone() }));
                self.rest_in(to);
            }
            SnapshotEvent::StatusReset { to } => self.rest_in(*to),
            SnapshotEvent::DetailsUpdated { name, description } => {
                self.name.clone_from(name);
                self.description.clone_from(description);
            }
            SnapshotEvent::MetadataReplaced { metadata } => self.metadata.clone_from(metadata),
        }
        Ok(true)
    }

    fn rest_in(&mut self, state: SnapshotState) {
        if let Some(status) = SnapshotStatus::at_rest(state) {
            self.status = status;
        }
    }

    fn target_of(&self, event: &SnapshotEvent) -> SnapshotState {
        match event {
            SnapshotEvent::CreateAccepted(_) | SnapshotEvent::ManageAccepted { .. } => S::Creating,
            SnapshotEvent::Created | SnapshotEvent::Managed | SnapshotEvent::RestoreEnded => S::Available,
            SnapshotEvent::CreateFailed { .. }
            | SnapshotEvent::ManageFailed { .. }
            | SnapshotEvent::ResetFailed { .. } => S::Error,
            SnapshotEvent::UnmanageAccepted { .. } => S::Unmanaging,
            SnapshotEvent::UnmanageFailed { restored, .. } => {
                self.status.left_from().filter(|_| *restored).unwrap_or(S::Error)
            }
            SnapshotEvent::DeleteAccepted { .. } => S::Deleting,
            SnapshotEvent::Deleted | SnapshotEvent::Unmanaged => S::Absent,
            SnapshotEvent::DeleteFailed { failure, .. } => {
                let from = self.status.left_from().filter(|from| !from.is_transitional());
                let untouched = failure.kind.leaves_object_untouched();
                from.filter(|_| untouched).unwrap_or(S::ErrorDeleting)
            }
            SnapshotEvent::RestoreAccepted { .. } => S::Restoring,
            SnapshotEvent::ResetAccepted { .. } => S::Verifying,
            SnapshotEvent::StatusReset { to } => *to,
            SnapshotEvent::DetailsUpdated { .. } | SnapshotEvent::MetadataReplaced { .. } => {
                self.status.state()
            }
        }
    }
}
