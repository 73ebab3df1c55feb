//! Everything that can be asked of the ledger.

use std::collections::BTreeMap;

use crate::actor::Actor;
use crate::attachment::{AttachMode, Connector};
use crate::backend::BackendDescription;
use crate::drift::FoundKind;
use crate::effect::{EffectKey, Outcome};
use crate::event::Idempotency;
use crate::ids::{
    AttachmentId, BackendName, CommandId, DebtId, PoolId, ProjectId, RequestId, SnapshotId, VolumeId,
    VolumeTypeId, ZoneName,
};
use crate::image::{ImageFacts, NewImage};
use crate::quota::QuotaLimits;
use crate::scheduler::PoolStats;
use crate::snapshot::SnapshotState;
use crate::units::{SizeGib, Timestamp};
use crate::volume::{VolumeSource, VolumeState};

/// A volume type as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeTypeRef {
    /// By id or by name: ids are tried first, as in Cinder.
    Named(Box<str>),
    /// By id alone.
    Id(VolumeTypeId),
}

/// A change to a set of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataChange {
    /// Adds these, replacing those of the same key.
    Merge(BTreeMap<String, String>),
    /// These and no others.
    Replace(BTreeMap<String, String>),
    /// Takes one out; it must be there.
    Remove(String),
}

/// The content of [`Command::CreateVolume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateVolume {
    /// The id it will have.
    pub volume: VolumeId,
    /// Display name.
    pub name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// The size; nothing to take the source's.
    pub size: Option<SizeGib>,
    /// Where its data comes from.
    pub source: VolumeSource,
    /// The type; nothing to take the source's, or the default.
    pub volume_type: Option<VolumeTypeRef>,
    /// The zone; nothing to take any that has room.
    pub availability_zone: Option<ZoneName>,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
}

/// The content of [`Command::CreateVolumeFromImage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateVolumeFromImage {
    /// The volume; its source is the image.
    pub create: CreateVolume,
    /// What is known of the image.
    pub image: ImageFacts,
}

/// The content of [`Command::UploadVolume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Also while attached.
    pub force: bool,
    /// What is to be made of it.
    pub image: NewImage,
}

/// The content of [`Command::CreateSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSnapshot {
    /// The id it will have.
    pub snapshot: SnapshotId,
    /// Its volume.
    pub volume: VolumeId,
    /// Display name.
    pub name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// Also while attached.
    pub force: bool,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
}

/// The content of [`Command::CreateVolumeType`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateVolumeType {
    /// The id it will have.
    pub volume_type: VolumeTypeId,
    /// Unique among types.
    pub name: Box<str>,
    /// For people.
    pub description: Option<Box<str>>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// What the scheduler and the backends are told.
    pub extra_specs: BTreeMap<String, String>,
}

/// The content of [`Command::ManageVolume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManageVolume {
    /// The id it will have.
    pub volume: VolumeId,
    /// Where the object is.
    pub pool: PoolId,
    /// What the backend calls it.
    pub name: Box<str>,
    /// Its size as the backend shows it, rounded up.
    pub size: SizeGib,
    /// Display name.
    pub display_name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// The type; nothing to take the default.
    pub volume_type: Option<VolumeTypeRef>,
    /// The zone; nothing to take the backend's.
    pub availability_zone: Option<ZoneName>,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
    /// Whether a server can boot from it.
    pub bootable: bool,
}

/// The content of [`Command::ManageSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManageSnapshot {
    /// The id it will have.
    pub snapshot: SnapshotId,
    /// The volume that it is of, on whose pool the object is.
    pub volume: VolumeId,
    /// What the backend calls it.
    pub name: Box<str>,
    /// Its size as the backend shows it, rounded up.
    pub size: SizeGib,
    /// Display name.
    pub display_name: Option<Box<str>>,
    /// Display description.
    pub description: Option<Box<str>>,
    /// Keys and values of the user.
    pub metadata: BTreeMap<String, String>,
}

/// The content of [`Command::CleanObject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanObject {
    /// Where the object is.
    pub pool: PoolId,
    /// What the backend calls it.
    pub name: Box<str>,
    /// Volume or snapshot.
    pub kind: FoundKind,
}

/// The content of [`Command::CreateAttachment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateAttachment {
    /// The volume.
    pub volume: VolumeId,
    /// The id it will have.
    pub attachment: AttachmentId,
    /// The server.
    pub instance: Option<Box<str>>,
    /// Whether the server may write; nothing leaves it to the connector.
    pub mode: Option<AttachMode>,
    /// The host, if it is known.
    pub connector: Option<Connector>,
    /// The mode that the connector asks for.
    pub connector_mode: Option<AttachMode>,
}

