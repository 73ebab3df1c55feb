//! `/os-services`: who is at work, and which backends take new volumes.
//!
//! There is one scheduler, inside the sequencer, shown as `cinder-scheduler`; every backend's
//! executor is shown as a `cinder-volume` on `host@backend`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::backend::Backend;
use tephra_domain::command::Command;
use tephra_domain::ids::BackendName;
use tephra_domain::ledger::DEFAULT_ZONE;
use tephra_domain::units::Timestamp;
use tephra_journal::pool_board::PoolBoard;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::wire::check::{MAX_TEXT, Object};
use super::wire::moment;
use super::wire::python::repr;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::JsonBody;
use crate::state::AppState;

const SCHEDULER: &str = "cinder-scheduler";
const VOLUME: &str = "cinder-volume";
/// The host of the scheduler where no backend lends its name.
const OWN_HOST: &str = "tephra";
/// Since when rows say which cluster a service is in, and whether its backend is up.
const CLUSTER_MINOR: u16 = 7;
const BACKEND_STATE_MINOR: u16 = 49;
/// Since when freezing and failing over may name a cluster instead of a host.
const REPLICATION_CLUSTER_MINOR: u16 = 26;

/// Services, and what may be done to them.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(disable_log_reason))
        .routes(routes!(freeze))
        .routes(routes!(thaw))
        .routes(routes!(failover_host))
}

/// `host@backend`, as Cinder names a backend's service.
pub fn service_host(backend: &Backend) -> String {
    format!("{}@{}", backend.description.host, backend.name)
}

/// `{"services": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceList {
    services: Vec<ServiceBody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ServiceBody {
    binary: &'static str,
    host: String,
    zone: String,
    /// `enabled` or `disabled`.
    status: &'static str,
    /// `up` or `down`.
    state: &'static str,
    /// The last report, or the last change if that is later.
    updated_at: Option<String>,
    disabled_reason: Option<String>,
    /// 3.7; always null.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Value>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    volume: Option<VolumeServiceFields>,
}

/// What only services of backends have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct VolumeServiceFields {
    /// 3.49
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_state: Option<&'static str>,
    replication_status: &'static str,
    active_backend_id: Option<String>,
    frozen: bool,
}

const fn up_or_down(is_up: bool) -> &'static str {
    if is_up { "up" } else { "down" }
}

fn scheduler_row(backends: &[Backend], now: Timestamp, version: Microversion) -> ServiceBody {
    let zone = backends.first().map_or(DEFAULT_ZONE, |first| first.description.availability_zone.as_str());
    ServiceBody {
        binary: SCHEDULER,
        host: backends
            .first()
            .map_or_else(|| OWN_HOST.to_owned(), |first| first.description.host.to_string()),
        zone: zone.to_owned(),
        status: "enabled",
        state: "up",
        updated_at: Some(moment(now)),
        disabled_reason: None,
        cluster: version.is_at_least(CLUSTER_MINOR).then_some(Value::Null),
        volume: None,
    }
}

fn volume_row(backend: &Backend, board: &PoolBoard, now: Timestamp, version: Microversion) -> ServiceBody {
    let last_report = board.last_report(&backend.name);
    let state = up_or_down(last_report.is_some_and(|at| board.is_fresh(at, now)));
    let pools = board.read(now);
    let backend_state = up_or_down(pools.iter().any(|pool| pool.pool.backend == backend.name && pool.is_up));
    let changed_at = backend.updated_at.unwrap_or(backend.created_at);
    ServiceBody {
        binary: VOLUME,
        host: service_host(backend),
        zone: backend.description.availability_zone.to_string(),
        status: if backend.enabled { "enabled" } else { "disabled" },
        state,
        updated_at: Some(moment(last_report.map_or(changed_at, |at| at.max(changed_at)))),
        disabled_reason: backend.disabled_reason.as_deref().map(ToOwned::to_owned),
        cluster: version.is_at_least(CLUSTER_MINOR).then_some(Value::Null),
        volume: Some(VolumeServiceFields {
            backend_state: version.is_at_least(BACKEND_STATE_MINOR).then_some(backend_state),
            replication_status: "disabled",
            active_backend_id: None,
            frozen: backend.frozen,
        }),
    }
}

