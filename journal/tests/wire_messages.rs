//! What processes say to each other comes back as it was, and its bytes do not change.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{member, pool_stats, register_backend, submission, uuid};
use tephra_domain::actor::Actor;
use tephra_domain::attachment::{AttachMode, Connector};
use tephra_domain::command::{
    AttachVolume, CleanObject, Command, CreateAttachment, CreateSnapshot, CreateVolume, CreateVolumeType,
    ManageSnapshot, ManageVolume, MetadataChange, UploadVolume, VolumeTypeRef,
};
use tephra_domain::drift::FoundKind;
use tephra_domain::effect::{
    BackendObject, Direction, DueEffect, Effect, EffectKey, Export, Failure, FailureKind, Outcome,
};
use tephra_domain::event::{Commit, Event, Idempotency};
use tephra_domain::ids::{
    AttachmentId, BackendName, CommandId, DebtId, IdempotencyKey, ImageId, OperationId, PoolId, PoolName,
    Position, ProjectId, RequestId, SnapshotId, VolumeId, VolumeTypeId, ZoneName,
};
use tephra_domain::image::NewImage;
use tephra_domain::quota::QuotaResource;
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::{VolumeSource, VolumeState};
use tephra_domain::volume_type::VolumeTypeEvent;
use tephra_journal::gateway::{Receipt, Submission, SubmitError};
use tephra_journal::loans::{Loan, LoanAnswer, LoanQuestion, LoanRequest};
use tephra_journal::progress_board::Progress;
use tephra_journal::wire::message::{
    decode_answer, decode_loan_answer, decode_loan_question, decode_order, decode_pools, decode_progress,
    decode_submission, encode_answer, encode_loan_answer, encode_loan_question, encode_order, encode_pools,
    encode_progress, encode_submission,
};
use tephra_journal::work_queue::WorkOrder;
use uuid::Uuid;

fn volume() -> VolumeId {
    VolumeId::from_uuid(uuid(1))
}

fn new_image() -> NewImage {
    NewImage {
        id: ImageId::from_uuid(uuid(9)),
        owner: ProjectId::new("p"),
        name: "golden".into(),
        disk_format: "qcow2".into(),
        container_format: "bare".into(),
        visibility: Some("private".into()),
        protected: true,
        properties: BTreeMap::from([("os_distro".to_owned(), "debian".to_owned())]),
    }
}

fn snapshot() -> SnapshotId {
    SnapshotId::from_uuid(uuid(2))
}

fn volume_type() -> VolumeTypeId {
    VolumeTypeId::from_uuid(uuid(3))
}

fn operation() -> OperationId {
    OperationId::from_uuid(uuid(4))
}

fn size(gib: u32) -> SizeGib {
    SizeGib::new(gib).unwrap()
}

fn step() -> EffectKey {
    EffectKey::Step { operation: operation(), direction: Direction::Undo, step: 3, attempt: 70_000 }
}

fn debt() -> DebtId {
    DebtId { operation: operation(), ordinal: 5 }
}

fn values() -> BTreeMap<String, String> {
    [("a".to_owned(), "1".to_owned()), ("ü".to_owned(), String::new())].into()
}

