//! Work for executors: a closed list of effects, what they act on, and how they turn out.
//!
//! An effect says what must be true afterwards, not which commands to run. Performing one twice
//! equals performing it once: executors look first.

use std::fmt;

use crate::attachment::{AttachMode, Connector};
use crate::ids::{AttachmentId, DebtId, ImageId, OperationId, PoolId, SnapshotId, VolumeId};
use crate::image::NewImage;
use crate::units::{SizeGib, Timestamp};

/// Something that exists, or should, or must not, on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendObject {
    /// A user's volume.
    Volume(VolumeId),
    /// A user's snapshot.
    Snapshot {
        /// The volume it was taken of.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The state of a volume just before an operation touches its data, or copies it elsewhere.
    SafetySnapshot {
        /// The volume it was taken of.
        volume: VolumeId,
        /// The operation that took it.
        operation: OperationId,
    },
    /// A volume that lives as long as an operation.
    TemporaryVolume {
        /// The volume on whose behalf it exists.
        volume: VolumeId,
        /// The operation that made it.
        operation: OperationId,
    },
}

impl BackendObject {
    /// The volume that the object is, or belongs to: the unit of locking on a host.
    pub const fn volume(&self) -> VolumeId {
        match self {
            Self::Volume(volume)
            | Self::Snapshot { volume, .. }
            | Self::SafetySnapshot { volume, .. }
            | Self::TemporaryVolume { volume, .. } => *volume,
        }
    }

    /// Whether it is a snapshot rather than a volume.
    pub const fn is_snapshot(&self) -> bool {
        match self {
            Self::Snapshot { .. } | Self::SafetySnapshot { .. } => true,
            Self::Volume(_) | Self::TemporaryVolume { .. } => false,
        }
    }
}

/// What the names of objects that were given up begin with.
const UNMANAGED: &str = "unmanaged-";

/// Whether a name is that of a snapshot of ours that was given up.
pub fn is_unmanaged_snapshot(name: &str) -> bool {
    name.strip_prefix(UNMANAGED).is_some_and(|name| name.starts_with("snapshot-"))
}

impl BackendObject {
    /// The name under which the object goes on when the ledger gives it up. None of ours, so that
    /// nothing takes it for one: not a late order, not a sweep.
    pub fn unmanaged_name(&self) -> Box<str> {
        format!("{UNMANAGED}{self}").into()
    }
}

impl fmt::Display for BackendObject {
    /// The object's name on every backend; for users' objects the one that Cinder gives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => write!(f, "volume-{volume}"),
            Self::Snapshot { snapshot, .. } => write!(f, "snapshot-{snapshot}"),
            Self::SafetySnapshot { operation, .. } => write!(f, "safety-{operation}"),
            Self::TemporaryVolume { operation, .. } => write!(f, "temporary-{operation}"),
        }
    }
}

/// How a volume is to be reached by one host. Secrets are not in it: they follow from the
/// attachment's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The attachment that it belongs to, and that its target is named after.
    pub attachment: AttachmentId,
    /// The host's iSCSI name.
    pub initiator: Option<Box<str>>,
    /// The host's address.
    pub address: Option<Box<str>>,
    /// Whether the host may write.
    pub mode: AttachMode,
}

impl Export {
    /// The export that a host needs.
    pub fn of(attachment: AttachmentId, connector: &Connector, mode: AttachMode) -> Self {
        Self { attachment, initiator: connector.initiator.clone(), address: connector.ip.clone(), mode }
    }
}