/// Lists services, by host and binary if asked (administrators).
#[utoipa::path(
    get, path = "/os-services", tag = "deployment",
    params(
        ("host" = Option<String>, Query, description = "`host` or `host@backend`"),
        ("binary" = Option<String>, Query, description = "`cinder-scheduler` or `cinder-volume`"),
    ),
    responses((status = 200, body = ServiceList), (status = 403))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
) -> Result<Json<ServiceList>, Fault> {
    identity.actor.require_admin("volume_extension:services:index")?;
    let backends = state.views.backends().map_err(|error| Fault::internal(&error))?;
    let now = state.now();
    let mut services = vec![scheduler_row(&backends, now, version)];
    services.extend(backends.iter().map(|backend| volume_row(backend, &state.pools, now, version)));
    services.retain(|row| {
        params.get("binary").is_none_or(|binary| row.binary == binary)
            && params.get("host").is_none_or(|host| {
                row.host == host || row.host.strip_prefix(host).is_some_and(|rest| rest.starts_with('@'))
            })
    });
    Ok(Json(ServiceList { services }))
}

/// Which service a change is about.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    host: String,
    service: String,
    binary: String,
    reason: Option<String>,
}

impl Change {
    fn parse(body: &Value, with_reason: bool) -> Result<Self, Fault> {
        let known = ["binary", "host", "cluster", "service", "disabled_reason"];
        let known = if with_reason { &known[..] } else { known.get(..4).unwrap_or_default() };
        let fields = Object::body(body)?;
        fields.deny_unknown(known)?;
        fields.field("cluster").map(|field| field.optional_text(0)).transpose()?;
        let host = parse_host(fields)?;
        let binary = fields.field("binary").map(|field| field.text(1, MAX_TEXT)).transpose()?;
        let service = fields.field("service").map(|field| field.text(1, MAX_TEXT)).transpose()?;
        if binary.is_none() && service.is_none() {
            return Err(fields.refuse(&format!("{} is not valid under any of the given schemas", repr(body))));
        }
        let reason = fields.field("disabled_reason").map(|field| field.text(1, MAX_TEXT)).transpose()?;
        let reason = reason.map(str::trim);
        if reason.is_some_and(str::is_empty) {
            return Err(invalid_input("disabled_reason has 0 characters, less than 1."));
        }
        Ok(Self {
            host: host.ok_or_else(|| invalid_input("Host field is missing."))?,
            service: service.unwrap_or_default().to_owned(),
            binary: binary.unwrap_or_default().to_owned(),
            reason: reason.map(ToOwned::to_owned),
        })
    }

    /// The backend that the change is about: only these can be told to rest.
    fn backend(&self, state: &AppState) -> Result<BackendName, Fault> {
        let binary = if self.binary.is_empty() { &self.service } else { &self.binary };
        if binary == SCHEDULER {
            return Err(invalid_input(
                "The scheduler is part of the ledger and cannot be disabled; disable backends instead.",
            ));
        }
        let found = if binary == VOLUME { backend_on(state, &self.host)? } else { None };
        found.ok_or_else(|| {
            Fault::not_found(format!("Service {binary} could not be found on host {}.", self.host))
        })
    }

    fn answer(&self, disabled: bool) -> ChangeBody {
        ChangeBody {
            host: self.host.clone(),
            service: self.service.clone(),
            binary: self.binary.clone(),
            status: if disabled { "disabled" } else { "enabled" },
            disabled,
            disabled_reason: None,
        }
    }
}

/// Cinder's `InvalidInput`.
fn invalid_input(why: &str) -> Fault {
    Fault::bad_request(format!("Invalid input received: {why}"))
}

