//! One event of every kind, and of every shape that a kind can take. New ones are added; these stay.

use std::collections::BTreeMap;

use tephra_domain::attachment::{AttachMode, AttachmentEvent, Connector};
use tephra_domain::backend::{BackendDescription, BackendEvent};
use tephra_domain::debt::DebtEvent;
use tephra_domain::effect::{BackendObject, Export, Failure, FailureKind};
use tephra_domain::event::Event;
use tephra_domain::ids::{
    AttachmentId, BackendName, DebtId, ImageId, OperationId, PoolId, PoolName, ProjectId, SnapshotId, UserId,
    VolumeId, VolumeTypeId, ZoneName,
};
use tephra_domain::image::NewImage;
use tephra_domain::operation::{OperationEnd, OperationEvent};
use tephra_domain::operations::volume_copy::CopySource;
use tephra_domain::operations::volume_create::CreateSource;
use tephra_domain::operations::{
    AttachmentConnect, AttachmentDisconnect, ExportRestore, ObjectClean, OperationKind, SnapshotCreate,
    SnapshotDelete, SnapshotManage, SnapshotUnmanage, StatusVerify, VolumeCopy, VolumeCreate, VolumeDelete,
    VolumeExtend, VolumeExtendAttached, VolumeManage, VolumeRecover, VolumeRevert, VolumeUnmanage,
    VolumeUpload,
};
use tephra_domain::quota::{QuotaEvent, QuotaLimits, QuotaResource};
use tephra_domain::scheduler::{Candidate, FilterName, PlacementDecision};
use tephra_domain::snapshot::{SnapshotCreateAccepted, SnapshotEvent, SnapshotState};
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::{VolumeCreateAccepted, VolumeEvent, VolumeSource, VolumeState};
use tephra_domain::volume_type::VolumeTypeEvent;
use uuid::Uuid;

const VOLUME: VolumeId = VolumeId::from_uuid(id(0xa1));
const OTHER_VOLUME: VolumeId = VolumeId::from_uuid(id(0xa2));
const SNAPSHOT: SnapshotId = SnapshotId::from_uuid(id(0xb1));
const TYPE: VolumeTypeId = VolumeTypeId::from_uuid(id(0xc1));
const IMAGE: ImageId = ImageId::from_uuid(id(0xe1));
const OPERATION: OperationId = OperationId::from_uuid(id(0xd1));
const DEBT: DebtId = DebtId { operation: OPERATION, ordinal: 300 };
const SAFETY: BackendObject = BackendObject::SafetySnapshot { volume: VOLUME, operation: OPERATION };
const LATER: Timestamp = Timestamp(1_790_000_000_123_456);

const fn id(last: u128) -> Uuid {
    Uuid::from_u128(0x0123_4567_89ab_4def_8000_0000_0000_0000 | last)
}

fn gib(size_gib: u32) -> SizeGib {
    SizeGib::new(size_gib).unwrap()
}

fn pool(backend: &str) -> PoolId {
    PoolId { backend: BackendName::new(backend), pool: PoolName::new(format!("{backend}-pool")) }
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, format!("because: {} – naïve", kind.as_str()))
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn project() -> ProjectId {
    ProjectId::new("alpha")
}

fn placement() -> PlacementDecision {
    let refused = FilterName::ALL.iter().map(|filter| Candidate {
        pool: pool(filter.as_str()),
        refused: Some((*filter, "no".into())),
        score: 0,
    });
    let passed = Candidate { pool: pool("fast"), refused: None, score: -1_234_567 };
    PlacementDecision {
        chosen: Some(pool("fast")),
        alternatives: vec![pool("slow")],
        candidates: std::iter::once(passed).chain(refused).collect(),
    }
}

