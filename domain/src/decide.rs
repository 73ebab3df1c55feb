//! Decides commands: what follows from them, or why nothing does.

use std::collections::BTreeMap;

use crate::backend::BackendEvent;
use crate::command::{Command, Context, CreateVolumeType, MetadataChange};
use crate::debt::{CleanupDebt, DebtEvent};
use crate::effect::{EffectKey, Outcome};
use crate::event::{Commit, Event};
use crate::evolve::apply_commit;
use crate::ids::{BackendName, Position, SnapshotId, VolumeId, VolumeTypeId};
use crate::ledger::Ledger;
use crate::operation::{Operation, decide_report, retry_delay_ms};
use crate::operations::{
    export_restore, object_clean, snapshot_create, snapshot_delete, snapshot_manage, snapshot_unmanage,
    status_verify, volume_create, volume_delete, volume_extend, volume_manage, volume_recover, volume_revert,
    volume_unmanage, volume_upload,
};
use crate::quota::QuotaEvent;
use crate::rejection::Rejection;
use crate::snapshot::SnapshotEvent;
use crate::volume::{VolumeEvent, VolumeState};
use crate::volume_type::{DEFAULT_TYPE_ID, VolumeTypeEvent};

mod attachments;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is to be appended, and has been taken into the state that was decided on.
    Accepted {
        /// Where it will be.
        position: Position,
        /// What happened.
        commit: Commit,
    },
    /// It asks for what is so already.
    NothingToDo,
    /// It was accepted before, under the same idempotency key.
    Repeated {
        /// Where.
        position: Position,
    },
    /// It is refused.
    Rejected(Rejection),
}

/// Decides a command and takes its commit into `ledger`.
///
/// # Panics
/// If [`decide`] gives events that [`crate::evolve`] refuses. Both are pure and in this crate, so
/// this is a fault of the program, and going on would write a history that cannot be replayed.
pub fn submit(ledger: &mut Ledger, command: &Command, ctx: &Context) -> Verdict {
    if let Some(idempotency) = &ctx.idempotency {
        let scope = (ctx.actor.project.clone(), idempotency.key.clone());
        if let Some(remembered) = ledger.remembered(&scope, ctx.now) {
            return if remembered.fingerprint == idempotency.fingerprint {
                Verdict::Repeated { position: remembered.position }
            } else {
                Verdict::Rejected(Rejection::IdempotencyKeyReused)
            };
        }
    }
    let events = match decide(ledger, command, ctx) {
        Ok(events) if events.is_empty() => return Verdict::NothingToDo,
        Ok(events) => events,
        Err(rejection) => return Verdict::Rejected(rejection),
    };
    let causation =
        if let Command::ReportOutcome { key, .. } = command { Some(key.operation()) } else { None };
    let commit = Commit {
        command: ctx.command,
        request: ctx.request.clone(),
        causation,
        actor: ctx.actor.clone(),
        time: ctx.now,
        idempotency: ctx.idempotency.clone(),
        events,
    };
    let position = ledger.position().next();
    match apply_commit(ledger, position, &commit) {
        Ok(()) => Verdict::Accepted { position, commit },
        Err(illegal) => unreachable!("decided events must be legal: {illegal}: {commit:?}"),
    }
}

