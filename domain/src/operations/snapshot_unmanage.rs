//! Giving a snapshot up: the ledger forgets it, and it stays on the backend.
//!
//! | step   | effect | undo  | if the undo fails |
//! |--------|--------|-------|-------------------|
//! | disown | Disown | Adopt | needs operator    |
//!
//! It goes on as `unmanaged-snapshot-<id>`; see [`super::volume_unmanage`].

use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::snapshot::{DELETABLE, SnapshotEvent};
use crate::units::SizeGib;

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotUnmanage {
    /// Its volume.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Where it is.
    pub pool: PoolId,
    /// Its size.
    pub size: SizeGib,
}

impl SnapshotUnmanage {
    const fn object(&self) -> BackendObject {
        BackendObject::Snapshot { volume: self.volume, snapshot: self.snapshot }
    }
}

/// The steps.
pub const STEPS: &[Step<SnapshotUnmanage>] = &[Step {
    name: "disown",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::Disown { object: p.object(), to: p.object().unmanaged_name() },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::Adopt {
        object: p.object(),
        from: p.object().unmanaged_name(),
        size: Some(p.size),
    }),
    if_undo_fails: IfUndoFails::NeedsOperator,
}];

/// Checks, in this order: administrator; the snapshot exists and is visible; its status.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, id: SnapshotId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("snapshot_extension:snapshot_unmanage")?;
    let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
    if !DELETABLE.contains(&snapshot.status.state()) {
        return Err(Rejection::SnapshotNotDeletable);
    }
    let operation = OperationId::from(ctx.command);
    let params = SnapshotUnmanage {
        volume: snapshot.volume,
        snapshot: id,
        pool: snapshot.pool.clone(),
        size: snapshot.size,
    };
    let mut events = vec![Event::Snapshot(id, SnapshotEvent::UnmanageAccepted { operation })];
    events.extend(open(ledger, operation, &snapshot.project, OperationKind::SnapshotUnmanage(params)));
    Ok(events)
}

impl Saga for SnapshotUnmanage {
    const NAME: &'static str = "snapshot_unmanage";

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
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::Unmanaged)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        let event = SnapshotEvent::UnmanageFailed { operation: id, failure, restored };
        vec![Event::Snapshot(self.snapshot, event)]
    }
}
