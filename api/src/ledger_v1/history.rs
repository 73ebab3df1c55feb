//! `/ledger/v1/history`: everything that ever happened to one thing, told in sentences.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use tephra_domain::actor::{Actor, Role};
use tephra_domain::ids::Position;
use tephra_projector::events::EventQuery;
use tephra_projector::history::ResourceRef;
use tephra_projector::render::sentence::sentence;
use tephra_projector::render::{ActorView, ResourceView, actor, moment, resource, sequence};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{resource_of, scope};
use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;
use crate::v3::params::Params;

/// Lines on a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 1000;

/// Histories.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// What happened to a resource, and to what belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    /// The resource that was asked for.
    resource: ResourceView,
    /// Oldest first.
    timeline: Vec<Line>,
    /// `after` of the next page; null at the end.
    next: Option<u64>,
}

/// One line of a timeline.
#[derive(Debug, Serialize, ToSchema)]
struct Line {
    sequence: String,
    time: String,
    kind: &'static str,
    /// What it happened to: the resource itself, or a snapshot, operation or debt of it.
    resource: ResourceView,
    /// What happened, in a sentence.
    what: String,
    by: ActorView,
    request_id: String,
}

/// Tells what happened to a resource: its own events, and those of the snapshots, operations and
/// debts that belong to it. What is gone keeps its history.
#[utoipa::path(
    get, path = "/history/{kind}/{id}", tag = "ledger",
    params(
        ("kind" = String, Path, description = "`volume`, `snapshot`, `type`, `operation`, `debt` or `backend`"),
        ("id" = String, Path),
        ("after" = Option<u64>, Query, description = "only after this position"),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = History), (status = 400), (status = 404))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    Path((kind, id)): Path<(String, String)>,
    params: Params,
) -> Result<Json<History>, Fault> {
    let reference = resource_of(&kind, &id)?;
    let after = params.count("after")?.and_then(|after| u64::try_from(after).ok());
    let mut query = EventQuery {
        after: Position(after.unwrap_or_default()),
        limit: if params.get("limit").is_some() { params.limit()?.max(1) } else { DEFAULT_LIMIT },
        project: scope(&identity, None),
        resource: Some(reference.clone()),
        ..EventQuery::default()
    };
    let mut page = state.views.list_events(state.log.as_ref(), &query).await?;
    // A look at the log is bounded: an empty page is not the end.
    while let (true, Some(next)) = (page.rows.is_empty(), page.next) {
        query.after = next;
        page = state.views.list_events(state.log.as_ref(), &query).await?;
    }
    if page.rows.is_empty() && after.is_none() {
        return Err(Fault::not_found(format!("Nothing is known of {kind} {id}.")));
    }
    let mut timeline = Vec::new();
    for row in &page.rows {
        let commit = &row.commit.commit;
        for index in &row.events {
            let Some(event) = commit.events.get(*index) else { continue };
            timeline.push(Line {
                sequence: sequence(row.commit.position, *index),
                time: moment(commit.time),
                kind: event.name(),
                resource: resource(event),
                what: sentence(event),
                by: author(&commit.actor, &identity),
                request_id: commit.request.to_string(),
            });
        }
    }
    Ok(Json(History { resource: asked(&reference, id), timeline, next: page.next.map(|next| next.0) }))
}

/// The author of a commit, with the address only for administrators and for the author's own
/// project, and never an administrator's.
fn author(author: &Actor, asker: &Identity) -> ActorView {
    let mut view = actor(author);
    let is_colleague = author.project == asker.actor.project && author.role != Role::Admin;
    if !asker.is_admin() && !is_colleague {
        view.address = None;
    }
    view
}

const fn asked(reference: &ResourceRef, id: String) -> ResourceView {
    let kind = match reference {
        ResourceRef::Volume(_) => "volume",
        ResourceRef::Snapshot(_) => "snapshot",
        ResourceRef::VolumeType(_) => "type",
        ResourceRef::Backend(_) => "backend",
        ResourceRef::Operation(_) => "operation",
        ResourceRef::Debt(_) => "debt",
        ResourceRef::Project(_) => "project",
    };
    ResourceView { kind, id }
}
