//! `/volumes/summary`: how many volumes a project has, and how large they are together.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tephra_projector::Views;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::list::{ListRequest, Listed};
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;

/// Since when there is a summary, and since when it holds metadata.
const SUMMARY_MINOR: u16 = 12;
const METADATA_MINOR: u16 = 36;

/// The summary.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// `{"volume-summary": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct SummaryEnvelope {
    #[serde(rename = "volume-summary")]
    volume_summary: Summary,
}

#[derive(Debug, Serialize, ToSchema)]
struct Summary {
    total_count: u64,
    /// In GiB.
    total_size: u64,
    /// Each key of the volumes' metadata with its distinct values (3.36).
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, BTreeSet<String>>>,
}

/// Counts the volumes that pass the filters of a list (3.12); with their metadata from 3.36.
#[utoipa::path(
    get, path = "/volumes/summary", tag = "volumes",
    params(super::list::ListParams),
    responses((status = 200, body = SummaryEnvelope), (status = 404))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    request: ListRequest,
) -> Result<Json<SummaryEnvelope>, Fault> {
    version.require(SUMMARY_MINOR)?;
    let scope = request.lenient_scope(Listed::Volumes, &identity, version)?;
    let with_metadata = version.is_at_least(METADATA_MINOR);
    let count = move |views: &Views| views.summary(scope.project.as_ref(), &scope.filters, with_metadata);
    let summary = state.scan(count).await?.map_err(|error| Fault::internal(&error))?;
    Ok(Json(SummaryEnvelope {
        volume_summary: Summary {
            total_count: summary.count,
            total_size: summary.total_gib,
            metadata: with_metadata.then_some(summary.metadata),
        },
    }))
}
