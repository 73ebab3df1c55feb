//! Takes events into the state. Pure, total over legal histories, and the same for the sequencer,
//! a replay and the views.

use crate::backend::{Backend, BackendEvent, FROZEN_REASON};
use crate::debt::{CleanupDebt, DebtEvent};
use crate::effect::BackendObject;
use crate::event::{Commit, Event, IllegalEvent};
use crate::ids::{BackendName, DebtId, OperationId, PoolId, Position, SnapshotId, VolumeId, VolumeTypeId};
use crate::ledger::{IDEMPOTENCY_WINDOW_MS, Ledger, RememberedCommand};
use crate::operation::{Operation, OperationEvent, Phase, retry_delay_ms};
use crate::quota::{QuotaEvent, QuotaLimits, UsageCount};
use crate::snapshot::{Snapshot, SnapshotEvent};
use crate::units::Timestamp;
use crate::volume::{Volume, VolumeEvent};
use crate::volume_type::{VolumeType, VolumeTypeEvent};

/// A row that an event reads or changes, for whoever keeps rows elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TouchedRow {
    /// A volume.
    Volume(VolumeId),
    /// A snapshot; whoever loads it loads its volume too.
    Snapshot(SnapshotId),
}

/// The volumes and snapshots that must be present for [`evolve`] to take `event` in. All other
/// tables are small, and must be present whole.
pub fn touched_rows(event: &Event) -> Vec<TouchedRow> {
    match event {
        Event::Volume(id, _) => vec![TouchedRow::Volume(*id)],
        Event::Snapshot(
            id,
            SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. },
        ) => {
            vec![TouchedRow::Snapshot(*id), TouchedRow::Volume(accepted.volume)]
        }
        Event::Snapshot(id, _) => vec![TouchedRow::Snapshot(*id)],
        Event::VolumeType(..)
        | Event::Quota(_)
        | Event::Backend(..)
        | Event::Operation(..)
        | Event::Debt(..)
        | Event::TurnBegan { .. } => Vec::new(),
    }
}

/// How often keys whose window is over are dropped. At fixed positions, so that every replay drops
/// the same ones.
const FORGET_EVERY_COMMITS: u64 = 4096;

fn forget_expired(ledger: &mut Ledger, now: Timestamp) {
    let is_over = |command: &RememberedCommand| now >= command.time.plus_ms(IDEMPOTENCY_WINDOW_MS);
    let rows = ledger.idempotency.sorted().into_iter();
    let expired: Vec<_> =
        rows.filter(|(_, command)| is_over(command)).map(|(scope, _)| scope.clone()).collect();
    for scope in expired {
        ledger.idempotency.remove(&scope);
    }
}

/// Takes a whole commit in.
///
/// # Errors
/// [`IllegalEvent`] if it cannot follow on the state: the history is corrupt.
pub fn apply_commit(ledger: &mut Ledger, position: Position, commit: &Commit) -> Result<(), IllegalEvent> {
    if position != ledger.position().next() {
        return Err(IllegalEvent {
            resource: format!("the ledger at {}", ledger.position()),
            state: "waiting for the next commit",
            event: format!("commit {position}"),
        });
    }
    ledger.head.insert((), position);
    for event in &commit.events {
        evolve(ledger, position, commit.time, event)?;
    }
    if let Some(idempotency) = &commit.idempotency {
        let scope = (commit.actor.project.clone(), idempotency.key.clone());
        let remembered =
            RememberedCommand { fingerprint: idempotency.fingerprint, position, time: commit.time };
        ledger.idempotency.insert(scope, remembered);
    }
    if position.0.is_multiple_of(FORGET_EVERY_COMMITS) {
        forget_expired(ledger, commit.time);
    }
    Ok(())
}

impl Ledger {
    /// The command that was accepted under a key, while it is remembered.
    pub fn remembered(
        &self,
        scope: &crate::event::IdempotencyScope,
        now: Timestamp,
    ) -> Option<&RememberedCommand> {
        self.idempotency.get(scope).filter(|command| now < command.time.plus_ms(IDEMPOTENCY_WINDOW_MS))
    }
}

