//! Attachments on the wire, and how a client that attaches reaches the volume.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tephra_domain::attachment::{AttachMode, Attachment, AttachmentState, AttachmentStatus};
use tephra_domain::backend::{BackendDescription, ExportProtocol};
use tephra_domain::volume::Volume;
use tephra_journal::secrets::MasterKey;
use tephra_projector::attachments::Attached;
use utoipa::ToSchema;

use super::moment;

/// `{"attachment": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachmentEnvelope {
    /// The attachment.
    pub attachment: AttachmentDetail,
}

/// Attachments in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachmentBriefList {
    /// The attachments.
    pub attachments: Vec<AttachmentBrief>,
}

/// Attachments with all their fields.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachmentDetailList {
    /// The attachments.
    pub attachments: Vec<AttachmentDetail>,
}

/// An attachment in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachmentBrief {
    id: String,
    status: &'static str,
    instance: Option<Box<str>>,
    volume_id: String,
}

impl AttachmentBrief {
    /// Shows an attachment.
    pub fn new(volume: &Volume, attachment: &Attachment) -> Self {
        Self {
            id: attachment.id.to_string(),
            status: attachment.status.state().wire_name(),
            instance: attachment.instance.clone(),
            volume_id: volume.id.to_string(),
        }
    }
}

/// An attachment with all its fields.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachmentDetail {
    #[serde(flatten)]
    brief: AttachmentBrief,
    /// Empty until there is an export, or the client has said that it connected without one.
    attached_at: String,
    /// Empty: what is detached is gone.
    detached_at: &'static str,
    /// `rw`, `ro`, or the text `null` until it is decided.
    attach_mode: &'static str,
    /// Empty until there is an export; what is in it depends on the kind of storage.
    #[schema(value_type = Object)]
    connection_info: Map<String, Value>,
}

impl AttachmentDetail {
    /// Shows an attachment. `backend` is that of its volume.
    pub fn new(attached: &Attached, backend: Option<&BackendDescription>, key: Option<&MasterKey>) -> Self {
        let Attached { volume, attachment } = attached;
        Self {
            brief: AttachmentBrief::new(volume, attachment),
            attached_at: attachment.attached_at.map(moment).unwrap_or_default(),
            detached_at: "",
            attach_mode: attachment.mode.map_or("null", AttachMode::as_str),
            connection_info: flat(volume, attachment, backend, key),
        }
    }
}

/// How to reach the volume, as attachments say it: the driver's data with its kind among them.
fn flat(
    volume: &Volume,
    attachment: &Attachment,
    backend: Option<&BackendDescription>,
    key: Option<&MasterKey>,
) -> Map<String, Value> {
    let connection = backend.and_then(|backend| Connection::of(volume, attachment, backend, key));
    let Some(Connection { protocol, mut data }) = connection else { return Map::new() };
    data.insert("driver_volume_type".to_owned(), protocol.as_str().into());
    data.insert("attachment_id".to_owned(), attachment.id.to_string().into());
    data.insert("enforce_multipath".to_owned(), enforces(attachment).into());
    data
}

fn enforces(attachment: &Attachment) -> bool {
    attachment.connector.as_ref().is_some_and(|connector| connector.enforce_multipath)
}

/// How to reach a volume through an attachment.
struct Connection {
    protocol: ExportProtocol,
    data: Map<String, Value>,
}

/// How to reach the volume, as `os-initialize_connection` says it. Nothing as long as there is no
/// export.
pub fn connection_info(
    volume: &Volume,
    attachment: &Attachment,
    backend: &BackendDescription,
    key: Option<&MasterKey>,
) -> Option<Value> {
    let Connection { protocol, data } = Connection::of(volume, attachment, backend, key)?;
    Some(json!({
        "driver_volume_type": protocol.as_str(),
        "data": data,
        "enforce_multipath": enforces(attachment),
    }))
}

