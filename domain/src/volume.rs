//! A volume: its statuses, what may happen to it, and which event leads from which status to which.
//!
//! Statuses and their names are Cinder's (`cinder/objects/fields.py`). A transitional status names
//! the operation that owns it: a volume is `creating` exactly as long as that operation is open.

#![allow(missing_docs, reason = "statuses, events and fields carry Cinder's own words")]

use std::collections::BTreeMap;

use crate::effect::Failure;
use crate::event::IllegalEvent;
use crate::ids::{
    ImageId, OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId, ZoneName,
};
use crate::units::{SizeGib, Timestamp};

/// Where a volume stands. The data of a status lives inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeStatus {
    /// An operation is making it.
    Creating { operation: OperationId },
    /// At rest, usable.
    Available,
    /// An operation is removing it. If that touches nothing, it is again what it was.
    Deleting { operation: OperationId, from: VolumeState },
    /// An operation is growing it; the new size already counts against the quota.
    Extending { operation: OperationId, to: SizeGib },
    /// An operation is putting a snapshot's data back.
    Reverting { operation: OperationId, snapshot: SnapshotId },
    /// An operator asked for a status, and the backend is being asked whether it is true.
    Verifying { operation: OperationId, from: VolumeState },
    /// An operation is taking over what its pool has already.
    Managing { operation: OperationId },
    /// An operation is giving it up. If that fails, it is again what it was.
    Unmanaging { operation: OperationId, from: VolumeState },
    /// Unusable; see `last_failure`.
    Error,
    /// The backend did not remove it.
    ErrorDeleting,
    /// It has neither the old size nor the new one for certain.
    ErrorExtending,
    /// A restore did not finish (only by an operator's reset).
    ErrorRestoring,
    /// Taking over an existing object failed, and it has its old name.
    ErrorManaging,
    /// A backup failed (only by an operator's reset).
    ErrorBackingUp,
    /// Set aside by an operator.
    Maintenance,
}

/// [`VolumeStatus`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeState {
    /// No such volume.
    Absent,
    Creating,
    Available,
    Deleting,
    Extending,
    Reverting,
    Verifying,
    Error,
    ErrorDeleting,
    ErrorExtending,
    ErrorRestoring,
    ErrorManaging,
    ErrorBackingUp,
    Maintenance,
    Managing,
    Unmanaging,
}

mod event;

pub use event::{VolumeCreateAccepted, VolumeEvent, VolumeEventKind};

use VolumeEventKind as K;
use VolumeState as S;

