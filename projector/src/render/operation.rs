//! Operations, their parameters and their steps.

use crate::operations::OperationRecord;
use serde_json::{Value, json};
use tephra_domain::effect::{BackendObject, Direction, Effect, EffectKey, Export};
use tephra_domain::ids::{BackendName, OperationId, PoolId, SnapshotId};
use tephra_domain::operation::{Access, Operation, ResourceKey};
use tephra_domain::operations::volume_copy::CopySource;
use tephra_domain::operations::volume_create::CreateSource;
use tephra_domain::operations::{
    OperationKind, VolumeCopy, VolumeCreate, VolumeDelete, VolumeExtendAttached, VolumeRecover, VolumeRevert,
    VolumeUpload,
};
use tephra_domain::units::Timestamp;
use tephra_journal::progress_board::Progress;

use super::event::operation_end;
use super::{failure, moment, object};

/// Everything that an operation's steps depend on.
pub fn parameters(kind: &OperationKind) -> Value {
    match kind {
        OperationKind::VolumeCreate(create) => volume_create(create),
        OperationKind::VolumeCopy(copy) => volume_copy(copy),
        OperationKind::VolumeDelete(delete) => volume_delete(delete),
        OperationKind::VolumeExtend(extend) => json!({
            "volume_id": extend.volume.to_string(),
            "pool": extend.pool.to_string(),
            "size_gib": extend.from.gib(),
            "new_size_gib": extend.to.gib(),
        }),
        OperationKind::VolumeRevert(revert) => volume_revert(revert),
        OperationKind::VolumeRecover(recover) => volume_recover(recover),
        OperationKind::SnapshotCreate(create) => json!({
            "volume_id": create.volume.to_string(),
            "snapshot_id": create.snapshot.to_string(),
            "pool": create.pool.to_string(),
        }),
        OperationKind::SnapshotDelete(delete) => json!({
            "volume_id": delete.volume.to_string(),
            "snapshot_id": delete.snapshot.to_string(),
            "pool": delete.pool.to_string(),
        }),
        OperationKind::StatusVerify(verify) => json!({
            "object": object(&verify.object),
            "pool": verify.pool.to_string(),
            "size_gib": verify.size.gib(),
        }),
        OperationKind::VolumeManage(manage) => json!({
            "volume_id": manage.volume.to_string(),
            "pool": manage.pool.to_string(),
            "source_name": manage.name,
            "size_gib": manage.size.gib(),
        }),
        OperationKind::VolumeUnmanage(unmanage) => json!({
            "volume_id": unmanage.volume.to_string(),
            "pool": unmanage.pool.as_ref().map(ToString::to_string),
            "size_gib": unmanage.size.gib(),
        }),
        OperationKind::SnapshotManage(manage) => json!({
            "volume_id": manage.volume.to_string(),
            "snapshot_id": manage.snapshot.to_string(),
            "pool": manage.pool.to_string(),
            "source_name": manage.name,
            "size_gib": manage.size.gib(),
        }),
        OperationKind::SnapshotUnmanage(unmanage) => json!({
            "volume_id": unmanage.volume.to_string(),
            "snapshot_id": unmanage.snapshot.to_string(),
            "pool": unmanage.pool.to_string(),
            "size_gib": unmanage.size.gib(),
        }),
        OperationKind::ObjectClean(clean) => json!({
            "pool": clean.pool.to_string(),
            "source_name": clean.name,
            "object": object(&clean.object),
        }),
        OperationKind::VolumeExtendAttached(extend) => volume_extend_attached(extend),
        OperationKind::AttachmentConnect(connect) => json!({
            "volume_id": connect.volume.to_string(),
            "pool": connect.pool.to_string(),
            "export": export(&connect.export),
        }),
        OperationKind::AttachmentDisconnect(disconnect) => json!({
            "volume_id": disconnect.volume.to_string(),
            "pool": disconnect.pool.to_string(),
            "attachment_id": disconnect.attachment.to_string(),
            "keep": disconnect.keep,
        }),
        OperationKind::ExportRestore(restore) => json!({
            "volume_id": restore.volume.to_string(),
            "pool": restore.pool.to_string(),
            "export": export(&restore.export),
        }),
        OperationKind::VolumeUpload(upload) => volume_upload(upload),
    }
}

fn export(export: &Export) -> Value {
    json!({
        "attachment_id": export.attachment.to_string(),
        "initiator": export.initiator,
        "address": export.address,
        "mode": export.mode.as_str(),
    })
}

