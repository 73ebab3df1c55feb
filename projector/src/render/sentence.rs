//! What happened, in a sentence that needs no other field to be understood by a person.

use tephra_domain::attachment::AttachmentEvent;
use tephra_domain::backend::BackendEvent;
use tephra_domain::debt::DebtEvent;
use tephra_domain::event::Event;
use tephra_domain::ids::AttachmentId;
use tephra_domain::operation::{OperationEnd, OperationEvent};
use tephra_domain::quota::QuotaEvent;
use tephra_domain::snapshot::SnapshotEvent;
use tephra_domain::volume::{VolumeEvent, VolumeSource};
use tephra_domain::volume_type::VolumeTypeEvent;

use super::moment;

/// An event in a sentence.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Volume(_, event) => volume(event),
        Event::Snapshot(_, event) => snapshot(event),
        Event::VolumeType(_, event) => volume_type(event),
        Event::Quota(event) => quota(event),
        Event::Backend(_, event) => backend(event),
        Event::Operation(_, event) => operation(event),
        Event::Debt(_, event) => debt(event),
        Event::TurnBegan { sequencer } => format!("{sequencer} decides commands from here on"),
    }
}

const fn restored_or_not(restored: bool) -> &'static str {
    if restored { "what was before is restored" } else { "an operator must put it right" }
}

fn named(name: Option<&str>) -> String {
    name.map_or_else(|| "no name".to_owned(), |name| format!("the name \"{name}\""))
}

fn volume(event: &VolumeEvent) -> String {
    match event {
        VolumeEvent::CreateAccepted(accepted) => {
            let source = match accepted.source {
                VolumeSource::Blank => String::new(),
                VolumeSource::Image(id) => format!(" from image {id}"),
                VolumeSource::Snapshot(id) => format!(" from snapshot {id}"),
                VolumeSource::Volume(id) => format!(" from volume {id}"),
            };
            let place = match &accepted.placement.chosen {
                Some(pool) => format!("on {pool}"),
                None => "but no pool takes it".to_owned(),
            };
            format!("A volume of {} GiB is to be made{source} {place}.", accepted.size)
        }
        VolumeEvent::Rescheduled { failed, failure, placement } => {
            let next = placement.chosen.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
            format!("Making it on {failed} failed: {failure}. It is tried on {next}.")
        }
        VolumeEvent::Created => "The volume is made and available.".to_owned(),
        VolumeEvent::CreateFailed { failure, .. } => format!("The volume could not be made: {failure}."),
        VolumeEvent::DeleteAccepted { .. } => "The volume is to be removed.".to_owned(),
        VolumeEvent::Deleted => "The volume is gone.".to_owned(),
        VolumeEvent::DeleteFailed { failure, .. } => format!("The volume could not be removed: {failure}."),
        VolumeEvent::ExtendAccepted { to, .. } => format!("The volume is to grow to {to} GiB."),
        VolumeEvent::Extended { to } => format!("The volume has {to} GiB."),
        VolumeEvent::ExtendFailed { failure, restored, .. } => {
            format!("The volume could not grow: {failure}; {}.", restored_or_not(*restored))
        }
        VolumeEvent::RevertAccepted { snapshot, .. } => {
            format!("The volume is to be reverted to snapshot {snapshot}.")
        }
        VolumeEvent::Reverted => "The volume holds the snapshot's data again.".to_owned(),
        VolumeEvent::RevertFailed { failure, restored, .. } => {
            format!("The volume could not be reverted: {failure}; {}.", restored_or_not(*restored))
        }
        VolumeEvent::ResetAccepted { .. } => {
            "An operator says that the volume is available; the backend is asked.".to_owned()
        }
        VolumeEvent::StatusReset { to } => format!("The volume's status is set to {}.", to.as_str()),
        VolumeEvent::ResetFailed { failure, .. } => format!("The volume is not available: {failure}."),
        VolumeEvent::DetailsUpdated { name, .. } => {
            format!("The volume has {} and a description as given.", named(name.as_deref()))
        }
        VolumeEvent::MetadataReplaced { metadata } => {
            format!("The volume has {} metadata entries.", metadata.len())
        }
        VolumeEvent::BootableChanged { bootable: true } => "A server can boot from the volume.".to_owned(),
        VolumeEvent::BootableChanged { bootable: false } => "No server can boot from the volume.".to_owned(),
        VolumeEvent::ImageMetadataReplaced { metadata } => {
            format!("The volume remembers {} properties of an image.", metadata.len())
        }
        VolumeEvent::ReadonlyChanged { readonly: true } => "The volume may only be read.".to_owned(),
        VolumeEvent::ReadonlyChanged { readonly: false } => "The volume may be written.".to_owned(),
        VolumeEvent::ManageAccepted { accepted, name } => {
            format!("\"{name}\" ({} GiB) is to be taken over as a volume.", accepted.size)
        }
        VolumeEvent::Managed => "The volume is taken over and available.".to_owned(),
        VolumeEvent::ManageFailed { failure, .. } => {
            format!("The volume could not be taken over: {failure}.")
        }
        VolumeEvent::UnmanageAccepted { .. } => "The volume is to be given up.".to_owned(),
        VolumeEvent::Unmanaged => "The volume is given up; its data stays on the backend.".to_owned(),
        VolumeEvent::UnmanageFailed { failure, restored, .. } => {
            format!("The volume could not be given up: {failure}; {}.", restored_or_not(*restored))
        }
        VolumeEvent::UploadAccepted { image, .. } => {
            format!("Image {image} is to be made of the volume.")
        }
        VolumeEvent::Uploaded { image } => format!("Image {image} holds the volume's data."),
        VolumeEvent::UploadFailed { failure, .. } => {
            format!("No image could be made of the volume: {failure}.")
        }
        VolumeEvent::UseChanged { to } => format!("The volume is now {}.", to.as_str()),
        VolumeEvent::Attachment { attachment: id, event } => attachment(*id, event),
    }
}