/// One of each, with everything in it that can be.
#[allow(clippy::too_many_lines, reason = "a list")]
fn commands() -> Vec<Command> {
    let backend = BackendName::new("lvm");
    let project = ProjectId::new("alpha");
    let failure = Failure::new(FailureKind::NoSpace, "full");
    vec![
        Command::CreateVolume(Box::new(CreateVolume {
            volume: volume(),
            name: Some("n".into()),
            description: Some("d".into()),
            size: SizeGib::new(9),
            source: VolumeSource::Snapshot(snapshot()),
            volume_type: Some(VolumeTypeRef::Named("fast".into())),
            availability_zone: Some(ZoneName::new("nova")),
            metadata: values(),
        })),
        Command::DeleteVolume { volume: volume(), cascade: true, force: false },
        Command::ExtendVolume { volume: volume(), to: size(300), online: false },
        Command::RevertVolume { volume: volume(), snapshot: Some(snapshot()) },
        Command::RecoverVolume { volume: volume() },
        Command::UpdateVolume {
            volume: volume(),
            name: Some(None),
            description: None,
            metadata: Some(values()),
        },
        Command::UpdateVolume {
            volume: volume(),
            name: None,
            description: Some(Some("d".into())),
            metadata: None,
        },
        Command::ChangeVolumeMetadata { volume: volume(), change: MetadataChange::Merge(values()) },
        Command::ChangeVolumeMetadata { volume: volume(), change: MetadataChange::Remove("k".into()) },
        Command::SetVolumeBootable { volume: volume(), bootable: true },
        Command::SetVolumeReadonly { volume: volume(), readonly: true },
        Command::ResetVolumeStatus { volume: volume(), to: VolumeState::ErrorRestoring },
        Command::CreateSnapshot(Box::new(CreateSnapshot {
            snapshot: snapshot(),
            volume: volume(),
            name: None,
            description: None,
            force: true,
            metadata: values(),
        })),
        Command::DeleteSnapshot { snapshot: snapshot(), force: true },
        Command::UpdateSnapshot {
            snapshot: snapshot(),
            name: Some(Some("n".into())),
            description: Some(None),
        },
        Command::ChangeSnapshotMetadata { snapshot: snapshot(), change: MetadataChange::Replace(values()) },
        Command::ResetSnapshotStatus { snapshot: snapshot(), to: SnapshotState::Error },
        Command::CreateVolumeType(Box::new(CreateVolumeType {
            volume_type: volume_type(),
            name: "fast".into(),
            description: None,
            is_public: true,
            extra_specs: values(),
        })),
        Command::UpdateVolumeType {
            volume_type: volume_type(),
            name: Some("n".into()),
            description: Some(None),
            is_public: Some(false),
        },
        Command::DeleteVolumeType { volume_type: volume_type() },
        Command::ChangeExtraSpecs { volume_type: volume_type(), change: MetadataChange::Merge(values()) },
        Command::GrantTypeAccess { volume_type: volume_type(), project: project.clone() },
        Command::RevokeTypeAccess { volume_type: volume_type(), project: project.clone() },
        Command::SetQuotaLimits {
            project: project.clone(),
            limits: [(QuotaResource::GigabytesOfType(volume_type()), -1)].into(),
        },
        Command::ClearQuotaLimits { project },
        Command::SetQuotaDefaults { limits: [(QuotaResource::Volumes, 10)].into() },
        register_backend().command,
        Command::EnableBackend { backend: backend.clone() },
        Command::DisableBackend { backend, reason: Some("why".into()) },
        Command::ReportOutcome { key: step(), outcome: Outcome::Done },
        Command::ReportOutcome {
            key: EffectKey::Debt { debt: debt(), attempt: 1 },
            outcome: Outcome::Failed(failure),
        },
        Command::ReleaseDebt { debt: debt() },
        Command::CheckAttempt { key: step() },
    ]
}

/// Commands that came later: their bytes stand at the end, so that those before stay as they are.
fn later_commands() -> Vec<Command> {
    vec![
        Command::ManageVolume(Box::new(ManageVolume {
            volume: volume(),
            pool: PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") },
            name: "legacy".into(),
            size: size(3),
            display_name: Some("n".into()),
            description: None,
            volume_type: Some(VolumeTypeRef::Named("fast".into())),
            availability_zone: None,
            metadata: values(),
            bootable: true,
        })),
        Command::UnmanageVolume { volume: volume() },
        Command::ManageSnapshot(Box::new(ManageSnapshot {
            snapshot: snapshot(),
            volume: volume(),
            name: "before".into(),
            size: size(3),
            display_name: None,
            description: Some("d".into()),
            metadata: values(),
        })),
        Command::UnmanageSnapshot { snapshot: snapshot() },
        Command::CleanObject(Box::new(CleanObject {
            pool: PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") },
            name: "stray".into(),
            kind: FoundKind::Snapshot { of: Some("volume".into()) },
        })),
        Command::FreezeBackend { backend: BackendName::new("b") },
        Command::ThawBackend { backend: BackendName::new("b") },
    ]
}

