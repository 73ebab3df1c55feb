//! `/snapshots`: take, list, show, rename, delete.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tephra_domain::command::{Command, CreateSnapshot};
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::snapshot::Snapshot;
use tephra_projector::query::{ListQuery, Page};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::list::{ListRequest, Listed, unlisted};
use super::wire::check::{KeyPattern, Object};
use super::wire::links::Links;
use super::wire::python::repr;
use super::wire::requests::{SnapshotCreateBody, SnapshotUpdateBody};
use super::wire::snapshot::{Fields, SnapshotDetail, SnapshotEnvelope, SnapshotList};
use crate::auth::Identity;
use crate::error::Fault;
use crate::lookup::created_snapshot;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;

/// From here on a snapshot of a volume in use needs no force, and refusing force is refused.
const IN_USE: u16 = 66;
const FORCE_IS_GONE: &str = "Since microversion 3.66 the 'force' flag is invalid for this request.  For \
    backward compatability, however, when the 'force' flag is passed with a value evaluating to True, it \
    is silently ignored.";

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(list_detail))
        .routes(routes!(show, update, delete))
}

/// Takes a snapshot of a volume.
#[utoipa::path(post, path = "/snapshots", tag = "snapshots", operation_id = "create_snapshot",
    request_body = SnapshotCreateBody,
    responses((status = 202, body = SnapshotEnvelope), (status = 400), (status = 404), (status = 413)))]
async fn create(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    body: JsonBody,
) -> Result<(StatusCode, Json<SnapshotEnvelope>), Fault> {
    let command = creation(body.require()?, version)?;
    let command = Command::CreateSnapshot(Box::new(command));
    let outcome = state.submit(&identity, body.idempotency, command).await?;
    let snapshot = outcome.created(created_snapshot)?;
    let snapshot = SnapshotDetail::new(snapshot, Fields::Detail, version);
    Ok((StatusCode::ACCEPTED, Json(SnapshotEnvelope { snapshot })))
}

/// Reads the body of a create, with a fresh id.
fn creation(body: &Value, version: Microversion) -> Result<CreateSnapshot, Fault> {
    const KNOWN: &[&str] = &["name", "display_name", "description", "volume_id", "force", "metadata"];
    let fields = Object::only(body, "snapshot")?;
    let name = name(&fields)?;
    let description = fields.field("description").map(|field| field.printable()).transpose()?.flatten();
    let volume = fields.required("volume_id")?.optional_uuid()?;
    let force = fields.field("force").map(|field| field.boolean()).transpose()?;
    let metadata = fields.field("metadata").map(|field| field.optional_metadata(KeyPattern::WithSlash));
    fields.deny_unknown(KNOWN)?;
    if version.is_at_least(IN_USE) && force == Some(false) {
        return Err(Fault::bad_request(FORCE_IS_GONE));
    }
    let volume = volume.ok_or_else(|| Fault::not_found("Volume None could not be found."))?;
    Ok(CreateSnapshot {
        snapshot: SnapshotId::from_uuid(Uuid::new_v4()),
        volume: VolumeId::from_uuid(volume),
        name: name.flatten(),
        description,
        force: force.unwrap_or(false) || version.is_at_least(IN_USE),
        metadata: metadata.transpose()?.unwrap_or_default(),
    })
}

/// The name, by its v3 field or by its older one. Nothing if neither is there.
fn name(fields: &Object<'_>) -> Result<Option<Option<Box<str>>>, Fault> {
    let read = |name| fields.field(name).map(|field| field.optional_text(0)).transpose();
    let older = read("display_name")?;
    let newer = read("name")?;
    Ok(newer.or(older).map(|name| name.map(|name| name.trim().into())))
}

/// Snapshots with the fields that they always had.
#[utoipa::path(get, path = "/snapshots", tag = "snapshots", operation_id = "list_snapshots",
    params(super::list::ListParams),
    responses((status = 200, body = SnapshotList), (status = 400)))]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    request: ListRequest,
) -> Result<Json<SnapshotList>, Fault> {
    listed(&state, &identity, version, &request, Fields::Brief, |query| links.next("snapshots", query)).await
}