/// Takes one event in.
///
/// # Errors
/// [`IllegalEvent`] if it cannot follow on the state: the history is corrupt.
pub fn evolve(
    ledger: &mut Ledger,
    position: Position,
    at: Timestamp,
    event: &Event,
) -> Result<(), IllegalEvent> {
    match event {
        Event::Volume(id, event) => volume(ledger, at, *id, event),
        Event::Snapshot(id, event) => snapshot(ledger, at, *id, event),
        Event::VolumeType(id, event) => volume_type(ledger, at, *id, event),
        Event::Quota(event) => {
            quota(ledger, event);
            Ok(())
        }
        Event::Backend(name, event) => backend(ledger, at, name, event),
        Event::Operation(id, event) => operation(ledger, position, at, *id, event),
        Event::Debt(id, event) => debt(ledger, at, *id, event),
        // It matters that it stands there, to whoever appends.
        Event::TurnBegan { .. } => Ok(()),
    }
}

fn illegal(resource: impl ToString, state: &'static str, event: &Event) -> IllegalEvent {
    IllegalEvent { resource: resource.to_string(), state, event: event.name().to_owned() }
}

/// Whether what a volume takes of quotas and pools may be another after the event.
const fn changes_share(event: &VolumeEvent) -> bool {
    match event {
        VolumeEvent::CreateAccepted(_)
        | VolumeEvent::Rescheduled { .. }
        | VolumeEvent::DeleteAccepted { .. }
        | VolumeEvent::Deleted
        | VolumeEvent::ExtendAccepted { .. }
        | VolumeEvent::Extended { .. }
        | VolumeEvent::ExtendFailed { .. }
        | VolumeEvent::ResetAccepted { .. }
        | VolumeEvent::StatusReset { .. }
        | VolumeEvent::ManageAccepted { .. }
        | VolumeEvent::UnmanageAccepted { .. }
        | VolumeEvent::Unmanaged => true,
        VolumeEvent::Created
        | VolumeEvent::CreateFailed { .. }
        | VolumeEvent::DeleteFailed { .. }
        | VolumeEvent::RevertAccepted { .. }
        | VolumeEvent::Reverted
        | VolumeEvent::RevertFailed { .. }
        | VolumeEvent::ResetFailed { .. }
        | VolumeEvent::DetailsUpdated { .. }
        | VolumeEvent::MetadataReplaced { .. }
        | VolumeEvent::BootableChanged { .. }
        | VolumeEvent::ReadonlyChanged { .. }
        | VolumeEvent::ImageMetadataReplaced { .. }
        | VolumeEvent::Managed
        | VolumeEvent::ManageFailed { .. }
        | VolumeEvent::UnmanageFailed { .. }
        | VolumeEvent::UseChanged { .. }
        | VolumeEvent::Attachment { .. }
        | VolumeEvent::UploadAccepted { .. }
        | VolumeEvent::Uploaded { .. }
        | VolumeEvent::UploadFailed { .. } => false,
    }
}