/// Decides a command over a state: events, none if there is nothing to do, or the first rejection
/// in the documented order of the command's checks.
///
/// # Errors
/// The rejection. Nothing has changed then.
#[allow(clippy::too_many_lines, reason = "one arm per command, each a line or a few")]
pub fn decide(ledger: &Ledger, command: &Command, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::CreateVolume(create) => volume_create::decide(ledger, create, ctx),
        Command::CreateVolumeFromImage(create) => volume_create::decide_from_image(ledger, create, ctx),
        Command::ChangeImageMetadata { volume, change } => {
            ctx.actor.require_member("volume_extension:volume_image_metadata")?;
            let row = ledger.visible_volume(*volume, &ctx.actor)?;
            let metadata = changed(&row.image_metadata, change, |key| Rejection::ImageMetadataNotFound {
                volume: *volume,
                key: key.into(),
            })?;
            Ok(vec![Event::Volume(*volume, VolumeEvent::ImageMetadataReplaced { metadata })])
        }
        Command::DeleteVolume { volume, cascade, force } => {
            volume_delete::decide(ledger, *volume, *cascade, *force, ctx)
        }
        Command::ExtendVolume { volume, to, online } => {
            volume_extend::decide(ledger, *volume, *to, *online, ctx)
        }
        Command::RevertVolume { volume, snapshot } => volume_revert::decide(ledger, *volume, *snapshot, ctx),
        Command::RecoverVolume { volume } => volume_recover::decide(ledger, *volume, ctx),
        Command::UpdateVolume { volume, name, description, metadata } => {
            update_volume(ledger, *volume, name.as_ref(), description.as_ref(), metadata.as_ref(), ctx)
        }
        Command::ChangeVolumeMetadata { volume, change } => {
            change_volume_metadata(ledger, *volume, change, ctx)
        }
        Command::SetVolumeBootable { volume, bootable } => {
            ctx.actor.require_member("volume_extension:volume_actions:set_bootable")?;
            ledger.visible_volume(*volume, &ctx.actor)?;
            Ok(vec![Event::Volume(*volume, VolumeEvent::BootableChanged { bootable: *bootable })])
        }
        Command::SetVolumeReadonly { volume, readonly } => {
            ctx.actor.require_member("volume:update_readonly_flag")?;
            let status = ledger.visible_volume(*volume, &ctx.actor)?.status.wire_name();
            if status != VolumeState::Available.as_str() {
                return Err(Rejection::ReadonlyNeedsAvailable { volume: *volume, status });
            }
            Ok(vec![Event::Volume(*volume, VolumeEvent::ReadonlyChanged { readonly: *readonly })])
        }
        Command::ResetVolumeStatus { volume, to } => status_verify::decide_volume(ledger, *volume, *to, ctx),
        Command::CreateSnapshot(create) => snapshot_create::decide(ledger, create, ctx),
        Command::DeleteSnapshot { snapshot, force } => {
            snapshot_delete::decide(ledger, *snapshot, *force, ctx)
        }
        Command::UpdateSnapshot { snapshot, name, description } => {
            update_snapshot(ledger, *snapshot, name.as_ref(), description.as_ref(), ctx)
        }
        Command::ChangeSnapshotMetadata { snapshot, change } => {
            change_snapshot_metadata(ledger, *snapshot, change, ctx)
        }
        Command::ResetSnapshotStatus { snapshot, to } => {
            status_verify::decide_snapshot(ledger, *snapshot, *to, ctx)
        }
        Command::CreateVolumeType(create) => create_volume_type(ledger, create, ctx),
        Command::UpdateVolumeType { volume_type, name, description, is_public } => {
            update_volume_type(ledger, *volume_type, name.as_deref(), description.as_ref(), *is_public, ctx)
        }
        Command::DeleteVolumeType { volume_type } => delete_volume_type(ledger, *volume_type, ctx),
        Command::ChangeExtraSpecs { volume_type, change } => {
            change_extra_specs(ledger, *volume_type, change, ctx)
        }
        Command::GrantTypeAccess { volume_type, project } => {
            ctx.actor.require_admin("volume_extension:volume_type_access:addProjectAccess")?;
            let row = ledger.type_by_id(*volume_type)?;
            if row.is_public {
                return Err(Rejection::VolumeTypeIsPublic { volume_type: *volume_type });
            }
            if row.access.contains(project) {
                return Err(Rejection::TypeAccessExists {
                    volume_type: *volume_type,
                    project: project.clone(),
                });
            }
            let event = VolumeTypeEvent::AccessGranted { project: project.clone() };
            Ok(vec![Event::VolumeType(*volume_type, event)])
        }
        Command::RevokeTypeAccess { volume_type, project } => {
            ctx.actor.require_admin("volume_extension:volume_type_access:removeProjectAccess")?;
            let row = ledger.type_by_id(*volume_type)?;
            if row.is_public {
                return Err(Rejection::VolumeTypeIsPublic { volume_type: *volume_type });
            }
            if !row.access.contains(project) {
                return Err(Rejection::TypeAccessNotFound {
                    volume_type: *volume_type,
                    project: project.clone(),
                });
            }
            let event = VolumeTypeEvent::AccessRevoked { project: project.clone() };
            Ok(vec![Event::VolumeType(*volume_type, event)])
        }
        Command::SetQuotaLimits { project, limits } => {
            ctx.actor.require_admin("volume_extension:quotas:update")?;
            let event = QuotaEvent::LimitsSet { project: project.clone(), limits: limits.clone() };
            Ok(if limits.is_empty() { Vec::new() } else { vec![Event::Quota(event)] })
        }
        Command::ClearQuotaLimits { project } => {
            ctx.actor.require_admin("volume_extension:quotas:delete")?;
            let event = QuotaEvent::LimitsCleared { project: project.clone() };
            Ok(ledger.limits.get(project).map_or_else(Vec::new, |_| vec![Event::Quota(event)]))
        }
        Command::SetQuotaDefaults { limits } => {
            ctx.actor.require_admin("volume_extension:quota_classes:update")?;
            let event = QuotaEvent::DefaultsSet { limits: limits.clone() };
            Ok(if limits.is_empty() { Vec::new() } else { vec![Event::Quota(event)] })
        }
        Command::CreateAttachment(create) => attachments::create(ledger, create, ctx),
        Command::UpdateAttachment { volume, attachment, connector, mode } => {
            attachments::update(ledger, *volume, *attachment, connector, *mode, ctx)
        }
        Command::CompleteAttachment { volume, attachment } => {
            attachments::complete(ledger, *volume, *attachment, ctx)
        }
        Command::DeleteAttachment { volume, attachment } => {
            attachments::delete(ledger, *volume, *attachment, ctx)
        }
        Command::ReserveVolume { volume } => attachments::reserve(ledger, *volume, ctx),
        Command::UnreserveVolume { volume } => attachments::unreserve(ledger, *volume, ctx),
        Command::BeginDetaching { volume } => attachments::begin_detaching(ledger, *volume, ctx),
        Command::RollDetaching { volume } => attachments::roll_detaching(ledger, *volume, ctx),
        Command::InitializeConnection { volume, attachment, connector, mode } => {
            attachments::initialize(ledger, *volume, *attachment, connector, *mode, ctx)
        }
        Command::TerminateConnection { volume, connector } => {
            attachments::terminate(ledger, *volume, connector.as_ref(), ctx)
        }
        Command::AttachVolume(attach) => attachments::attach(ledger, attach, ctx),
        Command::DetachVolume { volume, attachment, force } => {
            attachments::detach(ledger, *volume, *attachment, *force, ctx)
        }
        Command::DetachAll { volume } => attachments::detach_all(ledger, *volume, ctx),
        Command::RestoreExports { backend, after } => export_restore::decide(ledger, backend, *after, ctx),
        Command::RegisterBackend { backend, description } => {
            ctx.actor.require_admin("tephra:backend:register")?;
            let known = ledger.backends.get(backend).is_some_and(|row| row.description == **description);
            let event = BackendEvent::Registered(description.clone());
            Ok(if known { Vec::new() } else { vec![Event::Backend(backend.clone(), event)] })
        }
        Command::EnableBackend { backend } => set_enabled(ledger, backend, BackendEvent::Enabled, ctx),
        Command::DisableBackend { backend, reason } => {
            set_enabled(ledger, backend, BackendEvent::Disabled { reason: reason.clone() }, ctx)
        }
        Command::CheckAttempt { key } => check_attempt(ledger, *key, ctx),
        Command::ReportOutcome { key, outcome } => report_outcome(ledger, *key, outcome, ctx),
        Command::ReleaseDebt { debt } => {
            ctx.actor.require_admin("tephra:debt:release")?;
            match ledger.debts.get(debt) {
                None => Err(Rejection::DebtNotFound { debt: *debt }),
                Some(_) => Ok(vec![Event::Debt(*debt, DebtEvent::Released)]),
            }
        }
        Command::ManageVolume(manage) => volume_manage::decide(ledger, manage, ctx),
        Command::UnmanageVolume { volume } => volume_unmanage::decide(ledger, *volume, ctx),
        Command::ManageSnapshot(manage) => snapshot_manage::decide(ledger, manage, ctx),
        Command::UnmanageSnapshot { snapshot } => snapshot_unmanage::decide(ledger, *snapshot, ctx),
        Command::CleanObject(clean) => object_clean::decide(ledger, clean, ctx),
        Command::FreezeBackend { backend } => set_frozen(ledger, backend, true, ctx),
        Command::ThawBackend { backend } => set_frozen(ledger, backend, false, ctx),
        Command::UploadVolume(upload) => volume_upload::decide(ledger, upload, ctx),
    }
}

