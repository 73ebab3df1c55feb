//! Everything that can happen, and the commit that it happens in.

use crate::actor::Actor;
use crate::attachment::AttachmentEvent;
use crate::backend::BackendEvent;
use crate::debt::DebtEvent;
use crate::ids::{
    BackendName, CommandId, DebtId, IdempotencyKey, OperationId, ProjectId, RequestId, SnapshotId, VolumeId,
    VolumeTypeId,
};
use crate::operation::OperationEvent;
use crate::quota::QuotaEvent;
use crate::snapshot::SnapshotEvent;
use crate::units::Timestamp;
use crate::volume::VolumeEvent;
use crate::volume_type::VolumeTypeEvent;

/// One thing that happened, to one aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To a volume.
    Volume(VolumeId, VolumeEvent),
    /// To a snapshot.
    Snapshot(SnapshotId, SnapshotEvent),
    /// To a volume type.
    VolumeType(VolumeTypeId, VolumeTypeEvent),
    /// To somebody's quota.
    Quota(QuotaEvent),
    /// To a backend.
    Backend(BackendName, BackendEvent),
    /// To an operation.
    Operation(OperationId, OperationEvent),
    /// To a cleanup debt.
    Debt(DebtId, DebtEvent),
    /// To the ledger itself: from here on this process decides, until another begins. What an earlier one
    /// still has under way is in the log before this, or never will be.
    TurnBegan {
        /// The process, for people: its host.
        sequencer: Box<str>,
    },
}