/// A host as Cinder's schemas take it: with brackets, for IPv6.
pub(super) fn parse_host(fields: Object<'_>) -> Result<Option<String>, Fault> {
    let Some(field) = fields.field("host") else { return Ok(None) };
    let Some(host) = field.optional_text(1)? else { return Ok(None) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._#@:/+[]".contains(c);
    if host.chars().all(allowed) {
        return Ok(Some(host.to_owned()));
    }
    Err(field.refuse(&format!("{} does not match '^[a-zA-Z0-9-._#@:/+\\[\\]]*$'", repr(field.value()))))
}

fn backend_on(state: &AppState, host: &str) -> Result<Option<BackendName>, Fault> {
    let backends = state.views.backends().map_err(|error| Fault::internal(&error))?;
    Ok(backends.into_iter().find(|backend| service_host(backend) == host).map(|backend| backend.name))
}

/// What a change made of a service.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeBody {
    host: String,
    service: String,
    binary: String,
    status: &'static str,
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<String>,
}

/// Lets new volumes go to a backend again (administrators).
#[utoipa::path(
    put, path = "/os-services/enable", tag = "deployment",
    request_body(content = Object, description = "`{host, binary}`"),
    responses((status = 200, body = ChangeBody), (status = 400), (status = 403), (status = 404))
)]
async fn enable(
    State(state): State<AppState>,
    identity: Identity,
    body: JsonBody,
) -> Result<Json<ChangeBody>, Fault> {
    let change = Change::parse(body.require()?, false)?;
    identity.actor.require_admin("volume_extension:services:update")?;
    let backend = change.backend(&state)?;
    state.submit(&identity, None, Command::EnableBackend { backend }).await?;
    Ok(Json(change.answer(false)))
}

/// Lets no new volumes go to a backend (administrators).
#[utoipa::path(
    put, path = "/os-services/disable", tag = "deployment",
    request_body(content = Object, description = "`{host, binary}`"),
    responses((status = 200, body = ChangeBody), (status = 400), (status = 403), (status = 404))
)]
async fn disable(
    State(state): State<AppState>,
    identity: Identity,
    body: JsonBody,
) -> Result<Json<ChangeBody>, Fault> {
    let change = Change::parse(body.require()?, false)?;
    identity.actor.require_admin("volume_extension:services:update")?;
    let backend = change.backend(&state)?;
    state.submit(&identity, None, Command::DisableBackend { backend, reason: None }).await?;
    Ok(Json(change.answer(true)))
}

/// Lets no new volumes go to a backend, and says why (administrators).
#[utoipa::path(
    put, path = "/os-services/disable-log-reason", tag = "deployment",
    request_body(content = Object, description = "`{host, binary, disabled_reason}`"),
    responses((status = 200, body = ChangeBody), (status = 400), (status = 403), (status = 404))
)]
async fn disable_log_reason(
    State(state): State<AppState>,
    identity: Identity,
    body: JsonBody,
) -> Result<Json<ChangeBody>, Fault> {
    let change = Change::parse(body.require()?, true)?;
    identity.actor.require_admin("volume_extension:services:update")?;
    let backend = change.backend(&state)?;
    let reason = change.reason.as_deref().map(Into::into);
    state.submit(&identity, None, Command::DisableBackend { backend, reason }).await?;
    Ok(Json(ChangeBody { disabled_reason: change.reason.clone(), ..change.answer(true) }))
}

/// Refuses what needs replication, which no backend here has, after checking what is named.
fn refuse_replication(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    body: &JsonBody,
    known: &[&str],
) -> Fault {
    let refuse = || -> Result<Fault, Fault> {
        let fields = Object::body(body.require()?)?;
        fields.deny_unknown(known)?;
        let host = parse_host(fields)?;
        let cluster = fields.field("cluster").map(|field| field.optional_text(0)).transpose()?.flatten();
        let cluster = cluster.filter(|name| !name.is_empty());
        fields.field("backend_id").map(|field| field.optional_text(0)).transpose()?;
        identity.actor.require_admin("volume_extension:services:update")?;
        let takes_cluster = version.is_at_least(REPLICATION_CLUSTER_MINOR);
        let host = match (host, cluster.filter(|_| takes_cluster)) {
            (Some(host), None) => host,
            (None, Some(cluster)) => {
                return Ok(invalid_input(&format!(
                    "Service cinder-volume could not be found on host {cluster}."
                )));
            }
            (Some(_), Some(_)) | (None, None) => {
                return Ok(invalid_input(if takes_cluster {
                    "One and only one of cluster and host must be set."
                } else {
                    "Host field is missing."
                }));
            }
        };
        Ok(match backend_on(state, &host)? {
            None => invalid_input(&format!("Service cinder-volume could not be found on host {host}.")),
            Some(backend) => invalid_input(&format!("Backend {backend} is not replicated.")),
        })
    };
    refuse().unwrap_or_else(|fault| fault)
}

