//! What payloads and rows are made of.

use std::collections::BTreeMap;

use tephra_domain::attachment::{AttachMode, AttachmentState, AttachmentStatus, Connector};
use tephra_domain::backend::BackendDescription;
use tephra_domain::drift::FoundKind;
use tephra_domain::effect::{BackendObject, Export, Failure, FailureKind};
use tephra_domain::ids::{DebtId, PoolId, VolumeTypeId};
use tephra_domain::image::NewImage;
use tephra_domain::operation::{OperationEnd, Phase};
use tephra_domain::quota::{QuotaResource, Usage, UsageCount};
use tephra_domain::scheduler::{Candidate, FilterName, PlacementDecision};
use tephra_domain::snapshot::{SnapshotCreateAccepted, SnapshotState, SnapshotStatus};
use tephra_domain::volume::{FailureRecord, VolumeCreateAccepted, VolumeSource, VolumeState, VolumeStatus};

use super::codec::{Id, Map, Wire, wire_code, wire_enum, wire_struct};
use crate::wire::Invalid;

wire_code! {
    /// A volume's status without data.
    VolumeStateV1 for VolumeState {
        0 Absent, 1 Creating, 2 Available, 3 Deleting, 4 Extending, 5 Reverting, 6 Verifying, 7 Error,
        8 ErrorDeleting, 9 ErrorExtending, 10 ErrorRestoring, 11 ErrorManaging, 12 ErrorBackingUp,
        13 Maintenance, 14 Managing, 15 Unmanaging, 16 Reserved, 17 Attaching, 18 InUse, 19 Detaching,
        20 Uploading,
    }
    /// A snapshot's status without data.
    SnapshotStateV1 for SnapshotState {
        0 Absent, 1 Creating, 2 Available, 3 Deleting, 4 Restoring, 5 Verifying, 6 Error, 7 ErrorDeleting,
        8 Unmanaging,
    }
    /// What kind of failure it was.
    FailureKindV1 for FailureKind {
        0 Busy, 1 ObjectMissing, 2 NoSpace, 3 TimedOut, 4 BackendUnavailable, 5 Unsupported, 6 Mismatch,
        7 BackendError, 8 NoValidBackend, 9 NotAttempted,
    }
    /// How an operation ended.
    OperationEndV1 for OperationEnd { 0 Completed, 1 Failed, 2 Abandoned }
    /// Whether an attachment may write.
    AttachModeV1 for AttachMode { 0 ReadWrite, 1 ReadOnly }
    /// An attachment's status without data.
    AttachmentStateV1 for AttachmentState {
        0 Absent, 1 Reserved, 2 Connecting, 3 Attaching, 4 Attached, 5 Disconnecting, 6 ErrorAttaching,
        7 ErrorDetaching,
    }
    /// A filter of the scheduler.
    FilterNameV1 for FilterName { 0 Service, 1 AvailabilityZone, 2 Capacity, 3 Capabilities, 4 Source }
}

