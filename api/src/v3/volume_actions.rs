//! `POST /volumes/{id}/action`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tephra_domain::attachment::AttachmentState;
use tephra_domain::command::Command;
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::volume::VolumeState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::action::{name_of, not_resettable, tuple, unknown};
use super::attach_actions;
use super::image_actions;
use super::wire::check::Object;
use super::wire::requests::VolumeActionBody;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;

/// From here on a volume can grow while it is in use.
const EXTEND_IN_USE: u16 = 42;
/// From here on there is `revert`.
const REVERT: u16 = 40;

/// Every status that Cinder takes for one, in its order.
const STATUSES: &[&str] = &[
    "creating",
    "available",
    "deleting",
    "error",
    "error_deleting",
    "error_managing",
    "managing",
    "attaching",
    "in-use",
    "detaching",
    "maintenance",
    "restoring-backup",
    "error_restoring",
    "reserved",
    "awaiting-transfer",
    "backing-up",
    "error_backing-up",
    "error_extending",
    "downloading",
    "uploading",
    "retyping",
    "extending",
];
const ATTACH_STATUSES: &[&str] = &["attached", "detached"];
const MIGRATION_STATUSES: &[&str] = &["migrating", "error", "success", "completing", "none", "starting"];

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(act))
}

/// Acts on a volume: extends it, reverts it to its latest snapshot, sets one of its flags or its status.
#[utoipa::path(post, path = "/volumes/{volume_id}/action", tag = "volumes", operation_id = "volume_action",
    params(("volume_id" = String, Path)), request_body = VolumeActionBody,
    responses((status = 202), (status = 200, description = "of os-set_bootable and of what has an answer"),
        (status = 400), (status = 403), (status = 404), (status = 409), (status = 413)))]
async fn act(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(volume): InPath<VolumeId>,
    body: JsonBody,
) -> Result<Response, Fault> {
    let (name, json) = name_of(&body)?;
    if let Some(done) =
        attach_actions::act(&state, &identity, body.idempotency.clone(), volume, name, json).await?
    {
        return Ok(done);
    }
    if let Some(done) =
        image_actions::act(&state, &identity, body.idempotency.clone(), volume, version, (name, json)).await?
    {
        return Ok(done);
    }
    let mut answer = StatusCode::ACCEPTED;
    let command = match name {
        "os-extend" => extend(volume, json, version)?,
        "revert" => {
            version.require(REVERT)?;
            revert(&state, &identity, volume, json)?
        }
        "os-unmanage" => Command::UnmanageVolume { volume },
        "os-reset_status" => {
            let reset = reset(&state, &identity, volume, json)?;
            if reset.detaches {
                state.submit(&identity, None, Command::DetachAll { volume }).await?;
            }
            match reset.status {
                Some(to) => Command::ResetVolumeStatus { volume, to },
                None => return Ok(answer.into_response()),
            }
        }
        "os-force_delete" => Command::DeleteVolume { volume, cascade: false, force: true },
        "os-set_bootable" => {
            answer = StatusCode::OK;
            Command::SetVolumeBootable { volume, bootable: flag(json, name, "bootable")? }
        }
        "os-update_readonly_flag" => {
            Command::SetVolumeReadonly { volume, readonly: flag(json, name, "readonly")? }
        }
        name => return Err(unknown(name)),
    };
    state.submit(&identity, body.idempotency.clone(), command).await?;
    Ok(answer.into_response())
}

fn extend(volume: VolumeId, json: &Value, version: Microversion) -> Result<Command, Fault> {
    let fields = Object::only(json, "os-extend")?;
    let to = fields.required("new_size")?.size()?;
    fields.deny_unknown(&["new_size"])?;
    Ok(Command::ExtendVolume { volume, to, online: version.is_at_least(EXTEND_IN_USE) })
}

fn flag(json: &Value, action: &str, name: &'static str) -> Result<bool, Fault> {
    let fields = Object::body(json)?.required(action)?.object()?;
    let flag = fields.required(name)?.boolean()?;
    fields.deny_unknown(&[name])?;
    Ok(flag)
}

fn revert(state: &AppState, identity: &Identity, volume: VolumeId, json: &Value) -> Result<Command, Fault> {
    let fields = Object::only(json, "revert")?;
    let named = fields.field("snapshot_id").map(|field| field.any_text()).transpose()?.flatten();
    let snapshot = match named.map(str::parse::<SnapshotId>) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => {
            state.visible_volume(identity, volume)?;
            return Err(Fault::bad_request(format!(
                "Specified snapshot {} is None or not the latest one of volume {volume}.",
                named.unwrap_or_default()
            )));
        }
    };
    Ok(Command::RevertVolume { volume, snapshot })
}

/// What a reset asks for.
struct Reset {
    /// The status to set; nothing if only attach or migration status are named.
    status: Option<VolumeState>,
    /// Whether all attachments are to go.
    detaches: bool,
}

/// Reads a reset. Nothing is ever migrating here.
fn reset(state: &AppState, identity: &Identity, volume: VolumeId, json: &Value) -> Result<Reset, Fault> {
    let fields = Object::only(json, "os-reset_status")?;
    let word = |name, kind: &str, known: &[&str]| -> Result<Option<String>, Fault> {
        let text = fields.field(name).map(|field| field.any_text()).transpose()?.flatten();
        match text.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) if known.contains(&text.to_ascii_lowercase().as_str()) => {
                Ok(Some(text.to_ascii_lowercase()))
            }
            Some(text) => Err(Fault::bad_request(format!(
                "{kind}: {text} is invalid, valid statuses are: {}.",
                tuple(known)
            ))),
        }
    };
    let status = word("status", "Volume status", STATUSES)?;
    let attach = word("attach_status", "Volume attach status", ATTACH_STATUSES)?;
    let migration = word("migration_status", "Volume migration status", MIGRATION_STATUSES)?;
    fields.deny_unknown(&["status", "attach_status", "migration_status"])?;
    if status.is_none() && attach.is_none() && migration.is_none() {
        return Err(Fault::bad_request(
            "Must specify 'status', 'attach_status' or 'migration_status' for update.",
        ));
    }
    identity.actor.require_admin("volume_extension:volume_admin_actions:reset_status")?;
    let found = state.visible_volume(identity, volume)?;
    let is_attached = found.attachments.iter().any(|one| one.status.state() == AttachmentState::Attached);
    if attach.as_deref() == Some("attached") && !is_attached {
        return Err(Fault::bad_request(
            "Invalid input received: attach_status 'attached' cannot be set by hand: it belongs to attachments.",
        ));
    }
    if migration.is_some_and(|migration| migration != "none") {
        return Err(Fault::bad_request("Migrating volumes is not supported yet."));
    }
    let status = match status.as_deref() {
        None => None,
        Some("deleting") => return Err(Fault::bad_request("Cannot reset-state to deleting")),
        Some("in-use") if found.attachments.is_empty() => {
            return Err(Fault::bad_request(
                "Cannot reset-state to in-use because volume does not have any attachments.",
            ));
        }
        // what is verified is then used as its attachments say
        Some("in-use") => Some(VolumeState::Available),
        Some(status) => {
            let known = VolumeState::ALL.iter().find(|state| state.as_str() == status);
            Some(known.copied().ok_or_else(|| not_resettable(status))?)
        }
    };
    Ok(Reset { status, detaches: attach.as_deref() == Some("detached") })
}