impl Event {
    /// The event's public name, the same in logs, the API and the stream.
    #[allow(clippy::too_many_lines, reason = "one line per kind of event")]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Volume(_, event) => match event {
                VolumeEvent::CreateAccepted(_) => "VolumeCreateAccepted",
                VolumeEvent::Rescheduled { .. } => "VolumeRescheduled",
                VolumeEvent::Created => "VolumeCreated",
                VolumeEvent::CreateFailed { .. } => "VolumeCreateFailed",
                VolumeEvent::DeleteAccepted { .. } => "VolumeDeleteAccepted",
                VolumeEvent::Deleted => "VolumeDeleted",
                VolumeEvent::DeleteFailed { .. } => "VolumeDeleteFailed",
                VolumeEvent::ExtendAccepted { .. } => "VolumeExtendAccepted",
                VolumeEvent::Extended { .. } => "VolumeExtended",
                VolumeEvent::ExtendFailed { .. } => "VolumeExtendFailed",
                VolumeEvent::RevertAccepted { .. } => "VolumeRevertAccepted",
                VolumeEvent::Reverted => "VolumeReverted",
                VolumeEvent::RevertFailed { .. } => "VolumeRevertFailed",
                VolumeEvent::ResetAccepted { .. } => "VolumeResetAccepted",
                VolumeEvent::StatusReset { .. } => "VolumeStatusReset",
                VolumeEvent::ResetFailed { .. } => "VolumeResetFailed",
                VolumeEvent::DetailsUpdated { .. } => "VolumeDetailsUpdated",
                VolumeEvent::MetadataReplaced { .. } => "VolumeMetadataReplaced",
                VolumeEvent::BootableChanged { .. } => "VolumeBootableChanged",
                VolumeEvent::ReadonlyChanged { .. } => "VolumeReadonlyChanged",
                VolumeEvent::ImageMetadataReplaced { .. } => "VolumeImageMetadataReplaced",
                VolumeEvent::ManageAccepted { .. } => "VolumeManageAccepted",
                VolumeEvent::Managed => "VolumeManaged",
                VolumeEvent::ManageFailed { .. } => "VolumeManageFailed",
                VolumeEvent::UploadAccepted { .. } => "VolumeUploadAccepted",
                VolumeEvent::Uploaded { .. } => "VolumeUploaded",
                VolumeEvent::UploadFailed { .. } => "VolumeUploadFailed",
                VolumeEvent::UnmanageAccepted { .. } => "VolumeUnmanageAccepted",
                VolumeEvent::Unmanaged => "VolumeUnmanaged",
                VolumeEvent::UnmanageFailed { .. } => "VolumeUnmanageFailed",
                VolumeEvent::UseChanged { .. } => "VolumeUseChanged",
                VolumeEvent::Attachment { event, .. } => match event {
                    AttachmentEvent::Reserved { .. } => "AttachmentReserved",
                    AttachmentEvent::ConnectAccepted { .. } => "AttachmentConnectAccepted",
                    AttachmentEvent::Connected => "AttachmentConnected",
                    AttachmentEvent::ConnectFailed { .. } => "AttachmentConnectFailed",
                    AttachmentEvent::Attached { .. } => "AttachmentAttached",
                    AttachmentEvent::Completed => "AttachmentCompleted",
                    AttachmentEvent::DisconnectAccepted { .. } => "AttachmentDisconnectAccepted",
                    AttachmentEvent::Disconnected => "AttachmentDisconnected",
                    AttachmentEvent::DisconnectFailed { .. } => "AttachmentDisconnectFailed",
                    AttachmentEvent::Deleted => "AttachmentDeleted",
                },
            },
            Self::Snapshot(_, event) => match event {
                SnapshotEvent::CreateAccepted(_) => "SnapshotCreateAccepted",
                SnapshotEvent::Created => "SnapshotCreated",
                SnapshotEvent::CreateFailed { .. } => "SnapshotCreateFailed",
                SnapshotEvent::DeleteAccepted { .. } => "SnapshotDeleteAccepted",
                SnapshotEvent::Deleted => "SnapshotDeleted",
                SnapshotEvent::DeleteFailed { .. } => "SnapshotDeleteFailed",
                SnapshotEvent::RestoreAccepted { .. } => "SnapshotRestoreAccepted",
                SnapshotEvent::RestoreEnded => "SnapshotRestoreEnded",
                SnapshotEvent::ResetAccepted { .. } => "SnapshotResetAccepted",
                SnapshotEvent::StatusReset { .. } => "SnapshotStatusReset",
                SnapshotEvent::ResetFailed { .. } => "SnapshotResetFailed",
                SnapshotEvent::DetailsUpdated { .. } => "SnapshotDetailsUpdated",
                SnapshotEvent::MetadataReplaced { .. } => "SnapshotMetadataReplaced",
                SnapshotEvent::ManageAccepted { .. } => "SnapshotManageAccepted",
                SnapshotEvent::Managed => "SnapshotManaged",
                SnapshotEvent::ManageFailed { .. } => "SnapshotManageFailed",
                SnapshotEvent::UnmanageAccepted { .. } => "SnapshotUnmanageAccepted",
                SnapshotEvent::Unmanaged => "SnapshotUnmanaged",
                SnapshotEvent::UnmanageFailed { .. } => "SnapshotUnmanageFailed",
            },
            Self::VolumeType(_, event) => match event {
                VolumeTypeEvent::Created { .. } => "VolumeTypeCreated",
                VolumeTypeEvent::Updated { .. } => "VolumeTypeUpdated",
                VolumeTypeEvent::ExtraSpecsReplaced { .. } => "VolumeTypeExtraSpecsReplaced",
                VolumeTypeEvent::AccessGranted { .. } => "VolumeTypeAccessGranted",
                VolumeTypeEvent::AccessRevoked { .. } => "VolumeTypeAccessRevoked",
                VolumeTypeEvent::Deleted => "VolumeTypeDeleted",
            },
            Self::Quota(event) => match event {
                QuotaEvent::LimitsSet { .. } => "QuotaLimitsSet",
                QuotaEvent::LimitsCleared { .. } => "QuotaLimitsCleared",
                QuotaEvent::DefaultsSet { .. } => "QuotaDefaultsSet",
            },
            Self::Backend(_, event) => match event {
                BackendEvent::Registered(_) => "BackendRegistered",
                BackendEvent::Enabled => "BackendEnabled",
                BackendEvent::Disabled { .. } => "BackendDisabled",
                BackendEvent::Frozen => "BackendFrozen",
                BackendEvent::Thawed => "BackendThawed",
            },
            Self::Operation(_, event) => match event {
                OperationEvent::Opened { .. } => "OperationOpened",
                OperationEvent::StepCompleted { .. } => "StepCompleted",
                OperationEvent::AttemptFailed { .. } => "StepAttemptFailed",
                OperationEvent::StepWaived { .. } => "StepWaived",
                OperationEvent::UndoStarted { .. } => "UndoStarted",
                OperationEvent::StepUndone { .. } => "StepUndone",
                OperationEvent::UndoWaived { .. } => "UndoWaived",
                OperationEvent::Rescheduled { .. } => "OperationRescheduled",
                OperationEvent::Closed { .. } => "OperationClosed",
            },
            Self::Debt(_, event) => match event {
                DebtEvent::Incurred { .. } => "CleanupDebtIncurred",
                DebtEvent::AttemptFailed { .. } => "CleanupAttemptFailed",
                DebtEvent::Released => "CleanupDebtReleased",
                DebtEvent::Paid => "CleanupDebtPaid",
            },
            Self::TurnBegan { .. } => "TurnBegan",
        }
    }
}

/// What a client sent to make a request safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, unique within its project.
    pub key: IdempotencyKey,
    /// A digest of method, path and body: the same key with another request is an error.
    pub fingerprint: [u8; 32],
}

/// The events of one accepted command: atomic across aggregates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The command.
    pub command: CommandId,
    /// The HTTP request (or the like) that everything in this chain of causes began with.
    pub request: RequestId,
    /// The operation whose report this is, if the command came from an executor.
    pub causation: Option<OperationId>,
    /// Who asked.
    pub actor: Actor,
    /// When it was decided.
    pub time: Timestamp,
    /// The key under which the client may repeat it.
    pub idempotency: Option<Idempotency>,
    /// What happened, in order. Never empty.
    pub events: Vec<Event>,
}

/// The project of an idempotency key, and the key.
pub type IdempotencyScope = (ProjectId, IdempotencyKey);

/// The history says something that cannot have happened: it is corrupt, or written by a program
/// with other rules. Replay stops here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {event} cannot happen to {resource} in state {state}")]
pub struct IllegalEvent {
    /// The resource.
    pub resource: String,
    /// The state that it is in.
    pub state: &'static str,
    /// The event.
    pub event: String,
}