fn attachment() -> AttachmentId {
    AttachmentId::from_uuid(uuid(0xa))
}

fn connector() -> Connector {
    Connector {
        host: Some("compute-1".into()),
        initiator: Some("iqn.1993-08.org.debian:01:abc".into()),
        ip: Some("192.0.2.7".into()),
        mountpoint: Some("/dev/vdb".into()),
        multipath: true,
        enforce_multipath: false,
    }
}

fn attachment_commands() -> Vec<Command> {
    let (volume, attachment) = (volume(), attachment());
    let mode = Some(AttachMode::ReadOnly);
    vec![
        Command::CreateAttachment(Box::new(CreateAttachment {
            volume,
            attachment,
            instance: Some("server".into()),
            mode,
            connector: Some(connector()),
            connector_mode: Some(AttachMode::ReadWrite),
        })),
        Command::UpdateAttachment { volume, attachment, connector: connector(), mode },
        Command::CompleteAttachment { volume, attachment },
        Command::DeleteAttachment { volume, attachment },
        Command::ReserveVolume { volume },
        Command::UnreserveVolume { volume },
        Command::BeginDetaching { volume },
        Command::RollDetaching { volume },
        Command::InitializeConnection { volume, attachment, connector: connector(), mode: None },
        Command::TerminateConnection { volume, connector: Some(connector()) },
        Command::TerminateConnection { volume, connector: None },
        Command::AttachVolume(Box::new(AttachVolume {
            volume,
            attachment,
            instance: Some("server".into()),
            host: Some("compute-1".into()),
            mountpoint: "/dev/vdc".into(),
            mode: AttachMode::ReadWrite,
        })),
        Command::DetachVolume { volume, attachment: Some(attachment), force: true },
        Command::DetachAll { volume },
        Command::ExtendVolume { volume, to: size(301), online: true },
        Command::RestoreExports { backend: BackendName::new("b"), after: Some(volume) },
    ]
}

fn upload_commands() -> Vec<Command> {
    vec![Command::UploadVolume(Box::new(UploadVolume { volume: volume(), force: true, image: new_image() }))]
}

fn upload_rejections() -> Vec<Rejection> {
    vec![Rejection::VolumeNotUploadable { volume: volume(), force: true }]
}

fn reset_rejections() -> Vec<Rejection> {
    vec![
        Rejection::VolumeNeverFilled { volume: volume() },
        Rejection::TooManyAttachments { volume: volume(), limit: 64 },
    ]
}

fn attachment_rejections() -> Vec<Rejection> {
    let (volume, attachment) = (volume(), attachment());
    vec![
        Rejection::AttachmentNotFound { attachment },
        Rejection::AttachmentExists { attachment },
        Rejection::VolumeHasAttachments,
        Rejection::VolumeInErrorNotAttachable { volume, status: "error" },
        Rejection::VolumeInErrorNotConnectable { volume, status: "error" },
        Rejection::VolumeNotReservable { volume, status: "in-use", multiattach: false },
        Rejection::VolumeNotReservableByAction { status: "in-use", multiattach: true },
        Rejection::VolumeNotDetachable,
        Rejection::VolumeNotConnectable { status: "deleting" },
        Rejection::VolumeInMaintenance { verb: "attached" },
        Rejection::VolumeConnectionInMaintenance,
        Rejection::VolumeAlreadyAttached,
        Rejection::AttachModeInvalid { volume, mode: "rw" },
        Rejection::AttachmentNotNamed,
        Rejection::AttachmentBusy { attachment, status: "attaching" },
        Rejection::DuplicateConnectors { volume },
        Rejection::ConnectorIncomplete { missing: "initiator" },
        Rejection::ReadonlyNeedsAvailable { volume, status: "in-use" },
    ]
}