/// Which backend is to be frozen or thawed.
fn backend_to_freeze(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    body: &JsonBody,
) -> Result<BackendName, Fault> {
    let fields = Object::body(body.require()?)?;
    fields.deny_unknown(&["host", "cluster"])?;
    let host = parse_host(fields)?;
    let cluster = fields.field("cluster").map(|field| field.optional_text(0)).transpose()?.flatten();
    let cluster = cluster.filter(|name| !name.is_empty());
    identity.actor.require_admin("volume_extension:services:update")?;
    let takes_cluster = version.is_at_least(REPLICATION_CLUSTER_MINOR);
    match (host, cluster.filter(|_| takes_cluster)) {
        (Some(host), None) => backend_on(state, &host)?
            .ok_or_else(|| invalid_input(&format!("No service found with host={host}"))),
        (None, Some(cluster)) => Err(invalid_input(&format!("No service found with cluster={cluster}"))),
        (Some(_), Some(_)) | (None, None) => Err(invalid_input(if takes_cluster {
            "One and only one of cluster and host must be set."
        } else {
            "Host field is missing."
        })),
    }
}

/// Refuses changes on a backend, and places nothing there (administrators).
#[utoipa::path(
    put, path = "/os-services/freeze", tag = "deployment",
    request_body(content = Object, description = "`{host}`"),
    responses((status = 200), (status = 400), (status = 403))
)]
async fn freeze(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    let backend = backend_to_freeze(&state, &identity, version, &body)?;
    state.submit(&identity, body.idempotency, Command::FreezeBackend { backend }).await?;
    Ok(StatusCode::OK)
}

/// Takes changes on a backend again (administrators).
#[utoipa::path(
    put, path = "/os-services/thaw", tag = "deployment",
    request_body(content = Object, description = "`{host}`"),
    responses((status = 200), (status = 400), (status = 403))
)]
async fn thaw(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    let backend = backend_to_freeze(&state, &identity, version, &body)?;
    state.submit(&identity, body.idempotency, Command::ThawBackend { backend }).await?;
    Ok(StatusCode::OK)
}

