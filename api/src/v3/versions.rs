//! Version documents: what is spoken here, told to anybody.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::microversion::Microversion;
use crate::request::base_url;
use crate::state::AppState;

/// When the last microversion was defined (Cinder's `UPDATED`).
const UPDATED: &str = "2023-08-31T00:00:00Z";

/// The version documents, outside the project's part of the path.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(v3)).routes(routes!(v3_slash))
}

/// All versions.
#[derive(Serialize, ToSchema)]
pub struct VersionList {
    versions: Vec<VersionDocument>,
}

#[derive(Serialize, ToSchema)]
struct VersionDocument {
    id: &'static str,
    status: &'static str,
    version: String,
    min_version: String,
    updated: &'static str,
    links: [VersionLink; 2],
    #[serde(rename = "media-types")]
    media_types: [MediaType; 1],
}

#[derive(Serialize, ToSchema)]
struct VersionLink {
    rel: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    href: String,
}

#[derive(Serialize, ToSchema)]
struct MediaType {
    base: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}

fn document(state: &AppState, headers: &HeaderMap) -> Json<VersionList> {
    let describedby = VersionLink {
        rel: "describedby",
        kind: Some("text/html"),
        href: "https://docs.openstack.org/".to_owned(),
    };
    let own = VersionLink { rel: "self", kind: None, href: format!("{}/v3/", base_url(state, headers)) };
    Json(VersionList {
        versions: vec![VersionDocument {
            id: "v3.0",
            status: "CURRENT",
            version: Microversion::MAX.to_string(),
            min_version: Microversion::MIN.to_string(),
            updated: UPDATED,
            links: [describedby, own],
            media_types: [MediaType {
                base: "application/json",
                kind: "application/vnd.openstack.volume+json;version=3",
            }],
        }],
    })
}

/// All versions that are spoken here.
#[utoipa::path(get, path = "/", tag = "versions", responses((status = 300, body = VersionList)))]
async fn all(State(state): State<AppState>, headers: HeaderMap) -> (StatusCode, Json<VersionList>) {
    (StatusCode::MULTIPLE_CHOICES, document(&state, &headers))
}

/// Version 3.
#[utoipa::path(get, path = "/v3", tag = "versions", responses((status = 200, body = VersionList)))]
async fn v3(State(state): State<AppState>, headers: HeaderMap) -> Json<VersionList> {
    document(&state, &headers)
}

/// Version 3.
#[utoipa::path(get, path = "/v3/", tag = "versions", responses((status = 200, body = VersionList)))]
async fn v3_slash(State(state): State<AppState>, headers: HeaderMap) -> Json<VersionList> {
    document(&state, &headers)
}
