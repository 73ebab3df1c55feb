//! Taking over what a backend has already: `/os-volume-manage` and `/os-snapshot-manage`, from 3.8
//! also as `/manageable_volumes` and `/manageable_snapshots` (administrators).
//!
//! Cinder looks at the object when the work is done, and what is wrong with it shows in the status
//! of the new volume. Here it is looked at first: what is not there, in use or managed already is
//! refused at once, in the words that Cinder's drivers have for it, and the size is known from the
//! beginning.

mod listing;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tephra_domain::backend::Backend;
use tephra_domain::command::{Command, ManageSnapshot, ManageVolume, VolumeTypeRef};
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::ids::{PoolId, SnapshotId, VolumeId, ZoneName};
use tephra_domain::rejection::Rejection;
use tephra_domain::units::SizeGib;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use self::listing::{ManageableSnapshots, ManageableVolumes, Wanted, listed};
use super::params::Params;
use super::services::{parse_host, service_host};
use super::volumes::envelope;
use super::wire::check::{Field, KeyPattern, Object};
use super::wire::links::Links;
use super::wire::python::repr;
use super::wire::snapshot::{Fields, SnapshotDetail, SnapshotEnvelope};
use super::wire::volume::VolumeEnvelope;
use crate::auth::Identity;
use crate::error::Fault;
use crate::lookup::{created_snapshot, created_volume};
use crate::microversion::Microversion;
use crate::request::JsonBody;
use crate::state::AppState;

/// Since when there are the newer names of the routes.
const NEWER_ROUTES: u16 = 8;
/// Since when a cluster may be named instead of a host, for the list and for taking over.
const LIST_CLUSTER: u16 = 17;
const MANAGE_CLUSTER: u16 = 16;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(old_volumes, old_manage_volume))
        .routes(routes!(old_volumes_detail))
        .routes(routes!(volumes, manage_volume))
        .routes(routes!(volumes_detail))
        .routes(routes!(old_snapshots, old_manage_snapshot))
        .routes(routes!(old_snapshots_detail))
        .routes(routes!(snapshots, manage_snapshot))
        .routes(routes!(snapshots_detail))
}

type VolumeList = Result<Json<ManageableVolumes>, Fault>;
type SnapshotList = Result<Json<ManageableSnapshots>, Fault>;
type ManagedVolume = Result<(StatusCode, Json<VolumeEnvelope>), Fault>;
type ManagedSnapshot = Result<(StatusCode, Json<SnapshotEnvelope>), Fault>;

/// The host and nothing else: nothing here is in a cluster.
fn host_of(
    host: Option<String>,
    cluster: Option<&str>,
    version: Microversion,
    since: u16,
) -> Result<String, Fault> {
    let host = host.filter(|host| !host.is_empty());
    match (host, cluster.filter(|name| !name.is_empty() && version.is_at_least(since))) {
        (Some(host), None) => Ok(host),
        (None, Some(cluster)) => Err(Fault::bad_request(format!("Cluster '{cluster}' not found"))),
        (Some(_), Some(_)) | (None, None) => Err(invalid_input(if version.is_at_least(since) {
            "One and only one of cluster and host must be set."
        } else {
            "Host field is missing."
        })),
    }
}

/// Cinder's `InvalidInput`.
fn invalid_input(why: &str) -> Fault {
    Fault::bad_request(format!("Invalid input received: {why}"))
}

/// The backend that `host@backend` or `host@backend#pool` names, and its pools that are meant.
fn on_host(state: &AppState, host: &str) -> Result<Option<(Backend, Vec<PoolId>)>, Fault> {
    let (service, pool) = host.split_once('#').map_or((host, None), |(service, pool)| (service, Some(pool)));
    let backends = state.views.backends()?;
    let Some(backend) = backends.into_iter().find(|backend| service_host(backend) == service) else {
        return Ok(None);
    };
    let pools =
        backend.description.pools.iter().filter(|known| pool.is_none_or(|pool| known.as_str() == pool));
    let pools: Vec<PoolId> =
        pools.map(|pool| PoolId { backend: backend.name.clone(), pool: pool.clone() }).collect();
    Ok((!pools.is_empty()).then_some((backend, pools)))
}