fn accepted(source: VolumeSource) -> VolumeCreateAccepted {
    VolumeCreateAccepted {
        operation: OPERATION,
        project: project(),
        user: UserId::new("somebody"),
        name: Some("Größe".into()),
        description: None,
        size: gib(300),
        volume_type: TYPE,
        availability_zone: ZoneName::new("nova"),
        source,
        metadata: map(&[("k", "v"), ("leer", "")]),
        multiattach: false,
        bootable: true,
        placement: placement(),
    }
}

/// Names of samples within a kind, and the samples.
pub fn samples() -> Vec<(&'static str, Event)> {
    let mut all = volumes();
    all.extend(snapshots());
    all.extend(types_quotas_backends());
    all.extend(operations());
    all.extend(debts());
    all.extend(attachments());
    all.extend(uploads());
    all.push(("", Event::TurnBegan { sequencer: "host-a".into() }));
    all.extend(copies());
    all
}

fn volumes() -> Vec<(&'static str, Event)> {
    let of = |name, event| (name, Event::Volume(VOLUME, event));
    let create = |source| VolumeEvent::CreateAccepted(Box::new(accepted(source)));
    let unplaced = VolumeCreateAccepted {
        name: None,
        description: Some("nowhere to go".into()),
        multiattach: true,
        bootable: false,
        placement: PlacementDecision::default(),
        ..accepted(VolumeSource::Blank)
    };
    let mut all = vec![
        of("blank", create(VolumeSource::Blank)),
        of("from-snapshot", create(VolumeSource::Snapshot(SNAPSHOT))),
        of("from-volume", create(VolumeSource::Volume(OTHER_VOLUME))),
        of("unplaced", VolumeEvent::CreateAccepted(Box::new(unplaced))),
        of(
            "",
            VolumeEvent::Rescheduled {
                failed: pool("slow"),
                failure: failure(FailureKind::NoSpace),
                placement: placement(),
            },
        ),
        of("", VolumeEvent::Created),
        of("", VolumeEvent::DeleteAccepted { operation: OPERATION }),
        of("", VolumeEvent::Deleted),
        of("", VolumeEvent::DeleteFailed { operation: OPERATION, failure: failure(FailureKind::Busy) }),
        of("", VolumeEvent::ExtendAccepted { operation: OPERATION, to: gib(SizeGib::MAX) }),
        of("", VolumeEvent::Extended { to: gib(1) }),
        of(
            "",
            VolumeEvent::ExtendFailed {
                operation: OPERATION,
                failure: failure(FailureKind::TimedOut),
                restored: true,
            },
        ),
        of("", VolumeEvent::RevertAccepted { operation: OPERATION, snapshot: SNAPSHOT }),
        of("", VolumeEvent::Reverted),
        of(
            "",
            VolumeEvent::RevertFailed {
                operation: OPERATION,
                failure: failure(FailureKind::Mismatch),
                restored: false,
            },
        ),
        of("", VolumeEvent::ResetAccepted { operation: OPERATION }),
        of(
            "",
            VolumeEvent::ResetFailed { operation: OPERATION, failure: failure(FailureKind::ObjectMissing) },
        ),
        of("named", VolumeEvent::DetailsUpdated { name: Some("n".into()), description: Some("d".into()) }),
        of("unnamed", VolumeEvent::DetailsUpdated { name: None, description: None }),
        of("", VolumeEvent::MetadataReplaced { metadata: map(&[("a", "1"), ("b", "2")]) }),
        of("", VolumeEvent::BootableChanged { bootable: true }),
        of("", VolumeEvent::ReadonlyChanged { readonly: false }),
        of("from-image", create(VolumeSource::Image(IMAGE))),
        of("", VolumeEvent::ImageMetadataReplaced { metadata: map(&[("image_id", "i"), ("os", "debian")]) }),
        of("", VolumeEvent::ManageAccepted { accepted: managed(), name: "legacy – alt".into() }),
        of("", VolumeEvent::Managed),
        of("", VolumeEvent::ManageFailed { operation: OPERATION, failure: failure(FailureKind::Mismatch) }),
        of("", VolumeEvent::UnmanageAccepted { operation: OPERATION }),
        of("", VolumeEvent::Unmanaged),
        of("restored", unmanage_failed(true)),
        of("not-restored", unmanage_failed(false)),
    ];
    all.extend(FailureKind::ALL.iter().map(|kind| {
        of(kind.as_str(), VolumeEvent::CreateFailed { operation: OPERATION, failure: failure(*kind) })
    }));
    all.extend(VolumeState::ALL.iter().map(|to| of(to.as_str(), VolumeEvent::StatusReset { to: *to })));
    all
}

