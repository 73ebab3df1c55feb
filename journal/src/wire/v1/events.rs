//! The payload of every kind of event.

use tephra_domain::attachment::AttachmentEvent;
use tephra_domain::backend::BackendEvent;
use tephra_domain::debt::DebtEvent;
use tephra_domain::event::Event;
use tephra_domain::operation::OperationEvent;
use tephra_domain::quota::QuotaEvent;
use tephra_domain::snapshot::SnapshotEvent;
use tephra_domain::volume::VolumeEvent;
use tephra_domain::volume_type::VolumeTypeEvent;

use super::codec::{Id, Map, Wire};
use super::sagas::OperationKindV1;
use super::values::{
    AttachModeV1, BackendDescriptionV1, BackendObjectV1, ConnectorV1, DebtIdV1, FailureV1, OperationEndV1,
    PlacementDecisionV1, PoolIdV1, QuotaResourceV1, SnapshotCreateAcceptedV1, SnapshotStateV1,
    VolumeCreateAcceptedV1, VolumeStateV1,
};
use crate::wire::{Invalid, Kind};

/// Declares the payload of each kind, beside the event that it is.
macro_rules! events {
    ($($kind:ident $(<$lt:lifetime>)? { $($field:ident: $wire:ty),* } = { $($shape:tt)* };)*) => {
        $(
            #[doc = concat!("Payload of `", stringify!($kind), "`.")]
            #[derive(Debug, serde::Serialize, serde::Deserialize)]
            $(#[serde(bound(deserialize = "'de: 'a"))] #[doc = concat!("Borrows for `", stringify!($lt), "`.")])?
            #[allow(missing_docs, reason = "fields are named as in the domain")]
            pub struct $kind $(<$lt>)? { $(pub $field: $wire),* }
        )*

        /// The payload of an event; written without a tag, because the kind stands before it.
        #[derive(Debug, serde::Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs, reason = "named after the kinds")]
        #[allow(clippy::large_enum_variant, reason = "lives on the stack for the length of one encoding")]
        pub enum Payload<'a> {
            $($kind($kind $(<$lt>)?),)*
        }

        impl<'a> Payload<'a> {
            /// The payload of an event.
            pub fn of(event: &'a Event) -> (Kind, Self) {
                match event {
                    $($($shape)* => (
                        Kind::$kind,
                        Self::$kind($kind { $($field: Wire::to_wire($field)),* }),
                    ),)*
                }
            }
        }

        /// Reads a payload.
        ///
        /// # Errors
        /// If it is not the payload of that kind.
        pub fn decode(kind: Kind, payload: &[u8]) -> Result<Event, Invalid> {
            match kind {
                $(Kind::$kind => {
                    let wire: $kind = Invalid::all(stringify!($kind), payload)?;
                    $(let $field = Wire::from_wire(wire.$field)?;)*
                    Ok($($shape)*)
                })*
            }
        }
    };
}

