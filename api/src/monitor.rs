//! `/healthz`, `/readyz` and `/metrics` of a process that is no api, such as an executor on its storage host.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::error::Fault;
use crate::health::{Check, RoleBoard};
use crate::metrics;

/// These routes, over the roles of the process.
pub fn router(board: RoleBoard) -> Router {
    metrics::install();
    Router::new()
        .route("/healthz", get(async || Json(BTreeMap::from([("status", "ok")]))))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .fallback(|| async { Fault::no_such_route() })
        .with_state(board)
}

/// How the roles of the process are doing.
#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    roles: BTreeMap<String, Check>,
}

/// Ready if all roles are: nothing else is asked of this process.
async fn readyz(State(board): State<RoleBoard>) -> (StatusCode, Json<Readiness>) {
    let (warning, roles) = (board.warning(), board.read());
    let (code, status) = if roles.values().all(|check| check.ok) {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (code, Json(Readiness { status, warning, roles }))
}

async fn scrape() -> Result<Response, Fault> {
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::rendered()?).into_response())
}
