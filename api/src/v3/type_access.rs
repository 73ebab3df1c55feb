//! Which projects may use a private volume type.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::command::Command;
use tephra_domain::ids::{ProjectId, VolumeTypeId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::types::visible_type;
use super::wire::check::{MAX_TEXT, Object};
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;

/// A type's access list and its changes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(action))
}

/// `{"volume_type_access": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessList {
    volume_type_access: Vec<AccessEntry>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AccessEntry {
    volume_type_id: String,
    project_id: String,
}

/// Lists the projects that may use a private type (administrators).
#[utoipa::path(
    get, path = "/types/{type_id}/os-volume-type-access", tag = "types",
    params(("type_id" = String, Path)),
    responses((status = 200, body = AccessList), (status = 403), (status = 404))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
) -> Result<Json<AccessList>, Fault> {
    identity.actor.require_admin("volume_extension:volume_type_access:get_all_for_type")?;
    let row = visible_type(&state, &identity, id)?;
    if row.is_public {
        return Err(Fault::not_found("Access list not available for public volume types."));
    }
    let volume_type_access = row
        .access
        .iter()
        .map(|project| AccessEntry { volume_type_id: id.to_string(), project_id: project.to_string() })
        .collect();
    Ok(Json(AccessList { volume_type_access }))
}

/// Gives a project access to a private type, or takes it away (administrators).
#[utoipa::path(
    post, path = "/types/{type_id}/action", tag = "types",
    params(("type_id" = String, Path)),
    request_body(content = Object, description =
        "`{\"addProjectAccess\": {\"project\": id}}` or `{\"removeProjectAccess\": {\"project\": id}}`"),
    responses((status = 202), (status = 400), (status = 403), (status = 404), (status = 409))
)]
async fn action(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    let command = parse_action(body.require()?, id)?;
    state.submit(&identity, body.idempotency.clone(), command).await?;
    Ok(StatusCode::ACCEPTED)
}

fn parse_action(body: &Value, volume_type: VolumeTypeId) -> Result<Command, Fault> {
    let project_of = |name: &'static str| {
        let fields = Object::only(body, name)?;
        fields.deny_unknown(&["project"])?;
        fields.required("project")?.text(1, MAX_TEXT).map(ProjectId::new)
    };
    let Some(name) = body.as_object().and_then(|map| map.keys().next()) else {
        return Err(Fault::malformed_body());
    };
    match name.as_str() {
        "addProjectAccess" => {
            Ok(Command::GrantTypeAccess { volume_type, project: project_of("addProjectAccess")? })
        }
        "removeProjectAccess" => {
            Ok(Command::RevokeTypeAccess { volume_type, project: project_of("removeProjectAccess")? })
        }
        other => Err(Fault::bad_request(format!(
            "There is no such action: {other}. Verify the request body and Content-Type header and try again."
        ))),
    }
}
