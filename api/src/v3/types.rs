//! Volume types: `/types`, without their extra specs and access lists, which have their own files.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::actor::Role;
use tephra_domain::command::{Command, CreateVolumeType};
use tephra_domain::ids::VolumeTypeId;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, VolumeType};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::params::{Params, query_flag};
use super::wire::check::{KeyPattern, MAX_TEXT, Object};
use super::wire::links::{Link, Links};
use super::wire::python::literal;
use crate::auth::Identity;
use crate::error::Fault;
use crate::lookup::created_volume_type;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody, PathId};
use crate::state::AppState;

/// Extra specs that everybody may see (Cinder's `USER_VISIBLE_EXTRA_SPECS`); the others may tell
/// how the deployment is built.
pub const VISIBLE_TO_ALL: [&str; 3] = ["RESKEY:availability_zones", "multiattach", "replication_enabled"];

/// Parameters of a list that are not filters.
const PAGING: [&str; 6] = ["limit", "marker", "offset", "sort", "sort_key", "sort_dir"];

/// Volume types, created, listed, shown, changed and removed.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

impl PathId for VolumeTypeId {
    const PARAM: &'static str = "type_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text == "default" {
            return Ok(DEFAULT_TYPE_ID);
        }
        text.parse().map_err(|_| not_found(text))
    }
}

fn not_found(id: &str) -> Fault {
    Fault::not_found(format!("Volume type {id} could not be found."))
}

/// A volume type as this asker may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TypeBody {
    id: String,
    name: String,
    is_public: bool,
    description: Option<String>,
    extra_specs: BTreeMap<String, String>,
    /// Always null: there are no QoS specs here. Administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    qos_specs_id: Option<Value>,
    /// The same as `is_public`, for who may change things.
    #[serde(rename = "os-volume-type-access:is_public", skip_serializing_if = "Option::is_none")]
    access_is_public: Option<bool>,
}

impl TypeBody {
    fn new(row: &VolumeType, identity: &Identity) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            is_public: row.is_public,
            description: row.description.as_deref().map(ToOwned::to_owned),
            extra_specs: visible_specs(row, identity),
            qos_specs_id: identity.is_admin().then_some(Value::Null),
            access_is_public: (identity.actor.role >= Role::Member).then_some(row.is_public),
        }
    }
}

/// Those of a type's extra specs that the asker may see.
pub fn visible_specs(row: &VolumeType, identity: &Identity) -> BTreeMap<String, String> {
    let mut specs = row.extra_specs.clone();
    if !identity.is_admin() {
        specs.retain(|key, _| VISIBLE_TO_ALL.contains(&key.as_str()));
    }
    specs
}

/// `{"volume_type": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct TypeEnvelope {
    volume_type: TypeBody,
}

/// `{"volume_types": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct TypeList {
    volume_types: Vec<TypeBody>,
    /// Where the next page is, if this one is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_type_links: Option<[Link; 1]>,
}

/// The type, if the asker may know of it.
///
/// # Errors
/// 404, also for other projects' private types.
pub fn visible_type(state: &AppState, identity: &Identity, id: VolumeTypeId) -> Result<VolumeType, Fault> {
    let row = state.views.volume_type(id).map_err(|error| Fault::internal(&error))?;
    row.filter(|row| identity.actor.can_see_type(row)).ok_or_else(|| not_found(&id.to_string()))
}

/// Lists volume types.
///
/// Everybody sees public types and those that the project has access to; administrators ask for
/// private ones with `is_public=false`, and for all with `is_public=none`.
#[utoipa::path(
    get, path = "/types", tag = "types",
    params(
        ("is_public" = Option<String>, Query, description = "`true`, `false` or `none` (administrators)"),
        ("extra_specs" = Option<String>, Query, description = "`{'key': 'value'}` that must all hold (3.52)"),
        ("limit" = Option<u32>, Query), ("marker" = Option<String>, Query),
        ("offset" = Option<u32>, Query), ("sort" = Option<String>, Query, description = "`key:dir,…`"),
    ),
    responses((status = 200, body = TypeList))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
    links: Links,
) -> Result<Json<TypeList>, Fault> {
    let limit = params.limit()?;
    let sort = Sort::of(&params)?;
    let wanted = Wanted::of(&params, &identity, version)?;
    let mut rows = state.views.volume_types().map_err(|error| Fault::internal(&error))?;
    rows.retain(|row| wanted.takes(row, &identity));
    rows.sort_by(|a, b| sort.compare(a, b));
    let start = match params.get("marker") {
        None => 0,
        Some(marker) => rows
            .iter()
            .position(|row| row.id.to_string() == marker)
            .map(|index| index.saturating_add(1))
            .ok_or_else(|| not_found(marker))?,
    };
    let start = start.saturating_add(params.count("offset")?.unwrap_or(0));
    let page: Vec<VolumeType> = rows.into_iter().skip(start).take(limit).collect();
    let is_full = page.len() == limit && params.get("limit").is_some();
    let next = page.last().filter(|_| is_full).map(|last| {
        let query = params.with("marker", &last.id.to_string());
        links.next("types", &query)
    });
    let volume_types = page.iter().map(|row| TypeBody::new(row, &identity)).collect();
    Ok(Json(TypeList { volume_types, volume_type_links: next }))
}

