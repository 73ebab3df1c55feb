//! Deleting a volume, with its snapshots if asked.
//!
//! | step            | when                                  | effect         | undo | if it fails    |
//! |-----------------|---------------------------------------|----------------|------|----------------|
//! | delete_snapshot | cascade, once per snapshot            | DeleteSnapshot | –    | error_deleting |
//! | delete_kept     | once per snapshot of it that is owed  | DeleteSnapshot | –    | available      |
//! | delete_volume   | it has a backend object               | DeleteVolume   | –    | error_deleting |
//!
//! Deleting cannot be undone, so there are no undos: what failed ends in `error_deleting`, or in
//! `available` if the backend refused because it is in use, and what was not reached is `available`
//! as before. Deleting again goes on where it stopped.

use crate::attachment::AttachmentEvent;
use crate::command::Context;
use crate::debt::DebtEvent;
use crate::effect::{BackendObject, Effect, Failure, FailureKind};
use crate::event::Event;
use crate::ids::{DebtId, OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, abandon, plan};
use crate::rejection::Rejection;
use crate::snapshot::{self, SnapshotEvent, SnapshotState};
use crate::volume::{DELETABLE, VolumeEvent, VolumeState};

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDelete {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is; nothing if no pool ever took it.
    pub pool: Option<PoolId>,
    /// Its snapshots, newest first.
    pub snapshots: Vec<SnapshotId>,
    /// Debts over snapshots of this volume, which must go before it can.
    pub kept: Vec<(DebtId, BackendObject)>,
}

impl VolumeDelete {
    fn on_backend<T>(&self, things: &[T]) -> usize {
        if self.pool.is_some() { things.len() } else { 0 }
    }
}

fn snapshot_at(p: &VolumeDelete, n: usize) -> BackendObject {
    match p.snapshots.get(n) {
        Some(snapshot) => BackendObject::Snapshot { volume: p.volume, snapshot: *snapshot },
        None => BackendObject::Volume(p.volume),
    }
}

/// The steps.
pub const STEPS: &[Step<VolumeDelete>] = &[
    Step {
        name: "delete_snapshot",
        when: "cascade, once per snapshot",
        count: |p| p.on_backend(&p.snapshots),
        effect: |p, n| Effect::delete(snapshot_at(p, n)),
        if_it_fails: IfItFails::Undo,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "delete_kept",
        when: "once per snapshot of it that is owed",
        count: |p| p.on_backend(&p.kept),
        effect: |p, n| {
            Effect::delete(p.kept.get(n).map_or(BackendObject::Volume(p.volume), |(_, object)| *object))
        },
        if_it_fails: IfItFails::Undo,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "delete_volume",
        when: "it has a backend object",
        count: |p| usize::from(p.pool.is_some()),
        effect: |p, _| Effect::DeleteVolume { volume: BackendObject::Volume(p.volume) },
        if_it_fails: IfItFails::Undo,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
];

/// Checks, in this order: role (administrator for `force`); the volume exists and is visible; its
/// backend is not frozen; its status (not with `force`); nobody has it attached; it has no
/// snapshots, or with `cascade` all of them can be deleted.
/// Forcing a volume that is being deleted already changes nothing.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(
    ledger: &Ledger,
    id: VolumeId,
    cascade: bool,
    force: bool,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    if force {
        ctx.actor.require_admin("volume_extension:volume_admin_actions:force_delete")?;
    } else {
        ctx.actor.require_member("volume:delete")?;
    }
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    ledger.require_not_frozen(volume.pool.as_ref())?;
    let state = volume.status.state();
    if force && state == VolumeState::Deleting {
        return Ok(Vec::new());
    }
    if !force && !DELETABLE.contains(&state) {
        return Err(Rejection::VolumeNotDeletable { status: volume.status.wire_name() });
    }
    if volume.is_held() {
        return Err(Rejection::VolumeHasAttachments);
    }
    if !volume.snapshots.is_empty() && !cascade {
        return Err(Rejection::VolumeHasSnapshots);
    }
    let mut events = match volume.status.operation() {
        Some(open) => ledger.operations.get(&open).map_or_else(Vec::new, |open| abandon(ledger, open, false)),
        None => Vec::new(),
    };
    let operation = OperationId::from(ctx.command);
    let mut snapshots = Vec::new();
    for snapshot_id in volume.snapshots.iter().rev() {
        let Some(snapshot) = ledger.snapshots.get(snapshot_id) else { continue };
        // the volume's own revert holds it, and is being ended in this very commit
        let is_free = snapshot::DELETABLE.contains(&snapshot.status.state())
            || (force
                && (snapshot.status.state() == SnapshotState::ErrorDeleting
                    || snapshot.status.operation() == volume.status.operation()));
        if !is_free {
            return Err(Rejection::VolumeSnapshotsNotDeletable);
        }
        snapshots.push(*snapshot_id);
        events.push(Event::Snapshot(*snapshot_id, SnapshotEvent::DeleteAccepted { operation }));
    }
    let mut kept = ledger.owed_snapshots_of(id, volume.pool.as_ref());
    // a copy of another volume that is ended here owes its snapshot where that one is
    let is_its_own = |object: &BackendObject| object.is_snapshot() && object.volume() == id;
    kept.extend(events.iter().filter_map(|event| match event {
        Event::Debt(debt, DebtEvent::Incurred { object, .. }) if is_its_own(object) => Some((*debt, *object)),
        Event::Debt(..)
        | Event::Volume(..)
        | Event::Snapshot(..)
        | Event::VolumeType(..)
        | Event::Quota(_)
        | Event::Backend(..)
        | Event::Operation(..)
        | Event::TurnBegan { .. } => None,
    }));
    // whoever gives the volume up gives up what was held for it
    let held = kept.iter().filter(|(debt, _)| ledger.debts.get(debt).is_some_and(|debt| debt.held));
    events.extend(held.map(|(debt, _)| Event::Debt(*debt, DebtEvent::Released)));
    // attachments that never had an export hold nothing
    for attachment in &volume.attachments {
        let event = VolumeEvent::Attachment { attachment: attachment.id, event: AttachmentEvent::Deleted };
        events.push(Event::Volume(id, event));
    }
    events.extend(volume.used_as(VolumeState::Available).map(|event| Event::Volume(id, event)));
    events.push(Event::Volume(id, VolumeEvent::DeleteAccepted { operation }));
    let params = VolumeDelete { volume: id, pool: volume.pool.clone(), snapshots, kept };
    events.extend(open(ledger, operation, &volume.project, OperationKind::VolumeDelete(params)));
    Ok(events)
}