/// Rejections that came later.
fn later_rejections() -> Vec<Rejection> {
    vec![
        Rejection::BackendFreezeUnchanged { service: "host@b".into(), frozen: true },
        Rejection::ObjectAlreadyManaged { name: "legacy".into() },
    ]
}

fn submitted(command: Command) -> Submission {
    Submission {
        id: CommandId::from_uuid(uuid(9)),
        request: RequestId::new("req-1"),
        idempotency: Some(Idempotency { key: IdempotencyKey::new("key"), fingerprint: [7; 32] }),
        ..submission(member(), command)
    }
}

#[test]
fn every_command_arrives_as_it_was_sent() {
    for command in
        commands().into_iter().chain(later_commands()).chain(attachment_commands()).chain(upload_commands())
    {
        let sent = submitted(command);
        let arrived = decode_submission(&encode_submission(&sent)).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{sent:?}"));
        assert_eq!(arrived.command, sent.command);
    }
}

#[test]
fn every_effect_arrives_as_it_was_sent() {
    let (volume, taken) = (BackendObject::Volume(volume()), snapshot());
    let snapshot = BackendObject::Snapshot { volume: self::volume(), snapshot: taken };
    let safety = BackendObject::SafetySnapshot { volume: self::volume(), operation: operation() };
    let source = BackendObject::TemporaryVolume { volume: self::volume(), operation: operation() };
    let elsewhere = PoolId { backend: BackendName::new("c"), pool: PoolName::new("q") };
    let effects = [
        Effect::CreateVolume { volume, size: size(1) },
        Effect::CreateVolumeFromSnapshot { volume, size: size(2), snapshot },
        Effect::CloneVolume { volume, size: size(3), source },
        Effect::DeleteVolume { volume: source },
        Effect::ExtendVolume { volume, to: size(4) },
        Effect::ShrinkVolume { volume, to: size(5) },
        Effect::CreateSnapshot { snapshot: safety },
        Effect::DeleteSnapshot { snapshot },
        Effect::RevertToSnapshot { volume, snapshot: safety },
        Effect::OverwriteVolume { volume, source },
        Effect::Verify { object: snapshot, size: size(6) },
        Effect::Adopt { object: volume, from: "legacy.img".into(), size: Some(size(7)) },
        Effect::Disown { object: snapshot, to: "unmanaged".into() },
        Effect::ExportVolume { volume, export: Export::of(attachment(), &connector(), AttachMode::ReadOnly) },
        Effect::UnexportVolume { volume, attachment: attachment() },
        Effect::UploadImage { volume, image: Box::new(new_image()) },
        Effect::RemoveImage { volume, image: new_image().id },
        Effect::CopyVolume { volume, size: size(8), from: elsewhere, source: safety },
    ];
    for effect in effects {
        let pool = PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") };
        let due = DueEffect { key: step(), pool, effect, not_before: Timestamp(-5) };
        let sent = WorkOrder { due, operation: operation(), request: RequestId::new("req") };
        assert_eq!(decode_order(&encode_order(&sent)).unwrap(), sent);
    }
}

fn loan_questions() -> [LoanQuestion; 2] {
    let pool = PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") };
    let object = BackendObject::SafetySnapshot { volume: volume(), operation: operation() };
    let loan = Uuid::from_u128(7);
    [LoanQuestion::Lend(LoanRequest { loan, pool, object }), LoanQuestion::GiveBack { loan }]
}

fn loan_answers() -> [LoanAnswer; 3] {
    let lender = Uuid::from_u128(8);
    let loan = Loan { lender, host: "10.0.0.5".into(), port: 10_809, key: "0f".into(), lasts_ms: 60_000 };
    let failure = Failure::new(FailureKind::BackendUnavailable, "no port");
    [LoanAnswer::Lent(loan), LoanAnswer::GivenBack, LoanAnswer::Failed(failure)]
}