fn volume_upload(VolumeUpload { volume, pool, image }: &VolumeUpload) -> Value {
    json!({
        "volume_id": volume.to_string(),
        "pool": pool.to_string(),
        "image_id": image.id.to_string(),
        "image_name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "visibility": image.visibility,
        "protected": image.protected,
    })
}

fn volume_extend_attached(VolumeExtendAttached { extend, exports }: &VolumeExtendAttached) -> Value {
    json!({
        "volume_id": extend.volume.to_string(),
        "pool": extend.pool.to_string(),
        "size_gib": extend.from.gib(),
        "new_size_gib": extend.to.gib(),
        "exports": exports.iter().map(export).collect::<Vec<_>>(),
    })
}

fn volume_create(create: &VolumeCreate) -> Value {
    let source = match create.source {
        CreateSource::Blank => json!({ "kind": "blank" }),
        CreateSource::Image(image) => json!({ "kind": "image", "image_id": image.to_string() }),
        CreateSource::Snapshot { volume, snapshot } => json!({
            "kind": "snapshot",
            "volume_id": volume.to_string(),
            "snapshot_id": snapshot.to_string(),
        }),
        CreateSource::Volume(volume) => json!({ "kind": "volume", "volume_id": volume.to_string() }),
    };
    json!({
        "volume_id": create.volume.to_string(),
        "size_gib": create.size.gib(),
        "source": source,
        "pool": create.pool.to_string(),
        "alternatives": create.alternatives.iter().map(PoolId::to_string).collect::<Vec<_>>(),
        "failed_backends": create.failed_backends.iter().map(BackendName::as_str).collect::<Vec<_>>(),
    })
}

fn volume_recover(recover: &VolumeRecover) -> Value {
    json!({
        "volume_id": recover.volume.to_string(),
        "pool": recover.pool.to_string(),
        "debt_id": recover.debt.to_string(),
        "safety_snapshot": object(&recover.safety),
        "native": recover.native,
    })
}

fn volume_copy(copy: &VolumeCopy) -> Value {
    let source = match copy.source {
        CopySource::Snapshot { volume, snapshot } => json!({
            "kind": "snapshot",
            "volume_id": volume.to_string(),
            "snapshot_id": snapshot.to_string(),
        }),
        CopySource::Volume(volume) => json!({ "kind": "volume", "volume_id": volume.to_string() }),
    };
    json!({
        "volume_id": copy.volume.to_string(),
        "size_gib": copy.size.gib(),
        "source": source,
        "source_pool": copy.from.to_string(),
        "pool": copy.pool.to_string(),
        "alternatives": copy.alternatives.iter().map(PoolId::to_string).collect::<Vec<_>>(),
        "failed_backends": copy.failed_backends.iter().map(BackendName::as_str).collect::<Vec<_>>(),
    })
}

fn volume_delete(delete: &VolumeDelete) -> Value {
    let kept = delete.kept.iter();
    json!({
        "volume_id": delete.volume.to_string(),
        "pool": delete.pool.as_ref().map(ToString::to_string),
        "snapshot_ids": delete.snapshots.iter().map(SnapshotId::to_string).collect::<Vec<_>>(),
        "kept": kept
            .map(|(debt, left)| json!({ "debt_id": debt.to_string(), "object": object(left) }))
            .collect::<Vec<_>>(),
    })
}

fn volume_revert(revert: &VolumeRevert) -> Value {
    json!({
        "volume_id": revert.volume.to_string(),
        "snapshot_id": revert.snapshot.to_string(),
        "pool": revert.pool.to_string(),
        "size_gib": revert.size.gib(),
        "native": revert.native,
    })
}

/// What an executor is asked to bring about.
pub fn effect(effect: &Effect) -> Value {
    let size = match effect {
        Effect::CreateVolume { size, .. }
        | Effect::CreateVolumeFromImage { size, .. }
        | Effect::CreateVolumeFromSnapshot { size, .. }
        | Effect::CloneVolume { size, .. }
        | Effect::CopyVolume { size, .. }
        | Effect::Verify { size, .. } => Some(*size),
        Effect::Adopt { size, .. } => *size,
        Effect::ExtendVolume { to, .. } | Effect::ShrinkVolume { to, .. } => Some(*to),
        Effect::DeleteVolume { .. }
        | Effect::CreateSnapshot { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. }
        | Effect::Disown { .. }
        | Effect::ExportVolume { .. }
        | Effect::UnexportVolume { .. }
        | Effect::UploadImage { .. }
        | Effect::RemoveImage { .. } => None,
    };
    json!({
        "name": effect.name(),
        "target": object(&effect.target()),
        "source": effect.source().as_ref().map(object),
        "outside_name": effect.outside_name(),
        "size_gib": size.map(|size| size.gib()),
    })
}

