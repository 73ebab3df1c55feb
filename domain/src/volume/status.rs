//! Statuses of volumes, and which event leads from which to which.

use super::event::VolumeEventKind;
use crate::ids::{ImageId, OperationId, SnapshotId};
use crate::units::SizeGib;

use VolumeEventKind as K;
use VolumeState as S;

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
    /// An operation is making an image of it.
    Uploading { operation: OperationId, image: ImageId },
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
    /// A client holds it for an attachment.
    Reserved,
    /// A client is connecting it.
    Attaching,
    /// Attached at least once.
    InUse,
    /// A client is disconnecting it.
    Detaching,
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
    Reserved,
    Attaching,
    InUse,
    Detaching,
    Uploading,
}

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
    (S::Uploading, K::DeleteAccepted, S::Deleting),
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
    // what ends an extend of an attached volume is followed by UseChanged, in the same commit
    (S::Available, K::ExtendAccepted, S::Extending),
    (S::InUse, K::ExtendAccepted, S::Extending),
    (S::Extending, K::Extended, S::Available),
    (S::Extending, K::ExtendFailed, S::Available),
    (S::Extending, K::ExtendFailed, S::ErrorExtending),
    // so is what ends an upload of one
    (S::Available, K::UploadAccepted, S::Uploading),
    (S::InUse, K::UploadAccepted, S::Uploading),
    (S::Uploading, K::Uploaded, S::Available),
    (S::Uploading, K::UploadFailed, S::Available),
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
    (S::Uploading, K::ResetAccepted, S::Verifying),
    (S::Reserved, K::ResetAccepted, S::Verifying),
    (S::Attaching, K::ResetAccepted, S::Verifying),
    (S::InUse, K::ResetAccepted, S::Verifying),
    (S::Detaching, K::ResetAccepted, S::Verifying),
    (S::Verifying, K::StatusReset, S::Available),
    (S::Verifying, K::ResetFailed, S::Error),
    // clients: what they hold, connect, use and let go
    (S::Available, K::UseChanged, S::Reserved),
    (S::Available, K::UseChanged, S::Attaching),
    (S::Available, K::UseChanged, S::InUse),
    (S::Available, K::UseChanged, S::Detaching),
    (S::Reserved, K::UseChanged, S::Available),
    (S::Reserved, K::UseChanged, S::Attaching),
    (S::Reserved, K::UseChanged, S::InUse),
    (S::Reserved, K::UseChanged, S::Detaching),
    (S::Attaching, K::UseChanged, S::Available),
    (S::Attaching, K::UseChanged, S::Reserved),
    (S::Attaching, K::UseChanged, S::InUse),
    (S::Attaching, K::UseChanged, S::Detaching),
    (S::InUse, K::UseChanged, S::Available),
    (S::InUse, K::UseChanged, S::Reserved),
    (S::InUse, K::UseChanged, S::Attaching),
    (S::InUse, K::UseChanged, S::Detaching),
    (S::Detaching, K::UseChanged, S::Available),
    (S::Detaching, K::UseChanged, S::Reserved),
    (S::Detaching, K::UseChanged, S::Attaching),
    (S::Detaching, K::UseChanged, S::InUse),
];

/// Statuses in which no operation and no error is in the way of clients: which of them it is
/// follows from what clients do.
pub const USES: &[VolumeState] = &[S::Available, S::Reserved, S::Attaching, S::InUse, S::Detaching];

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
    K::Attachment,
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
        S::Reserved,
        S::Attaching,
        S::InUse,
        S::Detaching,
        S::Uploading,
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
            S::Reserved => "reserved",
            S::Attaching => "attaching",
            S::InUse => "in-use",
            S::Detaching => "detaching",
            S::Uploading => "uploading",
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
            | S::Unmanaging
            | S::Uploading => true,
            S::Absent
            | S::Available
            | S::Error
            | S::ErrorDeleting
            | S::ErrorExtending
            | S::ErrorRestoring
            | S::ErrorManaging
            | S::ErrorBackingUp
            | S::Maintenance
            | S::Reserved
            | S::Attaching
            | S::InUse
            | S::Detaching => false,
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
            Self::Uploading { .. } => S::Uploading,
            Self::Error => S::Error,
            Self::ErrorDeleting => S::ErrorDeleting,
            Self::ErrorExtending => S::ErrorExtending,
            Self::ErrorRestoring => S::ErrorRestoring,
            Self::ErrorManaging => S::ErrorManaging,
            Self::ErrorBackingUp => S::ErrorBackingUp,
            Self::Maintenance => S::Maintenance,
            Self::Reserved => S::Reserved,
            Self::Attaching => S::Attaching,
            Self::InUse => S::InUse,
            Self::Detaching => S::Detaching,
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
            S::Reserved => Some(Self::Reserved),
            S::Attaching => Some(Self::Attaching),
            S::InUse => Some(Self::InUse),
            S::Detaching => Some(Self::Detaching),
            S::Absent
            | S::Creating
            | S::Deleting
            | S::Extending
            | S::Reverting
            | S::Verifying
            | S::Managing
            | S::Unmanaging
            | S::Uploading => None,
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
            | Self::Uploading { .. }
            | Self::ErrorBackingUp
            | Self::Maintenance
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching => self.state().as_str(),
        }
    }

    /// What it was when its deletion was accepted, or its giving up, if it is in one of these.
    pub(super) const fn left_from(&self) -> Option<VolumeState> {
        match self {
            Self::Deleting { from, .. } | Self::Unmanaging { from, .. } => Some(*from),
            Self::Creating { .. }
            | Self::Available
            | Self::Extending { .. }
            | Self::Reverting { .. }
            | Self::Verifying { .. }
            | Self::Managing { .. }
            | Self::Uploading { .. }
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::ErrorRestoring
            | Self::ErrorManaging
            | Self::ErrorBackingUp
            | Self::Maintenance
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching => None,
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
            | Self::Unmanaging { operation, .. }
            | Self::Uploading { operation, .. } => Some(*operation),
            Self::Available
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::ErrorRestoring
            | Self::ErrorManaging
            | Self::ErrorBackingUp
            | Self::Maintenance
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching => None,
        }
    }
}
