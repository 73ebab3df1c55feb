//! What each event says beyond its kind and its resource: one arm per event.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tephra_domain::attachment::{AttachMode, AttachmentEvent};
use tephra_domain::backend::{BackendDescription, BackendEvent};
use tephra_domain::debt::DebtEvent;
use tephra_domain::effect::Failure;
use tephra_domain::event::Event;
use tephra_domain::ids::{OperationId, PoolId, ProjectId};
use tephra_domain::operation::{OperationEnd, OperationEvent};
use tephra_domain::quota::{QuotaEvent, QuotaLimits, QuotaResource};
use tephra_domain::scheduler::PlacementDecision;
use tephra_domain::snapshot::{SnapshotCreateAccepted, SnapshotEvent};
use tephra_domain::volume::{VolumeCreateAccepted, VolumeEvent, VolumeSource};
use tephra_domain::volume_type::VolumeTypeEvent;

use super::operation::parameters;
use super::{failure, moment, object};

/// The owner that an event names itself; later events of the same resource do not repeat it.
pub const fn named_project(event: &Event) -> Option<&ProjectId> {
    match event {
        Event::Volume(
            _,
            VolumeEvent::CreateAccepted(accepted) | VolumeEvent::ManageAccepted { accepted, .. },
        ) => Some(&accepted.project),
        Event::Snapshot(
            _,
            SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. },
        ) => Some(&accepted.project),
        Event::Operation(_, OperationEvent::Opened { project, .. })
        | Event::Debt(_, DebtEvent::Incurred { project, .. })
        | Event::Quota(QuotaEvent::LimitsSet { project, .. } | QuotaEvent::LimitsCleared { project }) => {
            Some(project)
        }
        Event::Volume(..)
        | Event::Snapshot(..)
        | Event::VolumeType(..)
        | Event::Quota(QuotaEvent::DefaultsSet { .. })
        | Event::Backend(..)
        | Event::Operation(..)
        | Event::Debt(..)
        | Event::TurnBegan { .. } => None,
    }
}

