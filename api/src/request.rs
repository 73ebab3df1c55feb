//! What is known of a request before its handler runs: its id, its path, its body.

use std::collections::BTreeMap;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::{HeaderMap, Method, StatusCode, header, request::Parts};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tephra_domain::event::Idempotency;
use tephra_domain::ids::{AttachmentId, IdempotencyKey, RequestId, SnapshotId, VolumeId};
use uuid::Uuid;

use crate::error::Fault;
use crate::state::AppState;

/// The id of a request in its answer.
pub const REQUEST_ID_HEADER: &str = "x-compute-request-id";
/// The id that a caller up the road gave to all its requests (oslo.middleware).
pub const GLOBAL_REQUEST_ID_HEADER: &str = "x-openstack-request-id";
/// What a client sends to make a POST safe to repeat.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Characters of an idempotency key, at most.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Bytes of a body, at most (Cinder's `osapi_max_request_body_size`).
pub const MAX_BODY_BYTES: usize = 114_688;

const JSON_TYPES: [&str; 2] = ["application/json", "application/vnd.openstack.volume+json"];

/// The ids of a request: its own, and that under which its effects are recorded.
#[derive(Clone, Debug)]
pub struct RequestIds {
    /// Fresh for every request; in the answer's header.
    pub own: String,
    /// The caller's own id if it sent a well-formed one, else the same as `own`.
    pub correlation: RequestId,
}

impl RequestIds {
    /// Draws an id, and takes the caller's if it sent one.
    pub fn draw(headers: &HeaderMap) -> Self {
        let own = format!("req-{}", Uuid::new_v4().hyphenated());
        let global = headers
            .get(GLOBAL_REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|id| id.strip_prefix("req-").is_some_and(|uuid| Uuid::try_parse(uuid).is_ok()));
        let correlation = RequestId::new(global.unwrap_or(&own));
        Self { own, correlation }
    }
}

/// Scheme and authority that links in answers start with, without a slash at the end.
pub fn base_url(state: &AppState, headers: &HeaderMap) -> String {
    if let Some(public) = &state.settings.public_endpoint {
        return public.trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}

/// An id that routes carry under a name of its own.
pub trait PathId: Sized + Send {
    /// The name in the route.
    const PARAM: &'static str;

    /// Takes it from the path.
    ///
    /// # Errors
    /// The 404 of a thing that cannot exist.
    fn parse(text: &str) -> Result<Self, Fault>;
}

impl PathId for VolumeId {
    const PARAM: &'static str = "volume_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| Fault::not_found(format!("Volume {text} could not be found.")))
    }
}

impl PathId for SnapshotId {
    const PARAM: &'static str = "snapshot_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| Fault::not_found(format!("Snapshot {text} could not be found.")))
    }
}

impl PathId for AttachmentId {
    const PARAM: &'static str = "attachment_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| {
            Fault::not_found(format!(
                "Volume attachment could not be found with filter: attachment_id = {text}."
            ))
        })
    }
}

/// The parameter of the route that [`PathId::PARAM`] names; with or without a project before it.
#[derive(Clone, Copy, Debug)]
pub struct InPath<T>(pub T);

impl<S: Send + Sync, T: PathId> FromRequestParts<S> for InPath<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| Fault::no_such_route())?;
        let text = params.iter().find_map(|(name, value)| (name == T::PARAM).then_some(value));
        T::parse(text.ok_or_else(Fault::no_such_route)?).map(Self)
    }
}

/// The metadata key at the end of a path.
#[derive(Clone, Debug)]
pub struct MetadataKey(pub String);

impl<S: Send + Sync> FromRequestParts<S> for MetadataKey {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| Fault::no_such_route())?;
        let key = params.iter().find_map(|(name, value)| (name == "key").then(|| value.to_owned()));
        key.map(Self).ok_or_else(Fault::no_such_route)
    }
}

/// The query of a request; of a name that comes twice, the last value.
#[derive(Clone, Debug, Default)]
pub struct QueryParams(BTreeMap<String, String>);

impl QueryParams {
    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|_| Fault::bad_request("The query string could not be read."))?;
        Ok(Self(params))
    }
}

/// A request's body as JSON, and what makes it safe to repeat.
#[derive(Clone, Debug)]
pub struct JsonBody {
    /// The body; nothing if it is empty or of no declared type, which Cinder takes for empty.
    pub json: Option<Value>,
    /// From `Idempotency-Key`, on a POST.
    pub idempotency: Option<Idempotency>,
}

impl JsonBody {
    /// The body, which must be there.
    ///
    /// # Errors
    /// 400 for a call that got none.
    pub fn require(&self) -> Result<&Value, Fault> {
        self.json.as_ref().ok_or_else(|| {
            Fault::bad_request(
                "The server could not comply with the request since it is either malformed or \
                 otherwise incorrect.",
            )
        })
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let key = idempotency_key(&method, request.headers())?;
        let is_json = declared_json(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(|error| unreadable(&error))?;
        let idempotency =
            key.map(|key| Idempotency { key, fingerprint: fingerprint(&method, &path, &bytes) });
        if bytes.is_empty() || !is_json {
            return Ok(Self { json: None, idempotency });
        }
        let json = serde_json::from_slice(&bytes).map_err(|_| Fault::malformed_body())?;
        Ok(Self { json: Some(json), idempotency })
    }
}

fn unreadable(error: &BytesRejection) -> Fault {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "Request is too large.")
    } else {
        Fault::bad_request("The request body could not be read.")
    }
}

fn declared_json(headers: &HeaderMap) -> Result<bool, Fault> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        Ok(false)
    } else if JSON_TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        Ok(true)
    } else {
        Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Content-Type"))
    }
}

fn idempotency_key(method: &Method, headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Fault> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER).filter(|_| method == Method::POST) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_IDEMPOTENCY_KEY => Ok(Some(IdempotencyKey::new(key))),
        Ok(_) | Err(_) => Err(Fault::bad_request(format!(
            "Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters."
        ))),
    }
}

fn fingerprint(method: &Method, path: &str, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(method.as_str());
    digest.update([0]);
    digest.update(path);
    digest.update([0]);
    digest.update(body);
    digest.finalize().into()
}
