//! What is measured, under which names, and `/metrics`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tephra_projector::ViewsError;
use tephra_projector::operations::OperationQuery;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Fault;
use crate::state::AppState;

/// Requests answered, by `method`, `route` (the template, not the path) and `status`.
pub const HTTP_REQUESTS: &str = "tephra_http_requests_total";
/// Seconds from a request's head to the head of its answer, by `method` and `route`.
pub const HTTP_REQUEST_SECONDS: &str = "tephra_http_request_duration_seconds";
/// Operations that are open.
pub const OPEN_OPERATIONS: &str = "tephra_open_operations";
/// Cleanup debts that are owed, by `held`.
pub const CLEANUP_DEBTS: &str = "tephra_cleanup_debts";
/// The last block of the log.
pub const LOG_HEAD_BLOCK: &str = "tephra_log_head_block";
/// The last block that the views hold.
pub const VIEWS_BLOCK: &str = "tephra_views_block";
/// The last commit that the views hold.
pub const VIEWS_POSITION: &str = "tephra_views_position";
/// Blocks that the views are behind the log.
pub const VIEWS_LAG_BLOCKS: &str = "tephra_views_lag_blocks";

/// Upper bounds of the buckets of durations: from a cached read to a request that timed out.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// How often what was measured is folded into buckets, so that it does not pile up unread.
const UPKEEP: Duration = Duration::from_secs(5);
/// Open operations that are counted, at most: a scrape has a bounded cost.
const MAX_COUNTED: usize = 10_000;

/// Of what [`rendered`] returns.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics`
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(scrape))
}

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder, once per process. Nothing if another one is installed already.
fn recorder() -> Option<&'static PrometheusHandle> {
    let install = || {
        let buckets = Matcher::Full(HTTP_REQUEST_SECONDS.to_owned());
        let installed = PrometheusBuilder::new()
            .set_buckets_for_metric(buckets, SECONDS_BUCKETS)
            .and_then(PrometheusBuilder::install_recorder);
        match installed {
            Ok(handle) => {
                describe();
                keep_up(&handle);
                Some(handle)
            }
            Err(error) => {
                tracing::warn!(%error, "metrics cannot be recorded");
                None
            }
        }
    };
    RECORDER.get_or_init(install).as_ref()
}

fn describe() {
    metrics::describe_counter!(HTTP_REQUESTS, "Requests answered.");
    metrics::describe_histogram!(
        HTTP_REQUEST_SECONDS,
        metrics::Unit::Seconds,
        "From a request's head to the head of its answer."
    );
    metrics::describe_gauge!(OPEN_OPERATIONS, "Operations that are open.");
    metrics::describe_gauge!(CLEANUP_DEBTS, "Cleanup debts that are owed.");
    metrics::describe_gauge!(LOG_HEAD_BLOCK, "The last block of the log.");
    metrics::describe_gauge!(VIEWS_BLOCK, "The last block that the views hold.");
    metrics::describe_gauge!(VIEWS_POSITION, "The last commit that the views hold.");
    metrics::describe_gauge!(VIEWS_LAG_BLOCKS, "Blocks that the views are behind the log.");
}

fn keep_up(handle: &PrometheusHandle) {
    let handle = handle.clone();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let mut due = tokio::time::interval(UPKEEP);
            loop {
                due.tick().await;
                handle.run_upkeep();
            }
        });
    }
}

/// Starts recording, if nobody records yet. Call it within the runtime that serves.
pub fn install() {
    recorder();
}

/// Counts a request and times it. Routes are counted by their template, so that the number of
/// series does not grow with the number of volumes.
pub async fn track(request: Request, next: Next) -> Response {
    let method = method_name(&request);
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let seconds = began.elapsed().as_secs_f64();
    let status = response.status().as_str().to_owned();
    histogram!(HTTP_REQUEST_SECONDS, "method" => method, "route" => route.clone()).record(seconds);
    counter!(HTTP_REQUESTS, "method" => method, "route" => route, "status" => status).increment(1);
    response
}

/// Methods have a fixed set of names here: anybody can send any.
fn method_name(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// What Prometheus scrapes.
#[utoipa::path(
    get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, content_type = "text/plain", body = String), (status = 503))
)]
async fn scrape(State(state): State<AppState>) -> Result<Response, Fault> {
    measure(&state).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], rendered()?).into_response())
}

/// Everything that was recorded, as Prometheus reads it.
pub(crate) fn rendered() -> Result<String, Fault> {
    let recorder = recorder().ok_or_else(|| Fault::unavailable("Metrics are not recorded here."))?;
    Ok(recorder.render())
}

/// Takes the figures that are states rather than happenings.
async fn measure(state: &AppState) -> Result<(), Fault> {
    let checkpoint = state.views.checkpoint();
    if let Ok(head) = state.log.head().await {
        gauge!(LOG_HEAD_BLOCK).set(figure(head.0));
        gauge!(VIEWS_LAG_BLOCKS).set(figure(head.0.saturating_sub(checkpoint.block.0)));
    }
    gauge!(VIEWS_BLOCK).set(figure(checkpoint.block.0));
    gauge!(VIEWS_POSITION).set(figure(checkpoint.position.0));
    let query = OperationQuery { open: Some(true), limit: MAX_COUNTED, ..OperationQuery::default() };
    let open = state.views.operations(&query)?.rows.len();
    gauge!(OPEN_OPERATIONS).set(figure(u64::try_from(open).unwrap_or(u64::MAX)));
    let debts = state.views.debts().map_err(|error: ViewsError| Fault::from(error))?;
    for (held, label) in [(true, "yes"), (false, "no")] {
        let count = debts.iter().filter(|debt| debt.held == held).count();
        gauge!(CLEANUP_DEBTS, "held" => label).set(figure(u64::try_from(count).unwrap_or(u64::MAX)));
    }
    Ok(())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "gauges are floats; beyond 2^53 nobody counts blocks one by one"
)]
const fn figure(number: u64) -> f64 {
    number as f64
}
