//! `/ledger/v1/debts`: what operations left behind; and putting things right by hand.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::command::Command;
use tephra_domain::ids::{DebtId, OperationId, VolumeId};
use tephra_projector::render::debt;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::scope;
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;
use crate::submit::Outcome;
use crate::v3::params::Params;

/// Debts, their release, and recovery from a revert that could not be undone.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(release)).routes(routes!(recover))
}

/// What is owed.
#[derive(Debug, Serialize, ToSchema)]
pub struct DebtList {
    /// By id.
    debts: Vec<Value>,
}

/// What a command came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Where it stands in the ledger.
    position: u64,
    /// The operation that it opened, to be looked up under `/ledger/v1/operations`.
    operation_id: Option<String>,
}

impl Accepted {
    pub(super) fn of(outcome: &Outcome, opened: bool) -> Self {
        let command = outcome.commit.as_ref().filter(|_| opened).map(|commit| commit.command);
        Self {
            position: outcome.position.0,
            operation_id: command.map(|command| OperationId::from(command).to_string()),
        }
    }
}

/// Lists objects on backends that should not be there and could not be removed yet.
///
/// They are retried until they are gone, except held ones, which wait for an operator.
#[utoipa::path(
    get, path = "/debts", tag = "ledger",
    params(("project" = Option<String>, Query, description = "only this project's (administrators)")),
    responses((status = 200, body = DebtList))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    params: Params,
) -> Result<Json<DebtList>, Fault> {
    let project = scope(&identity, params.get("project"));
    let mut rows = state.views.debts()?;
    rows.retain(|row| project.as_ref().is_none_or(|project| row.project == *project));
    Ok(Json(DebtList { debts: rows.iter().map(debt).collect() }))
}

/// Has a debt paid now: a held one is given up, another is tried at once (administrators).
#[utoipa::path(
    post, path = "/debts/{debt_id}/release", tag = "ledger",
    params(("debt_id" = String, Path)),
    responses((status = 202, body = Accepted), (status = 403), (status = 404))
)]
async fn release(
    State(state): State<AppState>,
    identity: Identity,
    InPath(debt): InPath<DebtId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<Accepted>), Fault> {
    let outcome = state.submit(&identity, body.idempotency, Command::ReleaseDebt { debt }).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::of(&outcome, false))))
}

/// Puts the data of a held safety snapshot back into its volume (administrators).
#[utoipa::path(
    post, path = "/volumes/{volume_id}/recover", tag = "ledger",
    params(("volume_id" = String, Path)),
    responses((status = 202, body = Accepted), (status = 400), (status = 403), (status = 404))
)]
async fn recover(
    State(state): State<AppState>,
    identity: Identity,
    InPath(volume): InPath<VolumeId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<Accepted>), Fault> {
    let outcome = state.submit(&identity, body.idempotency, Command::RecoverVolume { volume }).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::of(&outcome, true))))
}