/// The `data` of an event.
pub fn data(event: &Event) -> Value {
    match event {
        Event::Volume(_, event) => volume(event),
        Event::Snapshot(_, event) => snapshot(event),
        Event::VolumeType(_, event) => volume_type(event),
        Event::Quota(event) => quota(event),
        Event::Backend(_, event) => backend(event),
        Event::Operation(_, event) => operation(event),
        Event::Debt(_, event) => debt(event),
        Event::TurnBegan { sequencer } => json!({ "sequencer": sequencer }),
    }
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

fn by(operation: OperationId) -> Value {
    json!({ "operation_id": operation.to_string() })
}

fn failed(operation: OperationId, why: &Failure) -> Value {
    json!({ "operation_id": operation.to_string(), "failure": failure(why) })
}

fn failed_after_undo(operation: OperationId, why: &Failure, restored: bool) -> Value {
    json!({ "operation_id": operation.to_string(), "failure": failure(why), "restored": restored })
}

fn details(name: Option<&str>, description: Option<&str>) -> Value {
    json!({ "name": name, "description": description })
}

fn metadata(metadata: &BTreeMap<String, String>) -> Value {
    json!({ "metadata": metadata })
}

fn volume(event: &VolumeEvent) -> Value {
    match event {
        VolumeEvent::CreateAccepted(accepted) => volume_create_accepted(accepted),
        VolumeEvent::Rescheduled { failed, failure: why, placement } => json!({
            "failed_pool": failed.to_string(),
            "failure": failure(why),
            "placement": placement_decision(placement),
        }),
        VolumeEvent::ManageAccepted { accepted, name } => under_name(volume_create_accepted(accepted), name),
        VolumeEvent::Created
        | VolumeEvent::Deleted
        | VolumeEvent::Reverted
        | VolumeEvent::Managed
        | VolumeEvent::Unmanaged => nothing(),
        VolumeEvent::CreateFailed { operation, failure }
        | VolumeEvent::ManageFailed { operation, failure }
        | VolumeEvent::DeleteFailed { operation, failure }
        | VolumeEvent::UploadFailed { operation, failure }
        | VolumeEvent::ResetFailed { operation, failure } => failed(*operation, failure),
        VolumeEvent::DeleteAccepted { operation }
        | VolumeEvent::ResetAccepted { operation }
        | VolumeEvent::UnmanageAccepted { operation } => by(*operation),
        VolumeEvent::UploadAccepted { operation, image } => {
            json!({ "operation_id": operation.to_string(), "image_id": image.to_string() })
        }
        VolumeEvent::Uploaded { image } => json!({ "image_id": image.to_string() }),
        VolumeEvent::ExtendAccepted { operation, to } => {
            json!({ "operation_id": operation.to_string(), "new_size_gib": to.gib() })
        }
        VolumeEvent::Extended { to } => json!({ "size_gib": to.gib() }),
        VolumeEvent::ExtendFailed { operation, failure, restored }
        | VolumeEvent::RevertFailed { operation, failure, restored }
        | VolumeEvent::UnmanageFailed { operation, failure, restored } => {
            failed_after_undo(*operation, failure, *restored)
        }
        VolumeEvent::RevertAccepted { operation, snapshot } => {
            json!({ "operation_id": operation.to_string(), "snapshot_id": snapshot.to_string() })
        }
        VolumeEvent::StatusReset { to } => json!({ "status": to.as_str() }),
        VolumeEvent::DetailsUpdated { name, description } => details(name.as_deref(), description.as_deref()),
        VolumeEvent::MetadataReplaced { metadata: new } => metadata(new),
        VolumeEvent::BootableChanged { bootable } => json!({ "bootable": bootable }),
        VolumeEvent::ReadonlyChanged { readonly } => json!({ "readonly": readonly }),
        VolumeEvent::ImageMetadataReplaced { metadata } => json!({ "image_metadata": metadata }),
        VolumeEvent::UseChanged { to } => json!({ "status": to.as_str() }),
        VolumeEvent::Attachment { attachment: id, event } => {
            let mut data = attachment(event);
            if let Value::Object(fields) = &mut data {
                fields.insert("attachment_id".to_owned(), id.to_string().into());
            }
            data
        }
    }
}

fn attachment(event: &AttachmentEvent) -> Value {
    match event {
        AttachmentEvent::Reserved { instance, mode } => {
            json!({ "instance": instance, "mode": mode.map(AttachMode::as_str) })
        }
        AttachmentEvent::ConnectAccepted { operation, connector, mode } => json!({
            "operation_id": operation.to_string(),
            "connector": super::state::connector(connector),
            "mode": mode.as_str(),
        }),
        AttachmentEvent::Attached { instance, host, mountpoint, mode } => json!({
            "instance": instance,
            "host": host,
            "mountpoint": mountpoint,
            "mode": mode.as_str(),
        }),
        AttachmentEvent::DisconnectAccepted { operation } => by(*operation),
        AttachmentEvent::ConnectFailed { operation, failure, restored } => {
            failed_after_undo(*operation, failure, *restored)
        }
        AttachmentEvent::DisconnectFailed { operation, failure } => failed(*operation, failure),
        AttachmentEvent::Connected
        | AttachmentEvent::Completed
        | AttachmentEvent::Disconnected
        | AttachmentEvent::Deleted => nothing(),
    }
}

/// What is to be created, with what the backend calls it until then.
fn under_name(mut accepted: Value, name: &str) -> Value {
    if let Value::Object(fields) = &mut accepted {
        fields.insert("source_name".to_owned(), name.into());
    }
    accepted
}

fn volume_create_accepted(accepted: &VolumeCreateAccepted) -> Value {
    json!({
        "operation_id": accepted.operation.to_string(),
        "project": accepted.project.as_str(),
        "user": accepted.user.as_str(),
        "name": accepted.name,
        "description": accepted.description,
        "size_gib": accepted.size.gib(),
        "volume_type_id": accepted.volume_type.to_string(),
        "availability_zone": accepted.availability_zone.as_str(),
        "source": source(accepted.source),
        "metadata": accepted.metadata,
        "multiattach": accepted.multiattach,
        "bootable": accepted.bootable,
        "placement": placement_decision(&accepted.placement),
    })
}

/// Where a volume's first data came from.
pub fn source(source: VolumeSource) -> Value {
    match source {
        VolumeSource::Blank => json!({ "kind": "blank" }),
        VolumeSource::Image(id) => json!({ "kind": "image", "image_id": id.to_string() }),
        VolumeSource::Snapshot(id) => json!({ "kind": "snapshot", "snapshot_id": id.to_string() }),
        VolumeSource::Volume(id) => json!({ "kind": "volume", "volume_id": id.to_string() }),
    }
}

fn placement_decision(placement: &PlacementDecision) -> Value {
    let candidates: Vec<Value> = placement
        .candidates
        .iter()
        .map(|candidate| {
            let refused = candidate.refused.as_ref();
            let refused = refused.map(|(filter, why)| json!({ "filter": filter.as_str(), "reason": why }));
            json!({
                "pool": candidate.pool.to_string(),
                "refused": refused,
                "score_milli_gib": candidate.score,
            })
        })
        .collect();
    json!({
        "chosen": placement.chosen.as_ref().map(ToString::to_string),
        "alternatives": placement.alternatives.iter().map(PoolId::to_string).collect::<Vec<_>>(),
        "candidates": candidates,
    })
}

fn snapshot(event: &SnapshotEvent) -> Value {
    match event {
        SnapshotEvent::CreateAccepted(accepted) => snapshot_create_accepted(accepted),
        SnapshotEvent::ManageAccepted { accepted, name } => {
            under_name(snapshot_create_accepted(accepted), name)
        }
        SnapshotEvent::Created
        | SnapshotEvent::Deleted
        | SnapshotEvent::RestoreEnded
        | SnapshotEvent::Managed
        | SnapshotEvent::Unmanaged => nothing(),
        SnapshotEvent::UnmanageFailed { operation, failure, restored } => {
            failed_after_undo(*operation, failure, *restored)
        }
        SnapshotEvent::CreateFailed { operation, failure }
        | SnapshotEvent::ManageFailed { operation, failure }
        | SnapshotEvent::DeleteFailed { operation, failure }
        | SnapshotEvent::ResetFailed { operation, failure } => failed(*operation, failure),
        SnapshotEvent::DeleteAccepted { operation }
        | SnapshotEvent::RestoreAccepted { operation }
        | SnapshotEvent::ResetAccepted { operation }
        | SnapshotEvent::UnmanageAccepted { operation } => by(*operation),
        SnapshotEvent::StatusReset { to } => json!({ "status": to.as_str() }),
        SnapshotEvent::DetailsUpdated { name, description } => {
            details(name.as_deref(), description.as_deref())
        }
        SnapshotEvent::MetadataReplaced { metadata: new } => metadata(new),
    }
}

fn snapshot_create_accepted(accepted: &SnapshotCreateAccepted) -> Value {
    json!({
        "operation_id": accepted.operation.to_string(),
        "volume_id": accepted.volume.to_string(),
        "project": accepted.project.as_str(),
        "user": accepted.user.as_str(),
        "name": accepted.name,
        "description": accepted.description,
        "size_gib": accepted.size.gib(),
        "volume_type_id": accepted.volume_type.to_string(),
        "pool": accepted.pool.to_string(),
        "metadata": accepted.metadata,
    })
}

fn volume_type(event: &VolumeTypeEvent) -> Value {
    match event {
        VolumeTypeEvent::Created { name, description, is_public, extra_specs } => json!({
            "name": name,
            "description": description,
            "is_public": is_public,
            "extra_specs": extra_specs,
        }),
        VolumeTypeEvent::Updated { name, description, is_public } => {
            json!({ "name": name, "description": description, "is_public": is_public })
        }
        VolumeTypeEvent::ExtraSpecsReplaced { extra_specs } => json!({ "extra_specs": extra_specs }),
        VolumeTypeEvent::AccessGranted { project } | VolumeTypeEvent::AccessRevoked { project } => {
            json!({ "project": project.as_str() })
        }
        VolumeTypeEvent::Deleted => nothing(),
    }
}

fn quota(event: &QuotaEvent) -> Value {
    match event {
        QuotaEvent::LimitsSet { project, limits } => {
            json!({ "project": project.as_str(), "limits": quota_limits(limits) })
        }
        QuotaEvent::LimitsCleared { project } => json!({ "project": project.as_str() }),
        QuotaEvent::DefaultsSet { limits } => json!({ "limits": quota_limits(limits) }),
    }
}

/// Limits in a list, because a limit of one type is named by the type's id, which is not a word.
fn quota_limits(limits: &QuotaLimits) -> Vec<Value> {
    limits
        .iter()
        .map(|(resource, limit): (&QuotaResource, &i64)| {
            json!({
                "resource": resource.stem(),
                "volume_type_id": resource.volume_type().map(|id| id.to_string()),
                "limit": limit,
            })
        })
        .collect()
}

fn backend(event: &BackendEvent) -> Value {
    match event {
        BackendEvent::Registered(description) => backend_description(description),
        BackendEvent::Enabled | BackendEvent::Frozen | BackendEvent::Thawed => nothing(),
        BackendEvent::Disabled { reason } => json!({ "reason": reason }),
    }
}

fn backend_description(description: &BackendDescription) -> Value {
    json!({
        "host": description.host,
        "driver": description.driver,
        "availability_zone": description.availability_zone.as_str(),
        "pools": description.pools.iter().map(|pool| pool.as_str()).collect::<Vec<_>>(),
        "native_revert": description.native_revert,
        "capabilities": description.capabilities,
    })
}

/// The stable word for how an operation ended.
pub const fn operation_end(end: OperationEnd) -> &'static str {
    match end {
        OperationEnd::Completed => "completed",
        OperationEnd::Failed => "failed",
        OperationEnd::Abandoned => "abandoned",
    }
}