fn volume(ledger: &mut Ledger, at: Timestamp, id: VolumeId, event: &VolumeEvent) -> Result<(), IllegalEvent> {
    let accepted = match event {
        VolumeEvent::CreateAccepted(accepted) => Some(Volume::accepted(id, at, accepted)),
        VolumeEvent::ManageAccepted { accepted, .. } => Some(Volume::managed(id, at, accepted)),
        VolumeEvent::Rescheduled { .. }
        | VolumeEvent::Created
        | VolumeEvent::CreateFailed { .. }
        | VolumeEvent::DeleteAccepted { .. }
        | VolumeEvent::Deleted
        | VolumeEvent::DeleteFailed { .. }
        | VolumeEvent::ExtendAccepted { .. }
        | VolumeEvent::Extended { .. }
        | VolumeEvent::ExtendFailed { .. }
        | VolumeEvent::RevertAccepted { .. }
        | VolumeEvent::Reverted
        | VolumeEvent::RevertFailed { .. }
        | VolumeEvent::ResetAccepted { .. }
        | VolumeEvent::StatusReset { .. }
        | VolumeEvent::ResetFailed { .. }
        | VolumeEvent::DetailsUpdated { .. }
        | VolumeEvent::MetadataReplaced { .. }
        | VolumeEvent::BootableChanged { .. }
        | VolumeEvent::ReadonlyChanged { .. }
        | VolumeEvent::ImageMetadataReplaced { .. }
        | VolumeEvent::Managed
        | VolumeEvent::ManageFailed { .. }
        | VolumeEvent::UnmanageAccepted { .. }
        | VolumeEvent::Unmanaged
        | VolumeEvent::UnmanageFailed { .. }
        | VolumeEvent::UseChanged { .. }
        | VolumeEvent::Attachment { .. }
        | VolumeEvent::UploadAccepted { .. }
        | VolumeEvent::Uploaded { .. }
        | VolumeEvent::UploadFailed { .. } => None,
    };
    if let Some(row) = accepted {
        if ledger.volumes.contains_key(&id) {
            return Err(illegal(id, "present", &Event::Volume(id, event.clone())));
        }
        count_volume(ledger, &Share::of_volume(&row), 1);
        ledger.volumes.insert(id, row);
        return Ok(());
    }
    let Some(row) = ledger.volumes.get_mut(&id) else {
        return Err(illegal(id, "absent", &Event::Volume(id, event.clone())));
    };
    if !changes_share(event) {
        row.apply(at, event)?;
        if let VolumeEvent::Attachment { .. } = event {
            let exports = row.has_exports();
            note_exports(ledger, id, exports);
        }
        return Ok(());
    }
    let before = Share::of_volume(row);
    let stays = row.apply(at, event)?;
    let after = stays.then(|| Share::of_volume(row));
    count_volume(ledger, &before, -1);
    match after {
        Some(after) => count_volume(ledger, &after, 1),
        None => ledger.volumes.remove(&id),
    }
    Ok(())
}

fn note_exports(ledger: &mut Ledger, id: VolumeId, has_exports: bool) {
    if has_exports {
        ledger.exported.insert(id, ());
    } else {
        ledger.exported.remove(&id);
    }
}

/// What a resource takes of totals.
struct Share {
    project: crate::ids::ProjectId,
    volume_type: VolumeTypeId,
    count: UsageCount,
    pool: Option<PoolId>,
}

impl Share {
    fn of_volume(volume: &Volume) -> Self {
        Self {
            project: volume.project.clone(),
            volume_type: volume.volume_type,
            count: UsageCount { volumes: 1, snapshots: 0, gigabytes: i64::from(volume.charged_gib()) },
            pool: volume.pool.clone(),
        }
    }

    fn of_snapshot(snapshot: &Snapshot) -> Self {
        Self {
            project: snapshot.project.clone(),
            volume_type: snapshot.volume_type,
            count: UsageCount { volumes: 0, snapshots: 1, gigabytes: i64::from(snapshot.size.gib()) },
            pool: None,
        }
    }
}

fn count_volume(ledger: &mut Ledger, share: &Share, sign: i64) {
    count(ledger, share, sign);
    let Some(pool) = &share.pool else { return };
    if !ledger.pools.contains_key(pool) {
        ledger.pools.insert(pool.clone(), crate::backend::PoolUsage::default());
    }
    if let Some(usage) = ledger.pools.get_mut(pool) {
        usage.volumes = usage.volumes.saturating_add(sign);
        usage.provisioned_gib =
            usage.provisioned_gib.saturating_add(share.count.gigabytes.saturating_mul(sign));
    }
}

