//! `/healthz`: the process is alive. `/readyz`: it can do its work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tephra_domain::actor::Actor;
use tephra_domain::command::Command;
use tephra_domain::ids::{CommandId, Position, RequestId};
use tephra_domain::quota::QuotaLimits;
use tephra_journal::gateway::Submission;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::state::AppState;

/// How long a part may take to answer before it counts as not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a role is doing: in words, well or not.
pub type Condition = Result<String, String>;

type Ask = Arc<dyn Fn() -> Condition + Send + Sync>;
type AskWarning = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The roles of a process besides the api, which `/readyz` asks how they are doing, and what others have
/// told it. Whether an api serves requests does not depend on it.
#[derive(Clone, Default)]
pub struct RoleBoard(Arc<Mutex<BTreeMap<String, Ask>>>, Arc<Mutex<Vec<AskWarning>>>);

impl RoleBoard {
    /// Adds a role, and how to ask it. The answer must be at hand.
    pub fn add(&self, role: impl Into<String>, ask: impl Fn() -> Condition + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(role.into(), Arc::new(ask));
    }

    /// Adds somebody who may know of what operators have to know. The answer must be at hand.
    pub fn add_warning(&self, ask: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(ask));
    }

    pub(crate) fn warning(&self) -> Option<String> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|ask| ask())
    }

    pub(crate) fn read(&self) -> BTreeMap<String, Check> {
        let roles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roles.iter().map(|(role, ask)| (role.clone(), Check::of(ask()))).collect()
    }
}

impl fmt::Debug for RoleBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.read()).finish()
    }
}

/// Health, without a token.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// `{"status": "ok"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    status: &'static str,
}

/// Says that the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = Alive)))]
async fn healthz() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Whether each part can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready` or `not ready`.
    status: &'static str,
    /// What is not as it should be, although requests are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    checks: Checks,
    /// What else this process does, by role. Requests are served whatever these say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    roles: BTreeMap<String, Check>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Checks {
    /// The log answers.
    log: Check,
    /// The sequencer decides commands.
    sequencer: Check,
    /// The views hold everything that was acknowledged.
    views: Check,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    pub(crate) ok: bool,
    /// What was seen, or what is wrong.
    detail: String,
}

impl Check {
    fn of(result: Result<String, String>) -> Self {
        match result {
            Ok(detail) => Self { ok: true, detail },
            Err(detail) => Self { ok: false, detail },
        }
    }
}

/// Says whether requests can be served now; 503 and what is wrong if not.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let (log, (sequencer, views)) = tokio::join!(check_log(&state), check_decisions(&state));
    let checks = Checks { log: Check::of(log), sequencer: Check::of(sequencer), views: Check::of(views) };
    let settings = &state.settings;
    // Now: the sequencer has just been asked.
    let warning = settings.warning.clone().or_else(|| settings.roles.warning());
    let roles = settings.roles.read();
    if checks.log.ok && checks.sequencer.ok && checks.views.ok {
        (StatusCode::OK, Json(Readiness { status: "ready", warning, checks, roles }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { status: "not ready", warning, checks, roles }))
    }
}

fn too_slow() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

async fn check_log(state: &AppState) -> Result<String, String> {
    match tokio::time::timeout(PATIENCE, state.log.head()).await {
        Ok(Ok(head)) => Ok(format!("ends at block {}", head.0)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(too_slow()),
    }
}

/// Has the sequencer decide a command that asks for nothing, and waits until the views have come as
/// far as it knows.
async fn check_decisions(state: &AppState) -> (Result<String, String>, Result<String, String>) {
    let decided = match tokio::time::timeout(PATIENCE, decided_position(state)).await {
        Ok(decided) => decided,
        Err(_) => Err(too_slow()),
    };
    let position = match &decided {
        Ok(position) => *position,
        // Then the views are measured by themselves: they cannot be behind what nobody decides.
        Err(_) => state.views.checkpoint().position,
    };
    let caught_up = tokio::time::timeout(PATIENCE, state.views.wait_for(position)).await;
    let at = state.views.checkpoint().position;
    let views = match caught_up {
        Ok(()) => Ok(format!("at position {at}")),
        Err(_) => Err(format!("at position {at}, behind {position}")),
    };
    (decided.map(|position| format!("at position {position}")), views)
}

async fn decided_position(state: &AppState) -> Result<Position, String> {
    let id = Uuid::new_v4();
    let submission = Submission {
        id: CommandId::from_uuid(id),
        request: RequestId::new(format!("req-{}", id.hyphenated())),
        actor: Actor::system(),
        idempotency: None,
        command: Command::SetQuotaDefaults { limits: QuotaLimits::new() },
    };
    state
        .gateway
        .submit(submission)
        .await
        .map(|receipt| receipt.position())
        .map_err(|error| error.to_string())
}