fn operation(event: &OperationEvent) -> Value {
    match event {
        OperationEvent::Opened { project, kind } => json!({
            "project": project.as_str(),
            "operation": kind.name(),
            "parameters": parameters(kind),
        }),
        OperationEvent::StepCompleted { step } | OperationEvent::StepUndone { step } => {
            json!({ "step": step })
        }
        OperationEvent::AttemptFailed { failure: why, retry_at } => {
            json!({ "failure": failure(why), "retry_at": moment(*retry_at) })
        }
        OperationEvent::StepWaived { step, failure: why }
        | OperationEvent::UndoStarted { step, failure: why }
        | OperationEvent::UndoWaived { step, failure: why } => {
            json!({ "step": step, "failure": failure(why) })
        }
        OperationEvent::Rescheduled { kind } => {
            json!({ "operation": kind.name(), "parameters": parameters(kind) })
        }
        OperationEvent::Closed { end } => json!({ "end": operation_end(*end) }),
    }
}

fn debt(event: &DebtEvent) -> Value {
    match event {
        DebtEvent::Incurred { project, pool, object: left, reason, held } => json!({
            "project": project.as_str(),
            "pool": pool.to_string(),
            "object": object(left),
            "reason": failure(reason),
            "held": held,
        }),
        DebtEvent::AttemptFailed { failure: why, retry_at } => {
            json!({ "failure": failure(why), "retry_at": moment(*retry_at) })
        }
        DebtEvent::Released | DebtEvent::Paid => nothing(),
    }
}