#[test]
fn loans_arrive_as_they_were_asked_for_and_show_no_key() {
    for sent in loan_questions() {
        assert_eq!(decode_loan_question(&encode_loan_question(&sent)).unwrap(), sent);
    }
    for sent in loan_answers() {
        assert_eq!(decode_loan_answer(&encode_loan_answer(&sent)).unwrap(), sent);
        assert!(!format!("{sent:?}").contains("0f"), "{sent:?}");
    }
}

#[test]
fn pools_arrive_as_they_were_sent() {
    let sent = vec![pool_stats(Timestamp(3)), pool_stats(Timestamp(4))];
    assert_eq!(decode_pools(&encode_pools(&sent)).unwrap(), sent);
    assert_eq!(decode_pools(&encode_pools(&[])).unwrap(), []);
}

fn progress() -> [Progress; 2] {
    let of_debt = EffectKey::Debt { debt: debt(), attempt: 300 };
    [
        Progress { key: step(), done_bytes: 1 << 30, total_bytes: 3 << 30 },
        Progress { key: of_debt, done_bytes: 0, total_bytes: u64::MAX },
    ]
}

#[test]
fn progress_arrives_as_it_was_sent() {
    assert_eq!(decode_progress(&encode_progress(&progress())).unwrap(), progress());
    assert_eq!(decode_progress(&encode_progress(&[])).unwrap(), []);
}

fn rejections() -> Vec<Rejection> {
    vec![
        Rejection::VolumeNotFound { volume: volume() },
        Rejection::PolicyNotAuthorized { action: "volume:delete" },
        Rejection::VolumeNotDeletable { status: "reverting" },
        Rejection::SnapshotNotLatest { volume: volume(), snapshot: None },
        Rejection::ExtendNotLarger { size: size(2), new_size: size(1) },
        Rejection::GigabytesQuotaExceeded {
            resource: "gigabytes_fast".into(),
            requested: 5,
            quota: 4,
            consumed: 3,
        },
        Rejection::ExtraSpecNotFound { volume_type: volume_type(), key: "k".into() },
        Rejection::DebtNotFound { debt: debt() },
        Rejection::VolumeNotSnapshottable { volume: volume(), status: "error", force: true },
        Rejection::VolumeSizeMissing,
        Rejection::StaleReport,
    ]
}

