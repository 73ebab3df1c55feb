//! `POST /snapshots/{id}/action`.

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tephra_domain::command::Command;
use tephra_domain::ids::SnapshotId;
use tephra_domain::snapshot::SnapshotState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::action::{name_of, not_resettable, tuple, unknown};
use super::wire::check::Object;
use super::wire::requests::SnapshotActionBody;
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;

/// Every status that Cinder takes for one, in its order.
const STATUSES: &[&str] = &[
    "error",
    "available",
    "creating",
    "deleting",
    "deleted",
    "updating",
    "error_deleting",
    "unmanaging",
    "backing-up",
    "restoring",
];

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(act))
}

/// Acts on a snapshot: sets its status, or deletes it in any status.
#[utoipa::path(post, path = "/snapshots/{snapshot_id}/action", tag = "snapshots",
    operation_id = "snapshot_action",
    params(("snapshot_id" = String, Path)), request_body = SnapshotActionBody,
    responses((status = 202), (status = 400), (status = 403), (status = 404)))]
async fn act(
    State(state): State<AppState>,
    identity: Identity,
    InPath(snapshot): InPath<SnapshotId>,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    let (name, json) = name_of(&body)?;
    let command = match name {
        "os-reset_status" => Command::ResetSnapshotStatus { snapshot, to: reset(&identity, json)? },
        "os-unmanage" => Command::UnmanageSnapshot { snapshot },
        "os-force_delete" => Command::DeleteSnapshot { snapshot, force: true },
        "os-update_snapshot_status" => {
            check_update(&state, &identity, snapshot, json)?;
            return Ok(StatusCode::ACCEPTED);
        }
        name => return Err(unknown(name)),
    };
    state.submit(&identity, body.idempotency.clone(), command).await?;
    Ok(StatusCode::ACCEPTED)
}

fn reset(identity: &Identity, json: &Value) -> Result<SnapshotState, Fault> {
    let fields = Object::only(json, "os-reset_status")?;
    let text = fields.required("status")?.text(0, usize::MAX)?;
    let status = text.to_ascii_lowercase();
    if !STATUSES.contains(&status.as_str()) {
        return Err(Fault::bad_request(format!(
            "Snapshot status: {text} is invalid, valid statuses are: {}.",
            tuple(STATUSES)
        )));
    }
    fields.deny_unknown(&["status"])?;
    identity.actor.require_admin("volume_extension:snapshot_admin_actions:reset_status")?;
    let known = SnapshotState::ALL.iter().find(|state| state.as_str() == status);
    known.copied().ok_or_else(|| not_resettable(&status))
}

/// Takes what leaves a snapshot as it is. A status changes by its operation's report alone, so the
/// changes that Cinder lets a hypervisor make here are refused.
fn check_update(
    state: &AppState,
    identity: &Identity,
    snapshot: SnapshotId,
    json: &Value,
) -> Result<(), Fault> {
    let fields = Object::only(json, "os-update_snapshot_status")?;
    let status = fields.required("status")?.text(0, usize::MAX)?;
    fields.deny_unknown(&["status", "progress"])?;
    let row = state.visible_snapshot(identity, snapshot)?;
    identity.actor.require_member("snapshot_extension:snapshot_actions:update_snapshot_status")?;
    let current = row.status.wire_name();
    let allowed: &[&str] = match current {
        "creating" => &["creating", "available", "error"],
        "deleting" => &["deleting", "error_deleting"],
        _ => {
            return Err(Fault::bad_request(format!(
                "Snapshot status {current} not allowed for update_snapshot_status"
            )));
        }
    };
    if !allowed.contains(&status) {
        return Err(Fault::bad_request(format!(
            "Provided snapshot status {status} not allowed for snapshot with status {current}."
        )));
    }
    if status == current { Ok(()) } else { Err(not_resettable(status)) }
}