/// Cinder's `ManageExistingInvalidReference`.
fn invalid_reference(reference: &str, why: &str) -> Fault {
    Fault::bad_request(format!(
        "Manage existing volume failed due to invalid backend reference {reference}: {why}"
    ))
}

/// What names an object on a backend: `{"source-name": …}` or `{"source-id": …}`.
struct Reference {
    /// As the client wrote it, for refusals.
    shown: String,
    names: Vec<String>,
}

impl Reference {
    fn parse(field: Field<'_>, text_is_name: bool) -> Result<Self, Fault> {
        let shown = repr(field.value());
        let names = match field.value() {
            Value::String(name) if text_is_name => vec![name.clone()],
            Value::Object(reference) => {
                let text = |key: &str| reference.get(key).and_then(Value::as_str).map(str::to_owned);
                // ids name what was ours before it was given up, here or in Cinder
                let by_id = |id: String| {
                    ["", "volume-", "unmanaged-volume-", "snapshot-", "unmanaged-snapshot-"]
                        .map(|prefix| format!("{prefix}{id}"))
                        .to_vec()
                };
                let named = text("source-name").map(|name| vec![name]);
                named.or_else(|| text("source-id").map(by_id)).unwrap_or_default()
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Vec::new()
            }
        };
        if names.iter().all(String::is_empty) {
            return Err(invalid_reference(&shown, "Reference must contain source-name element."));
        }
        Ok(Self { shown, names })
    }
}

/// Finds the object, and refuses what cannot be taken over.
async fn find(
    state: &AppState,
    backend: &Backend,
    pools: &[PoolId],
    reference: &Reference,
    wanted: Wanted,
    fits: impl Fn(&FoundObject) -> bool,
) -> Result<(PoolId, FoundObject, SizeGib), Fault> {
    let not_in_service = || Fault::from(Rejection::BackendNotInService { backend: backend.name.clone() });
    if !backend.enabled && !backend.frozen {
        return Err(not_in_service());
    }
    for pool in pools {
        let look = match state.look(pool).await? {
            Ok(look) => look,
            Err(failure) => {
                tracing::warn!(%pool, %failure, "a backend cannot be looked at");
                return Err(not_in_service());
            }
        };
        for name in &reference.names {
            let Some(object) = look.found.iter().find(|object| *object.name == **name && fits(object)) else {
                continue;
            };
            if look.is_known(name) {
                return Err(Rejection::ObjectAlreadyManaged { name: name.as_str().into() }.into());
            }
            if object.in_use {
                return Err(invalid_reference(&reference.shown, &format!("{} in use", wanted.word())));
            }
            let size = SizeGib::holding(object.bytes).ok_or_else(|| {
                invalid_reference(&reference.shown, "it is empty, or larger than any volume can be")
            })?;
            return Ok((pool.clone(), object.clone(), size));
        }
    }
    Err(invalid_reference(&reference.shown, &format!("Specified {} does not exist.", wanted.word())))
}

const VOLUME_FIELDS: &[&str] =
    &["description", "availability_zone", "bootable", "volume_type", "name", "host", "ref", "metadata"];

