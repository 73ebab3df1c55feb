//! Volumes and snapshots as they were at some position, with what Cinder's API has no word for.

use serde_json::{Value, json};
use tephra_domain::attachment::{AttachMode, Attachment, Connector};
use tephra_domain::snapshot::{Snapshot, SnapshotStatus};
use tephra_domain::volume::{FailureRecord, Volume, VolumeStatus};

use super::event::source;
use super::{failure, moment};

fn last_failure(record: &FailureRecord) -> Value {
    json!({
        "operation_id": record.operation.to_string(),
        "at": moment(record.at),
        "failure": failure(&record.failure),
    })
}

/// A volume: its true status, the operation that owns it, and the failure on record.
pub fn volume(volume: &Volume) -> Value {
    let new_size = match &volume.status {
        VolumeStatus::Extending { to, .. } => Some(to.gib()),
        VolumeStatus::Creating { .. }
        | VolumeStatus::Available
        | VolumeStatus::Deleting { .. }
        | VolumeStatus::Reverting { .. }
        | VolumeStatus::Verifying { .. }
        | VolumeStatus::Managing { .. }
        | VolumeStatus::Unmanaging { .. }
        | VolumeStatus::Uploading { .. }
        | VolumeStatus::Error
        | VolumeStatus::ErrorDeleting
        | VolumeStatus::ErrorExtending
        | VolumeStatus::ErrorRestoring
        | VolumeStatus::ErrorManaging
        | VolumeStatus::ErrorBackingUp
        | VolumeStatus::Maintenance
        | VolumeStatus::Reserved
        | VolumeStatus::Attaching
        | VolumeStatus::InUse
        | VolumeStatus::Detaching => None,
    };
    json!({
        "id": volume.id.to_string(),
        "project": volume.project.as_str(),
        "user": volume.user.as_str(),
        "name": volume.name,
        "description": volume.description,
        "size_gib": volume.size.gib(),
        "new_size_gib": new_size,
        "status": volume.status.state().as_str(),
        "operation_id": volume.status.operation().map(|id| id.to_string()),
        "volume_type_id": volume.volume_type.to_string(),
        "availability_zone": volume.availability_zone.as_str(),
        "pool": volume.pool.as_ref().map(ToString::to_string),
        "source": source(volume.source),
        "metadata": volume.metadata,
        "multiattach": volume.multiattach,
        "bootable": volume.bootable,
        "image_metadata": volume.image_metadata,
        "readonly": volume.readonly,
        "created_at": moment(volume.created_at),
        "updated_at": volume.updated_at.map(moment),
        "launched_at": volume.launched_at.map(moment),
        "snapshot_ids": volume.snapshots.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "attachments": volume.attachments.iter().map(attachment).collect::<Vec<_>>(),
        "last_failure": volume.last_failure.as_deref().map(last_failure),
    })
}

/// A host that connects.
pub(super) fn connector(connector: &Connector) -> Value {
    json!({
        "host": connector.host,
        "initiator": connector.initiator,
        "ip": connector.ip,
        "mountpoint": connector.mountpoint,
        "multipath": connector.multipath,
        "enforce_multipath": connector.enforce_multipath,
    })
}

/// An attachment: its true status, the operation that owns it, and the failure on record.
fn attachment(attachment: &Attachment) -> Value {
    json!({
        "id": attachment.id.to_string(),
        "status": attachment.status.state().as_str(),
        "operation_id": attachment.status.operation().map(|id| id.to_string()),
        "instance": attachment.instance,
        "host": attachment.host,
        "mountpoint": attachment.mountpoint,
        "mode": attachment.mode.map(AttachMode::as_str),
        "connector": attachment.connector.as_ref().map(connector),
        "created_at": moment(attachment.created_at),
        "attached_at": attachment.attached_at.map(moment),
        "last_failure": attachment.last_failure.as_deref().map(last_failure),
    })
}

/// A snapshot: its true status, the operation that owns it, and the failure on record.
pub fn snapshot(snapshot: &Snapshot) -> Value {
    let verifying = match &snapshot.status {
        SnapshotStatus::Verifying { from, .. } => Some(from.as_str()),
        SnapshotStatus::Creating { .. }
        | SnapshotStatus::Available
        | SnapshotStatus::Deleting { .. }
        | SnapshotStatus::Restoring { .. }
        | SnapshotStatus::Error
        | SnapshotStatus::ErrorDeleting
        | SnapshotStatus::Unmanaging { .. } => None,
    };
    json!({
        "id": snapshot.id.to_string(),
        "volume_id": snapshot.volume.to_string(),
        "project": snapshot.project.as_str(),
        "user": snapshot.user.as_str(),
        "name": snapshot.name,
        "description": snapshot.description,
        "size_gib": snapshot.size.gib(),
        "status": snapshot.status.state().as_str(),
        "verifying_from": verifying,
        "operation_id": snapshot.status.operation().map(|id| id.to_string()),
        "volume_type_id": snapshot.volume_type.to_string(),
        "pool": snapshot.pool.to_string(),
        "metadata": snapshot.metadata,
        "created_at": moment(snapshot.created_at),
        "updated_at": snapshot.updated_at.map(moment),
        "last_failure": snapshot.last_failure.as_deref().map(last_failure),
    })
}
