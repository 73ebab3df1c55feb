//! Taking a volume over that is on a backend already.
//!
//! | step  | effect | undo   | if the undo fails |
//! |-------|--------|--------|-------------------|
//! | adopt | Adopt  | Disown | leave to owner    |
//!
//! Cinder learns the size only when the work is done, and charges it then. Here whoever asks has
//! looked first: the size counts against the quota from the moment of acceptance, and the effect
//! takes nothing over that has another one. A failure gives the object its old name back, and the
//! volume is in `error_managing`, which can be deleted without touching the object.

use crate::command::{Context, ManageVolume};
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::quota::{QuotaResource, UsageCount};
use crate::rejection::Rejection;
use crate::scheduler::PlacementDecision;
use crate::units::SizeGib;
use crate::volume::{VolumeCreateAccepted, VolumeEvent, VolumeSource};

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeManage {
    /// The new volume.
    pub volume: VolumeId,
    /// Where the object is.
    pub pool: PoolId,
    /// Its name there, until it is taken over.
    pub name: Box<str>,
    /// Its size, rounded up.
    pub size: SizeGib,
}

/// The steps.
pub const STEPS: &[Step<VolumeManage>] = &[Step {
    name: "adopt",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::Adopt {
        object: BackendObject::Volume(p.volume),
        from: p.name.clone(),
        size: Some(p.size),
    },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::Disown { object: BackendObject::Volume(p.volume), to: p.name.clone() }),
    if_undo_fails: IfUndoFails::LeaveToOwner,
}];

/// Checks, in this order: administrator; id not taken; the object is not the ledger's already; the
/// type exists and may be used; the backend is known, in service and not frozen; zone exists; quota
/// (largest volume, number, gigabytes, each also by type).
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &ManageVolume, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:volume_manage")?;
    if ledger.volumes.contains_key(&command.volume) {
        return Err(Rejection::VolumeExists { volume: command.volume });
    }
    if ledger.knows_name(&command.pool, &command.name) {
        return Err(Rejection::ObjectAlreadyManaged { name: command.name.clone() });
    }
    let volume_type = match &command.volume_type {
        Some(asked) => ledger.usable_type(asked, &ctx.actor)?,
        None => ledger.default_type()?,
    };
    let backend = ledger.backend_in_service(&command.pool, &ctx.pools)?;
    if let Some(zone) = &command.availability_zone
        && !ledger.has_zone(zone)
    {
        return Err(Rejection::AvailabilityZoneInvalid { zone: zone.clone() });
    }
    ledger.check_quota(
        &ctx.actor.project,
        volume_type.id,
        UsageCount { volumes: 1, snapshots: 0, gigabytes: i64::from(command.size.gib()) },
        Some(command.size),
        QuotaResource::Volumes,
    )?;
    let operation = OperationId::from(ctx.command);
    let zone = command.availability_zone.clone();
    let accepted = VolumeCreateAccepted {
        operation,
        project: ctx.actor.project.clone(),
        user: ctx.actor.user.clone(),
        name: command.display_name.clone(),
        description: command.description.clone(),
        size: command.size,
        volume_type: volume_type.id,
        availability_zone: zone.unwrap_or_else(|| backend.description.availability_zone.clone()),
        source: VolumeSource::Blank,
        metadata: command.metadata.clone(),
        multiattach: volume_type.is_multiattach(),
        bootable: command.bootable,
        placement: PlacementDecision { chosen: Some(command.pool.clone()), ..PlacementDecision::default() },
    };
    let params = VolumeManage {
        volume: command.volume,
        pool: command.pool.clone(),
        name: command.name.clone(),
        size: command.size,
    };
    let event = VolumeEvent::ManageAccepted { accepted: Box::new(accepted), name: command.name.clone() };
    let mut events = vec![Event::Volume(command.volume, event)];
    events.extend(open(ledger, operation, &ctx.actor.project, OperationKind::VolumeManage(params)));
    Ok(events)
}

impl Saga for VolumeManage {
    const NAME: &'static str = "volume_manage";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Exclusive)]
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        vec![Event::Volume(self.volume, VolumeEvent::Managed)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Volume(self.volume, VolumeEvent::ManageFailed { operation: id, failure })]
    }
}
