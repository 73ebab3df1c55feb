//! Volume actions about images: what a volume remembers of the one that it came from.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tephra_domain::command::{Command, MetadataChange, UploadVolume};
use tephra_domain::event::{Commit, Event, Idempotency};
use tephra_domain::ids::{ImageId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::volume::VolumeEvent;
use uuid::Uuid;

use super::metadata::replaced;
use super::wire::check::{KeyPattern, Object};
use super::wire::moment;
use super::wire::python::{repr, repr_str};
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;

/// Bytes that the keys and values of one volume may have together. Cinder bounds each value by this
/// (its column's size); here all of them must fit into one event.
const MAX_METADATA_BYTES: usize = 65_535;
/// Characters of a key.
const MAX_KEY: usize = 255;

/// Performs an action, if it is one of these.
///
/// # Errors
/// As Cinder's.
pub(super) async fn act(
    state: &AppState,
    identity: &Identity,
    idempotency: Option<Idempotency>,
    volume: VolumeId,
    version: Microversion,
    (name, json): (&str, &Value),
) -> Result<Option<Response>, Fault> {
    match name {
        "os-set_image_metadata" => {
            let more = metadata(json)?;
            let mut all = state.visible_volume(identity, volume)?.image_metadata;
            all.extend(more.clone());
            let bytes = all.iter().map(|(key, value)| key.len().saturating_add(value.len()));
            if bytes.fold(0, usize::saturating_add) > MAX_METADATA_BYTES {
                let message = format!(
                    "Invalid metadata size: the image metadata of a volume have at most {MAX_METADATA_BYTES} bytes."
                );
                return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            let command = Command::ChangeImageMetadata { volume, change: MetadataChange::Merge(more) };
            let metadata = state.submit(identity, idempotency, command).await?.created(replaced)?;
            Ok(Some(Json(json!({ "metadata": metadata })).into_response()))
        }
        "os-show_image_metadata" => {
            Object::body(json)?.deny_unknown(&["os-show_image_metadata"])?;
            let metadata = state.visible_volume(identity, volume)?.image_metadata;
            Ok(Some(Json(json!({ "metadata": metadata })).into_response()))
        }
        "os-unset_image_metadata" => {
            let fields = Object::only(json, "os-unset_image_metadata")?;
            let key = fields.required("key")?.text(1, MAX_KEY)?.to_owned();
            fields.deny_unknown(&["key"])?;
            let command = Command::ChangeImageMetadata { volume, change: MetadataChange::Remove(key) };
            state.submit(identity, idempotency, command).await?;
            Ok(Some(StatusCode::OK.into_response()))
        }
        "os-volume_upload_image" => {
            upload(state, identity, idempotency, volume, version, json).await.map(Some)
        }
        _ => Ok(None),
    }
}

/// From here on an upload can say who may see the image, and protect it.
const UPLOAD_PARAMS: u16 = 1;
/// Formats that Cinder takes, and `qemu-img` can write; `ploop` is not among them.
const DISK_FORMATS: &[&str] = &["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx"];
const VISIBILITIES: &[&str] = &["community", "public", "private", "shared"];
/// Characters of a name.
const MAX_NAME: usize = 255;

async fn upload(
    state: &AppState,
    identity: &Identity,
    idempotency: Option<Idempotency>,
    volume: VolumeId,
    version: Microversion,
    json: &Value,
) -> Result<Response, Fault> {
    let fields = Object::only(json, "os-volume_upload_image")?;
    let flag = |name| fields.field(name).map_or(Ok(false), |field| field.boolean());
    let word = |name, known: &[&str]| -> Result<Option<&str>, Fault> {
        let Some(field) = fields.field(name) else { return Ok(None) };
        let text = field.text(0, MAX_NAME)?;
        if known.contains(&text) {
            return Ok(Some(text));
        }
        let words: Vec<_> = known.iter().map(|word| repr_str(word)).collect();
        Err(field.refuse(&format!("{} is not one of [{}]", repr(field.value()), words.join(", "))))
    };
    let image_name = fields.required("image_name")?.text(1, MAX_NAME)?;
    let force = flag("force")?;
    let disk_format = word("disk_format", DISK_FORMATS)?.unwrap_or("raw");
    let container = fields.field("container_format").map(|field| field.any_text()).transpose()?.flatten();
    let is_newer = version.is_at_least(UPLOAD_PARAMS);
    let (visibility, protected) = if is_newer {
        fields.deny_unknown(&[
            "image_name",
            "force",
            "disk_format",
            "container_format",
            "visibility",
            "protected",
        ])?;
        (Some(word("visibility", VISIBILITIES)?.unwrap_or("private")), flag("protected")?)
    } else {
        fields.deny_unknown(&["image_name", "force", "disk_format", "container_format"])?;
        (None, false)
    };
    if container.is_some_and(|container| container != "bare") {
        return Err(Fault::bad_request("Volumes are uploaded with container_format 'bare' only."));
    }
    if state.settings.images.is_none() {
        return Err(Fault::bad_request("Uploading a volume to an image needs an image store."));
    }
    let image = NewImage {
        id: ImageId::from_uuid(Uuid::new_v4()),
        owner: identity.actor.project.clone(),
        name: image_name.into(),
        disk_format: disk_format.into(),
        container_format: "bare".into(),
        visibility: visibility.map(Into::into),
        protected,
        properties: BTreeMap::new(),
    };
    let command = Command::UploadVolume(Box::new(UploadVolume { volume, force, image: image.clone() }));
    // the id of the image that was made, which is another if the request is repeated
    let id = state.submit(identity, idempotency, command).await?.created(uploaded)?;
    let row = state.visible_volume(identity, volume)?;
    let mut answer = json!({
        "id": volume.to_string(),
        "updated_at": row.updated_at.map(moment),
        "status": "uploading",
        "display_description": row.description,
        "size": row.size.gib(),
        // Cinder shows the whole type here, not its name, and cinderclient counts on it
        "volume_type": state.views.volume_type(row.volume_type)?.map(|volume_type| json!({
            "id": row.volume_type.to_string(),
            "name": volume_type.name,
            "description": volume_type.description,
            "is_public": volume_type.is_public,
        })),
        "image_id": id.to_string(),
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "image_name": image.name,
    });
    if let (Some(fields), true) = (answer.as_object_mut(), is_newer) {
        fields.insert("protected".to_owned(), protected.into());
        fields.insert("visibility".to_owned(), visibility.into());
    }
    Ok((StatusCode::ACCEPTED, Json(json!({ "os-volume_upload_image": answer }))).into_response())
}

/// The image that a commit is to make.
fn uploaded(commit: &Commit) -> Option<ImageId> {
    commit.events.iter().find_map(|event| match event {
        Event::Volume(_, VolumeEvent::UploadAccepted { image, .. }) => Some(*image),
        Event::Volume(..)
        | Event::Snapshot(..)
        | Event::VolumeType(..)
        | Event::Quota(_)
        | Event::Backend(..)
        | Event::Operation(..)
        | Event::Debt(..)
        | Event::TurnBegan { .. } => None,
    })
}

fn metadata(json: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let fields = Object::only(json, "os-set_image_metadata")?;
    let metadata = fields.required("metadata")?.metadata_of(KeyPattern::WithSlash, MAX_METADATA_BYTES)?;
    fields.deny_unknown(&["metadata"])?;
    Ok(metadata)
}