/// Refused: no backend here is replicated.
#[utoipa::path(
    put, path = "/os-services/failover_host", tag = "deployment",
    request_body(content = Object, description = "`{host, backend_id}`"),
    responses((status = 400), (status = 403))
)]
async fn failover_host(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    Err(refuse_replication(&state, &identity, version, &body, &["host", "cluster", "backend_id"]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Change, scheduler_row, volume_row};
    use crate::microversion::Microversion;
    use serde_json::json;
    use std::collections::BTreeMap;
    use tephra_domain::backend::{Backend, BackendDescription};
    use tephra_domain::ids::{BackendName, PoolId, PoolName, ZoneName};
    use tephra_domain::scheduler::PoolStats;
    use tephra_domain::units::Timestamp;
    use tephra_journal::pool_board::PoolBoard;

    /// A backend as a test needs it.
    pub fn backend(name: &str, zone: &str, enabled: bool) -> Backend {
        Backend {
            name: BackendName::new(name),
            description: BackendDescription {
                host: "node".into(),
                driver: "directory".into(),
                availability_zone: ZoneName::new(zone),
                pools: vec![PoolName::new("pool")],
                native_revert: true,
                capabilities: BTreeMap::new(),
            },
            frozen: false,
            enabled,
            disabled_reason: (!enabled).then(|| "moving".into()),
            created_at: Timestamp(0),
            updated_at: None,
        }
    }

    fn reported(at: Timestamp) -> PoolStats {
        PoolStats {
            pool: PoolId { backend: BackendName::new("b"), pool: PoolName::new("pool") },
            is_up: true,
            total_gib: 1.0,
            free_gib: 1.0,
            provisioned_gib: 0.0,
            max_over_subscription_ratio: 1.0,
            reserved_percentage: 0,
            thin: true,
            capabilities: BTreeMap::new(),
            reported_at: at,
        }
    }

    #[test]
    fn a_service_that_reports_of_a_backend_that_does_not_answer_is_up_and_the_backend_down() {
        let board = PoolBoard::default();
        board.report(PoolStats { is_up: false, ..reported(Timestamp(90_000_000)) });
        let row = volume_row(&backend("b", "nova", true), &board, Timestamp(100_000_000), Microversion::MAX);
        let shown = serde_json::to_value(row).unwrap_or_default();
        assert_eq!((&shown["state"], &shown["backend_state"]), (&json!("up"), &json!("down")));
    }

    #[test]
    fn a_backend_is_up_while_it_reports_and_shows_newer_fields_to_newer_clients() {
        let row = |last: Option<i64>, version| {
            let now = Timestamp(100_000_000);
            let board = PoolBoard::default();
            let reports = last.map(|at| reported(Timestamp(at)));
            reports.into_iter().for_each(|report| board.report(report));
            let row = volume_row(&backend("b", "nova", false), &board, now, version);
            serde_json::to_value(row).unwrap_or_default()
        };
        assert_eq!(
            row(Some(90_000_000), Microversion::MAX),
            json!({
                "binary": "cinder-volume", "host": "node@b", "zone": "nova", "status": "disabled",
                "state": "up", "updated_at": "1970-01-01T00:01:30.000000", "disabled_reason": "moving",
                "cluster": null, "backend_state": "up", "replication_status": "disabled",
                "active_backend_id": null, "frozen": false,
            })
        );
        assert_eq!(
            row(Some(40_000_000), Microversion::MIN),
            json!({
                "binary": "cinder-volume", "host": "node@b", "zone": "nova", "status": "disabled",
                "state": "down", "updated_at": "1970-01-01T00:00:40.000000", "disabled_reason": "moving",
                "replication_status": "disabled", "active_backend_id": null, "frozen": false,
            })
        );
        assert_eq!(row(None, Microversion::MIN)["state"], "down");
    }

    #[test]
    fn the_scheduler_has_no_fields_of_backends() {
        let row = scheduler_row(&[backend("b", "z", true)], Timestamp(0), Microversion::MAX);
        assert_eq!(
            serde_json::to_value(row).unwrap_or_default(),
            json!({
                "binary": "cinder-scheduler", "host": "node", "zone": "z", "status": "enabled",
                "state": "up", "updated_at": "1970-01-01T00:00:00.000000", "disabled_reason": null,
                "cluster": null,
            })
        );
    }

    #[test]
    fn a_change_names_a_host_and_a_binary() {
        for (body, reason, words) in [
            (json!({ "host": "node@b", "binary": "cinder-volume" }), false, None),
            (json!({ "host": "node@b", "service": "cinder-volume" }), false, None),
            (json!({ "host": "h", "binary": "b", "disabled_reason": "why" }), true, None),
            (
                json!({ "binary": "cinder-volume" }),
                false,
                Some("Invalid input received: Host field is missing."),
            ),
            (
                json!({ "host": "h", "binary": "b", "disabled_reason": "why" }),
                false,
                Some("Additional properties are not allowed ('disabled_reason' was unexpected)"),
            ),
            (
                json!({ "host": "h" }),
                false,
                Some("{'host': 'h'} is not valid under any of the given schemas"),
            ),
            (
                json!({ "host": "h", "binary": "b", "disabled_reason": "  " }),
                true,
                Some("Invalid input received: disabled_reason has 0 characters, less than 1."),
            ),
        ] {
            let refused = Change::parse(&body, reason).err();
            assert_eq!(refused.as_ref().map(|fault| fault.message()), words, "{body}");
        }
        assert!(Change::parse(&json!({ "host": "a b", "binary": "b" }), false).is_err());
    }
}
