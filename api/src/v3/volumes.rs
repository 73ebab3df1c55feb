//! `/volumes`: create, list, show, rename, delete.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tephra_domain::command::{Command, CreateVolume, CreateVolumeFromImage, VolumeTypeRef};
use tephra_domain::ids::{SnapshotId, VolumeId, ZoneName};
use tephra_domain::volume::{Volume, VolumeSource};
use tephra_projector::query::{ListQuery, Page};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::list::{ListRequest, Listed, boolean_param, unlisted};
use super::wire::check::{KeyPattern, Object};
use super::wire::links::Links;
use super::wire::python::repr;
use super::wire::requests::{VolumeCreateBody, VolumeUpdateBody};
use super::wire::volume::{
    Look, Names, VolumeBrief, VolumeDetail, VolumeDetailList, VolumeEnvelope, VolumeSummaryList,
};
use crate::auth::Identity;
use crate::error::Fault;
use crate::lookup::created_volume;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody, QueryParams};
use crate::state::AppState;

/// From here on unknown fields of a new volume are refused, and an update must update something.
const STRICT_FIELDS: u16 = 53;
/// From here on a volume can be deleted by force.
const DELETE_FORCE: u16 = 23;

const HINTS: &str = "OS-SCH-HNT:scheduler_hints";
/// What a new volume may have.
const CREATE_FIELDS: &[&str] = &[
    "name",
    "description",
    "display_name",
    "display_description",
    "volume_type",
    "metadata",
    "snapshot_id",
    "source_volid",
    "consistencygroup_id",
    "size",
    "availability_zone",
    "multiattach",
    "image_id",
    "imageRef",
    "group_id",
    "backup_id",
];
/// Sources and company that a new volume cannot have yet, and what to say about each.
const NOT_YET: &[(&str, &str)] = &[
    ("backup_id", "Creating a volume from a backup is not supported yet."),
    ("group_id", "Creating a volume in a group is not supported yet."),
    ("consistencygroup_id", "Creating a volume in a consistency group is not supported yet."),
];
const ONE_SOURCE: &str =
    "Invalid input received: May specify only one of snapshot, imageRef or source volume";
const MULTIATTACH_REMOVED: &str = "multiattach parameter has been removed. The default behavior is to use \
    multiattach enabled volume types. Contact your administrator to create a multiattach enabled volume \
    type and use it to create multiattach volumes.";

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(list_detail))
        .routes(routes!(show, update, delete))
}

/// Creates a volume.
#[utoipa::path(post, path = "/volumes", tag = "volumes", operation_id = "create_volume",
    request_body = VolumeCreateBody,
    responses((status = 202, body = VolumeEnvelope), (status = 400), (status = 404), (status = 413)))]
async fn create(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    body: JsonBody,
) -> Result<(StatusCode, Json<VolumeEnvelope>), Fault> {
    let (create, image) = creation(body.require()?, version)?;
    let command = match image {
        None => Command::CreateVolume(Box::new(create)),
        Some(image) => {
            let image = state.image(&image, &identity.actor).await?;
            Command::CreateVolumeFromImage(Box::new(CreateVolumeFromImage { create, image }))
        }
    };
    let outcome = state.submit(&identity, body.idempotency, command).await?;
    let volume = outcome.created(created_volume)?;
    Ok((StatusCode::ACCEPTED, envelope(&state, volume, &identity, version, &links, false)?))
}