async fn take_volume_over(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    links: &Links,
    body: JsonBody,
) -> ManagedVolume {
    let fields = Object::only(body.require()?, "volume")?;
    let text = |name| fields.field(name).map(|field| field.optional_text(0)).transpose().map(Option::flatten);
    let name = text("name")?;
    let description = fields.field("description").map(|field| field.printable()).transpose()?.flatten();
    let zone = text("availability_zone")?.filter(|zone| !zone.is_empty());
    let volume_type = text("volume_type")?.filter(|named| !named.is_empty());
    let bootable = fields.field("bootable").map(|field| field.boolean()).transpose()?.unwrap_or(false);
    let metadata = fields.field("metadata").map(|field| field.optional_metadata(KeyPattern::WithSlash));
    let metadata = metadata.transpose()?.unwrap_or_default();
    let host = parse_host(fields)?;
    let reference = fields.required("ref")?;
    let cluster = text("cluster").ok().flatten();
    if version.is_at_least(MANAGE_CLUSTER) {
        fields.deny_unknown(&[VOLUME_FIELDS, &["cluster"]].concat())?;
    } else {
        fields.deny_unknown(VOLUME_FIELDS)?;
    }
    identity.actor.require_admin("volume_extension:volume_manage")?;
    let host = host_of(host, cluster, version, MANAGE_CLUSTER)?;
    if let Some(named) = volume_type {
        let types = state.views.volume_types()?;
        let is_known = types.iter().any(|row| *row.name == *named || row.id.to_string() == named);
        if !is_known {
            let message = format!("Invalid volume type: Cannot find requested '{named}' volume type");
            return Err(Fault::bad_request(message));
        }
    }
    let reference = Reference::parse(reference, false)?;
    let not_found = || Fault::bad_request(format!("Host '{host}' not found"));
    let (backend, pools) = on_host(state, &host)?.ok_or_else(not_found)?;
    let is_volume = |object: &FoundObject| match &object.kind {
        // files do not know what they are copies of, and are whole
        FoundKind::Volume | FoundKind::Snapshot { of: None } => true,
        FoundKind::Snapshot { of: Some(_) } => false,
    };
    let (pool, object, size) = find(state, &backend, &pools, &reference, Wanted::Volumes, is_volume).await?;
    let command = ManageVolume {
        volume: VolumeId::from_uuid(Uuid::new_v4()),
        pool,
        name: object.name,
        size,
        display_name: name.map(|name| name.trim().into()),
        description,
        volume_type: volume_type.map(|named| VolumeTypeRef::Named(named.into())),
        availability_zone: zone.map(ZoneName::new),
        metadata,
        bootable,
    };
    let outcome = state.submit(identity, body.idempotency, Command::ManageVolume(Box::new(command))).await?;
    let volume = outcome.created(created_volume)?;
    Ok((StatusCode::ACCEPTED, envelope(state, volume, identity, version, links, false)?))
}

async fn take_snapshot_over(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    body: JsonBody,
) -> ManagedSnapshot {
    let fields = Object::only(body.require()?, "snapshot")?;
    let name = fields.field("name").map(|field| field.optional_text(0)).transpose()?.flatten();
    let description = fields.field("description").map(|field| field.printable()).transpose()?.flatten();
    let metadata = fields.field("metadata").map(|field| field.optional_metadata(KeyPattern::WithoutSlash));
    let metadata = metadata.transpose()?.unwrap_or_default();
    let volume = fields.required("volume_id")?.optional_uuid()?;
    let reference = fields.required("ref")?;
    fields.deny_unknown(&["description", "metadata", "name", "volume_id", "ref"])?;
    let volume = volume.ok_or_else(|| Fault::not_found("Volume None could not be found."))?;
    let volume = state.visible_volume(identity, VolumeId::from_uuid(volume))?;
    identity.actor.require_admin("snapshot_extension:snapshot_manage")?;
    let reference = Reference::parse(reference, true)?;
    let backend = volume.pool.as_ref().map(|pool| state.views.backend(&pool.backend)).transpose()?.flatten();
    let (Some(pool), Some(backend)) = (&volume.pool, backend) else {
        let message = format!(
            "Invalid volume: Volume {} status must be available, in-use, but current status is: {}.",
            volume.id,
            volume.status.wire_name()
        );
        return Err(Fault::bad_request(message));
    };
    let of_volume = format!("volume-{}", volume.id);
    // Cinder takes any object that the volume's backend has, but for another's snapshot
    let fits = |object: &FoundObject| match &object.kind {
        FoundKind::Volume | FoundKind::Snapshot { of: None } => true,
        FoundKind::Snapshot { of: Some(of) } => **of == *of_volume,
    };
    let pools = std::slice::from_ref(pool);
    let (_, object, size) = find(state, &backend, pools, &reference, Wanted::Snapshots, fits).await?;
    let command = ManageSnapshot {
        snapshot: SnapshotId::from_uuid(Uuid::new_v4()),
        volume: volume.id,
        name: object.name,
        size,
        display_name: name.map(|name| name.trim().into()),
        description,
        metadata,
    };
    let outcome =
        state.submit(identity, body.idempotency, Command::ManageSnapshot(Box::new(command))).await?;
    let snapshot = outcome.created(created_snapshot)?;
    let snapshot = SnapshotDetail::new(snapshot, Fields::Detail, version);
    Ok((StatusCode::ACCEPTED, Json(SnapshotEnvelope { snapshot })))
}

