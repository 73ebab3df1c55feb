//! Giving a volume up: the ledger forgets it, and its data stays on the backend.
//!
//! | step   | when                      | effect | undo  | if the undo fails |
//! |--------|---------------------------|--------|-------|-------------------|
//! | disown | it has a backend object   | Disown | Adopt | needs operator    |
//!
//! The object goes on as `unmanaged-volume-<id>`. Drivers of Cinder mostly leave the old name; a
//! name that is none of ours shows everybody, and every late order, that it is not the ledger's any
//! more. It is shown as unknown from then on and can be managed again.

use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::units::SizeGib;
use crate::volume::{DELETABLE, VolumeEvent};

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUnmanage {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is; nothing if no pool ever took it.
    pub pool: Option<PoolId>,
    /// Its size.
    pub size: SizeGib,
}

/// The steps.
pub const STEPS: &[Step<VolumeUnmanage>] = &[Step {
    name: "disown",
    when: "it has a backend object",
    count: |p| usize::from(p.pool.is_some()),
    effect: |p, _| {
        let object = BackendObject::Volume(p.volume);
        Effect::Disown { object, to: object.unmanaged_name() }
    },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| {
        let object = BackendObject::Volume(p.volume);
        Effect::Adopt { object, from: object.unmanaged_name(), size: Some(p.size) }
    }),
    if_undo_fails: IfUndoFails::NeedsOperator,
}];

/// Checks, in this order: administrator; the volume exists and is visible; its status; it has no
/// snapshots, and none of it is owed. These are the checks of deleting, and their messages.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, id: VolumeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:volume_unmanage")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    if !DELETABLE.contains(&volume.status.state()) {
        return Err(Rejection::VolumeNotDeletable { status: volume.status.wire_name() });
    }
    if volume.is_held() {
        return Err(Rejection::VolumeHasAttachments);
    }
    if !volume.snapshots.is_empty() || !ledger.owed_snapshots_of(id, volume.pool.as_ref()).is_empty() {
        return Err(Rejection::VolumeHasSnapshots);
    }
    let operation = OperationId::from(ctx.command);
    let params = VolumeUnmanage { volume: id, pool: volume.pool.clone(), size: volume.size };
    let mut events = vec![Event::Volume(id, VolumeEvent::UnmanageAccepted { operation })];
    events.extend(open(ledger, operation, &volume.project, OperationKind::VolumeUnmanage(params)));
    Ok(events)
}

impl Saga for VolumeUnmanage {
    const NAME: &'static str = "volume_unmanage";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        self.pool.as_ref()
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Exclusive)]
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        vec![Event::Volume(self.volume, VolumeEvent::Unmanaged)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Volume(self.volume, VolumeEvent::UnmanageFailed { operation: id, failure, restored })]
    }
}
