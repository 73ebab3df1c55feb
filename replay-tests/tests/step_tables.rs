//! Keeps the step tables in docs/operations true. `TEPHRA_UPDATE_DOCS=1` rewrites them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{BackendObject, Effect, Export};
use tephra_domain::ids::{AttachmentId, DebtId, ImageId, OperationId, ProjectId, SnapshotId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::operation::{IfItFails, IfUndoFails, Step};
use tephra_domain::operations::volume_copy::CopySource;
use tephra_domain::operations::volume_create::CreateSource;
use tephra_domain::operations::{
    AttachmentConnect, AttachmentDisconnect, ExportRestore, ObjectClean, OperationKind, SnapshotCreate,
    SnapshotDelete, SnapshotManage, SnapshotUnmanage, StatusVerify, VolumeCopy, VolumeCreate, VolumeDelete,
    VolumeExtend, VolumeExtendAttached, VolumeManage, VolumeRecover, VolumeRevert, VolumeUnmanage,
    VolumeUpload, attachment_connect, attachment_disconnect, export_restore, object_clean, snapshot_create,
    snapshot_delete, snapshot_manage, snapshot_unmanage, status_verify, volume_copy, volume_create,
    volume_delete, volume_extend, volume_extend_attached, volume_manage, volume_recover, volume_revert,
    volume_unmanage, volume_upload,
};
use tephra_replay_tests::docs::{check_document, repository};
use tephra_replay_tests::world::{gib, pool};
use uuid::Uuid;

const VOLUME: VolumeId = VolumeId::from_uuid(Uuid::from_u128(1));
const SOURCE: VolumeId = VolumeId::from_uuid(Uuid::from_u128(2));
const SNAPSHOT: SnapshotId = SnapshotId::from_uuid(Uuid::from_u128(3));
const OPERATION: OperationId = OperationId::from_uuid(Uuid::from_u128(4));

const ATTACHMENT: AttachmentId = AttachmentId::from_uuid(Uuid::from_u128(5));

const fn export() -> Export {
    Export { attachment: ATTACHMENT, initiator: None, address: None, mode: AttachMode::ReadWrite }
}

fn new_image() -> NewImage {
    NewImage {
        id: ImageId::from_uuid(Uuid::from_u128(6)),
        owner: ProjectId::new("p"),
        name: "golden".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: None,
        protected: false,
        properties: BTreeMap::new(),
    }
}

fn describe(effect: &Effect) -> String {
    let short = |object: BackendObject| match object {
        BackendObject::Volume(id) if id == VOLUME => "volume",
        BackendObject::Volume(_) => "source",
        BackendObject::Snapshot { .. } => "snapshot",
        BackendObject::SafetySnapshot { .. } => "safety snapshot",
        BackendObject::TemporaryVolume { .. } => "temporary volume",
    };
    match effect.source() {
        Some(source) => format!("{} {} ← {}", effect.name(), short(effect.target()), short(source)),
        None => format!("{} {}", effect.name(), short(effect.target())),
    }
}

/// The table of one operation, each row shown with the parameters in which it is there.
fn table<P>(name: &str, title: &str, steps: &[Step<P>], samples: &[P]) -> String {
    let mut text = format!("# {name}\n\n{title}\n\n");
    text.push_str(
        "| step | when | effect | if it fails | undo | if the undo fails |\n|---|---|---|---|---|---|\n",
    );
    for step in steps {
        let shown: Vec<&P> = samples.iter().filter(|sample| (step.count)(sample) > 0).collect();
        assert!(!shown.is_empty(), "no sample shows the step {}", step.name);
        let join = |lines: BTreeSet<String>| lines.into_iter().collect::<Vec<_>>().join(" or ");
        let effects = join(shown.iter().map(|sample| describe(&(step.effect)(sample, 0))).collect());
        let undo =
            step.undo.map(|undo| join(shown.iter().map(|sample| describe(&undo(sample, 0))).collect()));
        let fails = match step.if_it_fails {
            IfItFails::Undo if step.undo.is_none() && steps.iter().all(|step| step.undo.is_none()) => {
                "it ends there"
            }
            IfItFails::Undo => "undo",
            IfItFails::OweCleanup => "owe cleanup, go on",
            IfItFails::GoOn => "go on",
        };
        let undo_fails = match (undo.is_some(), step.if_undo_fails) {
            (false, _) => "",
            (true, IfUndoFails::OweCleanup) => "owe cleanup, go on",
            (true, IfUndoFails::LeaveToOwner) => "leave it to the resource in error",
            (true, IfUndoFails::NeedsOperator) => "needs operator",
        };
        let undo = undo.unwrap_or_else(|| "–".to_owned());
        writeln!(text, "| {} | {} | {effects} | {fails} | {undo} | {undo_fails} |", step.name, step.when)
            .unwrap();
    }
    text
}

#[test]
#[allow(clippy::too_many_lines, reason = "one call per operation")]
fn the_step_tables_are_true() {
    let one = || pool("one");
    let safety = BackendObject::SafetySnapshot { volume: VOLUME, operation: OPERATION };
    let create = |source| VolumeCreate {
        volume: VOLUME,
        size: gib(1),
        source,
        pool: one(),
        alternatives: Vec::new(),
        failed_backends: Vec::new(),
    };
    let copy = |source| VolumeCopy {
        operation: OPERATION,
        volume: VOLUME,
        size: gib(1),
        source,
        from: one(),
        pool: pool("two"),
        alternatives: Vec::new(),
        failed_backends: Vec::new(),
    };
    let revert = |native| VolumeRevert {
        operation: OPERATION,
        volume: VOLUME,
        snapshot: SNAPSHOT,
        pool: one(),
        size: gib(1),
        native,
    };
    let recover = |native| VolumeRecover {
        volume: VOLUME,
        pool: one(),
        debt: DebtId { operation: OPERATION, ordinal: 0 },
        safety,
        native,
    };
    let documents = [
        (
            "volume_create",
            table(
                "volume_create",
                "Makes a volume. A failure goes to the next backend, at most three in all; then the volume is in `error` with the reason.",
                volume_create::STEPS,
                &[
                    create(CreateSource::Blank),
                    create(CreateSource::Snapshot { volume: SOURCE, snapshot: SNAPSHOT }),
                    create(CreateSource::Volume(SOURCE)),
                ],
            ),
        ),
        (
            "volume_delete",
            table(
                "volume_delete",
                "Removes a volume, with its snapshots if asked. What fails is `error_deleting`; what was not reached is `available`.",
                volume_delete::STEPS,
                &[VolumeDelete {
                    volume: VOLUME,
                    pool: Some(one()),
                    snapshots: vec![SNAPSHOT],
                    kept: vec![(DebtId { operation: OPERATION, ordinal: 0 }, safety)],
                }],
            ),
        ),
        (
            "volume_extend",
            table(
                "volume_extend",
                "Grows a volume. If the old size cannot be had back, it is `error_extending`.",
                volume_extend::STEPS,
                &[VolumeExtend { volume: VOLUME, pool: one(), from: gib(1), to: gib(2) }],
            ),
        ),
        (
            "volume_revert",
            table(
                "volume_revert",
                "Puts the latest snapshot's data back. If it fails, the data comes back from the safety snapshot; if that fails too, the volume is in `error` and the safety snapshot is held.",
                volume_revert::STEPS,
                &[revert(true), revert(false)],
            ),
        ),
        (
            "volume_recover",
            table(
                "volume_recover",
                "Puts a held safety snapshot's data back. If it fails, the volume stays in `error` and the snapshot held.",
                volume_recover::STEPS,
                &[recover(true), recover(false)],
            ),
        ),
        (
            "snapshot_create",
            table(
                "snapshot_create",
                "Takes a snapshot. If it fails, the snapshot is in `error` with the reason.",
                snapshot_create::STEPS,
                &[SnapshotCreate { volume: VOLUME, snapshot: SNAPSHOT, pool: one() }],
            ),
        ),
        (
            "snapshot_delete",
            table(
                "snapshot_delete",
                "Removes a snapshot. If it fails, it is `error_deleting`, or `available` if it was only in use.",
                snapshot_delete::STEPS,
                &[SnapshotDelete { volume: VOLUME, snapshot: SNAPSHOT, pool: one() }],
            ),
        ),
        (
            "status_verify",
            table(
                "status_verify",
                "Asks the backend whether the status that an operator set is true. If it is not, the status is `error` with the reason.",
                status_verify::STEPS,
                &[StatusVerify { object: BackendObject::Volume(VOLUME), pool: one(), size: gib(1) }],
            ),
        ),
        (
            "volume_manage",
            table(
                "volume_manage",
                "Takes a volume over that its pool has already. If it fails, the object has its old name and the volume is `error_managing` (shown as `error`), to be deleted or unmanaged.",
                volume_manage::STEPS,
                &[VolumeManage { volume: VOLUME, pool: one(), name: "legacy".into(), size: gib(1) }],
            ),
        ),
        (
            "volume_unmanage",
            table(
                "volume_unmanage",
                "Gives a volume up: it goes on as `unmanaged-volume-<id>` and can be managed again. If it fails, the volume is what it was.",
                volume_unmanage::STEPS,
                &[VolumeUnmanage { volume: VOLUME, pool: Some(one()), size: gib(1) }],
            ),
        ),
        (
            "snapshot_manage",
            table(
                "snapshot_manage",
                "Takes a snapshot over that its volume's pool has already. If it fails, the object has its old name and the snapshot is in `error`.",
                snapshot_manage::STEPS,
                &[SnapshotManage {
                    volume: VOLUME,
                    snapshot: SNAPSHOT,
                    pool: one(),
                    name: "before".into(),
                    size: gib(1),
                }],
            ),
        ),
        (
            "snapshot_unmanage",
            table(
                "snapshot_unmanage",
                "Gives a snapshot up: it goes on as `unmanaged-snapshot-<id>` and can be managed again. If it fails, the snapshot is what it was.",
                snapshot_unmanage::STEPS,
                &[SnapshotUnmanage { volume: VOLUME, snapshot: SNAPSHOT, pool: one(), size: gib(1) }],
            ),
        ),
        (
            "object_clean",
            table(
                "object_clean",
                "Removes something from a backend that the ledger knows nothing of, at an operator's word. Once it is claimed, its removal is owed until it is done; if it cannot be claimed, it keeps its name.",
                object_clean::STEPS,
                &[
                    ObjectClean {
                        pool: one(),
                        name: "stray".into(),
                        object: BackendObject::TemporaryVolume { volume: VOLUME, operation: OPERATION },
                    },
                    ObjectClean { pool: one(), name: "stray".into(), object: safety },
                ],
            ),
        ),
        (
            "volume_extend_attached",
            table(
                "volume_extend_attached",
                "Grows a volume while servers use it. What an export does not show yet is a failure on record.",
                volume_extend_attached::STEPS,
                &[VolumeExtendAttached {
                    extend: VolumeExtend { volume: VOLUME, pool: one(), from: gib(1), to: gib(2) },
                    exports: vec![export()],
                }],
            ),
        ),
        (
            "attachment_connect",
            table(
                "attachment_connect",
                "Makes the export of an attachment. If it fails, the attachment is `error_attaching`.",
                attachment_connect::STEPS,
                &[AttachmentConnect { volume: VOLUME, pool: one(), export: export() }],
            ),
        ),
        (
            "attachment_disconnect",
            table(
                "attachment_disconnect",
                "Removes the export of an attachment. If it fails, the attachment is `error_detaching`.",
                attachment_disconnect::STEPS,
                &[AttachmentDisconnect { volume: VOLUME, pool: one(), attachment: ATTACHMENT, keep: false }],
            ),
        ),
        (
            "export_restore",
            table(
                "export_restore",
                "Makes an export again that its host has lost. No status changes.",
                export_restore::STEPS,
                &[ExportRestore { volume: VOLUME, pool: one(), export: export() }],
            ),
        ),
        (
            "volume_upload",
            table(
                "volume_upload",
                "Makes an image of a volume, which is only read. If it fails, no image is left, and the volume is used as its attachments say.",
                volume_upload::STEPS,
                &[VolumeUpload { volume: VOLUME, pool: one(), image: new_image() }],
            ),
        ),
        (
            "volume_copy",
            table(
                "volume_copy",
                "Makes a volume of what another pool holds, where none beside its source takes it. The source is read where it is; a copy that fails goes to the next backend, at most three in all.",
                volume_copy::STEPS,
                &[
                    copy(CopySource::Snapshot { volume: SOURCE, snapshot: SNAPSHOT }),
                    copy(CopySource::Volume(SOURCE)),
                ],
            ),
        ),
    ];
    let written: BTreeSet<&str> = documents.iter().map(|(name, _)| *name).collect();
    assert_eq!(written, OperationKind::NAMES.iter().copied().collect(), "every operation has its table");
    for (name, text) in documents {
        check_document(&format!("docs/operations/{name}.md"), &text);
    }
}

#[test]
fn every_rejection_has_its_page_and_every_page_its_rejection() {
    let codes: BTreeSet<String> =
        tephra_domain::rejection::Rejection::CODES.iter().map(|code| (*code).to_owned()).collect();
    let pages: BTreeSet<String> = std::fs::read_dir(repository().join("docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(pages, codes);
}