/// Declares the routes of one kind of list: the same handlers under both names.
macro_rules! lists {
    ($($name:ident $path:literal $wanted:ident $detail:literal $since:expr => $list:ident as $body:ty;)*) => {$(
        /// What a backend has, and whether it can be taken over (administrators).
        #[utoipa::path(get, path = $path, tag = "manage",
            params(
                ("host" = String, Query, description = "`host@backend` or `host@backend#pool`"),
                ("marker" = Option<String>, Query, description = "a reference, as JSON"),
                ("limit" = Option<u32>, Query), ("offset" = Option<u32>, Query),
                ("sort" = Option<String>, Query, description = "`reference` or `size`, with `:asc` or `:desc`"),
            ),
            responses((status = 200, body = $body), (status = 400), (status = 403), (status = 404)))]
        async fn $name(
            State(state): State<AppState>,
            identity: Identity,
            version: Microversion,
            params: Params,
        ) -> $list {
            version.require($since)?;
            Ok(Json(listed(&state, &identity, version, &params, Wanted::$wanted, $detail).await?.into()))
        }
    )*};
}

lists! {
    old_volumes "/os-volume-manage" Volumes false 0 => VolumeList as ManageableVolumes;
    old_volumes_detail "/os-volume-manage/detail" Volumes true 0 => VolumeList as ManageableVolumes;
    volumes "/manageable_volumes" Volumes false NEWER_ROUTES => VolumeList as ManageableVolumes;
    volumes_detail "/manageable_volumes/detail" Volumes true NEWER_ROUTES => VolumeList as ManageableVolumes;
    old_snapshots "/os-snapshot-manage" Snapshots false 0 => SnapshotList as ManageableSnapshots;
    old_snapshots_detail "/os-snapshot-manage/detail" Snapshots true 0 => SnapshotList as ManageableSnapshots;
    snapshots "/manageable_snapshots" Snapshots false NEWER_ROUTES => SnapshotList as ManageableSnapshots;
    snapshots_detail "/manageable_snapshots/detail" Snapshots true NEWER_ROUTES => SnapshotList as ManageableSnapshots;
}

/// Declares the routes that take something over: the same handlers under both names.
macro_rules! takeovers {
    ($($name:ident $path:literal $since:expr, $what:literal => volume;)* $(;)?) => {$(
        /// Takes over what a backend has already, as a volume (administrators).
        #[utoipa::path(post, path = $path, tag = "manage",
            request_body(content = Object, description = $what),
            responses((status = 202, body = VolumeEnvelope), (status = 400), (status = 403), (status = 413)))]
        async fn $name(
            State(state): State<AppState>,
            identity: Identity,
            version: Microversion,
            links: Links,
            body: JsonBody,
        ) -> ManagedVolume {
            version.require($since)?;
            take_volume_over(&state, &identity, version, &links, body).await
        }
    )*};
    ($($name:ident $path:literal $since:expr, $what:literal => snapshot;)*) => {$(
        /// Takes over what a backend has already, as a snapshot of a volume (administrators).
        #[utoipa::path(post, path = $path, tag = "manage",
            request_body(content = Object, description = $what),
            responses(
                (status = 202, body = SnapshotEnvelope), (status = 400), (status = 403), (status = 404),
                (status = 413)
            ))]
        async fn $name(
            State(state): State<AppState>,
            identity: Identity,
            version: Microversion,
            body: JsonBody,
        ) -> ManagedSnapshot {
            version.require($since)?;
            take_snapshot_over(&state, &identity, version, body).await
        }
    )*};
}

takeovers! {
    old_manage_volume "/os-volume-manage" 0,
        "`{volume: {host, ref: {\"source-name\"}, name?, description?, volume_type?, availability_zone?, metadata?, bootable?}}`"
        => volume;
    manage_volume "/manageable_volumes" NEWER_ROUTES,
        "`{volume: {host, ref: {\"source-name\"}, name?, description?, volume_type?, availability_zone?, metadata?, bootable?}}`"
        => volume;
}

takeovers! {
    old_manage_snapshot "/os-snapshot-manage" 0,
        "`{snapshot: {volume_id, ref: {\"source-name\"}, name?, description?, metadata?}}`" => snapshot;
    manage_snapshot "/manageable_snapshots" NEWER_ROUTES,
        "`{snapshot: {volume_id, ref: {\"source-name\"}, name?, description?, metadata?}}`" => snapshot;
}
