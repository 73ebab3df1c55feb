//! `…/metadata` of volumes and snapshots: keys and values of their users.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tephra_domain::command::{Command, MetadataChange};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::SnapshotEvent;
use tephra_domain::volume::VolumeEvent;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::wire::check::{KeyPattern, Object};
use super::wire::python::repr;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody, MetadataKey};
use crate::state::AppState;

/// From here on metadata have an ETag, and a change can depend on it.
const ETAGS: u16 = 15;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(volume::index, volume::merge, volume::replace))
        .routes(routes!(volume::show, volume::set, volume::remove))
        .routes(routes!(snapshot::index, snapshot::merge, snapshot::replace))
        .routes(routes!(snapshot::show, snapshot::set, snapshot::remove))
}

/// All keys and values.
#[derive(Serialize, ToSchema)]
pub struct MetadataBody {
    metadata: BTreeMap<String, String>,
}

/// One key and its value.
#[derive(Serialize, ToSchema)]
pub struct MetaBody {
    meta: BTreeMap<String, String>,
}

type Map = BTreeMap<String, String>;

/// The content of `{"metadata": {…}}`.
fn all_of(body: &JsonBody, pattern: KeyPattern, is_strict: bool) -> Result<Map, Fault> {
    let fields = Object::body(body.require()?)?;
    let metadata = fields.required("metadata")?.metadata(pattern)?;
    if is_strict {
        fields.deny_unknown(&["metadata"])?;
    }
    Ok(metadata)
}

/// The content of `{"meta": {key: value}}`, whose key the path names too.
fn one_of(body: &JsonBody, key: &str, pattern: KeyPattern, is_strict: bool) -> Result<Map, Fault> {
    let fields = Object::body(body.require()?)?;
    let field = fields.required("meta")?;
    let meta = field.metadata(pattern)?;
    let shape = |reason: &str| field.refuse(&format!("{} {reason}", repr(field.value())));
    match meta.len() {
        0 => return Err(shape("does not have enough properties")),
        1 => {}
        _ => return Err(shape("has too many properties")),
    }
    if is_strict {
        fields.deny_unknown(&["meta"])?;
    }
    if meta.contains_key(key) { Ok(meta) } else { Err(Fault::bad_request("Request body and URI mismatch")) }
}

