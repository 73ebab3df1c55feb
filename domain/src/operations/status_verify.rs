//! An operator's `reset-state`: the status changes only as far as it is true.
//!
//! | step   | effect | undo | if it fails             |
//! |--------|--------|------|-------------------------|
//! | verify | Verify | –    | error, with the reason  |
//!
//! Cinder writes any status unconditionally, which can corrupt the truth. Here an error status or
//! `maintenance` is set at once; `available` only after the backend has shown the object with its
//! size, and then the volume is used as its attachments say (`in-use` and the like cannot be set by
//! hand); a transitional status never, because those belong to operations. An operation that is open
//! on the resource is ended, and what it may have left behind is owed.
//!
//! A volume that was to be filled from a snapshot, a volume or an image, and whose creation never
//! completed, cannot become `available`: its size says nothing of how much of the data it holds.

use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, abandon, plan};
use crate::rejection::Rejection;
use crate::snapshot::{self, SnapshotEvent, SnapshotState};
use crate::units::SizeGib;
use crate::volume::{self, VolumeEvent, VolumeState};

use super::volume_extend_attached::used_again;
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusVerify {
    /// A volume or a snapshot.
    pub object: BackendObject,
    /// Where it is.
    pub pool: PoolId,
    /// The size that it should have.
    pub size: SizeGib,
}

/// The steps.
pub const STEPS: &[Step<StatusVerify>] = &[Step {
    name: "verify",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::Verify { object: p.object, size: p.size },
    if_it_fails: IfItFails::Undo,
    undo: None,
    if_undo_fails: IfUndoFails::OweCleanup,
}];

/// Checks, in this order: administrator; the status may be set by hand; the volume exists; for
/// `available`, a pool has it; and it is not one that was never filled.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide_volume(
    ledger: &Ledger,
    id: VolumeId,
    to: VolumeState,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:volume_admin_actions:reset_status")?;
    if to != VolumeState::Available && !volume::RESETTABLE.contains(&to) {
        return Err(Rejection::StatusNotResettable { status: to.as_str() });
    }
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    let mut events = match volume.status.operation() {
        Some(open) => ledger.operations.get(&open).map_or_else(Vec::new, |open| abandon(ledger, open, true)),
        None => Vec::new(),
    };
    if volume.status.state() == VolumeState::Deleting {
        let project = volume.snapshots.iter().filter_map(|id| ledger.snapshots.get(id));
        for snapshot in project.filter(|s| s.status.operation() == volume.status.operation()) {
            events.push(Event::Snapshot(
                snapshot.id,
                SnapshotEvent::StatusReset { to: SnapshotState::ErrorDeleting },
            ));
        }
    }
    if to != VolumeState::Available {
        events.push(Event::Volume(id, VolumeEvent::StatusReset { to }));
        return Ok(events);
    }
    let Some(pool) = &volume.pool else {
        return Err(Rejection::NothingToVerify { volume: id });
    };
    if !volume.has_its_data() {
        return Err(Rejection::VolumeNeverFilled { volume: id });
    }
    let operation = OperationId::from(ctx.command);
    // a half-done operation may have left either size; the verification takes the recorded one
    events.push(Event::Volume(id, VolumeEvent::ResetAccepted { operation }));
    let params = StatusVerify { object: BackendObject::Volume(id), pool: pool.clone(), size: volume.size };
    events.extend(open(ledger, operation, &volume.project, OperationKind::StatusVerify(params)));
    Ok(events)
}

/// Checks, in this order: administrator; the status may be set by hand; the snapshot exists; its
/// volume is not being reverted to it.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide_snapshot(
    ledger: &Ledger,
    id: SnapshotId,
    to: SnapshotState,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:snapshot_admin_actions:reset_status")?;
    if to != SnapshotState::Available && !snapshot::RESETTABLE.contains(&to) {
        return Err(Rejection::StatusNotResettable { status: to.as_str() });
    }
    let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
    let held_by_volume = ledger.volumes.get(&snapshot.volume).is_some_and(|volume| {
        volume.status.operation().is_some() && volume.status.operation() == snapshot.status.operation()
    });
    if held_by_volume {
        return Err(Rejection::SnapshotHeldByVolume { snapshot: id });
    }
    let mut events = match snapshot.status.operation() {
        Some(open) => ledger.operations.get(&open).map_or_else(Vec::new, |open| abandon(ledger, open, true)),
        None => Vec::new(),
    };
    if to != SnapshotState::Available {
        events.push(Event::Snapshot(id, SnapshotEvent::StatusReset { to }));
        return Ok(events);
    }
    let operation = OperationId::from(ctx.command);
    events.push(Event::Snapshot(id, SnapshotEvent::ResetAccepted { operation }));
    let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: id };
    let params = StatusVerify { object, pool: snapshot.pool.clone(), size: snapshot.size };
    events.extend(open(ledger, operation, &snapshot.project, OperationKind::StatusVerify(params)));
    Ok(events)
}

impl Saga for StatusVerify {
    const NAME: &'static str = "status_verify";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        let mut uses = vec![(ResourceKey::Volume(self.object.volume()), Access::Exclusive)];
        if let BackendObject::Snapshot { snapshot, .. } = self.object {
            uses.push((ResourceKey::Snapshot(snapshot), Access::Exclusive));
        }
        uses
    }

    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        match self.object {
            BackendObject::Snapshot { snapshot, .. } => {
                vec![Event::Snapshot(snapshot, SnapshotEvent::StatusReset { to: SnapshotState::Available })]
            }
            BackendObject::Volume(volume)
            | BackendObject::SafetySnapshot { volume, .. }
            | BackendObject::TemporaryVolume { volume, .. } => {
                let reset = VolumeEvent::StatusReset { to: VolumeState::Available };
                let used = used_again(ledger, volume);
                std::iter::once(Event::Volume(volume, reset)).chain(used).collect()
            }
        }
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        match self.object {
            BackendObject::Snapshot { snapshot, .. } => {
                vec![Event::Snapshot(snapshot, SnapshotEvent::ResetFailed { operation: id, failure })]
            }
            BackendObject::Volume(volume)
            | BackendObject::SafetySnapshot { volume, .. }
            | BackendObject::TemporaryVolume { volume, .. } => {
                vec![Event::Volume(volume, VolumeEvent::ResetFailed { operation: id, failure })]
            }
        }
    }
}
