//! Connection data, held against what os-brick reads of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tephra_domain::attachment::{AttachMode, Attachment, AttachmentStatus, Connector};
use tephra_domain::backend::{BackendDescription, EXPORT_PREFIX};
use tephra_domain::ids::{
    AttachmentId, BackendName, PoolId, PoolName, ProjectId, UserId, VolumeId, VolumeTypeId, ZoneName,
};
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::{Volume, VolumeSource, VolumeStatus};
use uuid::Uuid;

use super::{connection_info, flat};

const VOLUME: &str = "00000000-0000-0000-0000-000000000001";
const ATTACHMENT: &str = "00000000-0000-0000-0000-000000000002";

fn attachment(mode: Option<AttachMode>) -> Attachment {
    let connector = Connector {
        host: Some("compute-1".into()),
        initiator: None,
        ip: Some("192.0.2.20".into()),
        mountpoint: None,
        multipath: false,
        enforce_multipath: false,
    };
    let id = AttachmentId::from_uuid(Uuid::from_u128(2));
    Attachment {
        status: AttachmentStatus::Attaching,
        connector: Some(connector),
        ..Attachment::reserved(id, Timestamp(1), None, mode)
    }
}

fn volume() -> Option<Volume> {
    Some(Volume {
        id: VolumeId::from_uuid(Uuid::from_u128(1)),
        project: ProjectId::new("demo"),
        user: UserId::new("mia"),
        name: None,
        description: None,
        size: SizeGib::new(1)?,
        status: VolumeStatus::InUse,
        volume_type: VolumeTypeId::from_uuid(Uuid::from_u128(3)),
        availability_zone: ZoneName::new("nova"),
        pool: Some(PoolId { backend: BackendName::new("one"), pool: PoolName::new("volumes") }),
        source: VolumeSource::Blank,
        metadata: BTreeMap::new(),
        image_metadata: BTreeMap::new(),
        multiattach: false,
        bootable: false,
        readonly: None,
        created_at: Timestamp(1),
        updated_at: None,
        launched_at: None,
        snapshots: Vec::new(),
        attachments: Vec::new(),
        last_failure: None,
    })
}

/// A backend that says this of how its volumes are reached.
fn backend(driver: &str, facts: &[(&str, &str)]) -> BackendDescription {
    let facts = facts.iter().map(|(name, value)| (format!("{EXPORT_PREFIX}{name}"), (*value).to_owned()));
    BackendDescription {
        host: "storage-1".into(),
        driver: driver.into(),
        availability_zone: ZoneName::new("nova"),
        pools: vec![PoolName::new("volumes")],
        native_revert: true,
        capabilities: facts.collect(),
    }
}

/// What `os-initialize_connection` says.
fn data_of(backend: &BackendDescription, mode: Option<AttachMode>) -> Value {
    let volume = volume().unwrap_or_else(|| unreachable!("one GiB is a size"));
    connection_info(&volume, &attachment(mode), backend, None).unwrap_or_default()
}

fn with(common: &Value, own: &Value) -> Value {
    let both = common.as_object().into_iter().chain(own.as_object()).flatten();
    Value::Object(both.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn common(mode: &str) -> Value {
    json!({
        "volume_id": VOLUME, "access_mode": mode, "encrypted": false, "qos_specs": null, "discard": true,
    })
}

#[test]
fn rbd_names_the_image_the_monitors_and_the_user_and_never_a_key() {
    let facts = [
        ("protocol", "rbd"),
        ("user", "cinder"),
        ("cluster_name", "west"),
        ("secret_uuid", "457eb676-33da-42ec-9a8c-9293d545c337"),
        ("hosts", "192.0.2.1,192.0.2.2,2001:db8::3"),
        ("ports", "6789,6789,3300"),
    ];
    let own = json!({
        "name": format!("volumes/volume-{VOLUME}"),
        "hosts": ["192.0.2.1", "192.0.2.2", "2001:db8::3"],
        "ports": ["6789", "6789", "3300"],
        "cluster_name": "west",
        "auth_enabled": true,
        "auth_username": "cinder",
        "secret_type": "ceph",
        "secret_uuid": "457eb676-33da-42ec-9a8c-9293d545c337",
    });
    let said = data_of(&backend("rbd", &facts), Some(AttachMode::ReadWrite));
    assert_eq!(
        said,
        json!({
            "driver_volume_type": "rbd",
            "data": with(&common("rw"), &own),
            "enforce_multipath": false,
        })
    );
}

#[test]
fn rbd_of_which_little_is_known_yet_leaves_hosts_to_their_own_configuration() {
    let said = data_of(&backend("rbd", &[("protocol", "rbd"), ("user", "cinder")]), None);
    let data = &said["data"];
    assert_eq!((&data["hosts"], &data["ports"]), (&json!([]), &json!([])));
    assert_eq!((&data["cluster_name"], &data["secret_uuid"]), (&json!("ceph"), &Value::Null));
    assert_eq!(data["keyring"], Value::Null);
}

#[test]
fn nfs_names_the_share_and_the_file_in_it() {
    let facts = [("protocol", "nfs"), ("share", "filer.example:/export/volumes")];
    let own = json!({
        "export": "filer.example:/export/volumes",
        "name": format!("volume-{VOLUME}"),
        "format": "raw",
        "options": null,
    });
    let said = data_of(&backend("nfs", &facts), Some(AttachMode::ReadOnly));
    assert_eq!(
        said,
        json!({
            "driver_volume_type": "nfs",
            "data": with(&common("ro"), &own),
            "enforce_multipath": false,
        })
    );
}

#[test]
fn attachments_have_the_same_data_with_its_kind_among_it() {
    let described = backend("nfs", &[("protocol", "nfs"), ("share", "filer.example:/export")]);
    let volume = volume().unwrap_or_else(|| unreachable!("one GiB is a size"));
    let said = flat(&volume, &attachment(Some(AttachMode::ReadWrite)), Some(&described), None);
    let named =
        json!({ "driver_volume_type": "nfs", "attachment_id": ATTACHMENT, "enforce_multipath": false });
    let data = data_of(&described, Some(AttachMode::ReadWrite));
    assert_eq!(Value::Object(said), with(&data["data"], &named));
}

#[test]
fn there_is_nothing_to_connect_to_without_an_export() {
    let described = backend("nfs", &[("protocol", "nfs"), ("share", "filer.example:/export")]);
    let volume = volume().unwrap_or_else(|| unreachable!("one GiB is a size"));
    let reserved = Attachment { status: AttachmentStatus::Reserved, connector: None, ..attachment(None) };
    assert_eq!(connection_info(&volume, &reserved, &described, None), None);
    assert!(flat(&volume, &reserved, Some(&described), None).is_empty());
}
