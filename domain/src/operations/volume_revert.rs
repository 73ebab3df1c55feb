//! Reverting a volume to its latest snapshot.
//!
//! | step             | when   | effect                          | undo                      | if the undo fails |
//! |------------------|--------|---------------------------------|---------------------------|-------------------|
//! | safety_snapshot  | always | CreateSnapshot(safety)          | DeleteSnapshot(safety)    | owe cleanup       |
//! | revert           | native | RevertToSnapshot(snapshot)      | RevertToSnapshot(safety)  | needs operator    |
//! | temporary_volume | copy   | CreateVolumeFromSnapshot(temp)  | DeleteVolume(temp)        | owe cleanup       |
//! | copy             | copy   | OverwriteVolume(temp)           | OverwriteVolume(safety)   | needs operator    |
//! | drop_temporary   | copy   | DeleteVolume(temp), else owe    | –                         |                   |
//! | drop_safety      | always | DeleteSnapshot(safety), else owe| –                         |                   |
//!
//! Volume and snapshot change in one commit. If the revert fails, the data comes back from the
//! safety snapshot and the volume is `available` with the failure on record. If even that fails,
//! the volume is in `error`, the safety snapshot is held as a debt, and
//! [`super::volume_recover`] puts its data back when an operator says so.

use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::snapshot::{SnapshotEvent, SnapshotState};
use crate::units::SizeGib;
use crate::volume::{VolumeEvent, VolumeState};

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRevert {
    /// This operation: its safety snapshot and temporary volume are named after it.
    pub operation: OperationId,
    /// The volume.
    pub volume: VolumeId,
    /// Its latest snapshot.
    pub snapshot: SnapshotId,
    /// Where both are.
    pub pool: PoolId,
    /// The size of both.
    pub size: SizeGib,
    /// Whether the backend does it by itself.
    pub native: bool,
}

impl VolumeRevert {
    const fn object(&self) -> BackendObject {
        BackendObject::Volume(self.volume)
    }

    const fn latest(&self) -> BackendObject {
        BackendObject::Snapshot { volume: self.volume, snapshot: self.snapshot }
    }

    const fn safety(&self) -> BackendObject {
        BackendObject::SafetySnapshot { volume: self.volume, operation: self.operation }
    }

    const fn temporary(&self) -> BackendObject {
        BackendObject::TemporaryVolume { volume: self.volume, operation: self.operation }
    }
}

/// The steps.
pub const STEPS: &[Step<VolumeRevert>] = &[
    Step {
        name: "safety_snapshot",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::CreateSnapshot { snapshot: p.safety() },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::DeleteSnapshot { snapshot: p.safety() }),
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "revert",
        when: "the backend reverts by itself",
        count: |p| usize::from(p.native),
        effect: |p, _| Effect::RevertToSnapshot { volume: p.object(), snapshot: p.latest() },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::RevertToSnapshot { volume: p.object(), snapshot: p.safety() }),
        if_undo_fails: IfUndoFails::NeedsOperator,
    },
    Step {
        name: "temporary_volume",
        when: "it does not",
        count: |p| usize::from(!p.native),
        effect: |p, _| Effect::CreateVolumeFromSnapshot {
            volume: p.temporary(),
            size: p.size,
            snapshot: p.latest(),
        },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::DeleteVolume { volume: p.temporary() }),
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "copy",
        when: "it does not",
        count: |p| usize::from(!p.native),
        effect: |p, _| Effect::OverwriteVolume { volume: p.object(), source: p.temporary() },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::OverwriteVolume { volume: p.object(), source: p.safety() }),
        if_undo_fails: IfUndoFails::NeedsOperator,
    },
    Step {
        name: "drop_temporary",
        when: "it does not",
        count: |p| usize::from(!p.native),
        effect: |p, _| Effect::DeleteVolume { volume: p.temporary() },
        if_it_fails: IfItFails::OweCleanup,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "drop_safety",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::DeleteSnapshot { snapshot: p.safety() },
        if_it_fails: IfItFails::OweCleanup,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
];

/// Checks, in this order: role; the volume exists and is visible; it has snapshots; the one named
/// is the latest; the sizes are equal (it was not extended since); the volume is available; the
/// snapshot is available; nobody has the volume attached.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(
    ledger: &Ledger,
    id: VolumeId,
    named: Option<SnapshotId>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:revert_to_snapshot")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    let latest = volume.snapshots.last().and_then(|latest| ledger.snapshots.get(latest));
    let Some(latest) = latest else {
        return Err(Rejection::VolumeHasNoSnapshots { volume: id });
    };
    if named != Some(latest.id) {
        return Err(Rejection::SnapshotNotLatest { volume: id, snapshot: named });
    }
    if volume.size != latest.size {
        return Err(Rejection::SnapshotSizeDiffers { volume: id, snapshot: latest.id });
    }
    let (VolumeState::Available, Some(pool)) = (volume.status.state(), &volume.pool) else {
        return Err(Rejection::VolumeNotRevertable { volume: id, snapshot: latest.id });
    };
    if latest.status.state() != SnapshotState::Available {
        return Err(Rejection::SnapshotNotRestorable { volume: id, snapshot: latest.id });
    }
    if volume.is_held() {
        return Err(Rejection::VolumeHasAttachments);
    }
    let operation = OperationId::from(ctx.command);
    let params = VolumeRevert {
        operation,
        volume: id,
        snapshot: latest.id,
        pool: pool.clone(),
        size: volume.size,
        native: ledger.reverts_natively(&pool.backend),
    };
    let mut events = vec![
        Event::Volume(id, VolumeEvent::RevertAccepted { operation, snapshot: latest.id }),
        Event::Snapshot(latest.id, SnapshotEvent::RestoreAccepted { operation }),
    ];
    events.extend(open(ledger, operation, &volume.project, OperationKind::VolumeRevert(params)));
    Ok(events)
}

impl Saga for VolumeRevert {
    const NAME: &'static str = "volume_revert";

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
        vec![
            Event::Volume(self.volume, VolumeEvent::Reverted),
            Event::Snapshot(self.snapshot, SnapshotEvent::RestoreEnded),
        ]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        let failure = if restored {
            failure.clone()
        } else {
            Failure::new(
                failure.kind,
                format!(
                    "{}; the data from before the revert is kept in {}: `tephra recover {}` puts it back",
                    failure.message,
                    self.safety(),
                    self.volume
                ),
            )
        };
        vec![
            Event::Volume(self.volume, VolumeEvent::RevertFailed { operation: id, failure, restored }),
            Event::Snapshot(self.snapshot, SnapshotEvent::RestoreEnded),
        ]
    }

    fn abandoned(&self) -> Vec<Event> {
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::RestoreEnded)]
    }
}