wire_struct! {
    /// A pool.
    PoolIdV1<'a> for PoolId { backend: &'a str, pool: &'a str }
    /// A debt's id.
    DebtIdV1 for DebtId { operation: Id, ordinal: u16 }
    /// Why something failed.
    FailureV1<'a> for Failure { kind: FailureKindV1, message: &'a str }
    /// A failure on record.
    FailureRecordV1<'a> for FailureRecord { operation: Id, at: i64, failure: FailureV1<'a> }
    /// One pool that was looked at.
    CandidateV1<'a> for Candidate {
        pool: PoolIdV1<'a>, refused: Option<(FilterNameV1, &'a str)>, score: i64,
    }
    /// Where a volume goes.
    PlacementDecisionV1<'a> for PlacementDecision {
        chosen: Option<PoolIdV1<'a>>, alternatives: Vec<PoolIdV1<'a>>, candidates: Vec<CandidateV1<'a>>,
    }
    /// An accepted volume.
    VolumeCreateAcceptedV1<'a> for VolumeCreateAccepted {
        operation: Id, project: &'a str, user: &'a str, name: Option<&'a str>,
        description: Option<&'a str>, size: u32, volume_type: Id, availability_zone: &'a str,
        source: VolumeSourceV1, metadata: Map<'a>, multiattach: bool, bootable: bool,
        placement: PlacementDecisionV1<'a>,
    }
    /// An accepted snapshot.
    SnapshotCreateAcceptedV1<'a> for SnapshotCreateAccepted {
        operation: Id, volume: Id, project: &'a str, user: &'a str, name: Option<&'a str>,
        description: Option<&'a str>, size: u32, volume_type: Id, pool: PoolIdV1<'a>, metadata: Map<'a>,
    }
    /// A backend as its executor presents it.
    BackendDescriptionV1<'a> for BackendDescription {
        host: &'a str, driver: &'a str, availability_zone: &'a str, pools: Vec<&'a str>,
        native_revert: bool, capabilities: Map<'a>,
    }
    /// A host that connects.
    ConnectorV1<'a> for Connector {
        host: Option<&'a str>, initiator: Option<&'a str>, ip: Option<&'a str>,
        mountpoint: Option<&'a str>, multipath: bool, enforce_multipath: bool,
    }
    /// How a volume is to be reached by one host.
    ExportV1<'a> for Export {
        attachment: Id, initiator: Option<&'a str>, address: Option<&'a str>, mode: AttachModeV1,
    }
    /// An image to be made.
    NewImageV1<'a> for NewImage {
        id: Id, owner: &'a str, name: &'a str, disk_format: &'a str, container_format: &'a str,
        visibility: Option<&'a str>, protected: bool, properties: Map<'a>,
    }
    /// Counts of what is used.
    UsageCountV1 for UsageCount { volumes: i64, snapshots: i64, gigabytes: i64 }
    /// What a project uses.
    UsageV1 for Usage { total: UsageCountV1, by_type: Vec<(Id, UsageCountV1)> }
}

