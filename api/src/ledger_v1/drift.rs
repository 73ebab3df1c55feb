//! `/ledger/v1/drift`: where the ledger and the backends differ, and the removal of what nobody
//! knows.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tephra_domain::command::{CleanObject, Command};
use tephra_domain::drift::{Finding, FoundKind, FoundObject};
use tephra_domain::effect::FailureKind;
use tephra_domain::ids::BackendName;
use tephra_projector::render;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::debts::Accepted;
use crate::auth::Identity;
use crate::drift::PoolDrift;
use crate::error::Fault;
use crate::request::JsonBody;
use crate::state::AppState;
use crate::v3::params::Params;
use crate::v3::wire::check::{MAX_TEXT, Object};

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(compare)).routes(routes!(clean))
}

/// What was found, pool by pool.
#[derive(Debug, Serialize, ToSchema)]
pub struct DriftReport {
    /// How many differences there are; what is owed does not count.
    drift: usize,
    /// How many pools could not be looked at.
    unseen: usize,
    /// Each with `pool`, `state` (`compared`, `down` or `unsupported`), `failure` and `findings`.
    pools: Vec<Value>,
}

/// Compares the ledger with what the backends show (administrators).
///
/// A finding is `missing` (the ledger has it, the backend does not), `wrong_size`, `unknown` (the
/// backend has it, the ledger does not) or `owed` (a cleanup debt; no drift). What an open operation
/// is just changing is left out. Looking changes nothing.
#[utoipa::path(
    get, path = "/drift", tag = "ledger",
    params(
        ("backend" = Option<String>, Query, description = "only this backend's pools"),
        ("pool" = Option<String>, Query, description = "only this pool: `backend#pool`"),
    ),
    responses((status = 200, body = DriftReport), (status = 403), (status = 404))
)]
async fn compare(
    State(state): State<AppState>,
    identity: Identity,
    params: Params,
) -> Result<Json<DriftReport>, Fault> {
    identity.actor.require_admin("tephra:drift:show")?;
    let backend = params.get("backend").map(BackendName::new);
    let pools = state.drift(backend.as_ref(), params.get("pool")).await?;
    let findings = pools.iter().filter_map(|pool| pool.findings.as_ref().ok()).flatten();
    Ok(Json(DriftReport {
        drift: findings.filter(|finding| finding.is_drift()).count(),
        unseen: pools.iter().filter(|pool| pool.findings.is_err()).count(),
        pools: pools.iter().map(shown).collect(),
    }))
}

fn shown(drift: &PoolDrift) -> Value {
    let (state, failure, findings) = match &drift.findings {
        Ok(findings) => ("compared", None, findings.iter().map(finding).collect()),
        Err(failure) => {
            let is_unsupported = failure.kind == FailureKind::Unsupported;
            (if is_unsupported { "unsupported" } else { "down" }, Some(render::failure(failure)), Vec::new())
        }
    };
    json!({ "pool": drift.pool.to_string(), "state": state, "failure": failure, "findings": findings })
}

fn finding(finding: &Finding) -> Value {
    let mut shown = json!({
        "finding": finding.kind(),
        "name": finding.name(),
        "object": null,
        "snapshot_of": null,
        "size_gib": null,
        "bytes": null,
        "in_use": null,
        "debt_id": null,
        "held": null,
    });
    let more = match finding {
        Finding::Missing { object, size } => {
            json!({ "object": render::object(object), "size_gib": size.gib() })
        }
        Finding::WrongSize { object, size, bytes } => {
            json!({ "object": render::object(object), "size_gib": size.gib(), "bytes": bytes })
        }
        Finding::Unknown(FoundObject { kind, bytes, in_use, .. }) => {
            let of = match kind {
                FoundKind::Volume => None,
                FoundKind::Snapshot { of } => of.as_deref(),
            };
            json!({ "snapshot_of": of, "bytes": bytes, "in_use": in_use })
        }
        Finding::Owed { debt, object, held } => {
            json!({ "object": render::object(object), "debt_id": debt.to_string(), "held": held })
        }
    };
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

/// Has an object removed that the ledger knows nothing of (administrators).
///
/// It is claimed under a name of the operation first, and its removal is owed until it is done. What
/// somebody uses is refused. `{name, pool?, snapshot_of?}`; the pool may be left out if only one has
/// it.
#[utoipa::path(
    post, path = "/drift/cleanup", tag = "ledger",
    request_body(content = Object, description = "`{name, pool?, snapshot_of?}`"),
    responses(
        (status = 202, body = Accepted), (status = 400), (status = 403), (status = 404), (status = 409)
    )
)]
async fn clean(
    State(state): State<AppState>,
    identity: Identity,
    body: JsonBody,
) -> Result<(StatusCode, Json<Accepted>), Fault> {
    let fields = Object::body(body.require()?)?;
    let name = fields.required("name")?.text(1, MAX_TEXT)?;
    let pool = fields.field("pool").map(|field| field.text(1, MAX_TEXT)).transpose()?;
    let of = fields.field("snapshot_of").map(|field| field.text(1, MAX_TEXT)).transpose()?;
    fields.deny_unknown(&["name", "pool", "snapshot_of"])?;
    identity.actor.require_admin("tephra:drift:clean")?;
    let mut found = Vec::new();
    let mut unseen = Vec::new();
    for drift in state.drift(None, pool).await? {
        match drift.findings {
            Err(failure) => unseen.push(format!("{}: {failure}", drift.pool)),
            Ok(findings) => {
                let unknown = findings.into_iter().filter_map(|finding| unknown_named(finding, name, of));
                found.extend(unknown.map(|object| (drift.pool.clone(), object)));
            }
        }
    }
    let (pool, object) = match (found.len(), found.pop(), unseen.is_empty()) {
        (1, Some(only), _) => only,
        (0, _, true) | (1, None, true) => {
            return Err(Fault::not_found(format!("Nothing unknown is called {name} on any pool looked at.")));
        }
        (0 | 1, _, false) => {
            let why = unseen.join("; ");
            return Err(Fault::unavailable(format!(
                "{name} was not found, and not every pool answers: {why}"
            )));
        }
        (_, _, _) => {
            let message = format!(
                "Several unknown objects are called {name}: name the pool, or what it is a snapshot of."
            );
            return Err(Fault::bad_request(message));
        }
    };
    if object.in_use {
        return Err(Fault::new(
            StatusCode::CONFLICT,
            format!("{name} on {pool} is in use; it is left alone."),
        ));
    }
    let command = CleanObject { pool, name: object.name, kind: object.kind };
    let outcome = state.submit(&identity, body.idempotency, Command::CleanObject(Box::new(command))).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::of(&outcome, true))))
}

fn unknown_named(finding: Finding, name: &str, of: Option<&str>) -> Option<FoundObject> {
    let Finding::Unknown(object) = finding else { return None };
    let fits = match (&object.kind, of) {
        (_, None) => true,
        (FoundKind::Snapshot { of: actual }, Some(of)) => actual.as_deref() == Some(of),
        (FoundKind::Volume, Some(_)) => false,
    };
    (fits && *object.name == *name).then_some(object)
}