fn count(ledger: &mut Ledger, share: &Share, sign: i64) {
    if !ledger.usage.contains_key(&share.project) {
        ledger.usage.insert(share.project.clone(), crate::quota::Usage::default());
    }
    if let Some(usage) = ledger.usage.get_mut(&share.project) {
        usage.add(share.volume_type, share.count, sign);
        if usage.total.is_zero() && usage.by_type.is_empty() {
            ledger.usage.remove(&share.project);
        }
    }
    if let Some(volume_type) = ledger.volume_types.get_mut(&share.volume_type) {
        volume_type.users =
            volume_type.users.saturating_add_signed((share.count.volumes + share.count.snapshots) * sign);
    }
}

fn snapshot(
    ledger: &mut Ledger,
    at: Timestamp,
    id: SnapshotId,
    event: &SnapshotEvent,
) -> Result<(), IllegalEvent> {
    if let SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. } = event {
        let Some(volume) = ledger.volumes.get_mut(&accepted.volume) else {
            return Err(illegal(accepted.volume, "absent", &Event::Snapshot(id, event.clone())));
        };
        volume.snapshots.push(id);
        if ledger.snapshots.contains_key(&id) {
            return Err(illegal(id, "present", &Event::Snapshot(id, event.clone())));
        }
        let row = Snapshot::accepted(id, at, accepted);
        count(ledger, &Share::of_snapshot(&row), 1);
        ledger.snapshots.insert(id, row);
        return Ok(());
    }
    let Some(row) = ledger.snapshots.get_mut(&id) else {
        return Err(illegal(id, "absent", &Event::Snapshot(id, event.clone())));
    };
    let stays = row.apply(at, event)?;
    if !stays {
        let (volume, share) = (row.volume, Share::of_snapshot(row));
        count(ledger, &share, -1);
        ledger.snapshots.remove(&id);
        if let Some(volume) = ledger.volumes.get_mut(&volume) {
            volume.snapshots.retain(|other| *other != id);
        }
    }
    Ok(())
}

fn volume_type(
    ledger: &mut Ledger,
    at: Timestamp,
    id: VolumeTypeId,
    event: &VolumeTypeEvent,
) -> Result<(), IllegalEvent> {
    if let VolumeTypeEvent::Created { name, description, is_public, extra_specs } = event {
        let row = VolumeType {
            id,
            name: name.clone(),
            description: description.clone(),
            is_public: *is_public,
            extra_specs: extra_specs.clone(),
            access: std::collections::BTreeSet::new(),
            created_at: at,
            updated_at: None,
            users: 0,
        };
        ledger.volume_types.insert(id, row);
        return Ok(());
    }
    let Some(row) = ledger.volume_types.get_mut(&id) else {
        return Err(illegal(id, "absent", &Event::VolumeType(id, event.clone())));
    };
    row.updated_at = Some(at);
    match event {
        VolumeTypeEvent::Created { .. } => {}
        VolumeTypeEvent::Updated { name, description, is_public } => {
            row.name.clone_from(name);
            row.description.clone_from(description);
            row.is_public = *is_public;
        }
        VolumeTypeEvent::ExtraSpecsReplaced { extra_specs } => row.extra_specs.clone_from(extra_specs),
        VolumeTypeEvent::AccessGranted { project } => {
            row.access.insert(project.clone());
        }
        VolumeTypeEvent::AccessRevoked { project } => {
            row.access.remove(project);
        }
        VolumeTypeEvent::Deleted => ledger.volume_types.remove(&id),
    }
    Ok(())
}

fn quota(ledger: &mut Ledger, event: &QuotaEvent) {
    let merge = |old: Option<&QuotaLimits>, new: &QuotaLimits| {
        let mut limits = old.cloned().unwrap_or_default();
        limits.extend(new.iter().map(|(resource, limit)| (*resource, *limit)));
        limits
    };
    match event {
        QuotaEvent::LimitsSet { project, limits } => {
            let merged = merge(ledger.limits.get(project), limits);
            ledger.limits.insert(project.clone(), merged);
        }
        QuotaEvent::LimitsCleared { project } => ledger.limits.remove(project),
        QuotaEvent::DefaultsSet { limits } => {
            let merged = merge(ledger.default_limits.get(&()), limits);
            ledger.default_limits.insert((), merged);
        }
    }
}