wire_enum! {
    /// Something on a backend.
    BackendObjectV1 for BackendObject {
        0 Volume { volume: Id } = { BackendObject::Volume(volume) };
        1 Snapshot { volume: Id, snapshot: Id } = { BackendObject::Snapshot { volume, snapshot } };
        2 SafetySnapshot { volume: Id, operation: Id } = { BackendObject::SafetySnapshot { volume, operation } };
        3 TemporaryVolume { volume: Id, operation: Id } = { BackendObject::TemporaryVolume { volume, operation } };
    }
    /// What kind of thing a backend shows.
    FoundKindV1<'a> for FoundKind {
        0 Volume {} = { FoundKind::Volume };
        1 Snapshot { of: Option<&'a str> } = { FoundKind::Snapshot { of } };
    }
    /// What a volume starts from.
    VolumeSourceV1 for VolumeSource {
        0 Blank {} = { VolumeSource::Blank };
        1 Snapshot { snapshot: Id } = { VolumeSource::Snapshot(snapshot) };
        2 Volume { volume: Id } = { VolumeSource::Volume(volume) };
        3 Image { image: Id } = { VolumeSource::Image(image) };
    }
    /// What a quota limits.
    QuotaResourceV1 for QuotaResource {
        0 Volumes {} = { QuotaResource::Volumes };
        1 Snapshots {} = { QuotaResource::Snapshots };
        2 Gigabytes {} = { QuotaResource::Gigabytes };
        3 PerVolumeGigabytes {} = { QuotaResource::PerVolumeGigabytes };
        4 Backups {} = { QuotaResource::Backups };
        5 BackupGigabytes {} = { QuotaResource::BackupGigabytes };
        6 Groups {} = { QuotaResource::Groups };
        7 VolumesOfType { volume_type: Id } = { QuotaResource::VolumesOfType(volume_type) };
        8 SnapshotsOfType { volume_type: Id } = { QuotaResource::SnapshotsOfType(volume_type) };
        9 GigabytesOfType { volume_type: Id } = { QuotaResource::GigabytesOfType(volume_type) };
    }
    /// A volume's status.
    VolumeStatusV1 for VolumeStatus {
        0 Creating { operation: Id } = { VolumeStatus::Creating { operation } };
        1 Available {} = { VolumeStatus::Available };
        2 Deleting { operation: Id, from: VolumeStateV1 } = { VolumeStatus::Deleting { operation, from } };
        3 Extending { operation: Id, to: u32 } = { VolumeStatus::Extending { operation, to } };
        4 Reverting { operation: Id, snapshot: Id } = { VolumeStatus::Reverting { operation, snapshot } };
        5 Verifying { operation: Id, from: VolumeStateV1 } = { VolumeStatus::Verifying { operation, from } };
        6 Error {} = { VolumeStatus::Error };
        7 ErrorDeleting {} = { VolumeStatus::ErrorDeleting };
        8 ErrorExtending {} = { VolumeStatus::ErrorExtending };
        9 ErrorRestoring {} = { VolumeStatus::ErrorRestoring };
        10 ErrorManaging {} = { VolumeStatus::ErrorManaging };
        11 ErrorBackingUp {} = { VolumeStatus::ErrorBackingUp };
        12 Maintenance {} = { VolumeStatus::Maintenance };
        13 Managing { operation: Id } = { VolumeStatus::Managing { operation } };
        14 Unmanaging { operation: Id, from: VolumeStateV1 } = { VolumeStatus::Unmanaging { operation, from } };
        15 Reserved {} = { VolumeStatus::Reserved };
        16 Attaching {} = { VolumeStatus::Attaching };
        17 InUse {} = { VolumeStatus::InUse };
        18 Detaching {} = { VolumeStatus::Detaching };
        19 Uploading { operation: Id, image: Id } = { VolumeStatus::Uploading { operation, image } };
    }
    /// An attachment's status.
    AttachmentStatusV1 for AttachmentStatus {
        0 Reserved {} = { AttachmentStatus::Reserved };
        1 Connecting { operation: Id } = { AttachmentStatus::Connecting { operation } };
        2 Attaching {} = { AttachmentStatus::Attaching };
        3 Attached {} = { AttachmentStatus::Attached };
        4 Disconnecting { operation: Id, from: AttachmentStateV1 }
            = { AttachmentStatus::Disconnecting { operation, from } };
        5 ErrorAttaching {} = { AttachmentStatus::ErrorAttaching };
        6 ErrorDetaching {} = { AttachmentStatus::ErrorDetaching };
    }
    /// A snapshot's status.
    SnapshotStatusV1 for SnapshotStatus {
        0 Creating { operation: Id } = { SnapshotStatus::Creating { operation } };
        1 Available {} = { SnapshotStatus::Available };
        2 Deleting { operation: Id, from: SnapshotStateV1 } = { SnapshotStatus::Deleting { operation, from } };
        3 Restoring { operation: Id } = { SnapshotStatus::Restoring { operation } };
        4 Verifying { operation: Id, from: SnapshotStateV1 } = { SnapshotStatus::Verifying { operation, from } };
        5 Error {} = { SnapshotStatus::Error };
        6 ErrorDeleting {} = { SnapshotStatus::ErrorDeleting };
        7 Unmanaging { operation: Id, from: SnapshotStateV1 }
            = { SnapshotStatus::Unmanaging { operation, from } };
    }
    /// Where an operation stands.
    PhaseV1 for Phase {
        0 Forward { step: u16 } = { Phase::Forward { step } };
        1 Undo { below: u16 } = { Phase::Undo { below } };
    }
}

impl<'a> Wire<'a, (FilterNameV1, &'a str)> for (FilterName, Box<str>) {
    fn to_wire(&'a self) -> (FilterNameV1, &'a str) {
        (self.0.to_wire(), &self.1)
    }

    fn from_wire((filter, reason): (FilterNameV1, &'a str)) -> Result<Self, Invalid> {
        Ok((FilterName::from_wire(filter)?, reason.into()))
    }
}

impl<'a> Wire<'a, (DebtIdV1, BackendObjectV1)> for (DebtId, BackendObject) {
    fn to_wire(&'a self) -> (DebtIdV1, BackendObjectV1) {
        (self.0.to_wire(), self.1.to_wire())
    }

    fn from_wire((debt, object): (DebtIdV1, BackendObjectV1)) -> Result<Self, Invalid> {
        Ok((DebtId::from_wire(debt)?, BackendObject::from_wire(object)?))
    }
}

impl<'a> Wire<'a, Vec<(Id, UsageCountV1)>> for BTreeMap<VolumeTypeId, UsageCount> {
    fn to_wire(&'a self) -> Vec<(Id, UsageCountV1)> {
        self.iter().map(|(id, count)| (id.to_wire(), count.to_wire())).collect()
    }

    fn from_wire(wire: Vec<(Id, UsageCountV1)>) -> Result<Self, Invalid> {
        wire.into_iter()
            .map(|(id, count)| Ok((VolumeTypeId::from_wire(id)?, UsageCount::from_wire(count)?)))
            .collect()
    }
}
