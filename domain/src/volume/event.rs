//! What happens to a volume.

#![allow(missing_docs, reason = "events and fields carry Cinder's own words")]

use std::collections::BTreeMap;

use crate::attachment::AttachmentEvent;
use crate::effect::Failure;
use crate::ids::{
    AttachmentId, ImageId, OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeTypeId, ZoneName,
};
use crate::scheduler::PlacementDecision;
use crate::units::SizeGib;

use super::{VolumeSource, VolumeState};

/// [`VolumeEvent`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeEventKind {
    CreateAccepted,
    Rescheduled,
    Created,
    CreateFailed,
    DeleteAccepted,
    Deleted,
    DeleteFailed,
    ExtendAccepted,
    Extended,
    ExtendFailed,
    RevertAccepted,
    Reverted,
    RevertFailed,
    ResetAccepted,
    StatusReset,
    ResetFailed,
    DetailsUpdated,
    MetadataReplaced,
    BootableChanged,
    ReadonlyChanged,
    ImageMetadataReplaced,
    ManageAccepted,
    Managed,
    ManageFailed,
    UnmanageAccepted,
    Unmanaged,
    UnmanageFailed,
    UseChanged,
    Attachment,
    UploadAccepted,
    Uploaded,
    UploadFailed,
}

/// The content of [`VolumeEvent::CreateAccepted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCreateAccepted {
    /// The operation that makes it.
    pub operation: OperationId,
    /// The owner.
    pub project: ProjectId,
    /// Who created it.
    pub user: UserId,
    /// Display name.
    pub name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// Size.
    pub size: SizeGib,
    /// Its type; every volume has one.
    pub volume_type: VolumeTypeId,
    /// Its availability zone.
    pub availability_zone: ZoneName,
    /// Where its data comes from.
    pub source: VolumeSource,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
    /// Whether it may be attached more than once (from the type).
    pub multiattach: bool,
    /// Whether a server can boot from it (inherited from the source).
    pub bootable: bool,
    /// Where it goes, and what spoke for and against each pool.
    pub placement: PlacementDecision,
}

/// What happens to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeEvent {
    CreateAccepted(Box<VolumeCreateAccepted>),
    Rescheduled {
        failed: PoolId,
        failure: Failure,
        placement: PlacementDecision,
    },
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
    ExtendAccepted {
        operation: OperationId,
        to: SizeGib,
    },
    Extended {
        to: SizeGib,
    },
    /// `restored`: it certainly has its old size again.
    ExtendFailed {
        operation: OperationId,
        failure: Failure,
        restored: bool,
    },
    RevertAccepted {
        operation: OperationId,
        snapshot: SnapshotId,
    },
    Reverted,
    /// `restored`: the data is what it was before the revert.
    RevertFailed {
        operation: OperationId,
        failure: Failure,
        restored: bool,
    },
    /// An operator wants it available; the backend is asked.
    ResetAccepted {
        operation: OperationId,
    },
    /// An operator (or the backend's answer to an operator) set this status.
    StatusReset {
        to: VolumeState,
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
    BootableChanged {
        bootable: bool,
    },
    ReadonlyChanged {
        readonly: bool,
    },
    /// What it remembers of the image that it came from.
    ImageMetadataReplaced {
        metadata: BTreeMap<String, String>,
    },
    /// Something that its pool has already becomes a volume.
    ManageAccepted {
        accepted: Box<VolumeCreateAccepted>,
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
    /// Clients hold it, connect it, use it or let it go.
    UseChanged {
        to: VolumeState,
    },
    /// Something happened to one of its attachments.
    Attachment {
        attachment: AttachmentId,
        event: AttachmentEvent,
    },
    /// An image is to be made of it.
    UploadAccepted {
        operation: OperationId,
        image: ImageId,
    },
    /// The image is whole.
    Uploaded {
        image: ImageId,
    },
    /// There is no such image; the volume is as it was.
    UploadFailed {
        operation: OperationId,
        failure: Failure,
    },
}

impl VolumeEvent {
    /// The event without its data.
    pub const fn kind(&self) -> VolumeEventKind {
        match self {
            Self::CreateAccepted(_) => VolumeEventKind::CreateAccepted,
            Self::Rescheduled { .. } => VolumeEventKind::Rescheduled,
            Self::Created => VolumeEventKind::Created,
            Self::CreateFailed { .. } => VolumeEventKind::CreateFailed,
            Self::DeleteAccepted { .. } => VolumeEventKind::DeleteAccepted,
            Self::Deleted => VolumeEventKind::Deleted,
            Self::DeleteFailed { .. } => VolumeEventKind::DeleteFailed,
            Self::ExtendAccepted { .. } => VolumeEventKind::ExtendAccepted,
            Self::Extended { .. } => VolumeEventKind::Extended,
            Self::ExtendFailed { .. } => VolumeEventKind::ExtendFailed,
            Self::RevertAccepted { .. } => VolumeEventKind::RevertAccepted,
            Self::Reverted => VolumeEventKind::Reverted,
            Self::RevertFailed { .. } => VolumeEventKind::RevertFailed,
            Self::ResetAccepted { .. } => VolumeEventKind::ResetAccepted,
            Self::StatusReset { .. } => VolumeEventKind::StatusReset,
            Self::ResetFailed { .. } => VolumeEventKind::ResetFailed,
            Self::DetailsUpdated { .. } => VolumeEventKind::DetailsUpdated,
            Self::MetadataReplaced { .. } => VolumeEventKind::MetadataReplaced,
            Self::BootableChanged { .. } => VolumeEventKind::BootableChanged,
            Self::ReadonlyChanged { .. } => VolumeEventKind::ReadonlyChanged,
            Self::ImageMetadataReplaced { .. } => VolumeEventKind::ImageMetadataReplaced,
            Self::ManageAccepted { .. } => VolumeEventKind::ManageAccepted,
            Self::Managed => VolumeEventKind::Managed,
            Self::ManageFailed { .. } => VolumeEventKind::ManageFailed,
            Self::UnmanageAccepted { .. } => VolumeEventKind::UnmanageAccepted,
            Self::Unmanaged => VolumeEventKind::Unmanaged,
            Self::UnmanageFailed { .. } => VolumeEventKind::UnmanageFailed,
            Self::UseChanged { .. } => VolumeEventKind::UseChanged,
            Self::Attachment { .. } => VolumeEventKind::Attachment,
            Self::UploadAccepted { .. } => VolumeEventKind::UploadAccepted,
            Self::Uploaded { .. } => VolumeEventKind::Uploaded,
            Self::UploadFailed { .. } => VolumeEventKind::UploadFailed,
        }
    }
}