fn attachment(id: AttachmentId, event: &AttachmentEvent) -> String {
    let server = |instance: Option<&str>, host: Option<&str>| match (instance, host) {
        (Some(instance), _) => format!("server {instance}"),
        (None, Some(host)) => format!("host {host}"),
        (None, None) => "somebody who gives no name".to_owned(),
    };
    match event {
        AttachmentEvent::Reserved { instance, .. } => {
            format!("The volume is held for {} by attachment {id}.", server(instance.as_deref(), None))
        }
        AttachmentEvent::ConnectAccepted { connector, .. } => {
            let host = server(None, connector.host.as_deref());
            format!("The export of attachment {id} is to be made, for {host}.")
        }
        AttachmentEvent::Connected => format!("The export of attachment {id} is there."),
        AttachmentEvent::ConnectFailed { failure, .. } => {
            format!("The export of attachment {id} could not be made: {failure}.")
        }
        AttachmentEvent::Attached { instance, host, mode, .. } => {
            let server = server(instance.as_deref(), host.as_deref());
            format!("The volume is attached ({}) to {server} by attachment {id}.", mode.as_str())
        }
        AttachmentEvent::Completed => format!("The server of attachment {id} has connected."),
        AttachmentEvent::DisconnectAccepted { .. } => {
            format!("The export of attachment {id} is to be removed.")
        }
        AttachmentEvent::Disconnected => format!("The export of attachment {id} is gone."),
        AttachmentEvent::DisconnectFailed { failure, .. } => {
            format!("The export of attachment {id} could not be removed: {failure}.")
        }
        AttachmentEvent::Deleted => format!("Attachment {id} is over."),
    }
}

fn snapshot(event: &SnapshotEvent) -> String {
    match event {
        SnapshotEvent::CreateAccepted(accepted) => {
            format!("A snapshot of volume {} ({} GiB) is to be taken.", accepted.volume, accepted.size)
        }
        SnapshotEvent::Created => "The snapshot is taken and available.".to_owned(),
        SnapshotEvent::CreateFailed { failure, .. } => format!("The snapshot could not be taken: {failure}."),
        SnapshotEvent::DeleteAccepted { .. } => "The snapshot is to be removed.".to_owned(),
        SnapshotEvent::Deleted => "The snapshot is gone.".to_owned(),
        SnapshotEvent::DeleteFailed { failure, .. } => {
            format!("The snapshot could not be removed: {failure}.")
        }
        SnapshotEvent::RestoreAccepted { .. } => {
            "The snapshot's data is being put back into its volume.".to_owned()
        }
        SnapshotEvent::RestoreEnded => "The snapshot is available again.".to_owned(),
        SnapshotEvent::ResetAccepted { .. } => {
            "An operator says that the snapshot is available; the backend is asked.".to_owned()
        }
        SnapshotEvent::StatusReset { to } => format!("The snapshot's status is set to {}.", to.as_str()),
        SnapshotEvent::ResetFailed { failure, .. } => format!("The snapshot is not available: {failure}."),
        SnapshotEvent::DetailsUpdated { name, .. } => {
            format!("The snapshot has {} and a description as given.", named(name.as_deref()))
        }
        SnapshotEvent::MetadataReplaced { metadata } => {
            format!("The snapshot has {} metadata entries.", metadata.len())
        }
        SnapshotEvent::ManageAccepted { accepted, name } => {
            format!("\"{name}\" is to be taken over as a snapshot of volume {}.", accepted.volume)
        }
        SnapshotEvent::Managed => "The snapshot is taken over and available.".to_owned(),
        SnapshotEvent::ManageFailed { failure, .. } => {
            format!("The snapshot could not be taken over: {failure}.")
        }
        SnapshotEvent::UnmanageAccepted { .. } => "The snapshot is to be given up.".to_owned(),
        SnapshotEvent::Unmanaged => "The snapshot is given up; it stays on the backend.".to_owned(),
        SnapshotEvent::UnmanageFailed { failure, restored, .. } => {
            format!("The snapshot could not be given up: {failure}; {}.", restored_or_not(*restored))
        }
    }
}