events! {
    VolumeCreateAccepted<'a> { volume: Id, accepted: VolumeCreateAcceptedV1<'a> }
        = { Event::Volume(volume, VolumeEvent::CreateAccepted(accepted)) };
    VolumeRescheduled<'a> {
        volume: Id, failed: PoolIdV1<'a>, failure: FailureV1<'a>, placement: PlacementDecisionV1<'a>
    } = { Event::Volume(volume, VolumeEvent::Rescheduled { failed, failure, placement }) };
    VolumeCreated { volume: Id } = { Event::Volume(volume, VolumeEvent::Created) };
    VolumeCreateFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Volume(volume, VolumeEvent::CreateFailed { operation, failure }) };
    VolumeDeleteAccepted { volume: Id, operation: Id }
        = { Event::Volume(volume, VolumeEvent::DeleteAccepted { operation }) };
    VolumeDeleted { volume: Id } = { Event::Volume(volume, VolumeEvent::Deleted) };
    VolumeDeleteFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Volume(volume, VolumeEvent::DeleteFailed { operation, failure }) };
    VolumeExtendAccepted { volume: Id, operation: Id, to: u32 }
        = { Event::Volume(volume, VolumeEvent::ExtendAccepted { operation, to }) };
    VolumeExtended { volume: Id, to: u32 } = { Event::Volume(volume, VolumeEvent::Extended { to }) };
    VolumeExtendFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a>, restored: bool }
        = { Event::Volume(volume, VolumeEvent::ExtendFailed { operation, failure, restored }) };
    VolumeRevertAccepted { volume: Id, operation: Id, snapshot: Id }
        = { Event::Volume(volume, VolumeEvent::RevertAccepted { operation, snapshot }) };
    VolumeReverted { volume: Id } = { Event::Volume(volume, VolumeEvent::Reverted) };
    VolumeRevertFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a>, restored: bool }
        = { Event::Volume(volume, VolumeEvent::RevertFailed { operation, failure, restored }) };
    VolumeResetAccepted { volume: Id, operation: Id }
        = { Event::Volume(volume, VolumeEvent::ResetAccepted { operation }) };
    VolumeStatusReset { volume: Id, to: VolumeStateV1 }
        = { Event::Volume(volume, VolumeEvent::StatusReset { to }) };
    VolumeResetFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Volume(volume, VolumeEvent::ResetFailed { operation, failure }) };
    VolumeDetailsUpdated<'a> { volume: Id, name: Option<&'a str>, description: Option<&'a str> }
        = { Event::Volume(volume, VolumeEvent::DetailsUpdated { name, description }) };
    VolumeMetadataReplaced<'a> { volume: Id, metadata: Map<'a> }
        = { Event::Volume(volume, VolumeEvent::MetadataReplaced { metadata }) };
    VolumeBootableChanged { volume: Id, bootable: bool }
        = { Event::Volume(volume, VolumeEvent::BootableChanged { bootable }) };
    VolumeReadonlyChanged { volume: Id, readonly: bool }
        = { Event::Volume(volume, VolumeEvent::ReadonlyChanged { readonly }) };
    VolumeImageMetadataReplaced<'a> { volume: Id, metadata: Map<'a> }
        = { Event::Volume(volume, VolumeEvent::ImageMetadataReplaced { metadata }) };
    VolumeUploadAccepted { volume: Id, operation: Id, image: Id }
        = { Event::Volume(volume, VolumeEvent::UploadAccepted { operation, image }) };
    VolumeUploaded { volume: Id, image: Id } = { Event::Volume(volume, VolumeEvent::Uploaded { image }) };
    VolumeUploadFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Volume(volume, VolumeEvent::UploadFailed { operation, failure }) };
    VolumeManageAccepted<'a> { volume: Id, accepted: VolumeCreateAcceptedV1<'a>, name: &'a str }
        = { Event::Volume(volume, VolumeEvent::ManageAccepted { accepted, name }) };
    VolumeManaged { volume: Id } = { Event::Volume(volume, VolumeEvent::Managed) };
    VolumeManageFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Volume(volume, VolumeEvent::ManageFailed { operation, failure }) };
    VolumeUnmanageAccepted { volume: Id, operation: Id }
        = { Event::Volume(volume, VolumeEvent::UnmanageAccepted { operation }) };
    VolumeUnmanaged { volume: Id } = { Event::Volume(volume, VolumeEvent::Unmanaged) };
    VolumeUnmanageFailed<'a> { volume: Id, operation: Id, failure: FailureV1<'a>, restored: bool }
        = { Event::Volume(volume, VolumeEvent::UnmanageFailed { operation, failure, restored }) };

    VolumeUseChanged { volume: Id, to: VolumeStateV1 }
        = { Event::Volume(volume, VolumeEvent::UseChanged { to }) };

    SnapshotCreateAccepted<'a> { snapshot: Id, accepted: SnapshotCreateAcceptedV1<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::CreateAccepted(accepted)) };
    SnapshotCreated { snapshot: Id } = { Event::Snapshot(snapshot, SnapshotEvent::Created) };
    SnapshotCreateFailed<'a> { snapshot: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::CreateFailed { operation, failure }) };
    SnapshotDeleteAccepted { snapshot: Id, operation: Id }
        = { Event::Snapshot(snapshot, SnapshotEvent::DeleteAccepted { operation }) };
    SnapshotDeleted { snapshot: Id } = { Event::Snapshot(snapshot, SnapshotEvent::Deleted) };
    SnapshotDeleteFailed<'a> { snapshot: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::DeleteFailed { operation, failure }) };
    SnapshotRestoreAccepted { snapshot: Id, operation: Id }
        = { Event::Snapshot(snapshot, SnapshotEvent::RestoreAccepted { operation }) };
    SnapshotRestoreEnded { snapshot: Id } = { Event::Snapshot(snapshot, SnapshotEvent::RestoreEnded) };
    SnapshotResetAccepted { snapshot: Id, operation: Id }
        = { Event::Snapshot(snapshot, SnapshotEvent::ResetAccepted { operation }) };
    SnapshotStatusReset { snapshot: Id, to: SnapshotStateV1 }
        = { Event::Snapshot(snapshot, SnapshotEvent::StatusReset { to }) };
    SnapshotResetFailed<'a> { snapshot: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::ResetFailed { operation, failure }) };
    SnapshotDetailsUpdated<'a> { snapshot: Id, name: Option<&'a str>, description: Option<&'a str> }
        = { Event::Snapshot(snapshot, SnapshotEvent::DetailsUpdated { name, description }) };
    SnapshotMetadataReplaced<'a> { snapshot: Id, metadata: Map<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::MetadataReplaced { metadata }) };
    SnapshotManageAccepted<'a> { snapshot: Id, accepted: SnapshotCreateAcceptedV1<'a>, name: &'a str }
        = { Event::Snapshot(snapshot, SnapshotEvent::ManageAccepted { accepted, name }) };
    SnapshotManaged { snapshot: Id } = { Event::Snapshot(snapshot, SnapshotEvent::Managed) };
    SnapshotManageFailed<'a> { snapshot: Id, operation: Id, failure: FailureV1<'a> }
        = { Event::Snapshot(snapshot, SnapshotEvent::ManageFailed { operation, failure }) };
    SnapshotUnmanageAccepted { snapshot: Id, operation: Id }
        = { Event::Snapshot(snapshot, SnapshotEvent::UnmanageAccepted { operation }) };
    SnapshotUnmanaged { snapshot: Id } = { Event::Snapshot(snapshot, SnapshotEvent::Unmanaged) };
    SnapshotUnmanageFailed<'a> { snapshot: Id, operation: Id, failure: FailureV1<'a>, restored: bool }
        = { Event::Snapshot(snapshot, SnapshotEvent::UnmanageFailed { operation, failure, restored }) };

    VolumeTypeCreated<'a> {
        volume_type: Id, name: &'a str, description: Option<&'a str>, is_public: bool, extra_specs: Map<'a>
    } = {
        Event::VolumeType(volume_type, VolumeTypeEvent::Created { name, description, is_public, extra_specs })
    };
    VolumeTypeUpdated<'a> { volume_type: Id, name: &'a str, description: Option<&'a str>, is_public: bool }
        = { Event::VolumeType(volume_type, VolumeTypeEvent::Updated { name, description, is_public }) };
    VolumeTypeExtraSpecsReplaced<'a> { volume_type: Id, extra_specs: Map<'a> }
        = { Event::VolumeType(volume_type, VolumeTypeEvent::ExtraSpecsReplaced { extra_specs }) };
    VolumeTypeAccessGranted<'a> { volume_type: Id, project: &'a str }
        = { Event::VolumeType(volume_type, VolumeTypeEvent::AccessGranted { project }) };
    VolumeTypeAccessRevoked<'a> { volume_type: Id, project: &'a str }
        = { Event::VolumeType(volume_type, VolumeTypeEvent::AccessRevoked { project }) };
    VolumeTypeDeleted { volume_type: Id } = { Event::VolumeType(volume_type, VolumeTypeEvent::Deleted) };

    QuotaLimitsSet<'a> { project: &'a str, limits: Vec<(QuotaResourceV1, i64)> }
        = { Event::Quota(QuotaEvent::LimitsSet { project, limits }) };
    QuotaLimitsCleared<'a> { project: &'a str } = { Event::Quota(QuotaEvent::LimitsCleared { project }) };
    QuotaDefaultsSet { limits: Vec<(QuotaResourceV1, i64)> }
        = { Event::Quota(QuotaEvent::DefaultsSet { limits }) };

    BackendRegistered<'a> { backend: &'a str, description: BackendDescriptionV1<'a> }
        = { Event::Backend(backend, BackendEvent::Registered(description)) };
    BackendEnabled<'a> { backend: &'a str } = { Event::Backend(backend, BackendEvent::Enabled) };
    BackendDisabled<'a> { backend: &'a str, reason: Option<&'a str> }
        = { Event::Backend(backend, BackendEvent::Disabled { reason }) };
    BackendFrozen<'a> { backend: &'a str } = { Event::Backend(backend, BackendEvent::Frozen) };
    BackendThawed<'a> { backend: &'a str } = { Event::Backend(backend, BackendEvent::Thawed) };

    OperationOpened<'a> { operation: Id, project: &'a str, kind: OperationKindV1<'a> }
        = { Event::Operation(operation, OperationEvent::Opened { project, kind }) };
    StepCompleted { operation: Id, step: u16 }
        = { Event::Operation(operation, OperationEvent::StepCompleted { step }) };
    StepAttemptFailed<'a> { operation: Id, failure: FailureV1<'a>, retry_at: i64 }
        = { Event::Operation(operation, OperationEvent::AttemptFailed { failure, retry_at }) };
    StepWaived<'a> { operation: Id, step: u16, failure: FailureV1<'a> }
        = { Event::Operation(operation, OperationEvent::StepWaived { step, failure }) };
    UndoStarted<'a> { operation: Id, step: u16, failure: FailureV1<'a> }
        = { Event::Operation(operation, OperationEvent::UndoStarted { step, failure }) };
    StepUndone { operation: Id, step: u16 }
        = { Event::Operation(operation, OperationEvent::StepUndone { step }) };
    UndoWaived<'a> { operation: Id, step: u16, failure: FailureV1<'a> }
        = { Event::Operation(operation, OperationEvent::UndoWaived { step, failure }) };
    OperationRescheduled<'a> { operation: Id, kind: OperationKindV1<'a> }
        = { Event::Operation(operation, OperationEvent::Rescheduled { kind }) };
    OperationClosed { operation: Id, end: OperationEndV1 }
        = { Event::Operation(operation, OperationEvent::Closed { end }) };

    CleanupDebtIncurred<'a> {
        debt: DebtIdV1, project: &'a str, pool: PoolIdV1<'a>, object: BackendObjectV1, reason: FailureV1<'a>,
        held: bool
    } = { Event::Debt(debt, DebtEvent::Incurred { project, pool, object, reason, held }) };
    CleanupAttemptFailed<'a> { debt: DebtIdV1, failure: FailureV1<'a>, retry_at: i64 }
        = { Event::Debt(debt, DebtEvent::AttemptFailed { failure, retry_at }) };
    CleanupDebtReleased { debt: DebtIdV1 } = { Event::Debt(debt, DebtEvent::Released) };
    CleanupDebtPaid { debt: DebtIdV1 } = { Event::Debt(debt, DebtEvent::Paid) };

    TurnBegan<'a> { sequencer: &'a str } = { Event::TurnBegan { sequencer } };

    AttachmentReserved<'a> { volume: Id, attachment: Id, instance: Option<&'a str>, mode: Option<AttachModeV1> } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Reserved { instance, mode } })
    };
    AttachmentConnectAccepted<'a> { volume: Id, attachment: Id, operation: Id, connector: ConnectorV1<'a>, mode: AttachModeV1 } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::ConnectAccepted { operation, connector, mode } })
    };
    AttachmentConnected { volume: Id, attachment: Id } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Connected })
    };
    AttachmentConnectFailed<'a> { volume: Id, attachment: Id, operation: Id, failure: FailureV1<'a>, restored: bool } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::ConnectFailed { operation, failure, restored } })
    };
    AttachmentAttached<'a> { volume: Id, attachment: Id, instance: Option<&'a str>, host: Option<&'a str>, mountpoint: Option<&'a str>, mode: AttachModeV1 } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Attached { instance, host, mountpoint, mode } })
    };
    AttachmentCompleted { volume: Id, attachment: Id } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Completed })
    };
    AttachmentDisconnectAccepted { volume: Id, attachment: Id, operation: Id } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::DisconnectAccepted { operation } })
    };
    AttachmentDisconnected { volume: Id, attachment: Id } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Disconnected })
    };
    AttachmentDisconnectFailed<'a> { volume: Id, attachment: Id, operation: Id, failure: FailureV1<'a> } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::DisconnectFailed { operation, failure } })
    };
    AttachmentDeleted { volume: Id, attachment: Id } = {
        Event::Volume(volume, VolumeEvent::Attachment { attachment, event: AttachmentEvent::Deleted })
    };
}
