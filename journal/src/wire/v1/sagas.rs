//! Operations with their parameters.

use tephra_domain::operations::volume_copy::CopySource;
use tephra_domain::operations::volume_create::CreateSource;
use tephra_domain::operations::{
    AttachmentConnect, AttachmentDisconnect, ExportRestore, ObjectClean, OperationKind, SnapshotCreate,
    SnapshotDelete, SnapshotManage, SnapshotUnmanage, StatusVerify, VolumeCopy, VolumeCreate, VolumeDelete,
    VolumeExtend, VolumeExtendAttached, VolumeManage, VolumeRecover, VolumeRevert, VolumeUnmanage,
    VolumeUpload,
};

use super::codec::{Id, wire_enum, wire_struct};
use super::values::{BackendObjectV1, DebtIdV1, ExportV1, NewImageV1, PoolIdV1};

wire_struct! {
    /// Makes a volume.
    VolumeCreateV1<'a> for VolumeCreate {
        volume: Id, size: u32, source: CreateSourceV1, pool: PoolIdV1<'a>, alternatives: Vec<PoolIdV1<'a>>,
        failed_backends: Vec<&'a str>,
    }
    /// Removes a volume.
    VolumeDeleteV1<'a> for VolumeDelete {
        volume: Id, pool: Option<PoolIdV1<'a>>, snapshots: Vec<Id>, kept: Vec<(DebtIdV1, BackendObjectV1)>,
    }
    /// Grows a volume.
    VolumeExtendV1<'a> for VolumeExtend { volume: Id, pool: PoolIdV1<'a>, from: u32, to: u32 }
    /// Puts a snapshot's data back.
    VolumeRevertV1<'a> for VolumeRevert {
        operation: Id, volume: Id, snapshot: Id, pool: PoolIdV1<'a>, size: u32, native: bool,
    }
    /// Puts a safety snapshot's data back.
    VolumeRecoverV1<'a> for VolumeRecover {
        volume: Id, pool: PoolIdV1<'a>, debt: DebtIdV1, safety: BackendObjectV1, native: bool,
    }
    /// Takes a snapshot.
    SnapshotCreateV1<'a> for SnapshotCreate { volume: Id, snapshot: Id, pool: PoolIdV1<'a> }
    /// Removes a snapshot.
    SnapshotDeleteV1<'a> for SnapshotDelete { volume: Id, snapshot: Id, pool: PoolIdV1<'a> }
    /// Asks whether a status is true.
    StatusVerifyV1<'a> for StatusVerify { object: BackendObjectV1, pool: PoolIdV1<'a>, size: u32 }
    /// Takes a volume over.
    VolumeManageV1<'a> for VolumeManage { volume: Id, pool: PoolIdV1<'a>, name: &'a str, size: u32 }
    /// Gives a volume up.
    VolumeUnmanageV1<'a> for VolumeUnmanage { volume: Id, pool: Option<PoolIdV1<'a>>, size: u32 }
    /// Takes a snapshot over.
    SnapshotManageV1<'a> for SnapshotManage {
        volume: Id, snapshot: Id, pool: PoolIdV1<'a>, name: &'a str, size: u32,
    }
    /// Gives a snapshot up.
    SnapshotUnmanageV1<'a> for SnapshotUnmanage { volume: Id, snapshot: Id, pool: PoolIdV1<'a>, size: u32 }
    /// Removes what is none of ours.
    ObjectCleanV1<'a> for ObjectClean { pool: PoolIdV1<'a>, name: &'a str, object: BackendObjectV1 }
    /// Grows a volume that is attached.
    VolumeExtendAttachedV1<'a> for VolumeExtendAttached {
        extend: VolumeExtendV1<'a>, exports: Vec<ExportV1<'a>>,
    }
    /// Makes an export.
    AttachmentConnectV1<'a> for AttachmentConnect { volume: Id, pool: PoolIdV1<'a>, export: ExportV1<'a> }
    /// Removes an export.
    AttachmentDisconnectV1<'a> for AttachmentDisconnect {
        volume: Id, pool: PoolIdV1<'a>, attachment: Id, keep: bool,
    }
    /// Makes an export again.
    ExportRestoreV1<'a> for ExportRestore { volume: Id, pool: PoolIdV1<'a>, export: ExportV1<'a> }
    /// Makes an image.
    VolumeUploadV1<'a> for VolumeUpload { volume: Id, pool: PoolIdV1<'a>, image: NewImageV1<'a> }
    /// Makes a volume of what another pool holds.
    VolumeCopyV1<'a> for VolumeCopy {
        operation: Id, volume: Id, size: u32, source: CopySourceV1, from: PoolIdV1<'a>, pool: PoolIdV1<'a>,
        alternatives: Vec<PoolIdV1<'a>>, failed_backends: Vec<&'a str>,
    }
}