fn export() -> Export {
    Export {
        attachment: AttachmentId::from_uuid(id(0xe1)),
        initiator: Some("iqn.1993-08.org.debian:01:abc".into()),
        address: None,
        mode: AttachMode::ReadWrite,
    }
}

fn attachments() -> Vec<(&'static str, Event)> {
    let attachment = AttachmentId::from_uuid(id(0xe1));
    let (operation, mode) = (OPERATION, AttachMode::ReadOnly);
    let connector = Connector {
        host: Some("compute-1".into()),
        initiator: Some("iqn.1993-08.org.debian:01:abc".into()),
        ip: Some("192.0.2.7".into()),
        mountpoint: Some("/dev/vdb".into()),
        multipath: true,
        enforce_multipath: false,
    };
    let failure = || failure(FailureKind::BackendUnavailable);
    [
        ("", AttachmentEvent::Reserved { instance: Some("a-server".into()), mode: Some(mode) }),
        ("bare", AttachmentEvent::Reserved { instance: None, mode: None }),
        ("", AttachmentEvent::ConnectAccepted { operation, connector, mode }),
        ("", AttachmentEvent::Connected),
        ("", AttachmentEvent::ConnectFailed { operation, failure: failure(), restored: true }),
        (
            "",
            AttachmentEvent::Attached {
                instance: None,
                host: Some("compute-1".into()),
                mountpoint: Some("/dev/vdb".into()),
                mode: AttachMode::ReadWrite,
            },
        ),
        ("", AttachmentEvent::Completed),
        ("", AttachmentEvent::DisconnectAccepted { operation }),
        ("", AttachmentEvent::Disconnected),
        ("", AttachmentEvent::DisconnectFailed { operation, failure: failure() }),
        ("", AttachmentEvent::Deleted),
    ]
    .into_iter()
    .map(|(name, event)| (name, Event::Volume(VOLUME, VolumeEvent::Attachment { attachment, event })))
    .chain([("", Event::Volume(VOLUME, VolumeEvent::UseChanged { to: VolumeState::InUse }))])
    .collect()
}

fn new_image() -> NewImage {
    NewImage {
        id: IMAGE,
        owner: project(),
        name: "Abbild – alt".into(),
        disk_format: "qcow2".into(),
        container_format: "bare".into(),
        visibility: Some("private".into()),
        protected: true,
        properties: map(&[("os_distro", "debian")]),
    }
}

fn uploads() -> Vec<(&'static str, Event)> {
    let of = |event| ("", Event::Volume(VOLUME, event));
    let upload = VolumeUpload { volume: VOLUME, pool: pool("fast"), image: new_image() };
    let kind = OperationKind::VolumeUpload(upload);
    vec![
        of(VolumeEvent::UploadAccepted { operation: OPERATION, image: IMAGE }),
        of(VolumeEvent::Uploaded { image: IMAGE }),
        of(VolumeEvent::UploadFailed { operation: OPERATION, failure: failure(FailureKind::TimedOut) }),
        ("volume_upload", Event::Operation(OPERATION, OperationEvent::Opened { project: project(), kind })),
    ]
}