/// Which types a list is to hold.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Public (and accessible) ones, private ones, or both.
    is_public: Option<bool>,
    extra_specs: BTreeMap<String, String>,
    /// A member asked for extra specs that only administrators see: nothing passes.
    nothing: bool,
}

impl Wanted {
    fn of(params: &Params, identity: &Identity, version: Microversion) -> Result<Self, Fault> {
        let is_admin = identity.is_admin();
        let filters_by_specs = is_admin || version.is_at_least(52);
        if version.is_at_least(52) && !is_admin {
            let known = |name: &&str| {
                PAGING.contains(name) || ["is_public", "extra_specs", "all_tenants"].contains(name)
            };
            let unknown: Vec<&str> = params.names().filter(|name| !known(name)).collect();
            if !unknown.is_empty() {
                let names = unknown.join(",");
                return Err(Fault::bad_request(format!(
                    "Invalid filters {names} are found in query options."
                )));
            }
        }
        let extra_specs = match params.get("extra_specs").filter(|_| filters_by_specs) {
            Some(text) => parse_dict(text)
                .ok_or_else(|| Fault::bad_request(format!("Invalid filter extra_specs: {text}.")))?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            is_public: if is_admin { parse_is_public(params.get("is_public"))? } else { Some(true) },
            nothing: !is_admin && extra_specs.keys().any(|key| !VISIBLE_TO_ALL.contains(&key.as_str())),
            extra_specs,
        })
    }

    fn takes(&self, row: &VolumeType, identity: &Identity) -> bool {
        let visible = match self.is_public {
            Some(true) => row.is_usable_by(&identity.actor.project),
            Some(false) => !row.is_public,
            None => true,
        };
        let specs_hold = self.extra_specs.iter().all(|(key, value)| row.extra_specs.get(key) == Some(value));
        !self.nothing && visible && specs_hold
    }
}

/// Administrators ask for public types (the default), private ones, or `none` for both.
fn parse_is_public(text: Option<&str>) -> Result<Option<bool>, Fault> {
    match text {
        None => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("none") => Ok(None),
        Some(text) => query_flag("is_public", text)
            .map(Some)
            .map_err(|_| Fault::bad_request(format!("Invalid is_public filter [{text}]"))),
    }
}

/// `{'key': 'value'}` as cinderclient prints it.
fn parse_dict(text: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_value(literal(text)?).ok()
}

/// What a list of types is ordered by; then the newest first, then by id.
#[derive(Debug, PartialEq, Eq)]
struct Sort(Vec<(TypeKey, bool)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TypeKey {
    Id,
    Name,
    Description,
    IsPublic,
    CreatedAt,
    UpdatedAt,
}

impl TypeKey {
    fn of(text: &str) -> Result<Self, Fault> {
        match text {
            "id" => Ok(Self::Id),
            "name" => Ok(Self::Name),
            "description" => Ok(Self::Description),
            "is_public" => Ok(Self::IsPublic),
            "created_at" => Ok(Self::CreatedAt),
            "updated_at" => Ok(Self::UpdatedAt),
            _ => Err(Fault::bad_request("Invalid input received: Sort key supplied is invalid.")),
        }
    }

    fn compare(self, a: &VolumeType, b: &VolumeType) -> Ordering {
        match self {
            Self::Id => a.id.cmp(&b.id),
            Self::Name => a.name.cmp(&b.name),
            Self::Description => a.description.cmp(&b.description),
            Self::IsPublic => a.is_public.cmp(&b.is_public),
            Self::CreatedAt => a.created_at.cmp(&b.created_at),
            Self::UpdatedAt => a.updated_at.cmp(&b.updated_at),
        }
    }
}

impl Sort {
    fn of(params: &Params) -> Result<Self, Fault> {
        let mut keys = Vec::new();
        match (params.get("sort"), params.get("sort_key"), params.get("sort_dir")) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                return Err(Fault::bad_request(
                    "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with \
                     the 'sort' parameter.",
                ));
            }
            (Some(sort), None, None) => {
                for part in sort.split(',') {
                    let (key, direction) = part.split_once(':').unwrap_or((part, "desc"));
                    keys.push((TypeKey::of(key.trim())?, is_descending(direction.trim())?));
                }
            }
            (None, Some(key), direction) => {
                keys.push((TypeKey::of(key)?, is_descending(direction.unwrap_or("desc"))?));
            }
            (None, None, Some(direction)) => keys.push((TypeKey::CreatedAt, is_descending(direction)?)),
            (None, None, None) => {}
        }
        Ok(Self(keys))
    }

    fn compare(&self, a: &VolumeType, b: &VolumeType) -> Ordering {
        let newest_first = [(TypeKey::CreatedAt, true), (TypeKey::Id, true)];
        self.0
            .iter()
            .chain(&newest_first)
            .map(|(key, descending)| if *descending { key.compare(b, a) } else { key.compare(a, b) })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

fn is_descending(direction: &str) -> Result<bool, Fault> {
    match direction {
        "asc" => Ok(false),
        "desc" => Ok(true),
        _ => Err(Fault::bad_request(
            "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.",
        )),
    }
}

/// Shows a volume type; `default` is the one that is used where nobody names one.
#[utoipa::path(
    get, path = "/types/{type_id}", tag = "types",
    params(("type_id" = String, Path)),
    responses((status = 200, body = TypeEnvelope), (status = 404))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
) -> Result<Json<TypeEnvelope>, Fault> {
    let row = visible_type(&state, &identity, id)?;
    Ok(Json(TypeEnvelope { volume_type: TypeBody::new(&row, &identity) }))
}

