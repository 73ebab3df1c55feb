//! Rejections, on their way back to whoever asked.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tephra_domain::rejection::Rejection;

use super::codec::{Id, Wire, wire_enum};
use super::values::DebtIdV1;
use crate::wire::Invalid;

wire_enum! {
    /// The business says no.
    RejectionV1<'a> for Rejection {
        0 VolumeNotFound { volume: Id } = { Rejection::VolumeNotFound { volume } };
        1 SnapshotNotFound { snapshot: Id } = { Rejection::SnapshotNotFound { snapshot } };
        2 VolumeTypeNotFound { name: &'a str } = { Rejection::VolumeTypeNotFound { name } };
        3 VolumeTypeNotFoundByName { name: &'a str } = { Rejection::VolumeTypeNotFoundByName { name } };
        4 BackendNotFound { backend: &'a str } = { Rejection::BackendNotFound { backend } };
        5 DebtNotFound { debt: DebtIdV1 } = { Rejection::DebtNotFound { debt } };
        6 OperationNotFound { operation: Id } = { Rejection::OperationNotFound { operation } };
        7 PolicyNotAuthorized { action: &'a str } = { Rejection::PolicyNotAuthorized { action } };
        8 VolumeExists { volume: Id } = { Rejection::VolumeExists { volume } };
        9 SnapshotExists { snapshot: Id } = { Rejection::SnapshotExists { snapshot } };
        10 VolumeNotDeletable { status: &'a str } = { Rejection::VolumeNotDeletable { status } };
        11 VolumeHasSnapshots {} = { Rejection::VolumeHasSnapshots };
        12 VolumeSnapshotsNotDeletable {} = { Rejection::VolumeSnapshotsNotDeletable };
        13 SnapshotNotDeletable {} = { Rejection::SnapshotNotDeletable };
        14 ExtendNotLarger { size: u32, new_size: u32 } = { Rejection::ExtendNotLarger { size, new_size } };
        15 VolumeNotExtendable { volume: Id, status: &'a str }
            = { Rejection::VolumeNotExtendable { volume, status } };
        16 VolumeNotSnapshottable { volume: Id, status: &'a str, force: bool }
            = { Rejection::VolumeNotSnapshottable { volume, status, force } };
        17 VolumeHasNoSnapshots { volume: Id } = { Rejection::VolumeHasNoSnapshots { volume } };
        18 SnapshotNotLatest { volume: Id, snapshot: Option<Id> }
            = { Rejection::SnapshotNotLatest { volume, snapshot } };
        19 SnapshotSizeDiffers { volume: Id, snapshot: Id }
            = { Rejection::SnapshotSizeDiffers { volume, snapshot } };
        20 VolumeNotRevertable { volume: Id, snapshot: Id }
            = { Rejection::VolumeNotRevertable { volume, snapshot } };
        21 SnapshotNotRestorable { volume: Id, snapshot: Id }
            = { Rejection::SnapshotNotRestorable { volume, snapshot } };
        22 VolumeNotRecoverable { volume: Id } = { Rejection::VolumeNotRecoverable { volume } };
        23 SourceSnapshotNotUsable {} = { Rejection::SourceSnapshotNotUsable };
        24 SourceVolumeNotUsable {} = { Rejection::SourceVolumeNotUsable };
        25 VolumeSizeMissing {} = { Rejection::VolumeSizeMissing };
        26 SizeBelowSnapshot { size: u32, snapshot_size: u32 }
            = { Rejection::SizeBelowSnapshot { size, snapshot_size } };
        27 SizeBelowSource { size: u32, source_size: u32 }
            = { Rejection::SizeBelowSource { size, source_size } };
        28 AvailabilityZoneInvalid { zone: &'a str } = { Rejection::AvailabilityZoneInvalid { zone } };
        29 VolumeLimitExceeded { allowed: i64, resource: &'a str }
            = { Rejection::VolumeLimitExceeded { allowed, resource } };
        30 SnapshotLimitExceeded { allowed: i64, resource: &'a str }
            = { Rejection::SnapshotLimitExceeded { allowed, resource } };
        31 GigabytesQuotaExceeded { resource: &'a str, requested: i64, quota: i64, consumed: i64 }
            = { Rejection::GigabytesQuotaExceeded { resource, requested, quota, consumed } };
        32 VolumeSizeExceedsLimit { size: u32, limit: i64 }
            = { Rejection::VolumeSizeExceedsLimit { size, limit } };
        33 VolumeTypeExists { name: &'a str } = { Rejection::VolumeTypeExists { name } };
        34 VolumeTypeInUse { volume_type: Id } = { Rejection::VolumeTypeInUse { volume_type } };
        35 VolumeTypeIsDefault { volume_type: Id } = { Rejection::VolumeTypeIsDefault { volume_type } };
        36 ExtraSpecNotFound { volume_type: Id, key: &'a str }
            = { Rejection::ExtraSpecNotFound { volume_type, key } };
        37 TypeAccessExists { volume_type: Id, project: &'a str }
            = { Rejection::TypeAccessExists { volume_type, project } };
        38 TypeAccessNotFound { volume_type: Id, project: &'a str }
            = { Rejection::TypeAccessNotFound { volume_type, project } };
        39 VolumeTypeIsPublic { volume_type: Id } = { Rejection::VolumeTypeIsPublic { volume_type } };
        40 VolumeMetadataNotFound { volume: Id, key: &'a str }
            = { Rejection::VolumeMetadataNotFound { volume, key } };
        41 SnapshotMetadataNotFound { snapshot: Id, key: &'a str }
            = { Rejection::SnapshotMetadataNotFound { snapshot, key } };
        42 StatusNotResettable { status: &'a str } = { Rejection::StatusNotResettable { status } };
        43 NothingToVerify { volume: Id } = { Rejection::NothingToVerify { volume } };
        44 SnapshotHeldByVolume { snapshot: Id } = { Rejection::SnapshotHeldByVolume { snapshot } };
        45 IdempotencyKeyReused {} = { Rejection::IdempotencyKeyReused };
        46 StaleReport {} = { Rejection::StaleReport };
        47 ObjectAlreadyManaged { name: &'a str } = { Rejection::ObjectAlreadyManaged { name } };
        48 BackendNotInService { backend: &'a str } = { Rejection::BackendNotInService { backend } };
        49 BackendFrozen { backend: &'a str } = { Rejection::BackendFrozen { backend } };
        50 BackendFreezeUnchanged { service: &'a str, frozen: bool }
            = { Rejection::BackendFreezeUnchanged { service, frozen } };
        51 ImageNotActive { image: Id } = { Rejection::ImageNotActive { image } };
        52 SizeBelowImage { size: u32, image_gib: u64 } = { Rejection::SizeBelowImage { size, image_gib } };
        53 SizeBelowMinDisk { size: u32, min_disk_gib: u32 }
            = { Rejection::SizeBelowMinDisk { size, min_disk_gib } };
        54 ImageFactsMissing { image: Id } = { Rejection::ImageFactsMissing { image } };
        55 ImageMetadataNotFound { volume: Id, key: &'a str }
            = { Rejection::ImageMetadataNotFound { volume, key } };
        56 AttachmentNotFound { attachment: Id } = { Rejection::AttachmentNotFound { attachment } };
        57 AttachmentExists { attachment: Id } = { Rejection::AttachmentExists { attachment } };
        58 VolumeHasAttachments {} = { Rejection::VolumeHasAttachments };
        59 VolumeInErrorNotAttachable { volume: Id, status: &'a str }
            = { Rejection::VolumeInErrorNotAttachable { volume, status } };
        60 VolumeInErrorNotConnectable { volume: Id, status: &'a str }
            = { Rejection::VolumeInErrorNotConnectable { volume, status } };
        61 VolumeNotReservable { volume: Id, status: &'a str, multiattach: bool }
            = { Rejection::VolumeNotReservable { volume, status, multiattach } };
        62 VolumeNotReservableByAction { status: &'a str, multiattach: bool }
            = { Rejection::VolumeNotReservableByAction { status, multiattach } };
        63 VolumeNotDetachable {} = { Rejection::VolumeNotDetachable };
        64 VolumeNotConnectable { status: &'a str } = { Rejection::VolumeNotConnectable { status } };
        65 VolumeInMaintenance { verb: &'a str } = { Rejection::VolumeInMaintenance { verb } };
        66 VolumeConnectionInMaintenance {} = { Rejection::VolumeConnectionInMaintenance };
        67 VolumeAlreadyAttached {} = { Rejection::VolumeAlreadyAttached };
        68 AttachModeInvalid { volume: Id, mode: &'a str } = { Rejection::AttachModeInvalid { volume, mode } };
        69 AttachmentNotNamed {} = { Rejection::AttachmentNotNamed };
        70 AttachmentBusy { attachment: Id, status: &'a str }
            = { Rejection::AttachmentBusy { attachment, status } };
        71 DuplicateConnectors { volume: Id } = { Rejection::DuplicateConnectors { volume } };
        72 ConnectorIncomplete { missing: &'a str } = { Rejection::ConnectorIncomplete { missing } };
        73 ReadonlyNeedsAvailable { volume: Id, status: &'a str }
            = { Rejection::ReadonlyNeedsAvailable { volume, status } };
        74 VolumeNotUploadable { volume: Id, force: bool }
            = { Rejection::VolumeNotUploadable { volume, force } };
        75 VolumeNeverFilled { volume: Id } = { Rejection::VolumeNeverFilled { volume } };
        76 TooManyAttachments { volume: Id, limit: u32 }
            = { Rejection::TooManyAttachments { volume, limit } };
    }
}

/// Different words that are kept. Statuses and policies are some dozens; beyond this many, whoever
/// answers is not one of us.
const KEPT_WORDS: usize = 512;

/// Words that live as long as the program: names of statuses and policies, which are constants
/// where they come from.
static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

fn constant(word: &str) -> Option<&'static str> {
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = words.get(word) {
        return Some(known);
    }
    if words.len() >= KEPT_WORDS {
        return None;
    }
    let kept: &'static str = Box::leak(word.into());
    words.insert(kept);
    Some(kept)
}

impl<'a> Wire<'a, &'a str> for &'static str {
    fn to_wire(&'a self) -> &'a str {
        self
    }

    fn from_wire(wire: &'a str) -> Result<Self, Invalid> {
        constant(wire).ok_or(Invalid::Truncated { what: "too many different words" })
    }
}