fn copies() -> Vec<(&'static str, Event)> {
    let opened = |name, source| {
        let kind = OperationKind::VolumeCopy(VolumeCopy {
            operation: OPERATION,
            volume: VOLUME,
            size: gib(3),
            source,
            from: pool("full"),
            pool: pool("fast"),
            alternatives: vec![pool("slow")],
            failed_backends: vec![BackendName::new("broken")],
        });
        (name, Event::Operation(OPERATION, OperationEvent::Opened { project: project(), kind }))
    };
    vec![
        opened("volume_copy-of-snapshot", CopySource::Snapshot { volume: OTHER_VOLUME, snapshot: SNAPSHOT }),
        opened("volume_copy-of-volume", CopySource::Volume(OTHER_VOLUME)),
    ]
}

fn managed() -> Box<VolumeCreateAccepted> {
    let placement = PlacementDecision { chosen: Some(pool("fast")), ..PlacementDecision::default() };
    Box::new(VolumeCreateAccepted { placement, ..accepted(VolumeSource::Blank) })
}

fn unmanage_failed(restored: bool) -> VolumeEvent {
    VolumeEvent::UnmanageFailed { operation: OPERATION, failure: failure(FailureKind::TimedOut), restored }
}

fn snapshots() -> Vec<(&'static str, Event)> {
    let of = |name, event| (name, Event::Snapshot(SNAPSHOT, event));
    let accepted = SnapshotCreateAccepted {
        operation: OPERATION,
        volume: VOLUME,
        project: project(),
        user: UserId::new("somebody"),
        name: None,
        description: Some("before the upgrade".into()),
        size: gib(128),
        volume_type: TYPE,
        pool: pool("fast"),
        metadata: map(&[("k", "v")]),
    };
    let failure = failure(FailureKind::BackendError);
    let not_given_up = |restored| {
        let failure = failure.clone();
        SnapshotEvent::UnmanageFailed { operation: OPERATION, failure, restored }
    };
    let managed = Box::new(accepted.clone());
    let mut all = vec![
        of("", SnapshotEvent::ManageAccepted { accepted: managed, name: "before".into() }),
        of("", SnapshotEvent::Managed),
        of("", SnapshotEvent::ManageFailed { operation: OPERATION, failure: failure.clone() }),
        of("", SnapshotEvent::UnmanageAccepted { operation: OPERATION }),
        of("", SnapshotEvent::Unmanaged),
        of("restored", not_given_up(true)),
        of("not-restored", not_given_up(false)),
        of("", SnapshotEvent::CreateAccepted(Box::new(accepted))),
        of("", SnapshotEvent::Created),
        of("", SnapshotEvent::CreateFailed { operation: OPERATION, failure: failure.clone() }),
        of("", SnapshotEvent::DeleteAccepted { operation: OPERATION }),
        of("", SnapshotEvent::Deleted),
        of("", SnapshotEvent::DeleteFailed { operation: OPERATION, failure: failure.clone() }),
        of("", SnapshotEvent::RestoreAccepted { operation: OPERATION }),
        of("", SnapshotEvent::RestoreEnded),
        of("", SnapshotEvent::ResetAccepted { operation: OPERATION }),
        of("", SnapshotEvent::ResetFailed { operation: OPERATION, failure: failure.clone() }),
        of("", SnapshotEvent::DetailsUpdated { name: Some("n".into()), description: None }),
        of("", SnapshotEvent::MetadataReplaced { metadata: map(&[]) }),
    ];
    all.extend(SnapshotState::ALL.iter().map(|to| of(to.as_str(), SnapshotEvent::StatusReset { to: *to })));
    all
}