/// What an executor is to bring about on one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A blank volume of this size exists.
    CreateVolume {
        /// The new volume.
        volume: BackendObject,
        /// Its size.
        size: SizeGib,
    },
    /// A volume exists with a snapshot's data, zeroes beyond.
    CreateVolumeFromSnapshot {
        /// The new volume.
        volume: BackendObject,
        /// Its size, not below the snapshot's.
        size: SizeGib,
        /// Where the data comes from.
        snapshot: BackendObject,
    },
    /// A volume exists with another volume's present data, zeroes beyond.
    CloneVolume {
        /// The new volume.
        volume: BackendObject,
        /// Its size, not below the source's.
        size: SizeGib,
        /// Where the data comes from.
        source: BackendObject,
    },
    /// A volume exists with the data of an object of another pool, zeroes beyond.
    CopyVolume {
        /// The new volume.
        volume: BackendObject,
        /// Its size, not below the source's.
        size: SizeGib,
        /// The pool that the source is on.
        from: PoolId,
        /// Where the data comes from.
        source: BackendObject,
    },
    /// A volume exists with the disk of an image, zeroes beyond.
    CreateVolumeFromImage {
        /// The new volume.
        volume: BackendObject,
        /// Its size, not below the disk's.
        size: SizeGib,
        /// The image.
        image: ImageId,
    },
    /// The volume is not there.
    DeleteVolume {
        /// The volume.
        volume: BackendObject,
    },
    /// The volume has this size; what it held is unchanged, zeroes beyond.
    ExtendVolume {
        /// The volume.
        volume: BackendObject,
        /// Its size from now on.
        to: SizeGib,
    },
    /// The volume has its old size again after an extend that failed.
    ShrinkVolume {
        /// The volume.
        volume: BackendObject,
        /// Its size before the extend.
        to: SizeGib,
    },
    /// A snapshot of its volume's present data exists.
    CreateSnapshot {
        /// The snapshot.
        snapshot: BackendObject,
    },
    /// The snapshot is not there.
    DeleteSnapshot {
        /// The snapshot.
        snapshot: BackendObject,
    },
    /// The volume holds the snapshot's data, by the backend's own means.
    RevertToSnapshot {
        /// The volume.
        volume: BackendObject,
        /// The snapshot, which stays.
        snapshot: BackendObject,
    },
    /// The volume holds another object's data, by copying.
    OverwriteVolume {
        /// The volume.
        volume: BackendObject,
        /// The object, which stays.
        source: BackendObject,
    },
    /// Nothing changes: is the object there, with this size?
    Verify {
        /// The object.
        object: BackendObject,
        /// The size that the ledger believes in.
        size: SizeGib,
    },
    /// What the backend has under another name is ours, with the object's name and zeroes up to
    /// whole GiB. What somebody uses is left alone.
    Adopt {
        /// What it is from now on.
        object: BackendObject,
        /// Its name before.
        from: Box<str>,
        /// Its size, rounded up to the whole GiB that it is to fill; nothing to take it as it is.
        size: Option<SizeGib>,
    },
    /// What the object was is no longer ours: it has another name, and its data. An object that is
    /// not there needs no name.
    Disown {
        /// The object.
        object: BackendObject,
        /// Its name from now on.
        to: Box<str>,
    },
    /// The volume can be reached by one host, in its present size.
    ExportVolume {
        /// The volume.
        volume: BackendObject,
        /// By whom, and how.
        export: Export,
    },
    /// The volume can no longer be reached through an attachment.
    UnexportVolume {
        /// The volume.
        volume: BackendObject,
        /// The attachment.
        attachment: AttachmentId,
    },
    /// An image exists with the volume's data, whole.
    UploadImage {
        /// The volume, which stays.
        volume: BackendObject,
        /// The image.
        image: Box<NewImage>,
    },
    /// The image of the volume is not there.
    RemoveImage {
        /// The volume, which stays.
        volume: BackendObject,
        /// The image.
        image: ImageId,
    },
}

impl Effect {
    /// Removes whatever the object is.
    pub const fn delete(object: BackendObject) -> Self {
        if object.is_snapshot() {
            Self::DeleteSnapshot { snapshot: object }
        } else {
            Self::DeleteVolume { volume: object }
        }
    }

    /// The object that the effect changes.
    pub const fn target(&self) -> BackendObject {
        match self {
            Self::CreateVolume { volume, .. }
            | Self::CreateVolumeFromImage { volume, .. }
            | Self::CreateVolumeFromSnapshot { volume, .. }
            | Self::CloneVolume { volume, .. }
            | Self::CopyVolume { volume, .. }
            | Self::DeleteVolume { volume }
            | Self::ExtendVolume { volume, .. }
            | Self::ShrinkVolume { volume, .. }
            | Self::RevertToSnapshot { volume, .. }
            | Self::OverwriteVolume { volume, .. }
            | Self::ExportVolume { volume, .. }
            | Self::UnexportVolume { volume, .. }
            | Self::UploadImage { volume, .. }
            | Self::RemoveImage { volume, .. } => *volume,
            Self::CreateSnapshot { snapshot } | Self::DeleteSnapshot { snapshot } => *snapshot,
            Self::Verify { object, .. } | Self::Adopt { object, .. } | Self::Disown { object, .. } => *object,
        }
    }