/// Reads the body of a create, with a fresh id, and the reference to an image if there is one.
fn creation(body: &Value, version: Microversion) -> Result<(CreateVolume, Option<String>), Fault> {
    let outer = Object::body(body)?;
    let fields = outer.required("volume")?.object()?;
    if let Some(hints) = outer.field(HINTS).filter(|hints| !hints.value().is_null()) {
        hints.object()?;
    }
    outer.deny_unknown(&["volume", HINTS])?;
    if version.is_at_least(STRICT_FIELDS) {
        fields.deny_unknown(CREATE_FIELDS)?;
    }
    for (name, message) in NOT_YET {
        if fields.field(name).is_some_and(|field| !field.value().is_null()) {
            return Err(Fault::bad_request(*message));
        }
    }
    let wants_multiattach = fields.field("multiattach").filter(|field| !field.value().is_null());
    if wants_multiattach.is_some_and(|field| field.boolean() != Ok(false)) {
        wants_multiattach.map_or(Ok(true), |field| field.boolean())?;
        return Err(Fault::bad_request(MULTIATTACH_REMOVED));
    }
    let metadata = fields.field("metadata").map(|field| field.optional_metadata(KeyPattern::WithSlash));
    let volume_type = fields.field("volume_type").map(|field| field.optional_text(0)).transpose()?.flatten();
    let zone = fields.field("availability_zone").map(|field| field.optional_text(1)).transpose()?.flatten();
    let source = source(&fields)?;
    let image = image_reference(&fields)?;
    if image.is_some() && source != VolumeSource::Blank {
        return Err(Fault::bad_request(ONE_SOURCE));
    }
    let create = CreateVolume {
        volume: VolumeId::from_uuid(Uuid::new_v4()),
        name: label(&fields, "name", "display_name", "name")?.flatten(),
        description: label(&fields, "description", "display_description", "description")?.flatten(),
        size: fields.field("size").map(|field| field.optional_size()).transpose()?.flatten(),
        source,
        volume_type: volume_type
            .filter(|named| !named.is_empty())
            .map(|named| VolumeTypeRef::Named(named.into())),
        availability_zone: zone.map(ZoneName::new),
        metadata: metadata.transpose()?.unwrap_or_default(),
    };
    Ok((create, image))
}

/// `imageRef`, or its older name. Nothing for null and for an empty one, as in Cinder.
fn image_reference(fields: &Object<'_>) -> Result<Option<String>, Fault> {
    for name in ["imageRef", "image_id"] {
        let reference = fields.field(name).map(|field| field.any_text()).transpose()?.flatten();
        if let Some(reference) = reference.filter(|reference| !reference.is_empty()) {
            return Ok(Some(reference.to_owned()));
        }
    }
    Ok(None)
}

fn source(fields: &Object<'_>) -> Result<VolumeSource, Fault> {
    let id = |name| fields.field(name).map(|field| field.optional_uuid()).transpose().map(Option::flatten);
    match (id("snapshot_id")?, id("source_volid")?) {
        (None, None) => Ok(VolumeSource::Blank),
        (Some(snapshot), None) => Ok(VolumeSource::Snapshot(SnapshotId::from_uuid(snapshot))),
        (None, Some(volume)) => Ok(VolumeSource::Volume(VolumeId::from_uuid(volume))),
        (Some(_), Some(_)) => Err(Fault::bad_request(ONE_SOURCE)),
    }
}

/// A name or description, by its v3 field or by its older one. Nothing if neither is there.
pub(super) fn label(
    fields: &Object<'_>,
    field: &'static str,
    older: &'static str,
    entity: &str,
) -> Result<Option<Option<Box<str>>>, Fault> {
    let older = fields.field(older).map(|field| field.label(entity)).transpose()?;
    let newer = fields.field(field).map(|field| field.label(entity)).transpose()?;
    Ok(newer.or(older))
}

/// Volumes by id and name.
#[utoipa::path(get, path = "/volumes", tag = "volumes", operation_id = "list_volumes",
    params(super::list::ListParams),
    responses((status = 200, body = VolumeSummaryList), (status = 400)))]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    request: ListRequest,
) -> Result<Json<VolumeSummaryList>, Fault> {
    let page = page(&state, &identity, version, &request).await?;
    let volumes_links = next(&page, &request).map(|query| links.next("volumes", &query));
    let volumes = page.rows.into_iter().map(|volume| VolumeBrief::new(volume, &links)).collect();
    Ok(Json(VolumeSummaryList { volumes, volumes_links, count: page.count }))
}

/// Volumes with all their fields.
#[utoipa::path(get, path = "/volumes/detail", tag = "volumes", operation_id = "list_volumes_detail",
    params(super::list::ListParams),
    responses((status = 200, body = VolumeDetailList), (status = 400)))]