fn types_quotas_backends() -> Vec<(&'static str, Event)> {
    let of_type = |event| ("", Event::VolumeType(TYPE, event));
    let limits: QuotaLimits = QuotaResource::PLAIN
        .iter()
        .copied()
        .chain([
            QuotaResource::VolumesOfType(TYPE),
            QuotaResource::SnapshotsOfType(TYPE),
            QuotaResource::GigabytesOfType(TYPE),
        ])
        .zip([-1, 0, 1, 1000, i64::MAX, i64::MIN, 7, 8, 9, 10])
        .collect();
    let description = BackendDescription {
        host: "node-1".into(),
        driver: "directory".into(),
        availability_zone: ZoneName::new("nova"),
        pools: vec![PoolName::new("p1"), PoolName::new("p2")],
        native_revert: true,
        capabilities: map(&[("storage_protocol", "file"), ("volume_backend_name", "one")]),
    };
    let of_backend = |name, event| (name, Event::Backend(BackendName::new("one"), event));
    vec![
        of_type(VolumeTypeEvent::Created {
            name: "gold".into(),
            description: Some("fast".into()),
            is_public: true,
            extra_specs: map(&[("volume_backend_name", "one")]),
        }),
        of_type(VolumeTypeEvent::Updated { name: "silver".into(), description: None, is_public: false }),
        of_type(VolumeTypeEvent::ExtraSpecsReplaced { extra_specs: map(&[("multiattach", "<is> True")]) }),
        of_type(VolumeTypeEvent::AccessGranted { project: project() }),
        of_type(VolumeTypeEvent::AccessRevoked { project: project() }),
        of_type(VolumeTypeEvent::Deleted),
        ("", Event::Quota(QuotaEvent::LimitsSet { project: project(), limits: limits.clone() })),
        ("", Event::Quota(QuotaEvent::LimitsCleared { project: project() })),
        ("", Event::Quota(QuotaEvent::DefaultsSet { limits })),
        of_backend("", BackendEvent::Registered(Box::new(description))),
        of_backend("", BackendEvent::Enabled),
        of_backend("with-reason", BackendEvent::Disabled { reason: Some("disks".into()) }),
        of_backend("without-reason", BackendEvent::Disabled { reason: None }),
        of_backend("", BackendEvent::Frozen),
        of_backend("", BackendEvent::Thawed),
    ]
}

#[allow(clippy::too_many_lines, reason = "one sample per operation")]
fn kinds_of_operation() -> Vec<OperationKind> {
    let create = |source| {
        OperationKind::VolumeCreate(VolumeCreate {
            volume: VOLUME,
            size: gib(3),
            source,
            pool: pool("fast"),
            alternatives: vec![pool("slow")],
            failed_backends: vec![BackendName::new("broken")],
        })
    };
    vec![
        create(CreateSource::Blank),
        create(CreateSource::Snapshot { volume: OTHER_VOLUME, snapshot: SNAPSHOT }),
        create(CreateSource::Volume(OTHER_VOLUME)),
        OperationKind::VolumeDelete(VolumeDelete {
            volume: VOLUME,
            pool: Some(pool("fast")),
            snapshots: vec![SNAPSHOT],
            kept: vec![(DEBT, SAFETY)],
        }),
        OperationKind::VolumeExtend(VolumeExtend {
            volume: VOLUME,
            pool: pool("fast"),
            from: gib(1),
            to: gib(2),
        }),
        OperationKind::VolumeRevert(VolumeRevert {
            operation: OPERATION,
            volume: VOLUME,
            snapshot: SNAPSHOT,
            pool: pool("fast"),
            size: gib(5),
            native: true,
        }),
        OperationKind::VolumeRecover(VolumeRecover {
            volume: VOLUME,
            pool: pool("fast"),
            debt: DEBT,
            safety: SAFETY,
            native: false,
        }),
        OperationKind::SnapshotCreate(SnapshotCreate {
            volume: VOLUME,
            snapshot: SNAPSHOT,
            pool: pool("fast"),
        }),
        OperationKind::SnapshotDelete(SnapshotDelete {
            volume: VOLUME,
            snapshot: SNAPSHOT,
            pool: pool("fast"),
        }),
        OperationKind::StatusVerify(StatusVerify {
            object: BackendObject::Snapshot { volume: VOLUME, snapshot: SNAPSHOT },
            pool: pool("fast"),
            size: gib(6),
        }),
        OperationKind::VolumeManage(VolumeManage {
            volume: VOLUME,
            pool: pool("fast"),
            name: "legacy".into(),
            size: gib(7),
        }),
        OperationKind::VolumeUnmanage(VolumeUnmanage {
            volume: VOLUME,
            pool: Some(pool("fast")),
            size: gib(8),
        }),
        OperationKind::SnapshotManage(SnapshotManage {
            volume: VOLUME,
            snapshot: SNAPSHOT,
            pool: pool("fast"),
            name: "before".into(),
            size: gib(9),
        }),
        OperationKind::SnapshotUnmanage(SnapshotUnmanage {
            volume: VOLUME,
            snapshot: SNAPSHOT,
            pool: pool("fast"),
            size: gib(10),
        }),
        OperationKind::ObjectClean(ObjectClean { pool: pool("fast"), name: "stray".into(), object: SAFETY }),
        OperationKind::VolumeExtendAttached(VolumeExtendAttached {
            extend: VolumeExtend { volume: VOLUME, pool: pool("fast"), from: gib(1), to: gib(2) },
            exports: vec![export()],
        }),
        OperationKind::AttachmentConnect(AttachmentConnect {
            volume: VOLUME,
            pool: pool("fast"),
            export: export(),
        }),
        OperationKind::AttachmentDisconnect(AttachmentDisconnect {
            volume: VOLUME,
            pool: pool("fast"),
            attachment: export().attachment,
            keep: true,
        }),
        OperationKind::ExportRestore(ExportRestore { volume: VOLUME, pool: pool("fast"), export: export() }),
    ]
}