/// Creates a volume type (administrators).
#[utoipa::path(
    post, path = "/types", tag = "types",
    request_body(content = Object, description =
        "`{\"volume_type\": {name, description, extra_specs, os-volume-type-access:is_public}}`"),
    responses((status = 200, body = TypeEnvelope), (status = 400), (status = 403), (status = 409))
)]
async fn create(
    State(state): State<AppState>,
    identity: Identity,
    body: JsonBody,
) -> Result<Json<TypeEnvelope>, Fault> {
    let command = parse_create(body.require()?, VolumeTypeId::from_uuid(Uuid::new_v4()))?;
    let command = Command::CreateVolumeType(Box::new(command));
    let outcome = state.submit(&identity, body.idempotency.clone(), command).await?;
    // Not the fresh id: a repeated request gets the type that the first one made.
    let id = outcome.created(created_volume_type)?;
    let row = state.views.volume_type(id).map_err(|error| Fault::internal(&error))?;
    let row = row.ok_or_else(|| not_found(&id.to_string()))?;
    Ok(Json(TypeEnvelope { volume_type: TypeBody::new(&row, &identity) }))
}

fn parse_create(body: &Value, id: VolumeTypeId) -> Result<CreateVolumeType, Fault> {
    let fields = Object::only(body, "volume_type")?;
    fields.deny_unknown(&["name", "description", "extra_specs", "os-volume-type-access:is_public"])?;
    let name = fields.required("name")?.text(1, MAX_TEXT)?.trim();
    if name.is_empty() {
        return Err(Fault::bad_request("An invalid 'name' value was provided. The 'name' can not be empty."));
    }
    let extra_specs = fields.field("extra_specs").map(|field| field.metadata(KeyPattern::WithSlash));
    let description = fields.field("description").map(|field| field.optional_text(0)).transpose()?.flatten();
    let is_public = fields.field("os-volume-type-access:is_public").map(|field| field.boolean());
    Ok(CreateVolumeType {
        volume_type: id,
        name: name.into(),
        description: description.map(Into::into),
        is_public: is_public.transpose()?.unwrap_or(true),
        extra_specs: extra_specs.transpose()?.unwrap_or_default(),
    })
}

/// Changes a volume type's name, description or visibility (administrators).
#[utoipa::path(
    put, path = "/types/{type_id}", tag = "types",
    params(("type_id" = String, Path)),
    request_body(content = Object, description = "`{\"volume_type\": {name, description, is_public}}`"),
    responses((status = 200, body = TypeEnvelope), (status = 400), (status = 403), (status = 404), (status = 409))
)]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
    body: JsonBody,
) -> Result<Json<TypeEnvelope>, Fault> {
    let command = parse_update(body.require()?, id)?;
    state.submit(&identity, None, command).await?;
    let row = visible_type(&state, &identity, id)?;
    let volume_type = TypeBody { access_is_public: None, ..TypeBody::new(&row, &identity) };
    Ok(Json(TypeEnvelope { volume_type }))
}

fn parse_update(body: &Value, id: VolumeTypeId) -> Result<Command, Fault> {
    let fields = Object::only(body, "volume_type")?;
    fields.deny_unknown(&["name", "description", "is_public"])?;
    let name = fields.field("name").map(|field| field.optional_text(1)).transpose()?.flatten();
    let description = fields.field("description").map(|field| field.optional_text(0)).transpose()?.flatten();
    let is_public = fields.field("is_public").map(|field| field.boolean()).transpose()?;
    if name.is_some_and(|name| name.trim().is_empty()) {
        return Err(Fault::bad_request("Volume type name can not be empty."));
    }
    if name.is_none() && description.is_none() && is_public.is_none() {
        return Err(Fault::bad_request(
            "Specify volume type name, description, is_public or a combination thereof.",
        ));
    }
    Ok(Command::UpdateVolumeType {
        volume_type: id,
        name: name.map(Into::into),
        description: description.map(|text| Some(text.into())),
        is_public,
    })
}

/// Removes a volume type that nothing uses (administrators).
#[utoipa::path(
    delete, path = "/types/{type_id}", tag = "types",
    params(("type_id" = String, Path)),
    responses((status = 202), (status = 400), (status = 403), (status = 404))
)]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeTypeId>,
) -> Result<StatusCode, Fault> {
    state.submit(&identity, None, Command::DeleteVolumeType { volume_type: id }).await?;
    Ok(StatusCode::ACCEPTED)
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