/// Every status change that can happen. What is not here is refused by [`Volume::apply`].
pub const TRANSITIONS: &[(VolumeState, VolumeEventKind, VolumeState)] = &[
    (S::Absent, K::CreateAccepted, S::Creating),
    (S::Creating, K::Rescheduled, S::Creating),
    (S::Creating, K::Created, S::Available),
    (S::Creating, K::CreateFailed, S::Error),
    (S::Absent, K::ManageAccepted, S::Managing),
    (S::Managing, K::Managed, S::Available),
    (S::Managing, K::ManageFailed, S::ErrorManaging),
    // unmanage: from where it may be deleted; if it fails, back to what it was
    (S::Available, K::UnmanageAccepted, S::Unmanaging),
    (S::Error, K::UnmanageAccepted, S::Unmanaging),
    (S::ErrorRestoring, K::UnmanageAccepted, S::Unmanaging),
    (S::ErrorExtending, K::UnmanageAccepted, S::Unmanaging),
    (S::ErrorManaging, K::UnmanageAccepted, S::Unmanaging),
    (S::Unmanaging, K::Unmanaged, S::Absent),
    (S::Unmanaging, K::UnmanageFailed, S::Available),
    (S::Unmanaging, K::UnmanageFailed, S::Error),
    (S::Unmanaging, K::UnmanageFailed, S::ErrorRestoring),
    (S::Unmanaging, K::UnmanageFailed, S::ErrorExtending),
    (S::Unmanaging, K::UnmanageFailed, S::ErrorManaging),
    // delete: at rest by anybody who may; from a transitional status only by force
    (S::Available, K::DeleteAccepted, S::Deleting),
    (S::Error, K::DeleteAccepted, S::Deleting),
    (S::ErrorDeleting, K::DeleteAccepted, S::Deleting),
    (S::ErrorExtending, K::DeleteAccepted, S::Deleting),
    (S::ErrorRestoring, K::DeleteAccepted, S::Deleting),
    (S::ErrorManaging, K::DeleteAccepted, S::Deleting),
    (S::ErrorBackingUp, K::DeleteAccepted, S::Deleting),
    (S::Maintenance, K::DeleteAccepted, S::Deleting),
    (S::Creating, K::DeleteAccepted, S::Deleting),
    (S::Extending, K::DeleteAccepted, S::Deleting),
    (S::Reverting, K::DeleteAccepted, S::Deleting),
    (S::Verifying, K::DeleteAccepted, S::Deleting),
    (S::Managing, K::DeleteAccepted, S::Deleting),
    (S::Unmanaging, K::DeleteAccepted, S::Deleting),
    (S::Deleting, K::Deleted, S::Absent),
    (S::Deleting, K::DeleteFailed, S::ErrorDeleting),
    // if it certainly touched nothing, back to what it was
    (S::Deleting, K::DeleteFailed, S::Available),
    (S::Deleting, K::DeleteFailed, S::Error),
    (S::Deleting, K::DeleteFailed, S::ErrorExtending),
    (S::Deleting, K::DeleteFailed, S::ErrorRestoring),
    (S::Deleting, K::DeleteFailed, S::ErrorManaging),
    (S::Deleting, K::DeleteFailed, S::ErrorBackingUp),
    (S::Deleting, K::DeleteFailed, S::Maintenance),
    (S::Available, K::ExtendAccepted, S::Extending),
    (S::Extending, K::Extended, S::Available),
    (S::Extending, K::ExtendFailed, S::Available),
    (S::Extending, K::ExtendFailed, S::ErrorExtending),
    // revert: an operator's recovery starts from error
    (S::Available, K::RevertAccepted, S::Reverting),
    (S::Error, K::RevertAccepted, S::Reverting),
    (S::Reverting, K::Reverted, S::Available),
    (S::Reverting, K::RevertFailed, S::Available),
    (S::Reverting, K::RevertFailed, S::Error),
    // reset to available asks the backend first
    (S::Error, K::ResetAccepted, S::Verifying),
    (S::ErrorDeleting, K::ResetAccepted, S::Verifying),
    (S::ErrorExtending, K::ResetAccepted, S::Verifying),
    (S::ErrorRestoring, K::ResetAccepted, S::Verifying),
    (S::ErrorManaging, K::ResetAccepted, S::Verifying),
    (S::ErrorBackingUp, K::ResetAccepted, S::Verifying),
    (S::Maintenance, K::ResetAccepted, S::Verifying),
    (S::Available, K::ResetAccepted, S::Verifying),
    (S::Creating, K::ResetAccepted, S::Verifying),
    (S::Deleting, K::ResetAccepted, S::Verifying),
    (S::Extending, K::ResetAccepted, S::Verifying),
    (S::Reverting, K::ResetAccepted, S::Verifying),
    (S::Verifying, K::ResetAccepted, S::Verifying),
    (S::Managing, K::ResetAccepted, S::Verifying),
    (S::Unmanaging, K::ResetAccepted, S::Verifying),
    (S::Verifying, K::StatusReset, S::Available),
    (S::Verifying, K::ResetFailed, S::Error),
];

/// Statuses that an operator may set without asking the backend.
pub const RESETTABLE: &[VolumeState] = &[
    S::Error,
    S::ErrorDeleting,
    S::ErrorExtending,
    S::ErrorRestoring,
    S::ErrorManaging,
    S::ErrorBackingUp,
    S::Maintenance,
];

/// Events that change something else than the status, and may happen in any status.
pub const STATUS_NEUTRAL: &[VolumeEventKind] = &[
    K::DetailsUpdated,
    K::MetadataReplaced,
    K::BootableChanged,
    K::ReadonlyChanged,
    K::ImageMetadataReplaced,
];

/// Statuses from which an owner may delete (`volume/api.py`, `delete`).
pub const DELETABLE: &[VolumeState] =
    &[S::Available, S::Error, S::ErrorRestoring, S::ErrorExtending, S::ErrorManaging];

/// Whether `event` may lead from one status to the other.
pub fn is_transition(from: VolumeState, event: VolumeEventKind, to: VolumeState) -> bool {
    TRANSITIONS.contains(&(from, event, to))
        || (STATUS_NEUTRAL.contains(&event) && from == to && from != S::Absent)
        || (event == K::StatusReset && from != S::Absent && RESETTABLE.contains(&to))
}

impl VolumeState {
    /// All of them.
    pub const ALL: &[Self] = &[
        S::Absent,
        S::Creating,
        S::Available,
        S::Deleting,
        S::Extending,
        S::Reverting,
        S::Verifying,
        S::Error,
        S::ErrorDeleting,
        S::ErrorExtending,
        S::ErrorRestoring,
        S::ErrorManaging,
        S::ErrorBackingUp,
        S::Maintenance,
        S::Managing,
        S::Unmanaging,
    ];

