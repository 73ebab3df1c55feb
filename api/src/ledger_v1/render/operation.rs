//! Operations, their parameters and their steps.

use serde_json::{Value, json};
use tephra_domain::effect::Effect;
use tephra_domain::ids::{BackendName, PoolId, SnapshotId};
use tephra_domain::operation::{Operation, Phase, PlannedStep, ResourceKey};
use tephra_domain::operations::volume_create::CreateSource;
use tephra_domain::operations::{OperationKind, VolumeCreate, VolumeDelete, VolumeRevert};
use tephra_domain::units::Timestamp;

use super::{failure, moment, object};

/// Everything that an operation's steps depend on.
pub fn parameters(kind: &OperationKind) -> Value {
    match kind {
        OperationKind::VolumeCreate(create) => volume_create(create),
        OperationKind::VolumeDelete(delete) => volume_delete(delete),
        OperationKind::VolumeExtend(extend) => json!({
            "volume_id": extend.volume.to_string(),
            "pool": extend.pool.to_string(),
            "size_gib": extend.from.gib(),
            "new_size_gib": extend.to.gib(),
        }),
        OperationKind::VolumeRevert(revert) => volume_revert(revert),
        OperationKind::VolumeRecover(recover) => json!({
            "volume_id": recover.volume.to_string(),
            "pool": recover.pool.to_string(),
            "debt_id": recover.debt.to_string(),
            "safety_snapshot": object(&recover.safety),
            "native": recover.native,
        }),
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
    }
}

fn volume_create(create: &VolumeCreate) -> Value {
    let source = match create.source {
        CreateSource::Blank => json!({ "kind": "blank" }),
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
        | Effect::CreateVolumeFromSnapshot { size, .. }
        | Effect::CloneVolume { size, .. }
        | Effect::Verify { size, .. } => Some(*size),
        Effect::ExtendVolume { to, .. } | Effect::ShrinkVolume { to, .. } => Some(*to),
        Effect::DeleteVolume { .. }
        | Effect::CreateSnapshot { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. } => None,
    };
    json!({
        "name": effect.name(),
        "target": object(&effect.target()),
        "source": effect.source().as_ref().map(object),
        "size_gib": size.map(|size| size.gib()),
    })
}

/// What has become of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Its turn has not come, or will not come any more.
    NotStarted,
    /// It is being done.
    Running,
    /// It is done.
    Completed,
    /// It is being undone.
    Undoing,
    /// It is undone, or had nothing to undo.
    Undone,
}

impl StepOutcome {
    /// The stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not_started",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    /// What has become of step `index` of `steps`, in an open operation that stands at `phase`.
    pub fn of(phase: Phase, index: usize, steps: &[PlannedStep]) -> Self {
        match phase {
            Phase::Forward { step } => match index.cmp(&usize::from(step)) {
                std::cmp::Ordering::Less => Self::Completed,
                std::cmp::Ordering::Equal => Self::Running,
                std::cmp::Ordering::Greater => Self::NotStarted,
            },
            Phase::Undo { below } => {
                let below = usize::from(below);
                let next = steps.iter().take(below).rposition(|step| step.undo.is_some());
                if next == Some(index) {
                    Self::Undoing
                } else if index < below && next.is_none_or(|next| index < next) {
                    Self::Completed
                } else {
                    Self::Undone
                }
            }
        }
    }
}

/// The planned steps of an open operation, with what has become of each.
pub fn steps(kind: &OperationKind, phase: Phase) -> Vec<Value> {
    let planned = kind.steps();
    planned
        .iter()
        .enumerate()
        .map(|(index, step)| {
            json!({
                "step": index,
                "name": step.name,
                "outcome": StepOutcome::of(phase, index, &planned).as_str(),
                "effect": effect(&step.effect),
                "undo": step.undo.as_ref().map(effect),
            })
        })
        .collect()
}

/// The resources that an operation takes turns on.
pub fn resources(kind: &OperationKind) -> Vec<Value> {
    kind.uses()
        .into_iter()
        .map(|(key, access)| {
            let (kind, id) = match key {
                ResourceKey::Volume(id) => ("volume", id.to_string()),
                ResourceKey::Snapshot(id) => ("snapshot", id.to_string()),
            };
            let access = match access {
                tephra_domain::operation::Access::Shared => "shared",
                tephra_domain::operation::Access::Exclusive => "exclusive",
            };
            json!({ "kind": kind, "id": id, "access": access })
        })
        .collect()
}

/// An open operation. `waits_for` is the earlier operation whose turn it is on one of its resources.
pub fn open(operation: &Operation, waits_for: Option<tephra_domain::ids::OperationId>) -> Value {
    let phase = match operation.phase {
        Phase::Forward { .. } => "forward",
        Phase::Undo { .. } => "undo",
    };
    json!({
        "id": operation.id.to_string(),
        "operation": operation.kind.name(),
        "project": operation.project.as_str(),
        "status": "open",
        "phase": phase,
        "opened_at": moment(operation.opened_at),
        "opened_position": operation.opened.0,
        "parameters": parameters(&operation.kind),
        "resources": resources(&operation.kind),
        "steps": steps(&operation.kind, operation.phase),
        "attempt": operation.attempt,
        "tries": operation.tries,
        "not_before": (operation.not_before > Timestamp::default()).then(|| moment(operation.not_before)),
        "failure": operation.failure.as_ref().map(failure),
        "waits_for": waits_for.map(|id| id.to_string()),
        "debts": operation.debts,
    })
}