#[test]
fn rejections_arrive_with_their_code_and_their_words() {
    for sent in rejections()
        .into_iter()
        .chain(later_rejections())
        .chain(attachment_rejections())
        .chain(upload_rejections())
        .chain(reset_rejections())
    {
        match decode_answer(&encode_answer(&Err(SubmitError::Rejected(sent.clone())))).unwrap() {
            Err(SubmitError::Rejected(arrived)) => {
                assert_eq!(arrived, sent);
                assert_eq!((arrived.code(), arrived.to_string()), (sent.code(), sent.to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn commit() -> Arc<Commit> {
    Arc::new(Commit {
        command: CommandId::from_uuid(uuid(9)),
        request: RequestId::new("req-1"),
        causation: Some(operation()),
        actor: Actor::system(),
        time: Timestamp(17),
        idempotency: None,
        events: vec![Event::VolumeType(volume_type(), VolumeTypeEvent::Deleted); 3],
    })
}

fn receipts() -> Vec<Result<Receipt, SubmitError>> {
    vec![
        Ok(Receipt::Accepted { position: Position(12), commit: commit() }),
        Ok(Receipt::Repeated { position: Position(3) }),
        Ok(Receipt::NothingToDo { position: Position(u64::MAX) }),
        Err(SubmitError::Unavailable { reason: "later".into() }),
    ]
}

fn too_large() -> Result<Receipt, SubmitError> {
    Err(SubmitError::TooLarge { reason: "a lot".into() })
}

#[test]
fn receipts_arrive_as_they_were_sent() {
    for sent in receipts().into_iter().chain([too_large()]) {
        let arrived = decode_answer(&encode_answer(&sent)).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{sent:?}"));
    }
}

#[test]
fn what_is_cut_changed_in_version_or_too_long_is_refused() {
    let bytes = encode_submission(&submitted(commands().remove(0)));
    for end in 0..bytes.len() {
        assert!(decode_submission(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut newer = bytes.clone();
    newer[0] += 1;
    let reason = decode_submission(&newer).unwrap_err().to_string();
    assert_eq!(reason, "2 is not a known message version");
    let mut longer = bytes;
    longer.push(0);
    assert!(decode_submission(&longer).is_err());
}

/// A process that says nonsense must not take another one down. What is changed may still be a
/// message; what matters is that none panics, or asks for memory without end.
#[test]
fn a_changed_byte_anywhere_never_panics() {
    let effect = Effect::DeleteVolume { volume: BackendObject::Volume(volume()) };
    let pool = PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") };
    let due = DueEffect { key: step(), pool, effect, not_before: Timestamp(5) };
    let order = WorkOrder { due, operation: operation(), request: RequestId::new("req") };
    let mut messages: Vec<Vec<u8>> =
        commands().into_iter().map(|c| encode_submission(&submitted(c))).collect();
    messages.extend(receipts().iter().map(encode_answer));
    messages.extend([encode_order(&order), encode_pools(&[pool_stats(Timestamp(3))])]);
    messages.extend(loan_questions().iter().map(encode_loan_question));
    messages.extend(loan_answers().iter().map(encode_loan_answer));
    messages.push(encode_progress(&progress()));
    for message in messages {
        for at in 0..message.len() {
            for byte in [0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF] {
                let mut changed = message.clone();
                changed[at] = byte;
                drop(decode_submission(&changed));
                drop(decode_answer(&changed));
                drop(decode_order(&changed));
                drop(decode_pools(&changed));
                drop(decode_loan_question(&changed));
                drop(decode_loan_answer(&changed));
                drop(decode_progress(&changed));
            }
        }
    }
}

/// Processes of two versions talk while an upgrade is under way: version 1 stays what it is.
#[test]
fn version_1_has_these_bytes() {
    let mut all = Vec::new();
    for command in commands() {
        all.extend(encode_submission(&submitted(command)));
    }
    for answer in receipts() {
        all.extend(encode_answer(&answer));
    }
    for rejection in rejections() {
        all.extend(encode_answer(&Err(SubmitError::Rejected(rejection))));
    }
    let volume = BackendObject::Volume(volume());
    let pool = PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") };
    let effect = Effect::ExtendVolume { volume, to: size(4) };
    let due = DueEffect { key: step(), pool, effect, not_before: Timestamp(5) };
    all.extend(encode_order(&WorkOrder { due, operation: operation(), request: RequestId::new("req") }));
    all.extend(encode_pools(&[pool_stats(Timestamp(3))]));
    for command in later_commands() {
        all.extend(encode_submission(&submitted(command)));
    }
    for rejection in later_rejections() {
        all.extend(encode_answer(&Err(SubmitError::Rejected(rejection))));
    }
    all.extend(encode_answer(&too_large()));
    for command in attachment_commands() {
        all.extend(encode_submission(&submitted(command)));
    }
    for rejection in attachment_rejections() {
        all.extend(encode_answer(&Err(SubmitError::Rejected(rejection))));
    }
    for command in upload_commands() {
        all.extend(encode_submission(&submitted(command)));
    }
    for rejection in upload_rejections() {
        all.extend(encode_answer(&Err(SubmitError::Rejected(rejection))));
    }
    for rejection in reset_rejections() {
        all.extend(encode_answer(&Err(SubmitError::Rejected(rejection))));
    }
    all.extend(loan_questions().iter().flat_map(encode_loan_question));
    all.extend(loan_answers().iter().flat_map(encode_loan_answer));
    all.extend(encode_progress(&progress()));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/messages-v1.hex");
    let text: String = hex::encode(&all).as_bytes().chunks(100).fold(String::new(), |mut text, line| {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
        text
    });
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if golden.is_empty() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        panic!("{} was missing and has been written: look at it, and commit it", path.display());
    }
    assert_eq!(text, golden, "a version 1 message has changed: add a version instead");
}
