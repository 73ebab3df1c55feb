//! Volume actions of the old way to attach: reserve, connect, attach, detach, disconnect.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tephra_domain::attachment::{AttachMode, AttachmentState};
use tephra_domain::command::{AttachVolume, Command};
use tephra_domain::event::Idempotency;
use tephra_domain::ids::{AttachmentId, VolumeId};
use tephra_domain::volume::Volume;
use uuid::Uuid;

use super::wire::attachment::connection_info;
use super::wire::check::Object;
use super::wire::connector::{Connecting, connecting, mode};
use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;

/// Performs an action, if it is one of these.
///
/// # Errors
/// As Cinder's.
pub(super) async fn act(
    state: &AppState,
    identity: &Identity,
    idempotency: Option<Idempotency>,
    volume: VolumeId,
    name: &str,
    json: &Value,
) -> Result<Option<Response>, Fault> {
    let command = match name {
        "os-reserve" => Command::ReserveVolume { volume },
        "os-unreserve" => Command::UnreserveVolume { volume },
        "os-begin_detaching" => Command::BeginDetaching { volume },
        "os-roll_detaching" => Command::RollDetaching { volume },
        "os-attach" => attach(volume, json)?,
        "os-detach" => {
            let attachment = detached(json, name, &["attachment_id"])?;
            Command::DetachVolume { volume, attachment, force: false }
        }
        "os-force_detach" => {
            let attachment = detached(json, name, &["attachment_id", "connector"])?;
            Command::DetachVolume { volume, attachment, force: true }
        }
        "os-terminate_connection" => {
            let Connecting { connector, .. } = connector(json, "os-terminate_connection")?;
            Command::TerminateConnection { volume, connector: Some(connector) }
        }
        "os-initialize_connection" => {
            return initialize(state, identity, idempotency, volume, json).await.map(Some);
        }
        _ => return Ok(None),
    };
    let named = if let Command::DetachVolume { attachment, .. } = &command { *attachment } else { None };
    state.submit(identity, idempotency, command).await?;
    // whoever detaches may delete the volume next: its exports are gone when this is answered
    let going = state.views.volume(volume)?.map(|volume| volume.attachments).unwrap_or_default();
    for attachment in going.iter().filter(|one| one.status.state() == AttachmentState::Disconnecting) {
        if named == Some(attachment.id) {
            state.gone_attachment(attachment.id).await?;
        } else {
            state.disconnected_attachment(attachment.id).await?;
        }
    }
    Ok(Some(StatusCode::ACCEPTED.into_response()))
}

fn attach(volume: VolumeId, json: &Value) -> Result<Command, Fault> {
    let fields = Object::only(json, "os-attach")?;
    let instance = fields.field("instance_uuid").map(|field| field.optional_uuid()).transpose()?.flatten();
    let host = fields.field("host_name").map(|field| field.text(0, 255)).transpose()?;
    let mountpoint = fields.required("mountpoint")?.text(1, 255)?;
    let mode = fields.field("mode").map(|field| mode(&field)).transpose()?.flatten();
    fields.deny_unknown(&["instance_uuid", "host_name", "mountpoint", "mode"])?;
    if instance.is_none() && host.is_none() {
        return Err(fields.refuse("'instance_uuid' or 'host_name' is a required property"));
    }
    Ok(Command::AttachVolume(Box::new(AttachVolume {
        volume,
        attachment: AttachmentId::from_uuid(Uuid::new_v4()),
        instance: instance.map(|id| id.to_string().into()),
        host: host.map(Into::into),
        mountpoint: mountpoint.into(),
        mode: mode.unwrap_or(AttachMode::ReadWrite),
    })))
}

/// The attachment that is to be detached; nothing for the only one. The body may be null.
fn detached(json: &Value, name: &str, known: &[&str]) -> Result<Option<AttachmentId>, Fault> {
    let field = Object::body(json)?.required(name)?;
    if field.value().is_null() {
        return Ok(None);
    }
    let fields = field.object()?;
    let attachment = fields.field("attachment_id").map(|field| field.optional_uuid()).transpose()?;
    fields.deny_unknown(known)?;
    Ok(attachment.flatten().map(AttachmentId::from_uuid))
}

fn connector(json: &Value, action: &'static str) -> Result<Connecting, Fault> {
    let fields = Object::only(json, action)?;
    let read = connecting(&fields.required("connector")?)?;
    fields.deny_unknown(&["connector"])?;
    Ok(read)
}

async fn initialize(
    state: &AppState,
    identity: &Identity,
    idempotency: Option<Idempotency>,
    volume: VolumeId,
    json: &Value,
) -> Result<Response, Fault> {
    let Connecting { connector, mode } = connector(json, "os-initialize_connection")?;
    let attachment = AttachmentId::from_uuid(Uuid::new_v4());
    let command = Command::InitializeConnection { volume, attachment, connector: connector.clone(), mode };
    state.submit(identity, idempotency, command).await?;
    let unable = || {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "Unable to fetch connection information from backend.")
    };
    let of_host = |volume: &Volume| {
        let mut found = volume
            .attachments
            .iter()
            .filter(|one| one.connector.as_ref().is_some_and(|known| known.is_same_host(&connector)));
        found.next().map(|one| one.id)
    };
    let found = state.views.volume(volume)?.as_ref().and_then(of_host).ok_or_else(unable)?;
    let settled = state.settled_attachment(found).await?.ok_or_else(unable)?;
    let pool = settled.volume.pool.as_ref().ok_or_else(unable)?;
    let backend = state.views.backend(&pool.backend)?.ok_or_else(unable)?;
    let key = state.settings.master_key.as_ref();
    let info = connection_info(&settled.volume, &settled.attachment, &backend.description, key);
    Ok(Json(json!({ "connection_info": info.ok_or_else(unable)? })).into_response())
}