fn check_attempt(ledger: &Ledger, key: EffectKey, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("tephra:operation:check")?;
    let due = match key {
        EffectKey::Step { operation, .. } => ledger.operations.get(&operation).and_then(Operation::due),
        EffectKey::Debt { debt, .. } => ledger.debts.get(&debt).and_then(CleanupDebt::due),
    };
    if due.is_some_and(|due| due.key == key) { Ok(Vec::new()) } else { Err(Rejection::StaleReport) }
}

fn report_outcome(
    ledger: &Ledger,
    key: EffectKey,
    outcome: &Outcome,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("tephra:operation:report")?;
    match key {
        EffectKey::Step { operation, .. } => {
            let operation = ledger.operations.get(&operation).ok_or(Rejection::StaleReport)?;
            decide_report(ledger, operation, key, outcome, ctx.now).ok_or(Rejection::StaleReport)
        }
        EffectKey::Debt { debt, attempt } => {
            let row = ledger.debts.get(&debt).filter(|row| row.attempt == attempt && !row.held);
            let row = row.ok_or(Rejection::StaleReport)?;
            let event = match outcome {
                Outcome::Done => DebtEvent::Paid,
                Outcome::Failed(failure) => DebtEvent::AttemptFailed {
                    failure: failure.clone(),
                    retry_at: ctx.now.plus_ms(retry_delay_ms(row.attempt)),
                },
            };
            Ok(vec![Event::Debt(debt, event)])
        }
    }
}