impl Connection {
    /// Nothing is stored of it: it follows from ids, from what the backend's executor says of
    /// itself, and from the deployment's key.
    fn of(
        volume: &Volume,
        attachment: &Attachment,
        backend: &BackendDescription,
        key: Option<&MasterKey>,
    ) -> Option<Self> {
        let is_there = match attachment.status.state() {
            AttachmentState::Attaching | AttachmentState::Attached => attachment.has_export(),
            AttachmentState::Absent
            | AttachmentState::Reserved
            | AttachmentState::Connecting
            | AttachmentState::Disconnecting
            | AttachmentState::ErrorAttaching
            | AttachmentState::ErrorDetaching => false,
        };
        let protocol = backend.protocol().filter(|_| is_there)?;
        let mode = attachment.mode.unwrap_or(AttachMode::ReadWrite);
        let mut data = json!({
            "volume_id": volume.id.to_string(),
            "access_mode": mode.as_str(),
            "encrypted": false,
            "qos_specs": null,
            "discard": true,
        });
        let name = format!("volume-{}", volume.id);
        let of_kind = match protocol {
            ExportProtocol::Iscsi => iscsi(attachment, backend, key?),
            ExportProtocol::Rbd => rbd(volume, &name, backend),
            ExportProtocol::Nfs => json!({
                "export": backend.export("share"),
                "name": name,
                "format": "raw",
                "options": backend.export("options"),
            }),
            ExportProtocol::Local => json!({
                "device_path": backend.export("directory").map(|directory| format!("{directory}/{name}")),
            }),
        };
        let data = data.as_object_mut()?;
        data.extend(of_kind.as_object()?.clone());
        Some(Self { protocol, data: std::mem::take(data) })
    }
}

fn iscsi(attachment: &Attachment, backend: &BackendDescription, key: &MasterKey) -> Value {
    let secret = key.chap(attachment.id);
    let target = format!("{}attachment-{}", backend.export("iqn_prefix").unwrap_or_default(), attachment.id);
    let portal = backend.export("portal").unwrap_or_default();
    let lun: u32 = backend.export("lun").and_then(|lun| lun.parse().ok()).unwrap_or(1);
    let mut data = json!({
        "target_discovered": false,
        "target_portal": portal,
        "target_iqn": target,
        "target_lun": lun,
        "auth_method": "CHAP",
        "auth_username": secret.user,
        "auth_password": secret.password,
        // tgt gives no space back
        "discard": false,
    });
    let is_multipath = attachment.connector.as_ref().is_some_and(|connector| connector.multipath);
    if let (true, Some(data)) = (is_multipath, data.as_object_mut()) {
        data.insert("target_portals".to_owned(), json!([portal]));
        data.insert("target_iqns".to_owned(), json!([target]));
        data.insert("target_luns".to_owned(), json!([lun]));
    }
    data
}

/// Clients find the monitors and the key by themselves: by `secret_uuid` in libvirt, or by the
/// user's keyring.
fn rbd(volume: &Volume, name: &str, backend: &BackendDescription) -> Value {
    let list = |fact: &str| -> Vec<String> {
        let words = backend.export(fact).unwrap_or_default().split(',');
        words.filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
    };
    let pool = volume.pool.as_ref().map_or_else(String::new, |pool| pool.pool.to_string());
    json!({
        "name": format!("{pool}/{name}"),
        "hosts": list("hosts"),
        "ports": list("ports"),
        "cluster_name": backend.export("cluster_name").unwrap_or("ceph"),
        "auth_enabled": backend.export("user").is_some(),
        "auth_username": backend.export("user"),
        "secret_type": "ceph",
        "secret_uuid": backend.export("secret_uuid"),
    })
}

/// An attachment as its volume shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeAttachmentView {
    /// The volume's id, as in Cinder.
    id: String,
    attachment_id: String,
    volume_id: String,
    server_id: Option<Box<str>>,
    /// Administrators only; null for others.
    host_name: Option<Box<str>>,
    device: Option<Box<str>>,
    attached_at: Option<String>,
}

impl VolumeAttachmentView {
    /// Shows what is attached; what only waits to be is not shown, as in Cinder.
    pub fn all(volume: &Volume, is_admin: bool) -> Vec<Self> {
        let attached = volume.attachments.iter().filter(|one| match &one.status {
            AttachmentStatus::Attached | AttachmentStatus::ErrorDetaching => true,
            AttachmentStatus::Disconnecting { from, .. } => *from == AttachmentState::Attached,
            AttachmentStatus::Reserved
            | AttachmentStatus::Connecting { .. }
            | AttachmentStatus::Attaching
            | AttachmentStatus::ErrorAttaching => false,
        });
        attached
            .map(|one| Self {
                id: volume.id.to_string(),
                attachment_id: one.id.to_string(),
                volume_id: volume.id.to_string(),
                server_id: one.instance.clone(),
                host_name: one.host.clone().filter(|_| is_admin),
                device: one.mountpoint.clone(),
                attached_at: one.attached_at.map(moment),
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "attachment_tests.rs"]
mod tests;
