//! Commands, on their way to the sequencer.

use tephra_domain::command::{
    AttachVolume, CleanObject, Command, CreateAttachment, CreateSnapshot, CreateVolume,
    CreateVolumeFromImage, CreateVolumeType, ManageSnapshot, ManageVolume, MetadataChange, UploadVolume,
    VolumeTypeRef,
};
use tephra_domain::image::ImageFacts;

use super::codec::{Id, Map, Wire, wire_enum, wire_struct};
use super::commit::{ActorV1, IdempotencyV1};
use super::orders::{EffectKeyV1, OutcomeV1};
use super::values::{
    AttachModeV1, BackendDescriptionV1, ConnectorV1, DebtIdV1, FoundKindV1, NewImageV1, PoolIdV1,
    QuotaResourceV1, SnapshotStateV1, VolumeSourceV1, VolumeStateV1,
};
use crate::gateway::Submission;
use crate::wire::Invalid;

wire_struct! {
    /// A command with who asks.
    SubmissionV1<'a> for Submission {
        id: Id, request: &'a str, actor: ActorV1<'a>, idempotency: Option<IdempotencyV1<'a>>,
        command: CommandV1<'a>,
    }
    /// What a volume is to be.
    CreateVolumeV1<'a> for CreateVolume {
        volume: Id, name: Option<&'a str>, description: Option<&'a str>, size: Option<u32>,
        source: VolumeSourceV1, volume_type: Option<VolumeTypeRefV1<'a>>, availability_zone: Option<&'a str>,
        metadata: Map<'a>,
    }
    /// What a volume is to be, and of which image.
    CreateVolumeFromImageV1<'a> for CreateVolumeFromImage {
        create: CreateVolumeV1<'a>, image: ImageFactsV1<'a>,
    }
    /// What is known of an image.
    ImageFactsV1<'a> for ImageFacts {
        id: Id, status: &'a str, size_bytes: Option<u64>, min_disk_gib: u32, metadata: Map<'a>,
    }
    /// What a snapshot is to be.
    CreateSnapshotV1<'a> for CreateSnapshot {
        snapshot: Id, volume: Id, name: Option<&'a str>, description: Option<&'a str>, force: bool,
        metadata: Map<'a>,
    }
    /// What an attachment is to be.
    CreateAttachmentV1<'a> for CreateAttachment {
        volume: Id, attachment: Id, instance: Option<&'a str>, mode: Option<AttachModeV1>,
        connector: Option<ConnectorV1<'a>>, connector_mode: Option<AttachModeV1>,
    }
    /// What a client says that it has connected.
    AttachVolumeV1<'a> for AttachVolume {
        volume: Id, attachment: Id, instance: Option<&'a str>, host: Option<&'a str>, mountpoint: &'a str,
        mode: AttachModeV1,
    }
    /// What a volume type is to be.
    CreateVolumeTypeV1<'a> for CreateVolumeType {
        volume_type: Id, name: &'a str, description: Option<&'a str>, is_public: bool, extra_specs: Map<'a>,
    }
    /// What becomes a volume.
    ManageVolumeV1<'a> for ManageVolume {
        volume: Id, pool: PoolIdV1<'a>, name: &'a str, size: u32, display_name: Option<&'a str>,
        description: Option<&'a str>, volume_type: Option<VolumeTypeRefV1<'a>>,
        availability_zone: Option<&'a str>, metadata: Map<'a>, bootable: bool,
    }
    /// What becomes a snapshot.
    ManageSnapshotV1<'a> for ManageSnapshot {
        snapshot: Id, volume: Id, name: &'a str, size: u32, display_name: Option<&'a str>,
        description: Option<&'a str>, metadata: Map<'a>,
    }
    /// What becomes an image.
    UploadVolumeV1<'a> for UploadVolume { volume: Id, force: bool, image: NewImageV1<'a> }
    /// What is to go.
    CleanObjectV1<'a> for CleanObject { pool: PoolIdV1<'a>, name: &'a str, kind: FoundKindV1<'a> }
}

