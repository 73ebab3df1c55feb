//! The catalogue of rejections: the business says no, and nothing has changed.
//!
//! A rejection is not an error. Each has a stable code with a page in `docs/errors/`, and the
//! message that Cinder gives for the same case, so that clients and people recognise it. Which
//! HTTP status it becomes is said in the api's `error.rs`.

use crate::ids::{
    AttachmentId, BackendName, DebtId, ImageId, OperationId, ProjectId, SnapshotId, VolumeId, VolumeTypeId,
    ZoneName,
};
use crate::quota::QuotaResource;
use crate::units::SizeGib;

macro_rules! rejections {
    ($(
        $(#[$doc:meta])*
        $name:ident $({ $($field:ident : $type:ty),* $(,)? })? => $message:literal $(, $arg:expr)*;
    )*) => {
        /// Why a command is refused.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[allow(missing_docs, reason = "fields are named after what they hold")]
        pub enum Rejection {
            $(
                $(#[$doc])*
                #[error($message $(, $arg)*)]
                $name $({ $($field: $type),* })?,
            )*
        }

        impl Rejection {
            /// Every code, in the order of this file.
            pub const CODES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The stable code: the name of its page in `docs/errors/`.
            pub const fn code(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)*
                }
            }
        }
    };
}

rejections! {
    /// No such volume, or it belongs to another project.
    VolumeNotFound { volume: VolumeId } => "Volume {volume} could not be found.";
    /// No such snapshot, or it belongs to another project.
    SnapshotNotFound { snapshot: SnapshotId } => "Snapshot {snapshot} could not be found.";
    /// No such volume type, or a private one of others.
    VolumeTypeNotFound { name: Box<str> } => "Volume type {name} could not be found.";
    /// Neither an id nor a name of a volume type.
    VolumeTypeNotFoundByName { name: Box<str> } => "Volume type with name {name} could not be found.";
    /// No such backend.
    BackendNotFound { backend: BackendName } => "Service {backend} could not be found.";
    /// No such debt, or it is paid.
    DebtNotFound { debt: DebtId } => "Cleanup debt {debt} could not be found.";
    /// No such operation, or it has ended.
    OperationNotFound { operation: OperationId } => "Operation {operation} could not be found.";
    /// The role does not allow it.
    PolicyNotAuthorized { action: &'static str } => "Policy doesn't allow {action} to be performed.";
    /// The id that the command brings is taken.
    VolumeExists { volume: VolumeId } => "Volume {volume} already exists.";
    /// The id that the command brings is taken.
    SnapshotExists { snapshot: SnapshotId } => "Snapshot {snapshot} already exists.";
    /// The status forbids deleting.
    VolumeNotDeletable { status: &'static str } =>
        "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.";
    /// Its snapshots must go first, or `cascade` be asked for.
    VolumeHasSnapshots =>
        "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.";
    /// With `cascade`, each snapshot must be deletable.
    VolumeSnapshotsNotDeletable =>
        "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group or have snapshots that are in use or being changed.";
    /// The status forbids deleting.
    SnapshotNotDeletable =>
        "Invalid snapshot: Snapshot status must be available or error and must not be part of a group.";
    /// Extending needs a larger size.
    ExtendNotLarger { size: SizeGib, new_size: SizeGib } =>
        "Invalid input received: New size for extend must be greater than current size. (current: {size}, extended: {new_size}).";
    /// The status forbids extending.
    VolumeNotExtendable { volume: VolumeId, status: &'static str } =>
        "Invalid volume: Volume {volume} status must be '{{'status': 'available'}}' to extend, currently {status}.";
    /// The status forbids a snapshot.
    VolumeNotSnapshottable { volume: VolumeId, status: &'static str, force: bool } =>
        "Invalid volume: Volume {volume} status must be {}, but current status is: {status}.",
        if *force { "available, in-use" } else { "available" };
    /// There is nothing to revert to.
    VolumeHasNoSnapshots { volume: VolumeId } => "Volume {volume} doesn't have any snapshots.";
    /// Only the latest snapshot can be reverted to.
    SnapshotNotLatest { volume: VolumeId, snapshot: Option<SnapshotId> } =>
        "Specified snapshot {} is None or not the latest one of volume {volume}.",
        snapshot.map_or_else(|| "None".to_owned(), |id| id.to_string());
    /// The volume was extended since.
    SnapshotSizeDiffers { volume: VolumeId, snapshot: SnapshotId } =>
        "Can't revert volume {volume} to its latest snapshot {snapshot}. The volume size must be equal to the snapshot size.";
    /// The volume is not available.
    VolumeNotRevertable { volume: VolumeId, snapshot: SnapshotId } =>
        "Invalid volume: Can't revert volume {volume} to its latest snapshot {snapshot}. Volume's status must be 'available'.";
    /// The snapshot is not available.
    SnapshotNotRestorable { volume: VolumeId, snapshot: SnapshotId } =>
        "Invalid snapshot: Can't revert volume {volume} to its latest snapshot {snapshot}. Snapshot's status must be 'available'.";
    /// No held safety snapshot, or not in error.
    VolumeNotRecoverable { volume: VolumeId } =>
        "Invalid volume: Volume {volume} must be in error with a safety snapshot held to be recovered.";
    /// The snapshot to create from is not available.
    SourceSnapshotNotUsable =>
        "Invalid snapshot: Originating snapshot status must be one of 'available' values";
    /// The volume to create from is not available.
    SourceVolumeNotUsable =>
        "Invalid volume: Unable to create a volume from an originating source volume when its status is not one of 'available, in-use' values.";
    /// Neither a size nor a source that has one.
    VolumeSizeMissing =>
        "Invalid input received: Volume size 'None' must be an integer and greater than 0";
    /// Smaller than the snapshot.
    SizeBelowSnapshot { size: SizeGib, snapshot_size: SizeGib } =>
        "Invalid input received: Volume size '{size}'GB cannot be smaller than the snapshot size {snapshot_size}GB. They must be >= original snapshot size.";
    /// Smaller than the volume that it is made from.
    SizeBelowSource { size: SizeGib, source_size: SizeGib } =>
        "Invalid input received: Volume size '{size}'GB cannot be smaller than original volume size {source_size}GB. They must be >= original volume size.";
    /// The image has no data yet, or no longer.
    ImageNotActive { image: ImageId } => "Invalid input received: Image {image} is not active.";
    /// Smaller than the image.
    SizeBelowImage { size: SizeGib, image_gib: u64 } =>
        "Invalid input received: Size of specified image {image_gib}GB is larger than volume size {size}GB.";
    /// Smaller than the image asks for.
    SizeBelowMinDisk { size: SizeGib, min_disk_gib: u32 } =>
        "Invalid input received: Volume size {size}GB cannot be smaller than the image minDisk size {min_disk_gib}GB.";
    /// An image is made into a volume with what is known of it.
    ImageFactsMissing { image: ImageId } => "Invalid input received: Nothing is known of image {image}.";
    /// No such key.
    ImageMetadataNotFound { volume: VolumeId, key: Box<str> } =>
        "Glance metadata for volume/snapshot {volume} cannot be found.";
    /// No backend is in that zone.
    AvailabilityZoneInvalid { zone: ZoneName } => "Availability zone '{zone}' is invalid.";
    /// One volume more than the limit.
    VolumeLimitExceeded { allowed: i64, resource: Box<str> } =>
        "VolumeLimitExceeded: Maximum number of volumes allowed ({allowed}) exceeded for quota '{resource}'.";
    /// One snapshot more than the limit.
    SnapshotLimitExceeded { allowed: i64, resource: Box<str> } =>
        "SnapshotLimitExceeded: Maximum number of snapshots allowed ({allowed}) exceeded for quota '{resource}'.";
    /// More gigabytes than the limit.
    GigabytesQuotaExceeded { resource: Box<str>, requested: i64, quota: i64, consumed: i64 } =>
        "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed {resource} quota. Requested {requested}G, quota is {quota}G and {consumed}G has been consumed.";
    /// A single volume larger than the limit.
    VolumeSizeExceedsLimit { size: SizeGib, limit: i64 } =>
        "VolumeSizeExceedsLimit: Requested volume size {size}G is larger than maximum allowed limit {limit}G.";
    /// Another type has the name.
    VolumeTypeExists { name: Box<str> } => "Volume Type {name} already exists.";
    /// Volumes or snapshots have this type.
    VolumeTypeInUse { volume_type: VolumeTypeId } =>
        "Target volume type is still in use.";
    /// The default type stays.
    VolumeTypeIsDefault { volume_type: VolumeTypeId } =>
        "The volume type {volume_type} is a default volume type and cannot be deleted.";
    /// No such key.
    ExtraSpecNotFound { volume_type: VolumeTypeId, key: Box<str> } =>
        "Volume Type {volume_type} has no extra specs with key {key}.";
    /// The project may use the type already.
    TypeAccessExists { volume_type: VolumeTypeId, project: ProjectId } =>
        "Volume type access for {volume_type} / {project} combination already exists.";
    /// The project may not use the type anyway.
    TypeAccessNotFound { volume_type: VolumeTypeId, project: ProjectId } =>
        "Volume type access not found for {volume_type} / {project} combination.";
    /// Everybody may use a public type.
    VolumeTypeIsPublic { volume_type: VolumeTypeId } =>
        "Invalid volume type: Type access modification is not applicable to public volume type.";
    /// No such key.
    VolumeMetadataNotFound { volume: VolumeId, key: Box<str> } =>
        "Volume {volume} has no metadata with key {key}.";
    /// No such key.
    SnapshotMetadataNotFound { snapshot: SnapshotId, key: Box<str> } =>
        "Snapshot {snapshot} has no metadata with key {key}.";
    /// A transitional status belongs to an operation.
    StatusNotResettable { status: &'static str } =>
        "Invalid input received: Status '{status}' cannot be set by hand: it belongs to operations.";
    /// The volume never had a backend object.
    NothingToVerify { volume: VolumeId } =>
        "Invalid volume: Volume {volume} was never on a backend and cannot become available; delete it instead.";
    /// The volume was to be filled with data, and nobody has ever said that it holds all of it.
    VolumeNeverFilled { volume: VolumeId } =>
        "Invalid volume: Volume {volume} never received all of its data and cannot become available; delete it instead.";
    /// Its volume's operation holds the snapshot.
    SnapshotHeldByVolume { snapshot: SnapshotId } =>
        "Invalid snapshot: Snapshot {snapshot} is held by an operation on its volume; reset the volume's state instead.";
    /// No such attachment, or it belongs to another project's volume.
    AttachmentNotFound { attachment: AttachmentId } =>
        "Volume attachment could not be found with filter: attachment_id = {attachment}.";
    /// The id that the command brings is taken.
    AttachmentExists { attachment: AttachmentId } => "Attachment {attachment} already exists.";
    /// Attachments must go first.
    VolumeHasAttachments =>
        "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.";
    /// The volume is in an error status.
    VolumeInErrorNotAttachable { volume: VolumeId, status: &'static str } =>
        "Invalid volume: Volume attachments can not be created if the volume is in an error state. The Volume {volume} currently has a status of: {status} ";
    /// The volume is in an error status.
    VolumeInErrorNotConnectable { volume: VolumeId, status: &'static str } =>
        "Resource conflict: Volume attachments can not be updated if the volume is in an error state. The Volume {volume} currently has a status of: {status} ";
    /// The status forbids another attachment.
    VolumeNotReservable { volume: VolumeId, status: &'static str, multiattach: bool } =>
        "Invalid volume: Volume {volume} status must be {} to reserve, but the current status is {status}.",
        if *multiattach { "available or in-use or downloading" } else { "available or downloading" };
    /// The status forbids `os-reserve`.
    VolumeNotReservableByAction { status: &'static str, multiattach: bool } =>
        "Invalid volume: Volume status must be {} to reserve, but the status is {status}.",
        if *multiattach { "available or in-use" } else { "available" };
    /// `os-begin_detaching` needs a volume in use.
    VolumeNotDetachable =>
        "Invalid volume: Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.";
    /// An operation or an operator has the volume, or it never was on a backend.
    VolumeNotConnectable { status: &'static str } =>
        "Invalid volume: The volume cannot be connected while its status is {status}.";
    /// Set aside by an operator.
    VolumeInMaintenance { verb: &'static str } =>
        "Invalid volume: The volume cannot be {verb} in maintenance mode.";
    /// Set aside by an operator.
    VolumeConnectionInMaintenance =>
        "Invalid volume: The volume connection cannot be initialized in maintenance mode.";
    /// Another server has it, and its type does not allow several.
    VolumeAlreadyAttached =>
        "Error attaching volume - InvalidVolume: Invalid volume: volume is already attached and multiple attachments are not enabled";
    /// The readonly flag allows only `ro`.
    AttachModeInvalid { volume: VolumeId, mode: &'static str } =>
        "Invalid attaching mode '{mode}' for volume {volume}.";
    /// There are several attachments.
    AttachmentNotNamed =>
        "Error detaching volume - InvalidVolume: Invalid volume: Detach volume failed: More than one attachment, but no attachment_id provided.";
    /// An export is being made or removed, or could not be.
    AttachmentBusy { attachment: AttachmentId, status: &'static str } =>
        "Resource conflict: Attachment {attachment} is {status}.";
    /// Another server is connected, and the type does not allow several.
    DuplicateConnectors { volume: VolumeId } =>
        "Resource conflict: duplicate connectors detected on volume {volume}";
    /// The backend needs to know more of the host.
    ConnectorIncomplete { missing: &'static str } =>
        "Invalid input received: Connector doesn't have required information: {missing}";
    /// The flag changes what attachments may do.
    ReadonlyNeedsAvailable { volume: VolumeId, status: &'static str } =>
        "Invalid volume: Volume {volume} status must be available to update readonly flag, but current status is: {status}.";
    /// The key was used for another request.
    IdempotencyKeyReused => "The Idempotency-Key was used before with a different request.";
    /// The report is about an attempt that the ledger no longer waits for.
    StaleReport => "The report is about an attempt that has been overtaken.";
    /// What is to be taken over, or removed, is the ledger's already.
    ObjectAlreadyManaged { name: Box<str> } =>
        "Unable to manage existing volume. The volume is already managed";
    /// The backend of what is to be taken over is unknown, disabled or down.
    BackendNotInService { backend: BackendName } => "Service is unavailable at this time.";
    /// The backend is frozen.
    BackendFrozen { backend: BackendName } =>
        "Invalid input received: Modification operations are not allowed on frozen storage backends.";
    /// Frozen is to be frozen, or what is not to be thawed.
    BackendFreezeUnchanged { service: Box<str>, frozen: bool } =>
        "Invalid input received: No service could be changed: frozen in ['{service}'] must be {} to failover.",
        if *frozen { "False" } else { "True" };
    /// The status forbids making an image of it.
    VolumeNotUploadable { volume: VolumeId, force: bool } =>
        "Invalid volume: Volume {volume} status must be {}",
        if *force { "available or in-use" } else { "available" };
    /// It has as many attachments as a volume may have.
    TooManyAttachments { volume: VolumeId, limit: u32 } =>
        "Invalid volume: Volume {volume} has {limit} attachments already, and may not have more.";
}

impl Rejection {
    /// Whether the same command may be accepted later without anybody changing it.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::VolumeNotDeletable { .. }
                | Self::VolumeSnapshotsNotDeletable
                | Self::SnapshotNotDeletable
                | Self::VolumeNotExtendable { .. }
                | Self::VolumeNotSnapshottable { .. }
                | Self::VolumeNotRevertable { .. }
                | Self::SnapshotNotRestorable { .. }
                | Self::SourceSnapshotNotUsable
                | Self::SourceVolumeNotUsable
                | Self::VolumeHasAttachments
                | Self::VolumeNotReservable { .. }
                | Self::VolumeNotReservableByAction { .. }
                | Self::VolumeNotConnectable { .. }
                | Self::VolumeAlreadyAttached
                | Self::AttachmentBusy { .. }
                | Self::DuplicateConnectors { .. }
                | Self::ReadonlyNeedsAvailable { .. }
                | Self::VolumeNotUploadable { .. }
                | Self::VolumeLimitExceeded { .. }
                | Self::SnapshotLimitExceeded { .. }
                | Self::GigabytesQuotaExceeded { .. }
                | Self::BackendNotInService { .. }
        )
    }

    /// The rejection for going over `resource`. `resource_name` is Cinder's, with the type's name.
    pub(crate) fn over_quota(
        resource: QuotaResource,
        resource_name: Box<str>,
        requested: i64,
        quota: i64,
        consumed: i64,
    ) -> Self {
        match resource {
            QuotaResource::Volumes | QuotaResource::VolumesOfType(_) => {
                Self::VolumeLimitExceeded { allowed: quota, resource: resource_name }
            }
            QuotaResource::Snapshots | QuotaResource::SnapshotsOfType(_) => {
                Self::SnapshotLimitExceeded { allowed: quota, resource: resource_name }
            }
            QuotaResource::Gigabytes
            | QuotaResource::GigabytesOfType(_)
            | QuotaResource::PerVolumeGigabytes
            | QuotaResource::Backups
            | QuotaResource::BackupGigabytes
            | QuotaResource::Groups => {
                Self::GigabytesQuotaExceeded { resource: resource_name, requested, quota, consumed }
            }
        }
    }
}
