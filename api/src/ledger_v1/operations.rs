//! `/ledger/v1/operations`: work that takes time, under way and ended, step by step.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::event::Event;
use tephra_domain::ids::{OperationId, PoolId, Position};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{Operation, OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;
use tephra_domain::rejection::Rejection;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;
use tephra_journal::progress_board::ProgressBoard;
use tephra_projector::events::EventQuery;
use tephra_projector::history::ResourceRef;
use tephra_projector::operations::{OperationQuery, OperationRecord};
use tephra_projector::render::operation::{Open, record};
use tephra_projector::{QueryError, ViewsError};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{parse_resource, scope};
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, PathId};
use crate::state::AppState;
use crate::v3::params::Params;

/// Operations on a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// The list of operations, and each.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

/// A page of operations.
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationList {
    /// The one that opened last first.
    operations: Vec<Value>,
    /// `marker` of the next page; null at the end.
    next: Option<String>,
}

/// `{"operation": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationEnvelope {
    operation: Value,
}

/// The open operations, and who waits for whom.
struct OpenOperations {
    ledger: Ledger,
    pools: Vec<PoolStats>,
    progress: ProgressBoard,
    now: Timestamp,
}

impl OpenOperations {
    fn load(state: &AppState) -> Result<Self, ViewsError> {
        let mut ledger = Ledger::default();
        for operation in state.views.open_operations()? {
            ledger.operations.insert(operation.id, operation);
        }
        ledger.loaded_at(Position::START);
        let now = state.now();
        Ok(Self { ledger, pools: state.pools.read(now), progress: state.progress.clone(), now })
    }

    fn of(&self, id: OperationId) -> Option<Open<'_>> {
        let operation: &Operation = self.ledger.operations.get(&id)?;
        let due = operation.due();
        let progress = due.as_ref().and_then(|due| self.progress.of(&due.pool.backend, due.key, self.now));
        let pool = match due {
            Some(due) => operation.kind.pool_of(&due.effect.target()),
            None => operation.kind.pool(),
        };
        let waits_for_backend = pool.and_then(|pool| Some((pool, self.absence(pool)?)));
        let waits_for = self.ledger.blocked_by(operation);
        Some(Open { operation, waits_for, waits_for_backend, progress })
    }

    /// Why nothing is done on a pool at the moment, if that is so.
    fn absence(&self, pool: &PoolId) -> Option<&'static str> {
        match self.pools.iter().find(|stats| stats.pool == *pool) {
            None => Some("its executor has not reported yet"),
            Some(stats) if !stats.is_up => Some("its backend is down, or its executor does not report"),
            Some(_) => None,
        }
    }
}

fn parse_query(params: &Params, identity: &Identity) -> Result<OperationQuery, Fault> {
    let by_status = match params.get("status") {
        None => None,
        Some("open") => Some(true),
        Some("ended") => Some(false),
        Some(other) => {
            return Err(Fault::bad_request(format!("status must be open or ended, not '{other}'.")));
        }
    };
    let by_flag = params.get("open").map(|_| params.flag("open")).transpose()?;
    let resource = match params.get("resource").map(parse_resource).transpose()? {
        None => None,
        Some(ResourceRef::Volume(id)) => Some(ResourceKey::Volume(id)),
        Some(ResourceRef::Snapshot(id)) => Some(ResourceKey::Snapshot(id)),
        Some(
            ResourceRef::VolumeType(_)
            | ResourceRef::Backend(_)
            | ResourceRef::Operation(_)
            | ResourceRef::Debt(_)
            | ResourceRef::Project(_),
        ) => return Err(Fault::bad_request("Operations are on volumes and snapshots.")),
    };
    Ok(OperationQuery {
        project: scope(identity, params.get("project")),
        open: by_status.or(by_flag),
        kind: params.get("kind").map(ToOwned::to_owned),
        resource,
        marker: params.get("marker").map(OperationId::parse).transpose()?,
        limit: if params.get("limit").is_some() { params.limit()?.max(1) } else { DEFAULT_LIMIT },
    })
}

/// Lists operations, open and ended, with what became of their steps.
///
/// While an executor says how far the step at hand has come (a copy from another backend does, after each
/// stretch), the operation has `progress`: `done_bytes`, `total_bytes`, `percent`.
#[utoipa::path(
    get, path = "/operations", tag = "ledger",
    params(
        ("status" = Option<String>, Query, description = "`open` or `ended`"),
        ("project" = Option<String>, Query, description = "only this project's (administrators)"),
        ("kind" = Option<String>, Query, description = "for example `volume_revert`"),
        ("resource" = Option<String>, Query, description = "`volume:ID` or `snapshot:ID` that it changes"),
        ("marker" = Option<String>, Query), ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = OperationList), (status = 400))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    params: Params,
) -> Result<Json<OperationList>, Fault> {
    let query = parse_query(&params, &identity)?;
    let page = state.views.operations(&query)?;
    let open = OpenOperations::load(&state)?;
    let next = page.rows.last().filter(|_| page.rows.len() >= query.limit).map(|last| last.id.to_string());
    let shown = |row: &OperationRecord| {
        let open = open.of(row.id);
        record(row, open.map(|open| &open.operation.kind), open)
    };
    Ok(Json(OperationList { operations: page.rows.iter().map(shown).collect(), next }))
}

/// Shows an operation with its parameters, its steps and their effects, and `progress` as in the list.
#[utoipa::path(
    get, path = "/operations/{operation_id}", tag = "ledger",
    params(("operation_id" = String, Path)),
    responses((status = 200, body = OperationEnvelope), (status = 404))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    InPath(id): InPath<OperationId>,
) -> Result<Json<OperationEnvelope>, Fault> {
    let row = state.views.operation(id)?.filter(|row| identity.actor.can_see(&row.project));
    let row = row.ok_or(Rejection::OperationNotFound { operation: id })?;
    let open = OpenOperations::load(&state)?;
    let open = open.of(id);
    let kind = match open {
        Some(open) => Some(open.operation.kind.clone()),
        None => kind_in_log(&state, id).await?,
    };
    Ok(Json(OperationEnvelope { operation: record(&row, kind.as_ref(), open) }))
}

/// What an ended operation did: only the log still has it.
async fn kind_in_log(state: &AppState, id: OperationId) -> Result<Option<OperationKind>, QueryError> {
    let mut query =
        EventQuery { limit: 1000, resource: Some(ResourceRef::Operation(id)), ..EventQuery::default() };
    let mut kind = None;
    loop {
        let page = state.views.list_events(state.log.as_ref(), &query).await?;
        for event in page.rows.iter().flat_map(|row| &row.commit.commit.events) {
            if let Event::Operation(of, event) = event
                && *of == id
            {
                kind = kind_said(event).cloned().or(kind);
            }
        }
        match page.next {
            Some(next) => query.after = next,
            None => return Ok(kind),
        }
    }
}

const fn kind_said(event: &OperationEvent) -> Option<&OperationKind> {
    match event {
        OperationEvent::Opened { kind, .. } | OperationEvent::Rescheduled { kind } => Some(kind),
        OperationEvent::StepCompleted { .. }
        | OperationEvent::AttemptFailed { .. }
        | OperationEvent::StepWaived { .. }
        | OperationEvent::UndoStarted { .. }
        | OperationEvent::StepUndone { .. }
        | OperationEvent::UndoWaived { .. }
        | OperationEvent::Closed { .. } => None,
    }
}
