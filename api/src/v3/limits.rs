//! `/limits`: what a project may have and has, as clients ask it before they create something.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tephra_domain::ids::ProjectId;
use tephra_domain::quota::QuotaResource;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::quota_sets::ProjectQuota;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;

/// Since when administrators may ask for another project's limits.
const OTHER_PROJECTS_MINOR: u16 = 39;

/// The limits of the asker's project.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// `{"limits": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsEnvelope {
    limits: Limits,
}

#[derive(Debug, Serialize, ToSchema)]
struct Limits {
    /// Always empty: requests are not counted.
    rate: [u8; 0],
    absolute: AbsoluteLimits,
}

/// Limits and what is used of them; -1 is unlimited.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbsoluteLimits {
    max_total_volumes: i64,
    max_total_snapshots: i64,
    max_total_volume_gigabytes: i64,
    max_total_backups: i64,
    max_total_backup_gigabytes: i64,
    total_volumes_used: i64,
    total_snapshots_used: i64,
    total_gigabytes_used: i64,
    total_backups_used: i64,
    total_backup_gigabytes_used: i64,
}

impl AbsoluteLimits {
    fn of(quota: &ProjectQuota) -> Self {
        Self {
            max_total_volumes: quota.limit(QuotaResource::Volumes),
            max_total_snapshots: quota.limit(QuotaResource::Snapshots),
            max_total_volume_gigabytes: quota.limit(QuotaResource::Gigabytes),
            max_total_backups: quota.limit(QuotaResource::Backups),
            max_total_backup_gigabytes: quota.limit(QuotaResource::BackupGigabytes),
            total_volumes_used: quota.in_use(QuotaResource::Volumes),
            total_snapshots_used: quota.in_use(QuotaResource::Snapshots),
            total_gigabytes_used: quota.in_use(QuotaResource::Gigabytes),
            total_backups_used: quota.in_use(QuotaResource::Backups),
            total_backup_gigabytes_used: quota.in_use(QuotaResource::BackupGigabytes),
        }
    }
}

/// Shows the limits of the asker's project; from 3.39 administrators may name another.
#[utoipa::path(
    get, path = "/limits", tag = "quotas",
    params(("project_id" = Option<String>, Query, description = "another project (administrators, 3.39)")),
    responses((status = 200, body = LimitsEnvelope))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
) -> Result<Json<LimitsEnvelope>, Fault> {
    let other = params.get("project_id").or_else(|| params.get("tenant_id"));
    let other = other.filter(|_| identity.is_admin() && version.is_at_least(OTHER_PROJECTS_MINOR));
    let project = other.map_or_else(|| identity.actor.project.clone(), ProjectId::new);
    let absolute = AbsoluteLimits::of(&ProjectQuota::load(&state, &project)?);
    Ok(Json(LimitsEnvelope { limits: Limits { rate: [], absolute } }))
}