/// Snapshots with all their fields.
#[utoipa::path(get, path = "/snapshots/detail", tag = "snapshots", operation_id = "list_snapshots_detail",
    params(super::list::ListParams),
    responses((status = 200, body = SnapshotList), (status = 400)))]
async fn list_detail(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    request: ListRequest,
) -> Result<Json<SnapshotList>, Fault> {
    let next = |query: &str| links.next("snapshots/detail", query);
    listed(&state, &identity, version, &request, Fields::Extended, next).await
}

async fn listed(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    request: &ListRequest,
    fields: Fields,
    next: impl FnOnce(&str) -> [super::wire::links::Link; 1],
) -> Result<Json<SnapshotList>, Fault> {
    let scope = request.scope(Listed::Snapshots, identity, version)?;
    let query = ListQuery {
        project: scope.project,
        filters: scope.filters,
        sort: request.sort.clone(),
        marker: request.marker_id()?,
        offset: request.offset,
        limit: request.limit,
        with_count: request.with_count,
    };
    let page = if query.is_indexed() {
        state.views.snapshots(&query)
    } else {
        state.scan(move |views| views.snapshots(&query)).await?
    };
    let page: Page<Snapshot> = page.map_err(|error| unlisted(error, "Snapshot"))?;
    let last = page.rows.last().filter(|_| page.rows.len() >= request.limit);
    let snapshots_links = last.map(|last| next(&request.next_query(&last.id.to_string())));
    let snapshots =
        page.rows.into_iter().map(|snapshot| SnapshotDetail::new(snapshot, fields, version)).collect();
    Ok(Json(SnapshotList { snapshots, snapshots_links, count: page.count }))
}

/// One snapshot.
#[utoipa::path(get, path = "/snapshots/{snapshot_id}", tag = "snapshots", operation_id = "show_snapshot",
    params(("snapshot_id" = String, Path)),
    responses((status = 200, body = SnapshotEnvelope), (status = 404)))]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<SnapshotId>,
) -> Result<Json<SnapshotEnvelope>, Fault> {
    let snapshot = state.visible_snapshot(&identity, id)?;
    Ok(Json(SnapshotEnvelope { snapshot: SnapshotDetail::new(snapshot, Fields::Extended, version) }))
}

/// Renames or redescribes a snapshot.
#[utoipa::path(put, path = "/snapshots/{snapshot_id}", tag = "snapshots", operation_id = "update_snapshot",
    params(("snapshot_id" = String, Path)), request_body = SnapshotUpdateBody,
    responses((status = 200, body = SnapshotEnvelope), (status = 400), (status = 404)))]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<SnapshotId>,
    body: JsonBody,
) -> Result<Json<SnapshotEnvelope>, Fault> {
    const KNOWN: &[&str] = &["name", "description", "display_name", "display_description"];
    let fields = Object::only(body.require()?, "snapshot")?;
    let name = name(&fields)?;
    let described = |name| fields.field(name).map(|field| field.printable()).transpose();
    let older = described("display_description")?;
    let description = described("description")?.or(older);
    fields.deny_unknown(KNOWN)?;
    if fields.is_empty() {
        return Err(
            fields.refuse(&format!("{} is not valid under any of the given schemas", repr(fields.value())))
        );
    }
    state.submit(&identity, None, Command::UpdateSnapshot { snapshot: id, name, description }).await?;
    let snapshot = state.visible_snapshot(&identity, id)?;
    Ok(Json(SnapshotEnvelope { snapshot: SnapshotDetail::new(snapshot, Fields::Detail, version) }))
}

/// Deletes a snapshot.
#[utoipa::path(delete, path = "/snapshots/{snapshot_id}", tag = "snapshots", operation_id = "delete_snapshot",
    params(("snapshot_id" = String, Path)),
    responses((status = 202), (status = 400), (status = 404)))]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<SnapshotId>,
) -> Result<StatusCode, Fault> {
    state.submit(&identity, None, Command::DeleteSnapshot { snapshot: id, force: false }).await?;
    Ok(StatusCode::ACCEPTED)
}
