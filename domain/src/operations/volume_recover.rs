//! Putting the data of a held safety snapshot back, after a revert that could not be undone.
//!
//! | step        | when   | effect                             | undo | if it fails             |
//! |-------------|--------|------------------------------------|------|-------------------------|
//! | restore     | native | RevertToSnapshot(safety)           | –    | error, safety still held|
//! | copy        | copy   | OverwriteVolume(safety)            | –    | error, safety still held|
//!
//! The safety snapshot then is an ordinary cleanup debt and goes by itself.

use crate::command::Context;
use crate::debt::DebtEvent;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{DebtId, OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::volume::{VolumeEvent, VolumeState};

use super::volume_extend_attached::used_again;
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecover {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// The debt that holds the safety snapshot.
    pub debt: DebtId,
    /// The safety snapshot.
    pub safety: BackendObject,
    /// Whether the backend reverts by itself.
    pub native: bool,
}

/// The steps.
pub const STEPS: &[Step<VolumeRecover>] = &[
    Step {
        name: "restore",
        when: "the backend reverts by itself",
        count: |p| usize::from(p.native),
        effect: |p, _| Effect::RevertToSnapshot {
            volume: BackendObject::Volume(p.volume),
            snapshot: p.safety,
        },
        if_it_fails: IfItFails::Undo,
        undo: None,
        if_undo_fails: IfUndoFails::NeedsOperator,
    },
    Step {
        name: "copy",
        when: "it does not",
        count: |p| usize::from(!p.native),
        effect: |p, _| Effect::OverwriteVolume { volume: BackendObject::Volume(p.volume), source: p.safety },
        if_it_fails: IfItFails::Undo,
        undo: None,
        if_undo_fails: IfUndoFails::NeedsOperator,
    },
];

/// Checks, in this order: administrator; the volume exists; it is in `error`; a safety snapshot of
/// it is held; nobody has it attached.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, id: VolumeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:volume_admin_actions:reset_status")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    let held = ledger.held_safety_snapshot_of(id);
    let (VolumeState::Error, Some(pool), Some((debt, safety))) = (volume.status.state(), &volume.pool, held)
    else {
        return Err(Rejection::VolumeNotRecoverable { volume: id });
    };
    if volume.is_held() {
        return Err(Rejection::VolumeHasAttachments);
    }
    let operation = OperationId::from(ctx.command);
    let params = VolumeRecover {
        volume: id,
        pool: pool.clone(),
        debt,
        safety,
        native: ledger.reverts_natively(&pool.backend),
    };
    let snapshot = SnapshotId::from_uuid(debt.operation.as_uuid());
    let mut events = vec![Event::Volume(id, VolumeEvent::RevertAccepted { operation, snapshot })];
    events.extend(open(ledger, operation, &volume.project, OperationKind::VolumeRecover(params)));
    Ok(events)
}

impl Saga for VolumeRecover {
    const NAME: &'static str = "volume_recover";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Exclusive)]
    }

    /// The safety snapshot has done its service: its debt is released and gets paid by itself.
    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        let mut events = vec![Event::Volume(self.volume, VolumeEvent::Reverted)];
        events.extend(used_again(ledger, self.volume));
        // an operator may have released it meanwhile
        if ledger.debts.get(&self.debt).is_some_and(|debt| debt.held) {
            events.push(Event::Debt(self.debt, DebtEvent::Released));
        }
        events
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Volume(
            self.volume,
            VolumeEvent::RevertFailed { operation: id, failure, restored: false },
        )]
    }
}