/// The content of [`Command::AttachVolume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachVolume {
    /// The volume.
    pub volume: VolumeId,
    /// The id of the attachment, if none waits for this.
    pub attachment: AttachmentId,
    /// The server.
    pub instance: Option<Box<str>>,
    /// The host.
    pub host: Option<Box<str>>,
    /// Where the volume appears there.
    pub mountpoint: Box<str>,
    /// Whether it may write.
    pub mode: AttachMode,
}

/// Something that is asked. Imperative; the answer is events or a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a volume.
    CreateVolume(Box<CreateVolume>),
    /// Makes a volume from an image.
    CreateVolumeFromImage(Box<CreateVolumeFromImage>),
    /// Changes what a volume remembers of its image.
    ChangeImageMetadata {
        /// The volume.
        volume: VolumeId,
        /// How.
        change: MetadataChange,
    },
    /// Removes a volume. `cascade`: its snapshots first. `force`: in any status (administrators).
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
        /// With its snapshots.
        cascade: bool,
        /// In any status.
        force: bool,
    },
    /// Grows a volume. `online`: also while it is in use (3.42).
    ExtendVolume {
        /// The volume.
        volume: VolumeId,
        /// Its new size.
        to: SizeGib,
        /// Also while it is in use.
        online: bool,
    },
    /// Puts the latest snapshot's data back. `snapshot` must be the latest.
    RevertVolume {
        /// The volume.
        volume: VolumeId,
        /// What the client takes for its latest snapshot.
        snapshot: Option<SnapshotId>,
    },
    /// Puts the data of a held safety snapshot back, after a revert whose undo failed.
    RecoverVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Renames or redescribes; nothing leaves a field as it is.
    UpdateVolume {
        /// The volume.
        volume: VolumeId,
        /// The new name, `Some(None)` for none.
        name: Option<Option<Box<str>>>,
        /// The new description, `Some(None)` for none.
        description: Option<Option<Box<str>>>,
        /// New keys and values (PUT `/volumes/{id}` takes them too).
        metadata: Option<BTreeMap<String, String>>,
    },
    /// Changes keys and values of a volume.
    ChangeVolumeMetadata {
        /// The volume.
        volume: VolumeId,
        /// How.
        change: MetadataChange,
    },
    /// Says whether a server can boot from it.
    SetVolumeBootable {
        /// The volume.
        volume: VolumeId,
        /// Whether.
        bootable: bool,
    },
    /// Says whether it may only be read.
    SetVolumeReadonly {
        /// The volume.
        volume: VolumeId,
        /// Whether.
        readonly: bool,
    },
    /// Sets a status by hand (administrators). Ends an operation that is open on the volume.
    ResetVolumeStatus {
        /// The volume.
        volume: VolumeId,
        /// The status.
        to: VolumeState,
    },
    /// Takes a snapshot.
    CreateSnapshot(Box<CreateSnapshot>),
    /// Removes a snapshot. `force`: in any status (administrators).
    DeleteSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// In any status.
        force: bool,
    },
    /// Renames or redescribes; nothing leaves a field as it is.
    UpdateSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The new name, `Some(None)` for none.
        name: Option<Option<Box<str>>>,
        /// The new description, `Some(None)` for none.
        description: Option<Option<Box<str>>>,
    },
    /// Changes keys and values of a snapshot.
    ChangeSnapshotMetadata {
        /// The snapshot.
        snapshot: SnapshotId,
        /// How.
        change: MetadataChange,
    },
    /// Sets a status by hand (administrators). Ends an operation that is open on the snapshot.
    ResetSnapshotStatus {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The status.
        to: SnapshotState,
    },
    /// Makes a volume type.
    CreateVolumeType(Box<CreateVolumeType>),
    /// Changes a volume type; nothing leaves a field as it is.
    UpdateVolumeType {
        /// The type.
        volume_type: VolumeTypeId,
        /// The new name.
        name: Option<Box<str>>,
        /// The new description, `Some(None)` for none.
        description: Option<Option<Box<str>>>,
        /// The new visibility.
        is_public: Option<bool>,
    },
    /// Removes a volume type that nothing uses.
    DeleteVolumeType {
        /// The type.
        volume_type: VolumeTypeId,
    },
    /// Changes the extra specs of a type.
    ChangeExtraSpecs {
        /// The type.
        volume_type: VolumeTypeId,
        /// How.
        change: MetadataChange,
    },
    /// Lets a project use a private type.
    GrantTypeAccess {
        /// The type.
        volume_type: VolumeTypeId,
        /// The project.
        project: ProjectId,
    },
    /// No longer lets a project use a private type.
    RevokeTypeAccess {
        /// The type.
        volume_type: VolumeTypeId,
        /// The project.
        project: ProjectId,
    },
    /// Sets some limits of a project.
    SetQuotaLimits {
        /// The project.
        project: ProjectId,
        /// Limits by resource.
        limits: QuotaLimits,
    },
    /// Gives a project the defaults again.
    ClearQuotaLimits {
        /// The project.
        project: ProjectId,
    },
    /// Sets some defaults (Cinder's quota class `default`).
    SetQuotaDefaults {
        /// Limits by resource.
        limits: QuotaLimits,
    },
    /// Reserves a volume for a server, and connects it if the host is known.
    CreateAttachment(Box<CreateAttachment>),
    /// Says from which host a server connects; the export is made for it.
    UpdateAttachment {
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        attachment: AttachmentId,
        /// The host.
        connector: Connector,
        /// The mode that the host asks for, where the attachment has none.
        mode: Option<AttachMode>,
    },
    /// Says that the server has connected.
    CompleteAttachment {
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        attachment: AttachmentId,
    },
    /// Ends an attachment.
    DeleteAttachment {
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        attachment: AttachmentId,
    },
    /// `os-reserve`: a client is about to connect the volume.
    ReserveVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// `os-unreserve`: it is not, after all.
    UnreserveVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// `os-begin_detaching`: a client is about to disconnect the volume.
    BeginDetaching {
        /// The volume.
        volume: VolumeId,
    },
    /// `os-roll_detaching`: it is not, after all.
    RollDetaching {
        /// The volume.
        volume: VolumeId,
    },
    /// `os-initialize_connection`: makes an export for a host.
    InitializeConnection {
        /// The volume.
        volume: VolumeId,
        /// The id of the attachment that is made for it.
        attachment: AttachmentId,
        /// The host.
        connector: Connector,
        /// The mode that the host asks for.
        mode: Option<AttachMode>,
    },
    /// `os-terminate_connection`: removes the exports of a host, or all of them.
    TerminateConnection {
        /// The volume.
        volume: VolumeId,
        /// The host.
        connector: Option<Connector>,
    },
    /// `os-attach`: says that a server or a host has connected.
    AttachVolume(Box<AttachVolume>),
    /// `os-detach`; `force` is `os-force_detach` (administrators).
    DetachVolume {
        /// The volume.
        volume: VolumeId,
        /// Which attachment; nothing for the only one.
        attachment: Option<AttachmentId>,
        /// At an administrator's word.
        force: bool,
    },
    /// Ends all attachments of a volume (administrators).
    DetachAll {
        /// The volume.
        volume: VolumeId,
    },
    /// An executor finds itself before an export daemon that knows none of its exports: those that
    /// should be there are made again.
    RestoreExports {
        /// Whose.
        backend: BackendName,
        /// The last volume that was looked after; nothing to begin.
        after: Option<VolumeId>,
    },
    /// An executor presents its backend. Without a difference to what is known, nothing happens.
    RegisterBackend {
        /// Unique in the deployment.
        backend: BackendName,
        /// What it is.
        description: Box<BackendDescription>,
    },
    /// Lets new volumes go to a backend again.
    EnableBackend {
        /// The backend.
        backend: BackendName,
    },
    /// Lets no new volumes go to a backend.
    DisableBackend {
        /// The backend.
        backend: BackendName,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// An executor asks, holding the volume, whether an attempt is still due before it acts: an
    /// order may be late, and acting on it would destroy what has happened since. Changes nothing.
    CheckAttempt {
        /// Which attempt.
        key: EffectKey,
    },
    /// An executor says how an attempt turned out.
    ReportOutcome {
        /// Which attempt.
        key: EffectKey,
        /// How.
        outcome: Outcome,
    },
    /// An operator wants a debt paid now, a held one too.
    ReleaseDebt {
        /// The debt.
        debt: DebtId,
    },
    /// Takes a volume over that a backend has already (administrators).
    ManageVolume(Box<ManageVolume>),
    /// Gives a volume up, with its data left on the backend (administrators).
    UnmanageVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Takes a snapshot over that a backend has already (administrators).
    ManageSnapshot(Box<ManageSnapshot>),
    /// Gives a snapshot up, left on the backend (administrators).
    UnmanageSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Removes what a backend has and the ledger knows nothing of (administrators).
    CleanObject(Box<CleanObject>),
    /// Refuses changes on a backend (administrators).
    FreezeBackend {
        /// The backend.
        backend: BackendName,
    },
    /// Takes changes on a backend again (administrators).
    ThawBackend {
        /// The backend.
        backend: BackendName,
    },
    /// Makes an image of a volume.
    UploadVolume(Box<UploadVolume>),
}

/// Everything about a command that the state does not determine.
#[derive(Clone, Debug)]
pub struct Context {
    /// Fresh; a retry of the same command keeps it.
    pub command: CommandId,
    /// The request that it belongs to.
    pub request: RequestId,
    /// Who asks.
    pub actor: Actor,
    /// The time of the decision.
    pub now: Timestamp,
    /// The client's key for repeating it.
    pub idempotency: Option<Idempotency>,
    /// How full each pool is, as last reported.
    pub pools: Vec<PoolStats>,
}
