//! Growing a volume.
//!
//! | step   | effect       | undo         | if the undo fails |
//! |--------|--------------|--------------|-------------------|
//! | extend | ExtendVolume | ShrinkVolume | needs operator    |
//!
//! The new size counts against the quota from the moment of acceptance. A failure gives the old
//! size back and the volume is `available` with the failure on record; only if the backend cannot
//! say so for certain is it `error_extending`, as always in Cinder.

use crate::attachment::{Attachment, AttachmentState};
use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::quota::{QuotaResource, UsageCount};
use crate::rejection::Rejection;
use crate::units::SizeGib;
use crate::volume::{VolumeEvent, VolumeState};

use super::volume_extend_attached::used_again;
use super::{OperationKind, Saga, VolumeExtendAttached, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeExtend {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// Its size before.
    pub from: SizeGib,
    /// Its size afterwards.
    pub to: SizeGib,
}

/// The steps.
pub const STEPS: &[Step<VolumeExtend>] = &[Step {
    name: "extend",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::ExtendVolume { volume: BackendObject::Volume(p.volume), to: p.to },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::ShrinkVolume { volume: BackendObject::Volume(p.volume), to: p.from }),
    if_undo_fails: IfUndoFails::NeedsOperator,
}];

/// Checks, in this order: role; the volume exists and is visible; the new size is larger; the
/// volume is available, or in use with `online` while no export is being made or removed; quota (largest volume, gigabytes, also by type).
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(
    ledger: &Ledger,
    id: VolumeId,
    to: SizeGib,
    online: bool,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:extend")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    if to <= volume.size {
        return Err(Rejection::ExtendNotLarger { size: volume.size, new_size: to });
    }
    let state = volume.status.state();
    let is_free = state == VolumeState::Available || (online && state == VolumeState::InUse);
    let Some(pool) = volume.pool.as_ref().filter(|_| is_free) else {
        return Err(Rejection::VolumeNotExtendable { volume: id, status: volume.status.wire_name() });
    };
    // an export that is on its way out when this begins must not be made again at the end of it
    let mut attachments = volume.attachments.iter().map(|attachment| attachment.status.state());
    if let Some(busy) = attachments.find(|state| state.is_transitional()) {
        return Err(Rejection::VolumeNotExtendable { volume: id, status: busy.wire_name() });
    }
    let grows_by = i64::from(to.gib()) - i64::from(volume.size.gib());
    ledger.check_quota(
        &volume.project,
        volume.volume_type,
        UsageCount { volumes: 0, snapshots: 0, gigabytes: grows_by },
        Some(to),
        QuotaResource::Gigabytes,
    )?;
    let operation = OperationId::from(ctx.command);
    let params = VolumeExtend { volume: id, pool: pool.clone(), from: volume.size, to };
    let kind = if state == VolumeState::InUse {
        let is_there = |attachment: &&Attachment| {
            matches!(attachment.status.state(), AttachmentState::Attaching | AttachmentState::Attached)
        };
        let exports = volume.attachments.iter().filter(is_there).filter_map(Attachment::export).collect();
        OperationKind::VolumeExtendAttached(VolumeExtendAttached { extend: params, exports })
    } else {
        OperationKind::VolumeExtend(params)
    };
    let mut events = vec![Event::Volume(id, VolumeEvent::ExtendAccepted { operation, to })];
    events.extend(open(ledger, operation, &volume.project, kind));
    Ok(events)
}

impl Saga for VolumeExtend {
    const NAME: &'static str = "volume_extend";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Exclusive)]
    }

    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        let extended = Event::Volume(self.volume, VolumeEvent::Extended { to: self.to });
        std::iter::once(extended).chain(used_again(ledger, self.volume)).collect()
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Volume(self.volume, VolumeEvent::ExtendFailed { operation: id, failure, restored })]
    }

    fn after_failure(&self, ledger: &Ledger, restored: bool) -> Vec<Event> {
        let used = restored.then(|| used_again(ledger, self.volume));
        used.flatten().into_iter().collect()
    }
}