wire_enum! {
    /// What a new volume's data comes from.
    CreateSourceV1 for CreateSource {
        0 Blank {} = { CreateSource::Blank };
        1 Snapshot { volume: Id, snapshot: Id } = { CreateSource::Snapshot { volume, snapshot } };
        2 Volume { volume: Id } = { CreateSource::Volume(volume) };
        3 Image { image: Id } = { CreateSource::Image(image) };
    }
    /// What is copied from another pool.
    CopySourceV1 for CopySource {
        0 Snapshot { volume: Id, snapshot: Id } = { CopySource::Snapshot { volume, snapshot } };
        1 Volume { volume: Id } = { CopySource::Volume(volume) };
    }
    /// An operation.
    OperationKindV1<'a> for OperationKind {
        0 VolumeCreate { saga: VolumeCreateV1<'a> } = { OperationKind::VolumeCreate(saga) };
        1 VolumeDelete { saga: VolumeDeleteV1<'a> } = { OperationKind::VolumeDelete(saga) };
        2 VolumeExtend { saga: VolumeExtendV1<'a> } = { OperationKind::VolumeExtend(saga) };
        3 VolumeRevert { saga: VolumeRevertV1<'a> } = { OperationKind::VolumeRevert(saga) };
        4 VolumeRecover { saga: VolumeRecoverV1<'a> } = { OperationKind::VolumeRecover(saga) };
        5 SnapshotCreate { saga: SnapshotCreateV1<'a> } = { OperationKind::SnapshotCreate(saga) };
        6 SnapshotDelete { saga: SnapshotDeleteV1<'a> } = { OperationKind::SnapshotDelete(saga) };
        7 StatusVerify { saga: StatusVerifyV1<'a> } = { OperationKind::StatusVerify(saga) };
        8 VolumeManage { saga: VolumeManageV1<'a> } = { OperationKind::VolumeManage(saga) };
        9 VolumeUnmanage { saga: VolumeUnmanageV1<'a> } = { OperationKind::VolumeUnmanage(saga) };
        10 SnapshotManage { saga: SnapshotManageV1<'a> } = { OperationKind::SnapshotManage(saga) };
        11 SnapshotUnmanage { saga: SnapshotUnmanageV1<'a> } = { OperationKind::SnapshotUnmanage(saga) };
        12 ObjectClean { saga: ObjectCleanV1<'a> } = { OperationKind::ObjectClean(saga) };
        13 VolumeExtendAttached { saga: VolumeExtendAttachedV1<'a> }
            = { OperationKind::VolumeExtendAttached(saga) };
        14 AttachmentConnect { saga: AttachmentConnectV1<'a> } = { OperationKind::AttachmentConnect(saga) };
        15 AttachmentDisconnect { saga: AttachmentDisconnectV1<'a> }
            = { OperationKind::AttachmentDisconnect(saga) };
        16 ExportRestore { saga: ExportRestoreV1<'a> } = { OperationKind::ExportRestore(saga) };
        17 VolumeUpload { saga: VolumeUploadV1<'a> } = { OperationKind::VolumeUpload(saga) };
        18 VolumeCopy { saga: VolumeCopyV1<'a> } = { OperationKind::VolumeCopy(saga) };
    }
}