    /// Cinder's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            S::Absent => "deleted",
            S::Creating => "creating",
            S::Available => "available",
            S::Deleting => "deleting",
            S::Extending => "extending",
            S::Reverting => "reverting",
            S::Verifying => "verifying",
            S::Error => "error",
            S::ErrorDeleting => "error_deleting",
            S::ErrorExtending => "error_extending",
            S::ErrorRestoring => "error_restoring",
            S::ErrorManaging => "error_managing",
            S::ErrorBackingUp => "error_backing-up",
            S::Maintenance => "maintenance",
            S::Managing => "managing",
            S::Unmanaging => "unmanaging",
        }
    }

    /// Whether an operation must be open on a volume in this status, and never otherwise.
    pub const fn is_transitional(self) -> bool {
        match self {
            S::Creating
            | S::Deleting
            | S::Extending
            | S::Reverting
            | S::Verifying
            | S::Managing
            | S::Unmanaging => true,
            S::Absent
            | S::Available
            | S::Error
            | S::ErrorDeleting
            | S::ErrorExtending
            | S::ErrorRestoring
            | S::ErrorManaging
            | S::ErrorBackingUp
            | S::Maintenance => false,
        }
    }
}

impl VolumeStatus {
    /// The status without its data.
    pub const fn state(&self) -> VolumeState {
        match self {
            Self::Creating { .. } => S::Creating,
            Self::Available => S::Available,
            Self::Deleting { .. } => S::Deleting,
            Self::Extending { .. } => S::Extending,
            Self::Reverting { .. } => S::Reverting,
            Self::Verifying { .. } => S::Verifying,
            Self::Managing { .. } => S::Managing,
            Self::Unmanaging { .. } => S::Unmanaging,
            Self::Error => S::Error,
            Self::ErrorDeleting => S::ErrorDeleting,
            Self::ErrorExtending => S::ErrorExtending,
            Self::ErrorRestoring => S::ErrorRestoring,
            Self::ErrorManaging => S::ErrorManaging,
            Self::ErrorBackingUp => S::ErrorBackingUp,
            Self::Maintenance => S::Maintenance,
        }
    }

    /// A status at rest, from its name without data. Nothing for transitional ones.
    pub const fn at_rest(state: VolumeState) -> Option<Self> {
        match state {
            S::Available => Some(Self::Available),
            S::Error => Some(Self::Error),
            S::ErrorDeleting => Some(Self::ErrorDeleting),
            S::ErrorExtending => Some(Self::ErrorExtending),
            S::ErrorRestoring => Some(Self::ErrorRestoring),
            S::ErrorManaging => Some(Self::ErrorManaging),
            S::ErrorBackingUp => Some(Self::ErrorBackingUp),
            S::Maintenance => Some(Self::Maintenance),
            S::Absent
            | S::Creating
            | S::Deleting
            | S::Extending
            | S::Reverting
            | S::Verifying
            | S::Managing
            | S::Unmanaging => None,
        }
    }

    /// What a client is shown: Cinder has no word for [`VolumeStatus::Verifying`], so the status
    /// that is being verified away stays on show; and it shows taking over as creating
    /// (`_get_volume_status` of its view).
    pub const fn wire_name(&self) -> &'static str {
        match self {
            Self::Verifying { from: S::ErrorManaging, .. } | Self::ErrorManaging => S::Error.as_str(),
            Self::Managing { .. } => S::Creating.as_str(),
            Self::Verifying { from, .. } => from.as_str(),
            Self::Creating { .. }
            | Self::Available
            | Self::Deleting { .. }
            | Self::Extending { .. }
            | Self::Reverting { .. }
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::ErrorRestoring
            | Self::Unmanaging { .. }
            | Self::ErrorBackingUp
            | Self::Maintenance => self.state().as_str(),
        }
    }

    /// What it was when its deletion was accepted, or its giving up, if it is in one of these.
    const fn left_from(&self) -> Option<VolumeState> {
        match self {
            Self::Deleting { from, .. } | Self::Unmanaging { from, .. } => Some(*from),
            Self::Creating { .. }
            | Self::Available
            | Self::Extending { .. }
            | Self::Reverting { .. }
            | Self::Verifying { .. }
            | Self::Managing { .. }
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::ErrorRestoring
            | Self::ErrorManaging
            | Self::ErrorBackingUp
            | Self::Maintenance => None,
        }
    }

    /// The operation that owns a transitional status.
    pub const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Creating { operation }
            | Self::Deleting { operation, .. }
            | Self::Extending { operation, .. }
            | Self::Reverting { operation, .. }
            | Self::Verifying { operation, .. }
            | Self::Managing { operation }
            | Self::Unmanaging { operation, .. } => Some(*operation),
            Self::Available
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::ErrorRestoring
            | Self::ErrorManaging
            | Self::ErrorBackingUp
            | Self::Maintenance => None,
        }
    }
}