fn backend(
    ledger: &mut Ledger,
    at: Timestamp,
    name: &BackendName,
    event: &BackendEvent,
) -> Result<(), IllegalEvent> {
    if let (BackendEvent::Registered(description), None) = (event, ledger.backends.get(name)) {
        let row = Backend {
            name: name.clone(),
            description: (**description).clone(),
            enabled: true,
            frozen: false,
            disabled_reason: None,
            created_at: at,
            updated_at: None,
        };
        ledger.backends.insert(name.clone(), row);
        return Ok(());
    }
    let Some(row) = ledger.backends.get_mut(name) else {
        return Err(illegal(name, "absent", &Event::Backend(name.clone(), event.clone())));
    };
    row.updated_at = Some(at);
    match event {
        BackendEvent::Registered(description) => row.description = (**description).clone(),
        BackendEvent::Enabled => {
            row.enabled = true;
            row.disabled_reason = None;
        }
        BackendEvent::Disabled { reason } => {
            row.enabled = false;
            row.disabled_reason.clone_from(reason);
        }
        BackendEvent::Frozen => {
            row.frozen = true;
            row.enabled = false;
            row.disabled_reason = Some(FROZEN_REASON.into());
        }
        BackendEvent::Thawed => {
            row.frozen = false;
            row.enabled = true;
            row.disabled_reason = None;
        }
    }
    Ok(())
}

fn operation(
    ledger: &mut Ledger,
    position: Position,
    at: Timestamp,
    id: OperationId,
    event: &OperationEvent,
) -> Result<(), IllegalEvent> {
    if let OperationEvent::Opened { project, kind } = event {
        let row = Operation {
            id,
            project: project.clone(),
            kind: kind.clone(),
            opened_at: at,
            opened: position,
            phase: Phase::Forward { step: 0 },
            attempt: 1,
            tries: 0,
            not_before: Timestamp::default(),
            failure: None,
            debts: 0,
        };
        ledger.claim(&row);
        ledger.operations.insert(id, row);
        return Ok(());
    }
    let Some(row) = ledger.operations.get_mut(&id) else {
        return Err(illegal(id, "not open", &Event::Operation(id, event.clone())));
    };
    row.apply(event);
    if let OperationEvent::Closed { .. } = event {
        let row = row.clone();
        ledger.release(&row);
        ledger.operations.remove(&id);
    }
    Ok(())
}

fn debt(ledger: &mut Ledger, at: Timestamp, id: DebtId, event: &DebtEvent) -> Result<(), IllegalEvent> {
    if let DebtEvent::Incurred { project, pool, object, reason, held } = event {
        let row = CleanupDebt {
            id,
            project: project.clone(),
            pool: pool.clone(),
            object: BackendObject::clone(object),
            reason: reason.clone(),
            held: *held,
            attempt: 1,
            not_before: at.plus_ms(retry_delay_ms(1)),
            incurred_at: at,
        };
        ledger.debts.insert(id, row);
        if let Some(operation) = ledger.operations.get_mut(&id.operation) {
            operation.debts = operation.debts.max(id.ordinal.saturating_add(1));
        }
        return Ok(());
    }
    let Some(row) = ledger.debts.get_mut(&id) else {
        return Err(illegal(id, "absent", &Event::Debt(id, event.clone())));
    };
    match event {
        DebtEvent::Incurred { .. } => {}
        DebtEvent::AttemptFailed { failure, retry_at } => {
            row.reason = failure.clone();
            row.attempt = row.attempt.saturating_add(1);
            row.not_before = *retry_at;
        }
        DebtEvent::Released => {
            row.held = false;
            row.attempt = row.attempt.saturating_add(1);
            row.not_before = Timestamp::default();
        }
        DebtEvent::Paid => ledger.debts.remove(&id),
    }
    Ok(())
}