fn changed(
    old: &BTreeMap<String, String>,
    change: &MetadataChange,
    missing: impl FnOnce(&str) -> Rejection,
) -> Result<BTreeMap<String, String>, Rejection> {
    match change {
        MetadataChange::Merge(more) => {
            let mut metadata = old.clone();
            metadata.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
            Ok(metadata)
        }
        MetadataChange::Replace(metadata) => Ok(metadata.clone()),
        MetadataChange::Remove(key) => {
            let mut metadata = old.clone();
            metadata.remove(key).map(|_| metadata).ok_or_else(|| missing(key))
        }
    }
}

fn update_volume(
    ledger: &Ledger,
    id: VolumeId,
    name: Option<&Option<Box<str>>>,
    description: Option<&Option<Box<str>>>,
    metadata: Option<&BTreeMap<String, String>>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:update")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    let mut events = Vec::new();
    if name.is_some() || description.is_some() {
        let event = VolumeEvent::DetailsUpdated {
            name: name.cloned().unwrap_or_else(|| volume.name.clone()),
            description: description.cloned().unwrap_or_else(|| volume.description.clone()),
        };
        events.push(Event::Volume(id, event));
    }
    if let Some(metadata) = metadata {
        events.push(Event::Volume(id, VolumeEvent::MetadataReplaced { metadata: metadata.clone() }));
    }
    Ok(events)
}

fn change_volume_metadata(
    ledger: &Ledger,
    id: VolumeId,
    change: &MetadataChange,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:update_volume_metadata")?;
    let volume = ledger.visible_volume(id, &ctx.actor)?;
    let metadata = changed(&volume.metadata, change, |key| Rejection::VolumeMetadataNotFound {
        volume: id,
        key: key.into(),
    })?;
    Ok(vec![Event::Volume(id, VolumeEvent::MetadataReplaced { metadata })])
}