    /// A name on the backend that is none of ours, where the effect is about one.
    pub fn outside_name(&self) -> Option<&str> {
        match self {
            Self::Adopt { from: name, .. } | Self::Disown { to: name, .. } => Some(name),
            Self::CreateVolume { .. }
            | Self::CreateVolumeFromImage { .. }
            | Self::CreateVolumeFromSnapshot { .. }
            | Self::CloneVolume { .. }
            | Self::CopyVolume { .. }
            | Self::DeleteVolume { .. }
            | Self::ExtendVolume { .. }
            | Self::ShrinkVolume { .. }
            | Self::CreateSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::RevertToSnapshot { .. }
            | Self::OverwriteVolume { .. }
            | Self::Verify { .. }
            | Self::ExportVolume { .. }
            | Self::UnexportVolume { .. }
            | Self::UploadImage { .. }
            | Self::RemoveImage { .. } => None,
        }
    }

    /// The object that the effect only reads.
    pub const fn source(&self) -> Option<BackendObject> {
        match self {
            Self::CreateVolumeFromSnapshot { snapshot, .. } | Self::RevertToSnapshot { snapshot, .. } => {
                Some(*snapshot)
            }
            Self::CloneVolume { source, .. }
            | Self::CopyVolume { source, .. }
            | Self::OverwriteVolume { source, .. } => Some(*source),
            Self::CreateVolume { .. }
            | Self::CreateVolumeFromImage { .. }
            | Self::DeleteVolume { .. }
            | Self::ExtendVolume { .. }
            | Self::ShrinkVolume { .. }
            | Self::CreateSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::Verify { .. }
            | Self::Adopt { .. }
            | Self::Disown { .. }
            | Self::ExportVolume { .. }
            | Self::UnexportVolume { .. }
            | Self::UploadImage { .. }
            | Self::RemoveImage { .. } => None,
        }
    }

    /// The effect's name, for logs, metrics and generated tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateVolume { .. } => "CreateVolume",
            Self::CreateVolumeFromImage { .. } => "CreateVolumeFromImage",
            Self::CreateVolumeFromSnapshot { .. } => "CreateVolumeFromSnapshot",
            Self::CloneVolume { .. } => "CloneVolume",
            Self::CopyVolume { .. } => "CopyVolume",
            Self::DeleteVolume { .. } => "DeleteVolume",
            Self::ExtendVolume { .. } => "ExtendVolume",
            Self::ShrinkVolume { .. } => "ShrinkVolume",
            Self::CreateSnapshot { .. } => "CreateSnapshot",
            Self::DeleteSnapshot { .. } => "DeleteSnapshot",
            Self::RevertToSnapshot { .. } => "RevertToSnapshot",
            Self::OverwriteVolume { .. } => "OverwriteVolume",
            Self::Verify { .. } => "Verify",
            Self::Adopt { .. } => "Adopt",
            Self::Disown { .. } => "Disown",
            Self::ExportVolume { .. } => "ExportVolume",
            Self::UnexportVolume { .. } => "UnexportVolume",
            Self::UploadImage { .. } => "UploadImage",
            Self::RemoveImage { .. } => "RemoveImage",
        }
    }
}

/// Whether a step is being done or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Doing.
    Forward,
    /// Undoing, after a failure.
    Undo,
}

/// Names one attempt at one effect. It is the fencing token: the ledger takes a report only for
/// the attempt that it is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EffectKey {
    /// A step of an operation.
    Step {
        /// The operation.
        operation: OperationId,
        /// Doing or undoing.
        direction: Direction,
        /// Which step, from 0.
        step: u16,
        /// Never repeats within an operation.
        attempt: u32,
    },
    /// An attempt at paying a cleanup debt.
    Debt {
        /// The debt.
        debt: DebtId,
        /// Never repeats within a debt.
        attempt: u32,
    },
}

