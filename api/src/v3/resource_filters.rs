//! `/resource_filters` (3.33): by what lists can be filtered.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;

/// Since when lists say what they can be filtered by.
const FILTERS_MINOR: u16 = 33;

/// What everybody may filter by; administrators may filter by anything that is sorted by too. Only
/// of resources that are served here.
pub const FILTERS: &[(&str, &[&str])] = &[
    (
        "volume",
        &[
            "name",
            "status",
            "metadata",
            "bootable",
            "migration_status",
            "availability_zone",
            "group_id",
            "size",
            "created_at",
            "updated_at",
            "consumes_quota",
        ],
    ),
    ("snapshot", &["name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota"]),
    ("message", &["resource_uuid", "resource_type", "event_id", "request_id", "message_level"]),
    ("pool", &["name", "volume_type"]),
    ("volume_type", &["is_public", "extra_specs"]),
];

/// The filters.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// `{"resource_filters": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct FilterList {
    resource_filters: Vec<ResourceFilters>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ResourceFilters {
    resource: &'static str,
    filters: &'static [&'static str],
}

/// Lists the filters of each resource, or of one.
#[utoipa::path(
    get, path = "/resource_filters", tag = "deployment",
    params(("resource" = Option<String>, Query)),
    responses((status = 200, body = FilterList), (status = 404))
)]
async fn list(_: Identity, version: Microversion, params: Params) -> Result<Json<FilterList>, Fault> {
    version.require(FILTERS_MINOR)?;
    let wanted = params.get("resource");
    let resource_filters = FILTERS
        .iter()
        .filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource))
        .map(|(resource, filters)| ResourceFilters { resource, filters })
        .collect();
    Ok(Json(FilterList { resource_filters }))
}