/// What metadata a commit left behind: a volume's, a snapshot's, or what a volume remembers of its
/// image.
pub(super) fn replaced(commit: &Commit) -> Option<Map> {
    commit.events.iter().find_map(|event| match event {
        Event::Volume(
            _,
            VolumeEvent::MetadataReplaced { metadata } | VolumeEvent::ImageMetadataReplaced { metadata },
        )
        | Event::Snapshot(_, SnapshotEvent::MetadataReplaced { metadata }) => Some(metadata.clone()),
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

fn etag(metadata: &Map) -> String {
    let mut digest = Sha256::new();
    for (key, value) in metadata {
        // no key and no value has this byte, so that no two maps look alike
        digest.update(key);
        digest.update([0xff]);
        digest.update(value);
        digest.update([0xff]);
    }
    let digest = digest.finalize();
    format!("\"{}\"", hex::encode(digest.get(..16).unwrap_or_default()))
}

/// Whether `If-Match`, where it counts, names what is there.
fn matches(
    headers: &HeaderMap,
    version: Microversion,
    current: impl FnOnce() -> Result<Map, Fault>,
) -> Result<bool, Fault> {
    let Some(wanted) = headers.get(header::IF_MATCH).filter(|_| version.is_at_least(ETAGS)) else {
        return Ok(true);
    };
    let current = etag(&current()?);
    let bare = current.trim_matches('"');
    let tags = wanted.to_str().unwrap_or_default().split(',').map(str::trim);
    Ok(tags.into_iter().any(|tag| tag == "*" || tag.trim_matches('"') == bare))
}

fn answer_all(metadata: Map, version: Microversion) -> Response {
    let tag = version.is_at_least(ETAGS).then(|| etag(&metadata));
    let headers: Vec<(HeaderName, String)> = tag.into_iter().map(|tag| (header::ETAG, tag)).collect();
    let mut response = Json(MetadataBody { metadata }).into_response();
    for (name, value) in headers {
        if let Ok(value) = value.try_into() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

mod volume {
    //! Of volumes.

    use super::*;

    const PATTERN: KeyPattern = KeyPattern::WithSlash;
    const IS_STRICT: bool = true;

    fn current(state: &AppState, identity: &Identity, id: VolumeId) -> Result<Map, Fault> {
        Ok(state.visible_volume(identity, id)?.metadata)
    }

    async fn change(
        state: &AppState,
        identity: &Identity,
        id: VolumeId,
        change: MetadataChange,
        body: JsonBody,
    ) -> Result<Map, Fault> {
        let command = Command::ChangeVolumeMetadata { volume: id, change };
        state.submit(identity, body.idempotency, command).await?.created(replaced)
    }

    /// All keys and values of a volume.
    #[utoipa::path(get, path = "/volumes/{volume_id}/metadata", tag = "metadata",
        operation_id = "list_volume_metadata", params(("volume_id" = String, Path)),
        responses((status = 200, body = MetadataBody), (status = 404)))]
    pub(super) async fn index(
        State(state): State<AppState>,
        identity: Identity,
        version: Microversion,
        InPath(id): InPath<VolumeId>,
    ) -> Result<Response, Fault> {
        Ok(answer_all(current(&state, &identity, id)?, version))
    }

    /// Adds keys and values, in place of those of the same key.
    #[utoipa::path(post, path = "/volumes/{volume_id}/metadata", tag = "metadata",
        operation_id = "merge_volume_metadata", params(("volume_id" = String, Path)),
        request_body = MetadataBody,
        responses((status = 200, body = MetadataBody), (status = 400), (status = 404)))]
    pub(super) async fn merge(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<VolumeId>,
        body: JsonBody,
    ) -> Result<Json<MetadataBody>, Fault> {
        let merge = MetadataChange::Merge(all_of(&body, PATTERN, IS_STRICT)?);
        let metadata = change(&state, &identity, id, merge, body).await?;
        Ok(Json(MetadataBody { metadata }))
    }

    /// Replaces all keys and values.
    #[utoipa::path(put, path = "/volumes/{volume_id}/metadata", tag = "metadata",
        operation_id = "replace_volume_metadata", params(("volume_id" = String, Path)),
        request_body = MetadataBody,
        responses((status = 200, body = MetadataBody), (status = 400), (status = 404), (status = 412)))]
    pub(super) async fn replace(
        State(state): State<AppState>,
        identity: Identity,
        version: Microversion,
        headers: HeaderMap,
        InPath(id): InPath<VolumeId>,
        body: JsonBody,
    ) -> Result<Response, Fault> {
        let metadata = all_of(&body, PATTERN, IS_STRICT)?;
        if !matches(&headers, version, || current(&state, &identity, id))? {
            return Ok(StatusCode::PRECONDITION_FAILED.into_response());
        }
        let metadata = change(&state, &identity, id, MetadataChange::Replace(metadata), body).await?;
        Ok(Json(MetadataBody { metadata }).into_response())
    }

    /// The value of one key.
    #[utoipa::path(get, path = "/volumes/{volume_id}/metadata/{key}", tag = "metadata",
        operation_id = "show_volume_metadata", params(("volume_id" = String, Path), ("key" = String, Path)),
        responses((status = 200, body = MetaBody), (status = 404)))]
    pub(super) async fn show(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<VolumeId>,
        MetadataKey(key): MetadataKey,
    ) -> Result<Json<MetaBody>, Fault> {
        match current(&state, &identity, id)?.remove_entry(&key) {
            Some(meta) => Ok(Json(MetaBody { meta: Map::from([meta]) })),
            None => Err(Rejection::VolumeMetadataNotFound { volume: id, key: key.into() }.into()),
        }
    }

    /// Sets one key.
    #[utoipa::path(put, path = "/volumes/{volume_id}/metadata/{key}", tag = "metadata",
        operation_id = "set_volume_metadata", params(("volume_id" = String, Path), ("key" = String, Path)),
        request_body = MetaBody,
        responses((status = 200, body = MetaBody), (status = 400), (status = 404), (status = 412)))]
    pub(super) async fn set(
        State(state): State<AppState>,
        identity: Identity,
        version: Microversion,
        headers: HeaderMap,
        InPath(id): InPath<VolumeId>,
        MetadataKey(key): MetadataKey,
        body: JsonBody,
    ) -> Result<Response, Fault> {
        let meta = one_of(&body, &key, PATTERN, IS_STRICT)?;
        if !matches(&headers, version, || current(&state, &identity, id))? {
            return Ok(StatusCode::PRECONDITION_FAILED.into_response());
        }
        change(&state, &identity, id, MetadataChange::Merge(meta.clone()), body).await?;
        Ok(Json(MetaBody { meta }).into_response())
    }

    /// Takes one key out.
    #[utoipa::path(delete, path = "/volumes/{volume_id}/metadata/{key}", tag = "metadata",
        operation_id = "remove_volume_metadata",
        params(("volume_id" = String, Path), ("key" = String, Path)),
        responses((status = 200), (status = 404)))]
    pub(super) async fn remove(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<VolumeId>,
        MetadataKey(key): MetadataKey,
    ) -> Result<StatusCode, Fault> {
        let command = Command::ChangeVolumeMetadata { volume: id, change: MetadataChange::Remove(key) };
        state.submit(&identity, None, command).await?;
        Ok(StatusCode::OK)
    }
}