fn operations() -> Vec<(&'static str, Event)> {
    let of = |name, event| (name, Event::Operation(OPERATION, event));
    let names = ["-blank", "-from-snapshot", "-from-volume"].into_iter().chain(std::iter::repeat(""));
    let mut all: Vec<_> = kinds_of_operation()
        .into_iter()
        .zip(names)
        .map(|(kind, suffix)| {
            let name: &'static str = format!("{}{suffix}", kind.name()).leak();
            of(name, OperationEvent::Opened { project: project(), kind })
        })
        .collect();
    let failure = failure(FailureKind::BackendUnavailable);
    all.extend([
        of("", OperationEvent::StepCompleted { step: 0 }),
        of("", OperationEvent::AttemptFailed { failure: failure.clone(), retry_at: LATER }),
        of("", OperationEvent::StepWaived { step: 1, failure: failure.clone() }),
        of("", OperationEvent::UndoStarted { step: 2, failure: failure.clone() }),
        of("", OperationEvent::StepUndone { step: u16::MAX }),
        of("", OperationEvent::UndoWaived { step: 3, failure }),
        of("completed", OperationEvent::Closed { end: OperationEnd::Completed }),
        of("failed", OperationEvent::Closed { end: OperationEnd::Failed }),
        of("abandoned", OperationEvent::Closed { end: OperationEnd::Abandoned }),
    ]);
    all.extend(
        kinds_of_operation().into_iter().take(1).map(|kind| of("", OperationEvent::Rescheduled { kind })),
    );
    all
}

fn debts() -> Vec<(&'static str, Event)> {
    let of = |name, event| (name, Event::Debt(DEBT, event));
    let incurred = |object, held| DebtEvent::Incurred {
        project: project(),
        pool: pool("fast"),
        object,
        reason: failure(FailureKind::Unsupported),
        held,
    };
    vec![
        of("volume", incurred(BackendObject::Volume(VOLUME), false)),
        of("snapshot", incurred(BackendObject::Snapshot { volume: VOLUME, snapshot: SNAPSHOT }, false)),
        of("safety-snapshot", incurred(SAFETY, true)),
        of(
            "temporary-volume",
            incurred(BackendObject::TemporaryVolume { volume: VOLUME, operation: OPERATION }, false),
        ),
        of("", DebtEvent::AttemptFailed { failure: failure(FailureKind::Busy), retry_at: Timestamp(-1) }),
        of("", DebtEvent::Released),
        of("", DebtEvent::Paid),
    ]
}