impl EffectKey {
    /// The operation that the effect belongs to; of a debt, the one that incurred it.
    pub const fn operation(&self) -> OperationId {
        match self {
            Self::Step { operation, .. } => *operation,
            Self::Debt { debt, .. } => debt.operation,
        }
    }
}

impl fmt::Display for EffectKey {
    /// Unique text, used as the message id of a work order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { operation, direction, step, attempt } => {
                let direction = match direction {
                    Direction::Forward => "do",
                    Direction::Undo => "undo",
                };
                write!(f, "{operation}/{direction}/{step}/{attempt}")
            }
            Self::Debt { debt, attempt } => write!(f, "{debt}/debt/{attempt}"),
        }
    }
}

/// An effect that should be performed now, or at `not_before`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueEffect {
    /// Which attempt of what.
    pub key: EffectKey,
    /// Where.
    pub pool: PoolId,
    /// What.
    pub effect: Effect,
    /// Back-off after a failed attempt; the epoch if there is none.
    pub not_before: Timestamp,
}

/// What an executor reports of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The effect holds.
    Done,
    /// It does not.
    Failed(Failure),
}

/// Why an effect does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, on which decisions rest.
    pub kind: FailureKind,
    /// For people. Holds no secret.
    pub message: Box<str>,
}

impl Failure {
    /// Bytes that a message may have: it is repeated for every resource that it concerns, and all
    /// of them must fit into one commit.
    pub const MESSAGE_BYTES: usize = 1024;

    /// A failure with its message, which is cut at [`Failure::MESSAGE_BYTES`].
    pub fn new(kind: FailureKind, message: impl Into<Box<str>>) -> Self {
        let message: Box<str> = message.into();
        if message.len() <= Self::MESSAGE_BYTES {
            return Self { kind, message };
        }
        let end = (0..=Self::MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        Self { kind, message: message.get(..end).unwrap_or_default().into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind.as_str())
    }
}

/// The kinds of failure that the ledger tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// Somebody uses the object; it was not touched.
    Busy,
    /// An object that the effect needs is not there.
    ObjectMissing,
    /// The pool is full.
    NoSpace,
    /// The backend did not answer in time; what it did is unknown.
    TimedOut,
    /// The backend cannot be reached at all.
    BackendUnavailable,
    /// This backend cannot do that.
    Unsupported,
    /// What is there is not what the ledger says.
    Mismatch,
    /// Anything else that the backend said.
    BackendError,
    /// No pool passed the scheduler's filters.
    NoValidBackend,
    /// An operator ended the operation, or it was not begun because an earlier step failed.
    NotAttempted,
}

impl FailureKind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Busy,
        Self::ObjectMissing,
        Self::NoSpace,
        Self::TimedOut,
        Self::BackendUnavailable,
        Self::Unsupported,
        Self::Mismatch,
        Self::BackendError,
        Self::NoValidBackend,
        Self::NotAttempted,
    ];

    /// A stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::ObjectMissing => "object_missing",
            Self::NoSpace => "no_space",
            Self::TimedOut => "timed_out",
            Self::BackendUnavailable => "backend_unavailable",
            Self::Unsupported => "unsupported",
            Self::Mismatch => "mismatch",
            Self::BackendError => "backend_error",
            Self::NoValidBackend => "no_valid_backend",
            Self::NotAttempted => "not_attempted",
        }
    }

    /// Whether trying the same effect again on the same pool may turn out differently.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Busy | Self::TimedOut | Self::BackendUnavailable | Self::BackendError => true,
            Self::ObjectMissing
            | Self::NoSpace
            | Self::Unsupported
            | Self::Mismatch
            | Self::NoValidBackend
            | Self::NotAttempted => false,
        }
    }

    /// Whether a delete that failed this way certainly removed nothing (Cinder: `VolumeIsBusy`
    /// and `SnapshotIsBusy` lead back to `available`).
    pub const fn leaves_object_untouched(self) -> bool {
        match self {
            Self::Busy | Self::NotAttempted => true,
            Self::ObjectMissing
            | Self::NoSpace
            | Self::TimedOut
            | Self::BackendUnavailable
            | Self::Unsupported
            | Self::Mismatch
            | Self::BackendError
            | Self::NoValidBackend => false,
        }
    }
}