fn volume_type(event: &VolumeTypeEvent) -> String {
    match event {
        VolumeTypeEvent::Created { name, is_public, .. } => {
            format!("The {} volume type \"{name}\" exists.", if *is_public { "public" } else { "private" })
        }
        VolumeTypeEvent::Updated { name, is_public, .. } => {
            format!("The volume type is \"{name}\" and {}.", if *is_public { "public" } else { "private" })
        }
        VolumeTypeEvent::ExtraSpecsReplaced { extra_specs } => {
            format!("The volume type has {} extra specs.", extra_specs.len())
        }
        VolumeTypeEvent::AccessGranted { project } => format!("Project {project} may use the volume type."),
        VolumeTypeEvent::AccessRevoked { project } => {
            format!("Project {project} may no longer use the volume type.")
        }
        VolumeTypeEvent::Deleted => "The volume type is gone.".to_owned(),
    }
}

fn quota(event: &QuotaEvent) -> String {
    match event {
        QuotaEvent::LimitsSet { project, limits } => {
            format!("{} limits of project {project} are set.", limits.len())
        }
        QuotaEvent::LimitsCleared { project } => format!("Project {project} has the default limits again."),
        QuotaEvent::DefaultsSet { limits } => format!("{} default limits are set.", limits.len()),
    }
}

fn backend(event: &BackendEvent) -> String {
    match event {
        BackendEvent::Registered(description) => format!(
            "The backend presents itself: driver {} on host {}, zone {}.",
            description.driver, description.host, description.availability_zone
        ),
        BackendEvent::Enabled => "New volumes may go to the backend.".to_owned(),
        BackendEvent::Disabled { reason: Some(reason) } => {
            format!("No new volumes go to the backend: {reason}.")
        }
        BackendEvent::Disabled { reason: None } => "No new volumes go to the backend.".to_owned(),
        BackendEvent::Frozen => "Nothing on the backend is changed any more.".to_owned(),
        BackendEvent::Thawed => "The backend takes changes and new volumes again.".to_owned(),
    }
}

fn operation(event: &OperationEvent) -> String {
    match event {
        OperationEvent::Opened { kind, .. } => format!("Operation {} begins.", kind.name()),
        OperationEvent::StepCompleted { step } => format!("Step {step} is done."),
        OperationEvent::AttemptFailed { failure, retry_at } => {
            format!("An attempt failed: {failure}. The next is due at {}.", moment(*retry_at))
        }
        OperationEvent::StepWaived { step, failure } => {
            format!("Step {step} is given up: {failure}. The operation goes on.")
        }
        OperationEvent::UndoStarted { step, failure } => {
            format!("Step {step} failed: {failure}. What was done is undone.")
        }
        OperationEvent::StepUndone { step } => format!("Step {step} is undone."),
        OperationEvent::UndoWaived { step, failure } => {
            format!("Undoing step {step} is given up: {failure}.")
        }
        OperationEvent::Rescheduled { .. } => "The operation begins again on another pool.".to_owned(),
        OperationEvent::Closed { end: OperationEnd::Completed } => "The operation is complete.".to_owned(),
        OperationEvent::Closed { end: OperationEnd::Failed } => "The operation ended in failure.".to_owned(),
        OperationEvent::Closed { end: OperationEnd::Abandoned } => {
            "An operator ended the operation.".to_owned()
        }
    }
}

fn debt(event: &DebtEvent) -> String {
    match event {
        DebtEvent::Incurred { pool, object, reason, held: false, .. } => {
            format!("{object} stays behind on {pool} until it can be removed: {reason}.")
        }
        DebtEvent::Incurred { pool, object, reason, held: true, .. } => {
            format!("{object} is kept on {pool} until an operator decides: {reason}.")
        }
        DebtEvent::AttemptFailed { failure, retry_at } => {
            format!("Removing it failed again: {failure}. The next attempt is due at {}.", moment(*retry_at))
        }
        DebtEvent::Released => "An operator wants it removed now.".to_owned(),
        DebtEvent::Paid => "It is removed.".to_owned(),
    }
}