impl Saga for VolumeDelete {
    const NAME: &'static str = "volume_delete";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        self.pool.as_ref()
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        let snapshots = self.snapshots.iter().map(|id| (ResourceKey::Snapshot(*id), Access::Exclusive));
        std::iter::once((ResourceKey::Volume(self.volume), Access::Exclusive)).chain(snapshots).collect()
    }

    fn step_completed(&self, ledger: &Ledger, step: u16) -> Vec<Event> {
        let step = usize::from(step);
        if let Some(snapshot) = self.snapshots.get(step) {
            return vec![Event::Snapshot(*snapshot, SnapshotEvent::Deleted)];
        }
        match self.kept.get(step.saturating_sub(self.snapshots.len())) {
            // it may have been paid by its own retry meanwhile
            Some((debt, _)) if ledger.debts.contains_key(debt) => vec![Event::Debt(*debt, DebtEvent::Paid)],
            Some(_) | None => Vec::new(),
        }
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        let mut events = Vec::new();
        if self.pool.is_none() {
            events.extend(self.snapshots.iter().map(|id| Event::Snapshot(*id, SnapshotEvent::Deleted)));
        }
        events.push(Event::Volume(self.volume, VolumeEvent::Deleted));
        events
    }

    fn failed(&self, id: OperationId, step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let step = usize::from(step);
        let not_reached = Failure::new(FailureKind::NotAttempted, "an earlier step failed");
        let mut events = Vec::new();
        for (n, snapshot) in self.snapshots.iter().enumerate().skip(step) {
            let failure = if n == step { failure.clone() } else { not_reached.clone() };
            events.push(Event::Snapshot(*snapshot, SnapshotEvent::DeleteFailed { operation: id, failure }));
        }
        let before_volume = step < self.snapshots.len().saturating_add(self.kept.len());
        let failure = if before_volume { not_reached } else { failure.clone() };
        events.push(Event::Volume(self.volume, VolumeEvent::DeleteFailed { operation: id, failure }));
        events
    }
}