fn update_snapshot(
    ledger: &Ledger,
    id: SnapshotId,
    name: Option<&Option<Box<str>>>,
    description: Option<&Option<Box<str>>>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:update_snapshot")?;
    let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
    if name.is_none() && description.is_none() {
        return Ok(Vec::new());
    }
    let event = SnapshotEvent::DetailsUpdated {
        name: name.cloned().unwrap_or_else(|| snapshot.name.clone()),
        description: description.cloned().unwrap_or_else(|| snapshot.description.clone()),
    };
    Ok(vec![Event::Snapshot(id, event)])
}

fn change_snapshot_metadata(
    ledger: &Ledger,
    id: SnapshotId,
    change: &MetadataChange,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:update_snapshot_metadata")?;
    let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
    let metadata = changed(&snapshot.metadata, change, |key| Rejection::SnapshotMetadataNotFound {
        snapshot: id,
        key: key.into(),
    })?;
    Ok(vec![Event::Snapshot(id, SnapshotEvent::MetadataReplaced { metadata })])
}

fn create_volume_type(
    ledger: &Ledger,
    create: &CreateVolumeType,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:type_create")?;
    if ledger.volume_types.contains_key(&create.volume_type) || ledger.type_by_name(&create.name).is_some() {
        return Err(Rejection::VolumeTypeExists { name: create.name.clone() });
    }
    let event = VolumeTypeEvent::Created {
        name: create.name.clone(),
        description: create.description.clone(),
        is_public: create.is_public,
        extra_specs: create.extra_specs.clone(),
    };
    Ok(vec![Event::VolumeType(create.volume_type, event)])
}

fn update_volume_type(
    ledger: &Ledger,
    id: VolumeTypeId,
    name: Option<&str>,
    description: Option<&Option<Box<str>>>,
    is_public: Option<bool>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:type_update")?;
    let row = ledger.type_by_id(id)?;
    if let Some(name) = name
        && ledger.type_by_name(name).is_some_and(|other| other.id != id)
    {
        return Err(Rejection::VolumeTypeExists { name: name.into() });
    }
    let event = VolumeTypeEvent::Updated {
        name: name.map_or_else(|| row.name.clone(), Into::into),
        description: description.cloned().unwrap_or_else(|| row.description.clone()),
        is_public: is_public.unwrap_or(row.is_public),
    };
    Ok(vec![Event::VolumeType(id, event)])
}

fn delete_volume_type(ledger: &Ledger, id: VolumeTypeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:type_delete")?;
    let row = ledger.type_by_id(id)?;
    if id == DEFAULT_TYPE_ID {
        return Err(Rejection::VolumeTypeIsDefault { volume_type: id });
    }
    if row.users > 0 {
        return Err(Rejection::VolumeTypeInUse { volume_type: id });
    }
    Ok(vec![Event::VolumeType(id, VolumeTypeEvent::Deleted)])
}

fn change_extra_specs(
    ledger: &Ledger,
    id: VolumeTypeId,
    change: &MetadataChange,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:types_extra_specs:update")?;
    let row = ledger.type_by_id(id)?;
    let extra_specs = changed(&row.extra_specs, change, |key| Rejection::ExtraSpecNotFound {
        volume_type: id,
        key: key.into(),
    })?;
    Ok(vec![Event::VolumeType(id, VolumeTypeEvent::ExtraSpecsReplaced { extra_specs })])
}

fn set_enabled(
    ledger: &Ledger,
    backend: &BackendName,
    event: BackendEvent,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:services:update")?;
    if !ledger.backends.contains_key(backend) {
        return Err(Rejection::BackendNotFound { backend: backend.clone() });
    }
    Ok(vec![Event::Backend(backend.clone(), event)])
}

/// Cinder refuses to freeze what is frozen, and to thaw what is not.
fn set_frozen(
    ledger: &Ledger,
    backend: &BackendName,
    frozen: bool,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume:freeze_host")?;
    let Some(row) = ledger.backends.get(backend) else {
        return Err(Rejection::BackendNotFound { backend: backend.clone() });
    };
    if row.frozen == frozen {
        return Err(Rejection::BackendFreezeUnchanged { service: row.service_host().into(), frozen });
    }
    let event = if frozen { BackendEvent::Frozen } else { BackendEvent::Thawed };
    Ok(vec![Event::Backend(backend.clone(), event)])
}
