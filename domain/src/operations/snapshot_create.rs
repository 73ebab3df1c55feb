//! Taking a snapshot of a volume.
//!
//! | step   | effect         | undo           | if the undo fails |
//! |--------|----------------|----------------|-------------------|
//! | create | CreateSnapshot | DeleteSnapshot | leave to owner    |
//!
//! A failure leaves the snapshot in `error` with its reason and nothing on the backend.

use crate::command::{Context, CreateSnapshot};
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::quota::{QuotaResource, UsageCount};
use crate::rejection::Rejection;
use crate::snapshot::{SnapshotCreateAccepted, SnapshotEvent};
use crate::volume::VolumeState;

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCreate {
    /// The volume.
    pub volume: VolumeId,
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// Where both are.
    pub pool: PoolId,
}

impl SnapshotCreate {
    const fn object(&self) -> BackendObject {
        BackendObject::Snapshot { volume: self.volume, snapshot: self.snapshot }
    }
}

/// The steps.
pub const STEPS: &[Step<SnapshotCreate>] = &[Step {
    name: "create",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::CreateSnapshot { snapshot: p.object() },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::DeleteSnapshot { snapshot: p.object() }),
    if_undo_fails: IfUndoFails::LeaveToOwner,
}];

/// Checks, in this order: role; id not taken; the volume exists and is visible; its backend is not
/// frozen; it is available, or in use with `force` (the snapshot is then what a power failure would
/// leave); quota (number, gigabytes, each also by type).
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &CreateSnapshot, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:create_snapshot")?;
    if ledger.snapshots.contains_key(&command.snapshot) {
        return Err(Rejection::SnapshotExists { snapshot: command.snapshot });
    }
    let volume = ledger.visible_volume(command.volume, &ctx.actor)?;
    ledger.require_not_frozen(volume.pool.as_ref())?;
    let state = volume.status.state();
    let is_free = state == VolumeState::Available || (command.force && state == VolumeState::InUse);
    let Some(pool) = volume.pool.as_ref().filter(|_| is_free) else {
        return Err(Rejection::VolumeNotSnapshottable {
            volume: volume.id,
            status: volume.status.wire_name(),
            force: command.force,
        });
    };
    ledger.check_quota(
        &volume.project,
        volume.volume_type,
        UsageCount { volumes: 0, snapshots: 1, gigabytes: i64::from(volume.size.gib()) },
        None,
        QuotaResource::Snapshots,
    )?;
    let operation = OperationId::from(ctx.command);
    let accepted = SnapshotCreateAccepted {
        operation,
        volume: volume.id,
        project: volume.project.clone(),
        user: ctx.actor.user.clone(),
        name: command.name.clone(),
        description: command.description.clone(),
        size: volume.size,
        volume_type: volume.volume_type,
        pool: pool.clone(),
        metadata: command.metadata.clone(),
    };
    let params = SnapshotCreate { volume: volume.id, snapshot: command.snapshot, pool: pool.clone() };
    let mut events =
        vec![Event::Snapshot(command.snapshot, SnapshotEvent::CreateAccepted(Box::new(accepted)))];
    events.extend(open(ledger, operation, &volume.project, OperationKind::SnapshotCreate(params)));
    Ok(events)
}

impl Saga for SnapshotCreate {
    const NAME: &'static str = "snapshot_create";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![
            (ResourceKey::Volume(self.volume), Access::Exclusive),
            (ResourceKey::Snapshot(self.snapshot), Access::Exclusive),
        ]
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::Created)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::CreateFailed { operation: id, failure })]
    }
}
