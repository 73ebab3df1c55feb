//! Bodies of requests, as the OpenAPI document describes them. They are read by [`super::check`],
//! whose refusals use Cinder's words, and not by way of these.

#![allow(missing_docs, reason = "the fields are Cinder's; its API reference says what they mean")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// Creating a volume.
#[derive(ToSchema)]
pub struct VolumeCreateBody {
    pub volume: VolumeCreateFields,
    /// Taken and not looked at.
    #[schema(rename = "OS-SCH-HNT:scheduler_hints", value_type = Option<Object>)]
    pub scheduler_hints: Option<()>,
}

/// From 3.53 on, other fields are refused.
#[derive(ToSchema)]
pub struct VolumeCreateFields {
    /// GiB, at least 1; may be left out where there is a source.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub size: Option<u32>,
    #[schema(max_length = 255)]
    pub name: Option<String>,
    #[schema(max_length = 255)]
    pub description: Option<String>,
    /// Name or id.
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub snapshot_id: Option<String>,
    pub source_volid: Option<String>,
}

/// Renaming or redescribing a volume.
#[derive(ToSchema)]
pub struct VolumeUpdateBody {
    pub volume: VolumeUpdateFields,
}

#[derive(ToSchema)]
pub struct VolumeUpdateFields {
    #[schema(max_length = 255)]
    pub name: Option<String>,
    #[schema(max_length = 255)]
    pub description: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Exactly one of these.
#[derive(ToSchema)]
pub struct VolumeActionBody {
    #[schema(rename = "os-extend")]
    pub extend: Option<ExtendFields>,
    /// From 3.40.
    pub revert: Option<RevertFields>,
    #[schema(rename = "os-reset_status")]
    pub reset_status: Option<ResetStatusFields>,
    #[schema(rename = "os-force_delete", value_type = Option<Object>)]
    pub force_delete: Option<()>,
    /// Administrators.
    #[schema(rename = "os-unmanage", value_type = Option<Object>)]
    pub unmanage: Option<()>,
    #[schema(rename = "os-set_bootable")]
    pub set_bootable: Option<BootableFields>,
    #[schema(rename = "os-update_readonly_flag")]
    pub update_readonly_flag: Option<ReadonlyFields>,
    #[schema(rename = "os-reserve", value_type = Option<Object>)]
    pub reserve: Option<()>,
    #[schema(rename = "os-unreserve", value_type = Option<Object>)]
    pub unreserve: Option<()>,
    #[schema(rename = "os-begin_detaching", value_type = Option<Object>)]
    pub begin_detaching: Option<()>,
    #[schema(rename = "os-roll_detaching", value_type = Option<Object>)]
    pub roll_detaching: Option<()>,
    #[schema(rename = "os-initialize_connection")]
    pub initialize_connection: Option<ConnectionFields>,
    #[schema(rename = "os-terminate_connection")]
    pub terminate_connection: Option<ConnectionFields>,
    #[schema(rename = "os-attach")]
    pub attach: Option<AttachFields>,
    #[schema(rename = "os-detach")]
    pub detach: Option<DetachFields>,
    #[schema(rename = "os-force_detach")]
    pub force_detach: Option<ForceDetachFields>,
    #[schema(rename = "os-set_image_metadata")]
    pub set_image_metadata: Option<SetImageMetadataFields>,
    #[schema(rename = "os-show_image_metadata", value_type = Option<Object>)]
    pub show_image_metadata: Option<()>,
    #[schema(rename = "os-unset_image_metadata")]
    pub unset_image_metadata: Option<UnsetImageMetadataFields>,
    #[schema(rename = "os-volume_upload_image")]
    pub upload_image: Option<UploadImageFields>,
}

#[derive(ToSchema)]
pub struct UploadImageFields {
    #[schema(min_length = 1, max_length = 255)]
    pub image_name: String,
    /// Also while the volume is in use.
    pub force: Option<bool>,
    /// `raw`, if it is not named.
    pub disk_format: Option<String>,
    /// `bare` only.
    pub container_format: Option<String>,
    /// From 3.1: `private`, `shared`, `community` or, for administrators, `public`.
    pub visibility: Option<String>,
    /// From 3.1.
    pub protected: Option<bool>,
}

/// Added to what there is, in place of those of the same key.
#[derive(ToSchema)]
pub struct SetImageMetadataFields {
    pub metadata: BTreeMap<String, String>,
}

#[derive(ToSchema)]
pub struct UnsetImageMetadataFields {
    #[schema(min_length = 1, max_length = 255)]
    pub key: String,
}

/// What os-brick says about the host that connects; other fields are not looked at.
#[derive(ToSchema)]
pub struct ConnectorFields {
    #[schema(max_length = 255)]
    pub host: Option<String>,
    /// The iSCSI name; backends that export over iSCSI need it.
    #[schema(max_length = 223)]
    pub initiator: Option<String>,
    pub ip: Option<String>,
    #[schema(max_length = 255)]
    pub mountpoint: Option<String>,
    pub multipath: Option<bool>,
    pub enforce_multipath: Option<bool>,
    /// `rw` or `ro`.
    pub mode: Option<String>,
}

#[derive(ToSchema)]
pub struct ConnectionFields {
    pub connector: ConnectorFields,
}

/// A server or a host.
#[derive(ToSchema)]
pub struct AttachFields {
    pub instance_uuid: Option<String>,
    #[schema(max_length = 255)]
    pub host_name: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    pub mountpoint: String,
    /// `rw` or `ro`.
    pub mode: Option<String>,
}

#[derive(ToSchema)]
pub struct DetachFields {
    /// May be left out where there is only one.
    pub attachment_id: Option<String>,
}

#[derive(ToSchema)]
pub struct ForceDetachFields {
    pub attachment_id: Option<String>,
    /// Taken and not looked at.
    #[schema(value_type = Option<Object>)]
    pub connector: Option<()>,
}

/// Reserving a volume for a server.
#[derive(ToSchema)]
pub struct AttachmentCreateBody {
    pub attachment: AttachmentCreateFields,
}

#[derive(ToSchema)]
pub struct AttachmentCreateFields {
    pub volume_uuid: String,
    pub instance_uuid: Option<String>,
    /// With it, the volume is connected at once.
    pub connector: Option<ConnectorFields>,
    /// `rw` or `ro`. From 3.54.
    pub mode: Option<String>,
}

/// Saying from which host a server connects.
#[derive(ToSchema)]
pub struct AttachmentUpdateBody {
    pub attachment: ConnectionFields,
}

/// From 3.44.
#[derive(ToSchema)]
pub struct AttachmentActionBody {
    #[schema(rename = "os-complete", value_type = Option<Object>)]
    pub complete: Option<()>,
}

#[derive(ToSchema)]
pub struct ExtendFields {
    /// GiB.
    pub new_size: u32,
}

#[derive(ToSchema)]
pub struct RevertFields {
    /// The latest snapshot of the volume.
    pub snapshot_id: String,
}

#[derive(ToSchema)]
pub struct ResetStatusFields {
    pub status: Option<String>,
    pub attach_status: Option<String>,
    pub migration_status: Option<String>,
}

#[derive(ToSchema)]
pub struct BootableFields {
    pub bootable: bool,
}

#[derive(ToSchema)]
pub struct ReadonlyFields {
    pub readonly: bool,
}

/// Taking a snapshot.
#[derive(ToSchema)]
pub struct SnapshotCreateBody {
    pub snapshot: SnapshotCreateFields,
}

#[derive(ToSchema)]
pub struct SnapshotCreateFields {
    pub volume_id: String,
    #[schema(max_length = 255)]
    pub name: Option<String>,
    #[schema(max_length = 255)]
    pub description: Option<String>,
    /// Also while attached. From 3.66 on that is always so, and `false` is refused.
    pub force: Option<bool>,
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Renaming or redescribing a snapshot.
#[derive(ToSchema)]
pub struct SnapshotUpdateBody {
    pub snapshot: SnapshotUpdateFields,
}

#[derive(ToSchema)]
pub struct SnapshotUpdateFields {
    #[schema(max_length = 255)]
    pub name: Option<String>,
    #[schema(max_length = 255)]
    pub description: Option<String>,
}

/// Exactly one of these.
#[derive(ToSchema)]
pub struct SnapshotActionBody {
    #[schema(rename = "os-reset_status")]
    pub reset_status: Option<ResetStatusFields>,
    #[schema(rename = "os-force_delete", value_type = Option<Object>)]
    pub force_delete: Option<()>,
    /// Administrators.
    #[schema(rename = "os-unmanage", value_type = Option<Object>)]
    pub unmanage: Option<()>,
    #[schema(rename = "os-update_snapshot_status")]
    pub update_snapshot_status: Option<SnapshotStatusFields>,
}

#[derive(ToSchema)]
pub struct SnapshotStatusFields {
    pub status: String,
    pub progress: Option<String>,
}
