//! Deleting a snapshot.
//!
//! | step   | effect         | undo | if it fails                                        |
//! |--------|----------------|------|----------------------------------------------------|
//! | delete | DeleteSnapshot | –    | error_deleting; available if it was only in use    |

use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, abandon, plan};
use crate::rejection::Rejection;
use crate::snapshot::{DELETABLE, SnapshotEvent, SnapshotState};

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDelete {
    /// Its volume.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Where it is.
    pub pool: PoolId,
}

/// The steps.
pub const STEPS: &[Step<SnapshotDelete>] = &[Step {
    name: "delete",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::DeleteSnapshot {
        snapshot: BackendObject::Snapshot { volume: p.volume, snapshot: p.snapshot },
    },
    if_it_fails: IfItFails::Undo,
    undo: None,
    if_undo_fails: IfUndoFails::OweCleanup,
}];

/// Checks, in this order: role (administrator for `force`); the snapshot exists and is visible;
/// its backend is not frozen; its status (not with `force`, except that its volume must not be reverting to it). Forcing a
/// snapshot that is being deleted already changes nothing.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, id: SnapshotId, force: bool, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    if force {
        ctx.actor.require_admin("volume_extension:snapshot_admin_actions:force_delete")?;
    } else {
        ctx.actor.require_member("volume:delete_snapshot")?;
    }
    let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
    ledger.require_not_frozen(Some(&snapshot.pool))?;
    let state = snapshot.status.state();
    if force && state == SnapshotState::Deleting {
        return Ok(Vec::new());
    }
    let may = if force { state != SnapshotState::Restoring } else { DELETABLE.contains(&state) };
    if !may {
        return Err(Rejection::SnapshotNotDeletable);
    }
    let mut events = match snapshot.status.operation() {
        Some(open) => ledger.operations.get(&open).map_or_else(Vec::new, |open| abandon(ledger, open, false)),
        None => Vec::new(),
    };
    let operation = OperationId::from(ctx.command);
    events.push(Event::Snapshot(id, SnapshotEvent::DeleteAccepted { operation }));
    let params = SnapshotDelete { volume: snapshot.volume, snapshot: id, pool: snapshot.pool.clone() };
    events.extend(open(ledger, operation, &snapshot.project, OperationKind::SnapshotDelete(params)));
    Ok(events)
}

impl Saga for SnapshotDelete {
    const NAME: &'static str = "snapshot_delete";

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
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::Deleted)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::DeleteFailed { operation: id, failure })]
    }
}