/// What a new volume starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing: all zeroes.
    Blank,
    /// A snapshot's data.
    Snapshot(SnapshotId),
    /// Another volume's data, as it is when the operation runs.
    Volume(VolumeId),
    /// An image's disk.
    Image(ImageId),
}

/// Why the last operation on a resource did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRecord {
    /// The operation that failed.
    pub operation: OperationId,
    /// When it ended.
    pub at: Timestamp,
    /// What went wrong.
    pub failure: Failure,
}

/// A volume as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub project: ProjectId,
    pub user: UserId,
    pub name: Option<Box<str>>,
    pub description: Option<Box<str>>,
    pub size: SizeGib,
    pub status: VolumeStatus,
    pub volume_type: VolumeTypeId,
    pub availability_zone: ZoneName,
    /// Nothing if no pool would take it.
    pub pool: Option<PoolId>,
    pub source: VolumeSource,
    pub metadata: BTreeMap<String, String>,
    /// What it remembers of the image that it came from, by itself or by its source.
    pub image_metadata: BTreeMap<String, String>,
    pub multiattach: bool,
    pub bootable: bool,
    /// Nothing until somebody sets the flag, as in Cinder.
    pub readonly: Option<bool>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// When its backend object first existed.
    pub launched_at: Option<Timestamp>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// The last operation on it that failed.
    pub last_failure: Option<Box<FailureRecord>>,
}

impl Volume {
    /// The volume that [`VolumeEvent::CreateAccepted`] brings about.
    pub fn accepted(id: VolumeId, at: Timestamp, event: &VolumeCreateAccepted) -> Self {
        Self {
            id,
            project: event.project.clone(),
            user: event.user.clone(),
            name: event.name.clone(),
            description: event.description.clone(),
            size: event.size,
            status: VolumeStatus::Creating { operation: event.operation },
            volume_type: event.volume_type,
            availability_zone: event.availability_zone.clone(),
            pool: event.placement.chosen.clone(),
            source: event.source,
            metadata: event.metadata.clone(),
            image_metadata: BTreeMap::new(),
            multiattach: event.multiattach,
            bootable: event.bootable,
            readonly: None,
            created_at: at,
            updated_at: None,
            launched_at: None,
            snapshots: Vec::new(),
            last_failure: None,
        }
    }

    /// The volume that [`VolumeEvent::ManageAccepted`] brings about.
    pub fn managed(id: VolumeId, at: Timestamp, event: &VolumeCreateAccepted) -> Self {
        Self {
            status: VolumeStatus::Managing { operation: event.operation },
            ..Self::accepted(id, at, event)
        }
    }