/// An operation as it went, or goes. `kind` is what it does, where that is known; `open` is what
/// the engine knows of it while it is open.
pub fn record(record: &OperationRecord, kind: Option<&OperationKind>, open: Option<Open<'_>>) -> Value {
    let mut shown = json!({
        "id": record.id.to_string(),
        "operation": record.kind,
        "project": record.project.as_str(),
        "status": record.end.map_or("open", operation_end),
        "opened_at": moment(record.opened_at),
        "opened_position": record.opened.0,
        "closed_at": record.closed_at.map(moment),
        "failure": record.failure.as_ref().map(failure),
        "resources": resources(record, kind),
        "steps": steps(record, kind),
        "reschedules": record.reschedules,
        "parameters": kind.map(parameters),
    });
    if let (Value::Object(shown), Some(open)) = (&mut shown, open) {
        let waits_for = open.waits_for.map(|id| Value::from(id.to_string()));
        shown.insert("waits_for".to_owned(), waits_for.unwrap_or_default());
        let backend =
            open.waits_for_backend.map(|(pool, why)| json!({ "pool": pool.to_string(), "why": why }));
        shown.insert("waits_for_backend".to_owned(), backend.unwrap_or_default());
        shown.insert("due".to_owned(), due(open.operation));
        if let Some(said) = open.progress {
            shown.insert("progress".to_owned(), progress(&said));
        }
    }
    shown
}

/// How far an operation's work has come.
pub fn progress(progress: &Progress) -> Value {
    json!({
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "percent": progress.percent(),
    })
}

/// The same for whoever does not look at the operation: with whose it is, and what it makes.
pub fn live_progress(operation: &Operation, target: &BackendObject, said: &Progress) -> Value {
    json!({
        "operation_id": operation.id.to_string(),
        "operation": operation.kind.name(),
        "project": operation.project.as_str(),
        "resource": { "kind": "volume", "id": target.volume().to_string() },
        "progress": progress(said),
    })
}

/// What the engine knows of an open operation.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    /// Its row.
    pub operation: &'a Operation,
    /// The earlier operation whose turn it is on one of its resources.
    pub waits_for: Option<OperationId>,
    /// The pool whose executor or backend is not there, and what is known of that: the operation
    /// goes on when it is back.
    pub waits_for_backend: Option<(&'a PoolId, &'static str)>,
    /// How far the attempt that is due has come, if its executor says so.
    pub progress: Option<Progress>,
}

/// The attempt that an open operation waits for.
fn due(operation: &Operation) -> Value {
    let Some(due) = operation.due() else { return Value::Null };
    let (direction, step) = match due.key {
        EffectKey::Step { direction, step, .. } => (direction, step),
        EffectKey::Debt { .. } => return Value::Null,
    };
    json!({
        "step": step,
        "direction": match direction {
            Direction::Forward => "do",
            Direction::Undo => "undo",
        },
        "attempt": operation.attempt,
        "effect": effect(&due.effect),
        "pool": due.pool.to_string(),
        "not_before": (due.not_before > Timestamp::default()).then(|| moment(due.not_before)),
    })
}

/// The resources that an operation takes turns on; of one whose parameters are not at hand, those
/// that it changes.
fn resources(record: &OperationRecord, kind: Option<&OperationKind>) -> Vec<Value> {
    let uses = kind.map_or_else(
        || record.changes.iter().map(|key| (*key, Access::Exclusive)).collect(),
        OperationKind::uses,
    );
    uses.into_iter()
        .map(|(key, access)| {
            let (kind, id) = match key {
                ResourceKey::Volume(id) => ("volume", id.to_string()),
                ResourceKey::Snapshot(id) => ("snapshot", id.to_string()),
            };
            let access = match access {
                Access::Shared => "reads",
                Access::Exclusive => "changes",
            };
            json!({ "kind": kind, "id": id, "access": access })
        })
        .collect()
}

fn steps(record: &OperationRecord, kind: Option<&OperationKind>) -> Vec<Value> {
    let planned = kind.map(OperationKind::steps).unwrap_or_default();
    record
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let plan = planned.get(index);
            json!({
                "step": index,
                "name": step.name,
                "outcome": step.outcome.as_str(),
                "failed_attempts": step.failed_attempts,
                "failure": step.failure.as_ref().map(failure),
                "at": step.at.map(moment),
                "effect": plan.map(|plan| effect(&plan.effect)),
                "undo": plan.and_then(|plan| plan.undo.as_ref()).map(effect),
            })
        })
        .collect()
}