mod snapshot {
    //! Of snapshots.

    use super::*;

    const PATTERN: KeyPattern = KeyPattern::WithoutSlash;
    const IS_STRICT: bool = false;

    fn current(state: &AppState, identity: &Identity, id: SnapshotId) -> Result<Map, Fault> {
        Ok(state.visible_snapshot(identity, id)?.metadata)
    }

    async fn change(
        state: &AppState,
        identity: &Identity,
        id: SnapshotId,
        change: MetadataChange,
        body: JsonBody,
    ) -> Result<Map, Fault> {
        let command = Command::ChangeSnapshotMetadata { snapshot: id, change };
        state.submit(identity, body.idempotency, command).await?.created(replaced)
    }

    /// All keys and values of a snapshot.
    #[utoipa::path(get, path = "/snapshots/{snapshot_id}/metadata", tag = "metadata",
        operation_id = "list_snapshot_metadata", params(("snapshot_id" = String, Path)),
        responses((status = 200, body = MetadataBody), (status = 404)))]
    pub(super) async fn index(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
    ) -> Result<Response, Fault> {
        Ok(answer_all(current(&state, &identity, id)?, Microversion::MIN))
    }

    /// Adds keys and values, in place of those of the same key.
    #[utoipa::path(post, path = "/snapshots/{snapshot_id}/metadata", tag = "metadata",
        operation_id = "merge_snapshot_metadata", params(("snapshot_id" = String, Path)),
        request_body = MetadataBody,
        responses((status = 200, body = MetadataBody), (status = 400), (status = 404)))]
    pub(super) async fn merge(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
        body: JsonBody,
    ) -> Result<Json<MetadataBody>, Fault> {
        let merge = MetadataChange::Merge(all_of(&body, PATTERN, IS_STRICT)?);
        let metadata = change(&state, &identity, id, merge, body).await?;
        Ok(Json(MetadataBody { metadata }))
    }

    /// Replaces all keys and values.
    #[utoipa::path(put, path = "/snapshots/{snapshot_id}/metadata", tag = "metadata",
        operation_id = "replace_snapshot_metadata", params(("snapshot_id" = String, Path)),
        request_body = MetadataBody,
        responses((status = 200, body = MetadataBody), (status = 400), (status = 404)))]
    pub(super) async fn replace(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
        body: JsonBody,
    ) -> Result<Response, Fault> {
        let metadata = all_of(&body, PATTERN, IS_STRICT)?;
        let metadata = change(&state, &identity, id, MetadataChange::Replace(metadata), body).await?;
        Ok(Json(MetadataBody { metadata }).into_response())
    }

    /// The value of one key.
    #[utoipa::path(get, path = "/snapshots/{snapshot_id}/metadata/{key}", tag = "metadata",
        operation_id = "show_snapshot_metadata", params(("snapshot_id" = String, Path), ("key" = String, Path)),
        responses((status = 200, body = MetaBody), (status = 404)))]
    pub(super) async fn show(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
        MetadataKey(key): MetadataKey,
    ) -> Result<Json<MetaBody>, Fault> {
        match current(&state, &identity, id)?.remove_entry(&key) {
            Some(meta) => Ok(Json(MetaBody { meta: Map::from([meta]) })),
            None => Err(Rejection::SnapshotMetadataNotFound { snapshot: id, key: key.into() }.into()),
        }
    }

    /// Sets one key.
    #[utoipa::path(put, path = "/snapshots/{snapshot_id}/metadata/{key}", tag = "metadata",
        operation_id = "set_snapshot_metadata", params(("snapshot_id" = String, Path), ("key" = String, Path)),
        request_body = MetaBody,
        responses((status = 200, body = MetaBody), (status = 400), (status = 404)))]
    pub(super) async fn set(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
        MetadataKey(key): MetadataKey,
        body: JsonBody,
    ) -> Result<Response, Fault> {
        let meta = one_of(&body, &key, PATTERN, IS_STRICT)?;
        change(&state, &identity, id, MetadataChange::Merge(meta.clone()), body).await?;
        Ok(Json(MetaBody { meta }).into_response())
    }

    /// Takes one key out.
    #[utoipa::path(delete, path = "/snapshots/{snapshot_id}/metadata/{key}", tag = "metadata",
        operation_id = "remove_snapshot_metadata",
        params(("snapshot_id" = String, Path), ("key" = String, Path)),
        responses((status = 200), (status = 404)))]
    pub(super) async fn remove(
        State(state): State<AppState>,
        identity: Identity,
        InPath(id): InPath<SnapshotId>,
        MetadataKey(key): MetadataKey,
    ) -> Result<StatusCode, Fault> {
        let command = Command::ChangeSnapshotMetadata { snapshot: id, change: MetadataChange::Remove(key) };
        state.submit(&identity, None, command).await?;
        Ok(StatusCode::OK)
    }
}
