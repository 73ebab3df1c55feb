//! `/ledger/v1/…/state?at=`: what was, at a position or a time.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::rejection::Rejection;
use tephra_journal::wire::state::state_hash;
use tephra_projector::as_of::{AsOf, ledger_as_of};
use tephra_projector::render::state;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::parse_at;
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::InPath;
use crate::state::AppState;
use crate::v3::params::Params;

/// Replays of the whole ledger at a time: each holds a whole state in memory.
static REPLAYS: Semaphore = Semaphore::const_new(1);

/// Past states.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(volume)).routes(routes!(snapshot)).routes(routes!(whole))
}

/// `{"volume": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct PastVolume {
    volume: Value,
}

/// `{"snapshot": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct PastSnapshot {
    snapshot: Value,
}

fn point(app: &AppState, params: &Params) -> Result<AsOf, Fault> {
    match params.get("at") {
        Some(text) => parse_at(text),
        None => Ok(AsOf::Position(app.views.checkpoint().position)),
    }
}

/// Shows a volume as it was, also one that is gone since.
#[utoipa::path(
    get, path = "/volumes/{volume_id}/state", tag = "ledger",
    params(
        ("volume_id" = String, Path),
        ("at" = Option<String>, Query, description = "a position, or a moment in RFC 3339; now unless given"),
    ),
    responses((status = 200, body = PastVolume), (status = 400), (status = 404))
)]
async fn volume(
    State(app): State<AppState>,
    identity: Identity,
    InPath(id): InPath<VolumeId>,
    params: Params,
) -> Result<Json<PastVolume>, Fault> {
    let row = app.views.volume_as_of(app.log.as_ref(), id, point(&app, &params)?).await?;
    let row = row.filter(|row| identity.actor.can_see(&row.project));
    let row = row.ok_or(Rejection::VolumeNotFound { volume: id })?;
    Ok(Json(PastVolume { volume: state::volume(&row) }))
}

/// Shows a snapshot as it was, also one that is gone since.
#[utoipa::path(
    get, path = "/snapshots/{snapshot_id}/state", tag = "ledger",
    params(
        ("snapshot_id" = String, Path),
        ("at" = Option<String>, Query, description = "a position, or a moment in RFC 3339; now unless given"),
    ),
    responses((status = 200, body = PastSnapshot), (status = 400), (status = 404))
)]
async fn snapshot(
    State(app): State<AppState>,
    identity: Identity,
    InPath(id): InPath<SnapshotId>,
    params: Params,
) -> Result<Json<PastSnapshot>, Fault> {
    let row = app.views.snapshot_as_of(app.log.as_ref(), id, point(&app, &params)?).await?;
    let row = row.filter(|row| identity.actor.can_see(&row.project));
    let row = row.ok_or(Rejection::SnapshotNotFound { snapshot: id })?;
    Ok(Json(PastSnapshot { snapshot: state::snapshot(&row) }))
}

/// Everything as it was.
#[derive(Debug, Serialize, ToSchema)]
pub struct PastLedger {
    /// The last position in it.
    position: u64,
    /// SHA-256 over all of it: equal for equal states, wherever it is taken.
    state_hash: String,
    counts: Counts,
    /// What each project used.
    usage: Vec<ProjectUsage>,
    /// By id, `limit` of them at most.
    volumes: Vec<Value>,
    /// By id, `limit` of them at most.
    snapshots: Vec<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Counts {
    volumes: usize,
    snapshots: usize,
    volume_types: usize,
    backends: usize,
    open_operations: usize,
    debts: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct ProjectUsage {
    project: String,
    volumes: i64,
    snapshots: i64,
    gigabytes: i64,
    /// The same by volume type.
    by_type: Value,
}

impl PastLedger {
    fn of(ledger: &Ledger, limit: usize) -> Self {
        let usage = ledger.usage.sorted().into_iter().map(|(project, usage)| ProjectUsage {
            project: project.to_string(),
            volumes: usage.total.volumes,
            snapshots: usage.total.snapshots,
            gigabytes: usage.total.gigabytes,
            by_type: usage
                .by_type
                .iter()
                .map(|(id, count)| {
                    let count = json!({
                        "volumes": count.volumes,
                        "snapshots": count.snapshots,
                        "gigabytes": count.gigabytes,
                    });
                    (id.to_string(), count)
                })
                .collect(),
        });
        Self {
            position: ledger.position().0,
            state_hash: hex::encode(state_hash(ledger)),
            counts: Counts {
                volumes: ledger.volumes.len(),
                snapshots: ledger.snapshots.len(),
                volume_types: ledger.volume_types.len(),
                backends: ledger.backends.len(),
                open_operations: ledger.operations.len(),
                debts: ledger.debts.len(),
            },
            usage: usage.collect(),
            volumes: ledger.volumes.sorted().iter().take(limit).map(|(_, row)| state::volume(row)).collect(),
            snapshots: ledger
                .snapshots
                .sorted()
                .iter()
                .take(limit)
                .map(|(_, row)| state::snapshot(row))
                .collect(),
        }
    }
}

/// Shows everything as it was, by replaying the log up to there (administrators; one at a time).
#[utoipa::path(
    get, path = "/state", tag = "ledger",
    params(
        ("at" = Option<String>, Query, description = "a position, or a moment in RFC 3339; now unless given"),
        ("limit" = Option<u32>, Query, description = "volumes and snapshots to show, 1000 at most"),
    ),
    responses((status = 200, body = PastLedger), (status = 400), (status = 403), (status = 503))
)]
async fn whole(
    State(app): State<AppState>,
    identity: Identity,
    params: Params,
) -> Result<Json<PastLedger>, Fault> {
    identity.actor.require_admin("tephra:ledger:state")?;
    let (point, limit) = (point(&app, &params)?, params.limit()?);
    let permit = REPLAYS
        .try_acquire()
        .map_err(|_| Fault::unavailable("Another replay is under way. Please try again."))?;
    let ledger = ledger_as_of(app.log.as_ref(), point).await?;
    let shown = tokio::task::spawn_blocking(move || PastLedger::of(&ledger, limit)).await;
    drop(permit);
    shown.map(Json).map_err(|error| Fault::internal(&error))
}