    /// Takes one event in. `Ok(false)` says that the volume is gone with it.
    ///
    /// # Errors
    /// [`IllegalEvent`] if [`TRANSITIONS`] has no such change: the history is not a history.
    pub fn apply(&mut self, at: Timestamp, event: &VolumeEvent) -> Result<bool, IllegalEvent> {
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
            VolumeEvent::CreateAccepted(_)
            | VolumeEvent::ManageAccepted { .. }
            | VolumeEvent::Deleted
            | VolumeEvent::Unmanaged => return Ok(false),
            VolumeEvent::Rescheduled { placement, .. } => self.pool.clone_from(&placement.chosen),
            VolumeEvent::Created | VolumeEvent::Managed => {
                self.launched_at = Some(at);
                self.status = VolumeStatus::Available;
            }
            VolumeEvent::Reverted => self.status = VolumeStatus::Available,
            VolumeEvent::DeleteAccepted { operation } => {
                self.status = VolumeStatus::Deleting { operation: *operation, from };
            }
            VolumeEvent::ExtendAccepted { operation, to } => {
                self.status = VolumeStatus::Extending { operation: *operation, to: *to };
            }
            VolumeEvent::Extended { to } => {
                self.size = *to;
                self.status = VolumeStatus::Available;
            }
            VolumeEvent::RevertAccepted { operation, snapshot } => {
                self.status = VolumeStatus::Reverting { operation: *operation, snapshot: *snapshot };
            }
            VolumeEvent::ResetAccepted { operation } => {
                self.status = VolumeStatus::Verifying { operation: *operation, from };
            }
            VolumeEvent::UnmanageAccepted { operation } => {
                self.status = VolumeStatus::Unmanaging { operation: *operation, from };
            }
            VolumeEvent::CreateFailed { operation, failure }
            | VolumeEvent::ManageFailed { operation, failure }
            | VolumeEvent::UnmanageFailed { operation, failure, .. }
            | VolumeEvent::DeleteFailed { operation, failure }
            | VolumeEvent::ExtendFailed { operation, failure, .. }
            | VolumeEvent::RevertFailed { operation, failure, .. }
            | VolumeEvent::ResetFailed { operation, failure } => {
                self.last_failure =
                    Some(Box::new(FailureRecord { operation: *operation, at, failure: failure.clone() }));
                self.rest_in(to);
            }
            VolumeEvent::StatusReset { to } => self.rest_in(*to),
            VolumeEvent::DetailsUpdated { name, description } => {
                self.name.clone_from(name);
                self.description.clone_from(description);
            }
            VolumeEvent::MetadataReplaced { metadata } => self.metadata.clone_from(metadata),
            VolumeEvent::BootableChanged { bootable } => self.bootable = *bootable,
            VolumeEvent::ReadonlyChanged { readonly } => self.readonly = Some(*readonly),
            VolumeEvent::ImageMetadataReplaced { metadata } => self.image_metadata.clone_from(metadata),
        }
        Ok(true)
    }

    fn rest_in(&mut self, state: VolumeState) {
        if let Some(status) = VolumeStatus::at_rest(state) {
            self.status = status;
        }
    }

    fn target_of(&self, event: &VolumeEvent) -> VolumeState {
        match event {
            VolumeEvent::CreateAccepted(_) | VolumeEvent::Rescheduled { .. } => S::Creating,
            VolumeEvent::Created
            | VolumeEvent::Managed
            | VolumeEvent::Extended { .. }
            | VolumeEvent::Reverted => S::Available,
            VolumeEvent::ManageAccepted { .. } => S::Managing,
            VolumeEvent::ManageFailed { .. } => S::ErrorManaging,
            VolumeEvent::UnmanageAccepted { .. } => S::Unmanaging,
            VolumeEvent::UnmanageFailed { restored, .. } => {
                self.status.left_from().filter(|_| *restored).unwrap_or(S::Error)
            }
            VolumeEvent::CreateFailed { .. } | VolumeEvent::ResetFailed { .. } => S::Error,
            VolumeEvent::DeleteAccepted { .. } => S::Deleting,
            VolumeEvent::Deleted | VolumeEvent::Unmanaged => S::Absent,
            VolumeEvent::DeleteFailed { failure, .. } => {
                let from = self.status.left_from().filter(|from| !from.is_transitional());
                let untouched = failure.kind.leaves_object_untouched();
                from.filter(|_| untouched).unwrap_or(S::ErrorDeleting)
            }
            VolumeEvent::ExtendAccepted { .. } => S::Extending,
            VolumeEvent::ExtendFailed { restored, .. } => {
                if *restored {
                    S::Available
                } else {
                    S::ErrorExtending
                }
            }
            VolumeEvent::RevertAccepted { .. } => S::Reverting,
            VolumeEvent::RevertFailed { restored, .. } => {
                if *restored {
                    S::Available
                } else {
                    S::Error
                }
            }
            VolumeEvent::ResetAccepted { .. } => S::Verifying,
            VolumeEvent::StatusReset { to } => *to,
            VolumeEvent::DetailsUpdated { .. }
            | VolumeEvent::MetadataReplaced { .. }
            | VolumeEvent::BootableChanged { .. }
            | VolumeEvent::ReadonlyChanged { .. }
            | VolumeEvent::ImageMetadataReplaced { .. } => self.status.state(),
        }
    }

    /// What it takes of the project's gigabytes: while it grows, the size that it will have.
    pub const fn charged_gib(&self) -> u32 {
        match &self.status {
            VolumeStatus::Extending { to, .. } => to.gib(),
            VolumeStatus::Creating { .. }
            | VolumeStatus::Available
            | VolumeStatus::Deleting { .. }
            | VolumeStatus::Reverting { .. }
            | VolumeStatus::Verifying { .. }
            | VolumeStatus::Managing { .. }
            | VolumeStatus::Unmanaging { .. }
            | VolumeStatus::Error
            | VolumeStatus::ErrorDeleting
            | VolumeStatus::ErrorExtending
            | VolumeStatus::ErrorRestoring
            | VolumeStatus::ErrorManaging
            | VolumeStatus::ErrorBackingUp
            | VolumeStatus::Maintenance => self.size.gib(),
        }
    }
}
