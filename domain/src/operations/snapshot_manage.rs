//! Taking a snapshot over that a backend has already, of a volume of the ledger's.
//!
//! | step  | effect | undo   | if the undo fails |
//! |-------|--------|--------|-------------------|
//! | adopt | Adopt  | Disown | leave to owner    |
//!
//! As in Cinder the snapshot is `creating` meanwhile, and in `error` after a failure; the object
//! has its old name then.

use crate::command::{Context, ManageSnapshot};
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::quota::{QuotaResource, UsageCount};
use crate::rejection::Rejection;
use crate::snapshot::{SnapshotCreateAccepted, SnapshotEvent};
use crate::units::SizeGib;
use crate::volume::VolumeState;

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotManage {
    /// Its volume.
    pub volume: VolumeId,
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// Where both are.
    pub pool: PoolId,
    /// Its name there, until it is taken over.
    pub name: Box<str>,
    /// Its size, rounded up.
    pub size: SizeGib,
}

impl SnapshotManage {
    const fn object(&self) -> BackendObject {
        BackendObject::Snapshot { volume: self.volume, snapshot: self.snapshot }
    }
}

/// The steps.
pub const STEPS: &[Step<SnapshotManage>] = &[Step {
    name: "adopt",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::Adopt { object: p.object(), from: p.name.clone(), size: Some(p.size) },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::Disown { object: p.object(), to: p.name.clone() }),
    if_undo_fails: IfUndoFails::LeaveToOwner,
}];

/// Checks, in this order: administrator; id not taken; the volume exists and is visible; the object
/// is not the ledger's already; the backend is known, in service and not frozen; the volume is
/// available; quota (number, gigabytes, each also by type).
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &ManageSnapshot, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("snapshot_extension:snapshot_manage")?;
    if ledger.snapshots.contains_key(&command.snapshot) {
        return Err(Rejection::SnapshotExists { snapshot: command.snapshot });
    }
    let volume = ledger.visible_volume(command.volume, &ctx.actor)?;
    let (VolumeState::Available, Some(pool)) = (volume.status.state(), &volume.pool) else {
        return Err(Rejection::VolumeNotSnapshottable {
            volume: volume.id,
            status: volume.status.wire_name(),
            force: true,
        });
    };
    if ledger.knows_name(pool, &command.name) {
        return Err(Rejection::ObjectAlreadyManaged { name: command.name.clone() });
    }
    ledger.backend_in_service(pool, &ctx.pools)?;
    ledger.check_quota(
        &volume.project,
        volume.volume_type,
        UsageCount { volumes: 0, snapshots: 1, gigabytes: i64::from(command.size.gib()) },
        None,
        QuotaResource::Snapshots,
    )?;
    let operation = OperationId::from(ctx.command);
    let accepted = SnapshotCreateAccepted {
        operation,
        volume: volume.id,
        project: volume.project.clone(),
        user: ctx.actor.user.clone(),
        name: command.display_name.clone(),
        description: command.description.clone(),
        size: command.size,
        volume_type: volume.volume_type,
        pool: pool.clone(),
        metadata: command.metadata.clone(),
    };
    let params = SnapshotManage {
        volume: volume.id,
        snapshot: command.snapshot,
        pool: pool.clone(),
        name: command.name.clone(),
        size: command.size,
    };
    let event = SnapshotEvent::ManageAccepted { accepted: Box::new(accepted), name: command.name.clone() };
    let mut events = vec![Event::Snapshot(command.snapshot, event)];
    events.extend(open(ledger, operation, &volume.project, OperationKind::SnapshotManage(params)));
    Ok(events)
}

impl Saga for SnapshotManage {
    const NAME: &'static str = "snapshot_manage";

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
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::Managed)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Snapshot(self.snapshot, SnapshotEvent::ManageFailed { operation: id, failure })]
    }
}