async fn list_detail(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    request: ListRequest,
) -> Result<Json<VolumeDetailList>, Fault> {
    let page = page(&state, &identity, version, &request).await?;
    let volumes_links = next(&page, &request).map(|query| links.next("volumes/detail", &query));
    let is_admin = identity.is_admin();
    let names = &Names::all(&state.views, is_admin)?;
    let look = Look { version, is_admin, is_extended: true, links: &links, names };
    let volumes = page.rows.into_iter().map(|volume| VolumeDetail::new(volume, look)).collect();
    Ok(Json(VolumeDetailList { volumes, volumes_links, count: page.count }))
}

async fn page(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    request: &ListRequest,
) -> Result<Page<Volume>, Fault> {
    let scope = request.scope(Listed::Volumes, identity, version)?;
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
        state.views.volumes(&query)
    } else {
        state.scan(move |views| views.volumes(&query)).await?
    };
    page.map_err(|error| unlisted(error, "Volume"))
}

fn next(page: &Page<Volume>, request: &ListRequest) -> Option<String> {
    let last = page.rows.last().filter(|_| page.rows.len() >= request.limit)?;
    Some(request.next_query(&last.id.to_string()))
}

/// One volume.
#[utoipa::path(get, path = "/volumes/{volume_id}", tag = "volumes", operation_id = "show_volume",
    params(("volume_id" = String, Path)),
    responses((status = 200, body = VolumeEnvelope), (status = 404)))]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    InPath(id): InPath<VolumeId>,
) -> Result<Json<VolumeEnvelope>, Fault> {
    let volume = state.visible_volume(&identity, id)?;
    envelope(&state, volume, &identity, version, &links, true)
}

/// Renames or redescribes a volume, or gives it other metadata.
#[utoipa::path(put, path = "/volumes/{volume_id}", tag = "volumes", operation_id = "update_volume",
    params(("volume_id" = String, Path)), request_body = VolumeUpdateBody,
    responses((status = 200, body = VolumeEnvelope), (status = 400), (status = 404)))]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    links: Links,
    InPath(id): InPath<VolumeId>,
    body: JsonBody,
) -> Result<Json<VolumeEnvelope>, Fault> {
    const KNOWN: &[&str] = &["name", "description", "display_name", "display_description", "metadata"];
    let fields = Object::only(body.require()?, "volume")?;
    let name = label(&fields, "name", "display_name", "name")?;
    let description = label(&fields, "description", "display_description", "description")?;
    let metadata = fields.field("metadata").map(|field| field.metadata(KeyPattern::WithSlash)).transpose()?;
    fields.deny_unknown(KNOWN)?;
    if version.is_at_least(STRICT_FIELDS) && fields.is_empty() {
        return Err(
            fields.refuse(&format!("{} is not valid under any of the given schemas", repr(fields.value())))
        );
    }
    state.submit(&identity, None, Command::UpdateVolume { volume: id, name, description, metadata }).await?;
    let volume = state.visible_volume(&identity, id)?;
    envelope(&state, volume, &identity, version, &links, false)
}

/// Deletes a volume.
#[utoipa::path(delete, path = "/volumes/{volume_id}", tag = "volumes", operation_id = "delete_volume",
    params(("volume_id" = String, Path),
        ("cascade" = Option<bool>, Query, description = "with its snapshots"),
        ("force" = Option<bool>, Query, description = "in any status; administrators, from 3.23")),
    responses((status = 202), (status = 400), (status = 403), (status = 404)))]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<VolumeId>,
    params: QueryParams,
) -> Result<StatusCode, Fault> {
    let flag = |name| params.get(name).map_or(Ok(false), |word| boolean_param(name, word));
    let cascade = flag("cascade")?;
    let force = if version.is_at_least(DELETE_FORCE) { flag("force")? } else { false };
    state.submit(&identity, None, Command::DeleteVolume { volume: id, cascade, force }).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) fn envelope(
    state: &AppState,
    volume: Volume,
    identity: &Identity,
    version: Microversion,
    links: &Links,
    is_extended: bool,
) -> Result<Json<VolumeEnvelope>, Fault> {
    let is_admin = identity.is_admin();
    let names = &Names::of(&state.views, &volume, is_admin && is_extended)?;
    let look = Look { version, is_admin, is_extended, links, names };
    Ok(Json(VolumeEnvelope { volume: VolumeDetail::new(volume, look) }))
}
