//! `/os-availability-zone`: where volumes can be.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tephra_domain::backend::Backend;
use tephra_domain::ledger::DEFAULT_ZONE;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;

/// The zones.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// `{"availabilityZoneInfo": […]}`
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ZoneList {
    #[serde(rename = "availabilityZoneInfo")]
    zones: Vec<Zone>,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Zone {
    zone_name: String,
    zone_state: ZoneState,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ZoneState {
    available: bool,
}

/// A zone is available as long as one of its backends takes volumes.
fn zones_of(backends: &[Backend]) -> ZoneList {
    let mut zones: BTreeMap<&str, bool> = BTreeMap::new();
    for backend in backends {
        let available = zones.entry(backend.description.availability_zone.as_str()).or_default();
        *available |= backend.enabled;
    }
    if zones.is_empty() {
        // Volumes may already be asked for there, and fail for want of a backend.
        zones.insert(DEFAULT_ZONE, false);
    }
    let zone = |(name, available): (&str, bool)| Zone {
        zone_name: name.to_owned(),
        zone_state: ZoneState { available },
    };
    ZoneList { zones: zones.into_iter().map(zone).collect() }
}

/// Lists the availability zones.
#[utoipa::path(
    get, path = "/os-availability-zone", tag = "deployment",
    responses((status = 200, body = ZoneList))
)]
async fn list(State(state): State<AppState>, _: Identity) -> Result<Json<ZoneList>, Fault> {
    let backends = state.views.backends().map_err(|error| Fault::internal(&error))?;
    Ok(Json(zones_of(&backends)))
}

#[cfg(test)]
mod tests {
    use super::zones_of;
    use crate::v3::services::tests::backend;
    use serde_json::json;

    #[test]
    fn a_zone_is_available_while_one_of_its_backends_is_enabled() {
        let rows = [backend("a", "one", true), backend("b", "one", false), backend("c", "two", false)];
        let zone = |name: &str, available: bool| json!({ "zoneName": name, "zoneState": { "available": available } });
        for (rows, expected) in
            [(&rows[..], vec![zone("one", true), zone("two", false)]), (&[], vec![zone("nova", false)])]
        {
            let listed = serde_json::to_value(zones_of(rows)).unwrap_or_default();
            assert_eq!(listed, json!({ "availabilityZoneInfo": expected }));
        }
    }
}
