//! What a volume type tells the scheduler and the backends: `/types/{type_id}/extra_specs`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::command::{Command, MetadataChange};
use tephra_domain::ids::VolumeTypeId;
use tephra_domain::rejection::Rejection;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::types::{visible_specs, visible_type};
use super::wire::check::{Field, KeyPattern, Object};
use super::wire::python::repr;
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, JsonBody, PathId};
use crate::state::AppState;

/// A type's extra specs, all and one by one.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// The key of an extra spec in a path.
#[derive(Clone, Debug)]
struct SpecKey(String);

impl PathId for SpecKey {
    const PARAM: &'static str = "spec_key";

    fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Self(text.to_owned()))
    }
}

/// `{"extra_specs": {…}}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtraSpecs {
    extra_specs: BTreeMap<String, String>,
}

/// Lists a type's extra specs; who is no administrator sees the harmless ones.
#[utoipa::path(
    get, path = "/types/{type_id}/extra_specs", tag = "types",
    params(("type_id" = String, Path)),
    responses((status = 200, body = ExtraSpecs), (status = 404))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
) -> Result<Json<ExtraSpecs>, Fault> {
    let row = visible_type(&state, &identity, id)?;
    Ok(Json(ExtraSpecs { extra_specs: visible_specs(&row, &identity) }))
}

/// Adds extra specs, replacing those of the same key (administrators; not while volumes use it).
#[utoipa::path(
    post, path = "/types/{type_id}/extra_specs", tag = "types",
    params(("type_id" = String, Path)),
    request_body(content = Object, description = "`{\"extra_specs\": {key: value, …}}`"),
    responses((status = 200, body = ExtraSpecs), (status = 400), (status = 403), (status = 404))
)]
async fn create(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    body: JsonBody,
) -> Result<Json<ExtraSpecs>, Fault> {
    let fields = Object::body(body.require()?)?;
    let extra_specs = fields.required("extra_specs")?.metadata(KeyPattern::WithoutSpace)?;
    fields.deny_unknown(&["extra_specs"])?;
    check_changeable(&state, &identity, id, "volume_extension:types_extra_specs:create")?;
    let change = MetadataChange::Merge(extra_specs.clone());
    let command = Command::ChangeExtraSpecs { volume_type: id, change };
    state.submit(&identity, body.idempotency.clone(), command).await?;
    Ok(Json(ExtraSpecs { extra_specs }))
}

/// Extra specs steer what exists too, so they stay as they are while a volume has the type.
fn check_changeable(
    state: &AppState,
    identity: &Identity,
    id: VolumeTypeId,
    action: &'static str,
) -> Result<(), Fault> {
    identity.actor.require_admin(action)?;
    if visible_type(state, identity, id)?.users > 0 {
        return Err(Fault::bad_request("Volume Type is currently in use."));
    }
    Ok(())
}

/// Shows one extra spec.
#[utoipa::path(
    get, path = "/types/{type_id}/extra_specs/{spec_key}", tag = "types",
    params(("type_id" = String, Path), ("spec_key" = String, Path)),
    responses((status = 200, body = BTreeMap<String, String>), (status = 404))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    InPath(SpecKey(key)): InPath<SpecKey>,
) -> Result<Json<BTreeMap<String, String>>, Fault> {
    let row = visible_type(&state, &identity, id)?;
    let mut specs = visible_specs(&row, &identity);
    specs.retain(|name, _| *name == key);
    if specs.is_empty() {
        return Err(Rejection::ExtraSpecNotFound { volume_type: id, key: key.into() }.into());
    }
    Ok(Json(specs))
}

/// Sets one extra spec (administrators; not while volumes use it).
#[utoipa::path(
    put, path = "/types/{type_id}/extra_specs/{spec_key}", tag = "types",
    params(("type_id" = String, Path), ("spec_key" = String, Path)),
    request_body(content = Object, description = "`{spec_key: value}`"),
    responses(
        (status = 200, body = BTreeMap<String, String>), (status = 400), (status = 403), (status = 404)
    )
)]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    InPath(SpecKey(key)): InPath<SpecKey>,
    body: JsonBody,
) -> Result<Json<BTreeMap<String, String>>, Fault> {
    let specs = parse_one(body.require()?, &key)?;
    check_changeable(&state, &identity, id, "volume_extension:types_extra_specs:update")?;
    let change = MetadataChange::Merge(specs.clone());
    state.submit(&identity, None, Command::ChangeExtraSpecs { volume_type: id, change }).await?;
    Ok(Json(specs))
}

fn parse_one(body: &Value, key: &str) -> Result<BTreeMap<String, String>, Fault> {
    let fields = Object::body(body)?;
    match fields.fields().count() {
        0 => return Err(fields.refuse("{} should be non-empty")),
        1 => {}
        _ => return Err(fields.refuse(&format!("{} has too many properties", repr(body)))),
    }
    let specs = Field::new("extra_specs", body).metadata(KeyPattern::WithoutSpace)?;
    if specs.contains_key(key) { Ok(specs) } else { Err(Fault::bad_request("Request body and URI mismatch")) }
}

/// Takes one extra spec away (administrators; not while volumes use it).
#[utoipa::path(
    delete, path = "/types/{type_id}/extra_specs/{spec_key}", tag = "types",
    params(("type_id" = String, Path), ("spec_key" = String, Path)),
    responses((status = 202), (status = 400), (status = 403), (status = 404))
)]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    InPath(SpecKey(key)): InPath<SpecKey>,
) -> Result<StatusCode, Fault> {
    check_changeable(&state, &identity, id, "volume_extension:types_extra_specs:delete")?;
    let change = MetadataChange::Remove(key);
    state.submit(&identity, None, Command::ChangeExtraSpecs { volume_type: id, change }).await?;
    Ok(StatusCode::ACCEPTED)
}

#[cfg(test)]
mod tests {
    use super::parse_one;
    use serde_json::json;

    #[test]
    fn one_extra_spec_is_named_alike_in_body_and_path() {
        for (body, words) in [
            (json!({ "a": "1" }), None),
            (json!({ "b": "1" }), Some("Request body and URI mismatch")),
            (json!({}), Some("{} should be non-empty")),
            (json!({ "a": "1", "b": "2" }), Some("{'a': '1', 'b': '2'} has too many properties")),
            (json!("a"), Some("'a' is not of type 'object'")),
            (
                json!({ "a": 1 }),
                Some("Invalid input for field/attribute a. Value: 1. 1 is not of type 'string'"),
            ),
        ] {
            let refused = parse_one(&body, "a").err();
            assert_eq!(refused.as_ref().map(|fault| fault.message()), words, "{body}");
        }
    }
}