wire_enum! {
    /// How a client names a volume type.
    VolumeTypeRefV1<'a> for VolumeTypeRef {
        0 Named { name: &'a str } = { VolumeTypeRef::Named(name) };
        1 Id { id: Id } = { VolumeTypeRef::Id(id) };
    }
    /// A change to keys and values.
    MetadataChangeV1<'a> for MetadataChange {
        0 Merge { values: Map<'a> } = { MetadataChange::Merge(values) };
        1 Replace { values: Map<'a> } = { MetadataChange::Replace(values) };
        2 Remove { key: &'a str } = { MetadataChange::Remove(key) };
    }
    /// Something that is asked.
    CommandV1<'a> for Command {
        0 CreateVolume { create: CreateVolumeV1<'a> } = { Command::CreateVolume(create) };
        1 DeleteVolume { volume: Id, cascade: bool, force: bool }
            = { Command::DeleteVolume { volume, cascade, force } };
        2 ExtendVolume { volume: Id, to: u32 } = { Command::ExtendVolume { volume, to, online: false } };
        3 RevertVolume { volume: Id, snapshot: Option<Id> } = { Command::RevertVolume { volume, snapshot } };
        4 RecoverVolume { volume: Id } = { Command::RecoverVolume { volume } };
        5 UpdateVolume {
            volume: Id, name: Option<Option<&'a str>>, description: Option<Option<&'a str>>,
            metadata: Option<Map<'a>>
        } = { Command::UpdateVolume { volume, name, description, metadata } };
        6 ChangeVolumeMetadata { volume: Id, change: MetadataChangeV1<'a> }
            = { Command::ChangeVolumeMetadata { volume, change } };
        7 SetVolumeBootable { volume: Id, bootable: bool }
            = { Command::SetVolumeBootable { volume, bootable } };
        8 SetVolumeReadonly { volume: Id, readonly: bool }
            = { Command::SetVolumeReadonly { volume, readonly } };
        9 ResetVolumeStatus { volume: Id, to: VolumeStateV1 } = { Command::ResetVolumeStatus { volume, to } };
        10 CreateSnapshot { create: CreateSnapshotV1<'a> } = { Command::CreateSnapshot(create) };
        11 DeleteSnapshot { snapshot: Id, force: bool } = { Command::DeleteSnapshot { snapshot, force } };
        12 UpdateSnapshot {
            snapshot: Id, name: Option<Option<&'a str>>, description: Option<Option<&'a str>>
        } = { Command::UpdateSnapshot { snapshot, name, description } };
        13 ChangeSnapshotMetadata { snapshot: Id, change: MetadataChangeV1<'a> }
            = { Command::ChangeSnapshotMetadata { snapshot, change } };
        14 ResetSnapshotStatus { snapshot: Id, to: SnapshotStateV1 }
            = { Command::ResetSnapshotStatus { snapshot, to } };
        15 CreateVolumeType { create: CreateVolumeTypeV1<'a> } = { Command::CreateVolumeType(create) };
        16 UpdateVolumeType {
            volume_type: Id, name: Option<&'a str>, description: Option<Option<&'a str>>,
            is_public: Option<bool>
        } = { Command::UpdateVolumeType { volume_type, name, description, is_public } };
        17 DeleteVolumeType { volume_type: Id } = { Command::DeleteVolumeType { volume_type } };
        18 ChangeExtraSpecs { volume_type: Id, change: MetadataChangeV1<'a> }
            = { Command::ChangeExtraSpecs { volume_type, change } };
        19 GrantTypeAccess { volume_type: Id, project: &'a str }
            = { Command::GrantTypeAccess { volume_type, project } };
        20 RevokeTypeAccess { volume_type: Id, project: &'a str }
            = { Command::RevokeTypeAccess { volume_type, project } };
        21 SetQuotaLimits { project: &'a str, limits: Vec<(QuotaResourceV1, i64)> }
            = { Command::SetQuotaLimits { project, limits } };
        22 ClearQuotaLimits { project: &'a str } = { Command::ClearQuotaLimits { project } };
        23 SetQuotaDefaults { limits: Vec<(QuotaResourceV1, i64)> } = { Command::SetQuotaDefaults { limits } };
        24 RegisterBackend { backend: &'a str, description: BackendDescriptionV1<'a> }
            = { Command::RegisterBackend { backend, description } };
        25 EnableBackend { backend: &'a str } = { Command::EnableBackend { backend } };
        26 DisableBackend { backend: &'a str, reason: Option<&'a str> }
            = { Command::DisableBackend { backend, reason } };
        27 ReportOutcome { key: EffectKeyV1, outcome: OutcomeV1<'a> }
            = { Command::ReportOutcome { key, outcome } };
        28 ReleaseDebt { debt: DebtIdV1 } = { Command::ReleaseDebt { debt } };
        29 CheckAttempt { key: EffectKeyV1 } = { Command::CheckAttempt { key } };
        30 ManageVolume { manage: ManageVolumeV1<'a> } = { Command::ManageVolume(manage) };
        31 UnmanageVolume { volume: Id } = { Command::UnmanageVolume { volume } };
        32 ManageSnapshot { manage: ManageSnapshotV1<'a> } = { Command::ManageSnapshot(manage) };
        33 UnmanageSnapshot { snapshot: Id } = { Command::UnmanageSnapshot { snapshot } };
        34 CleanObject { clean: CleanObjectV1<'a> } = { Command::CleanObject(clean) };
        35 FreezeBackend { backend: &'a str } = { Command::FreezeBackend { backend } };
        36 ThawBackend { backend: &'a str } = { Command::ThawBackend { backend } };
        37 CreateVolumeFromImage { create: CreateVolumeFromImageV1<'a> }
            = { Command::CreateVolumeFromImage(create) };
        38 ChangeImageMetadata { volume: Id, change: MetadataChangeV1<'a> }
            = { Command::ChangeImageMetadata { volume, change } };
        39 ExtendAttachedVolume { volume: Id, to: u32 }
            = { Command::ExtendVolume { volume, to, online: true } };
        40 CreateAttachment { create: CreateAttachmentV1<'a> } = { Command::CreateAttachment(create) };
        41 UpdateAttachment {
            volume: Id, attachment: Id, connector: ConnectorV1<'a>, mode: Option<AttachModeV1>
        } = { Command::UpdateAttachment { volume, attachment, connector, mode } };
        42 CompleteAttachment { volume: Id, attachment: Id }
            = { Command::CompleteAttachment { volume, attachment } };
        43 DeleteAttachment { volume: Id, attachment: Id }
            = { Command::DeleteAttachment { volume, attachment } };
        44 ReserveVolume { volume: Id } = { Command::ReserveVolume { volume } };
        45 UnreserveVolume { volume: Id } = { Command::UnreserveVolume { volume } };
        46 BeginDetaching { volume: Id } = { Command::BeginDetaching { volume } };
        47 RollDetaching { volume: Id } = { Command::RollDetaching { volume } };
        48 InitializeConnection {
            volume: Id, attachment: Id, connector: ConnectorV1<'a>, mode: Option<AttachModeV1>
        } = { Command::InitializeConnection { volume, attachment, connector, mode } };
        49 TerminateConnection { volume: Id, connector: Option<ConnectorV1<'a>> }
            = { Command::TerminateConnection { volume, connector } };
        50 AttachVolume { attach: AttachVolumeV1<'a> } = { Command::AttachVolume(attach) };
        51 DetachVolume { volume: Id, attachment: Option<Id>, force: bool }
            = { Command::DetachVolume { volume, attachment, force } };
        52 DetachAll { volume: Id } = { Command::DetachAll { volume } };
        53 RestoreExports { backend: &'a str, after: Option<Id> }
            = { Command::RestoreExports { backend, after } };
        54 UploadVolume { upload: UploadVolumeV1<'a> } = { Command::UploadVolume(upload) };
    }
}

impl<'a> Wire<'a, &'a str> for String {
    fn to_wire(&'a self) -> &'a str {
        self
    }

    fn from_wire(wire: &'a str) -> Result<Self, Invalid> {
        Ok(wire.to_owned())
    }
}
