//! `/scheduler-stats/get_pools`: where volumes can go, and how full that is.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tephra_domain::backend::{Backend, PoolUsage};
use tephra_domain::ids::PoolId;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::scheduler::filters::meets_extra_specs;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::services::service_host;
use super::wire::moment;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;

/// Since when pools can be filtered by name, and by volume type.
const NAME_FILTER_MINOR: u16 = 28;
const TYPE_FILTER_MINOR: u16 = 35;

/// The pools.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// `{"pools": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolList {
    pools: Vec<PoolBody>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PoolBody {
    /// `host@backend#pool`
    name: String,
    /// With `detail`: capacities in GiB, and what volume types may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Map<String, Value>>,
}

/// Lists the pools that have reported (administrators).
#[utoipa::path(
    get, path = "/scheduler-stats/get_pools", tag = "deployment",
    params(
        ("detail" = Option<bool>, Query),
        ("name" = Option<String>, Query, description = "`host@backend#pool` (3.28)"),
        ("volume_type" = Option<String>, Query, description = "pools that can hold it (3.35)"),
    ),
    responses((status = 200, body = PoolList), (status = 403))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
) -> Result<Json<PoolList>, Fault> {
    identity.actor.require_admin("scheduler_extension:scheduler_stats:get_pools")?;
    let detail = params.flag("detail")?;
    let name = params.get("name").filter(|_| version.is_at_least(NAME_FILTER_MINOR));
    let wanted = match params.get("volume_type").filter(|_| version.is_at_least(TYPE_FILTER_MINOR)) {
        None => BTreeMap::new(),
        Some(named) => extra_specs_of(&state, &identity, named)?,
    };
    let backends = state.views.backends().map_err(|error| Fault::internal(&error))?;
    let usage: BTreeMap<PoolId, PoolUsage> =
        state.views.pool_usage().map_err(|error| Fault::internal(&error))?.into_iter().collect();
    let mut pools = Vec::new();
    for stats in state.pools.read(state.now()) {
        let Some(backend) = backends.iter().find(|backend| backend.name == stats.pool.backend) else {
            continue;
        };
        let pool_name = format!("{}#{}", service_host(backend), stats.pool.pool);
        if name.is_some_and(|name| name != pool_name) || !meets_extra_specs(&wanted, &stats) {
            continue;
        }
        let placed = usage.get(&stats.pool).copied().unwrap_or_default();
        let capabilities = detail.then(|| capabilities(backend, &stats, placed));
        pools.push(PoolBody { name: pool_name, capabilities });
    }
    Ok(Json(PoolList { pools }))
}

fn extra_specs_of(
    state: &AppState,
    identity: &Identity,
    named: &str,
) -> Result<BTreeMap<String, String>, Fault> {
    let types = state.views.volume_types().map_err(|error| Fault::internal(&error))?;
    let by_id = types.iter().find(|row| row.id.to_string() == named);
    let found = by_id.or_else(|| types.iter().find(|row| *row.name == *named));
    match found.filter(|row| identity.actor.can_see_type(row)) {
        Some(row) => Ok(row.extra_specs.clone()),
        None => Err(Fault::not_found(format!("Volume type with name {named} could not be found."))),
    }
}

/// What a driver reports in Cinder, under the names that clients know.
fn capabilities(backend: &Backend, stats: &PoolStats, placed: PoolUsage) -> Map<String, Value> {
    let mut map: Map<String, Value> =
        stats.capabilities.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect();
    let known = json!({
        "pool_name": stats.pool.pool.as_str(),
        "driver": backend.description.driver,
        "backend_state": if stats.is_up { "up" } else { "down" },
        "timestamp": moment(stats.reported_at),
        "total_capacity_gb": stats.total_gib,
        "free_capacity_gb": stats.free_gib,
        "provisioned_capacity_gb": placed.provisioned_gib,
        "allocated_capacity_gb": placed.provisioned_gib,
        "total_volumes": placed.volumes,
        "max_over_subscription_ratio": stats.max_over_subscription_ratio.to_string(),
        "reserved_percentage": stats.reserved_percentage,
        "thin_provisioning_support": stats.thin,
        "thick_provisioning_support": !stats.thin,
        "QoS_support": false,
        "replication_enabled": false,
    });
    if let Value::Object(known) = known {
        map.extend(known);
    }
    // Cinder's clients show these, so they are there even where a backend does not say them.
    let name = backend.name.as_str();
    map.entry("volume_backend_name").or_insert_with(|| name.into());
    map.entry("storage_protocol").or_insert_with(|| "file".into());
    map.entry("vendor_name").or_insert_with(|| "Tephra".into());
    map.entry("driver_version").or_insert_with(|| env!("CARGO_PKG_VERSION").into());
    map
}

#[cfg(test)]
mod tests {
    use super::capabilities;
    use crate::v3::services::tests::backend;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use tephra_domain::backend::PoolUsage;
    use tephra_domain::ids::{BackendName, PoolId, PoolName};
    use tephra_domain::scheduler::PoolStats;
    use tephra_domain::units::Timestamp;

    #[test]
    fn a_pool_shows_what_it_measured_and_what_the_ledger_placed_there() {
        let stats = PoolStats {
            pool: PoolId { backend: BackendName::new("b"), pool: PoolName::new("p") },
            is_up: true,
            total_gib: 100.0,
            free_gib: 60.5,
            provisioned_gib: 1.0,
            max_over_subscription_ratio: 20.0,
            reserved_percentage: 5,
            thin: true,
            capabilities: BTreeMap::from([("storage_protocol".to_owned(), "nfs".to_owned())]),
            reported_at: Timestamp(0),
        };
        let shown =
            capabilities(&backend("b", "nova", true), &stats, PoolUsage { volumes: 3, provisioned_gib: 30 });
        for (name, value) in [
            ("total_capacity_gb", Value::from(100.0)),
            ("free_capacity_gb", Value::from(60.5)),
            ("allocated_capacity_gb", Value::from(30)),
            ("max_over_subscription_ratio", Value::from("20")),
            ("storage_protocol", Value::from("nfs")),
            ("volume_backend_name", Value::from("b")),
            ("timestamp", Value::from("1970-01-01T00:00:00.000000")),
            ("thick_provisioning_support", Value::from(false)),
        ] {
            assert_eq!(shown.get(name), Some(&value), "{name}");
        }
    }
}
