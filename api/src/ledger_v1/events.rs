//! `/ledger/v1/events`: what happened, page by page.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tephra_domain::actor::Role;
use tephra_domain::ids::Position;
use tephra_projector::QueryError;
use tephra_projector::events::{EventPage, EventQuery};
use tephra_projector::render::{EventView, ResourceView, parse_moment, resource};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::live;
use super::owners::Owners;
use super::{parse_resource, scope};
use crate::auth::Identity;
use crate::error::Fault;
use crate::server::Stopping;
use crate::state::AppState;
use crate::v3::params::Params;

/// Events on a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// The list of events.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventList {
    /// In the order in which they happened. Those of one commit are never on two pages.
    pub events: Vec<EventView>,
    /// `after` of the next page; null at the end. A page may be empty and still have one after it:
    /// a look at the log is bounded.
    pub next: Option<u64>,
}

/// What a listing or a stream of events is to hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As the views are asked.
    pub query: EventQuery,
    /// Only events of exactly this resource; the views would also give what is about it.
    exactly: Option<ResourceView>,
    /// Where operators work from is not their users' business.
    hides_addresses: bool,
}

impl Wanted {
    /// Reads a query string for this asker.
    ///
    /// # Errors
    /// 400 for what makes no sense.
    pub fn read(params: &Params, identity: &Identity) -> Result<Self, Fault> {
        let moment = |name: &str| match params.get(name) {
            None => Ok(None),
            Some(text) => parse_moment(&text.replace(' ', "+")).map(Some).ok_or_else(|| {
                Fault::bad_request(format!("{name} must be a moment such as 2026-01-31T14:03:00Z."))
            }),
        };
        let named = params.get("resource");
        let resource = named.map(parse_resource).transpose()?;
        let after = params.get("after").map(|text| {
            text.parse()
                .map_err(|_| Fault::bad_request("after must be a position: a whole number, at least 0."))
        });
        let limit = match params.count("limit")? {
            None => DEFAULT_LIMIT,
            Some(0) => return Err(Fault::bad_request("limit must be at least 1.")),
            Some(_) => params.limit()?,
        };
        Ok(Self {
            query: EventQuery {
                after: Position(after.transpose()?.unwrap_or_default()),
                limit,
                project: scope(identity, params.get("project")),
                resource,
                kind: params.get("kind").map(ToOwned::to_owned),
                since: moment("since")?,
                until: moment("until")?,
            },
            exactly: named.and_then(exact_resource),
            hides_addresses: !identity.is_admin(),
        })
    }

    /// The events of a page, as they are shown.
    ///
    /// # Errors
    /// If the views or the log fail.
    pub async fn views_of(
        &self,
        state: &AppState,
        owners: &mut Owners,
        page: &EventPage,
    ) -> Result<Vec<EventView>, QueryError> {
        let mut shown = Vec::new();
        for row in &page.rows {
            let commit = &row.commit.commit;
            for index in &row.events {
                let Some(event) = commit.events.get(*index) else { continue };
                if self.exactly.as_ref().is_some_and(|exactly| *exactly != resource(event)) {
                    continue;
                }
                let owner = owners.of(state, event).await?;
                let mut view = EventView::new(row.commit.position, *index, commit, event, owner.as_ref());
                if let Some(project) = &self.query.project {
                    if owner.as_ref() != Some(project) {
                        continue;
                    }
                    let is_colleague = commit.actor.project == *project && commit.actor.role != Role::Admin;
                    if self.hides_addresses && !is_colleague {
                        view.actor.address = None;
                    }
                }
                shown.push(view);
            }
        }
        Ok(shown)
    }
}

fn exact_resource(text: &str) -> Option<ResourceView> {
    let (kind, id) = text.split_once(':')?;
    let kind =
        ["volume", "snapshot", "type", "operation", "debt", "backend"].into_iter().find(|k| *k == kind)?;
    let id = if kind == "backend" { id.to_owned() } else { id.to_ascii_lowercase() };
    Some(ResourceView { kind, id })
}

/// Lists what happened, oldest first; with `Accept: text/event-stream` follows it live.
///
/// Members see their own project's events, administrators all of them.
#[utoipa::path(
    get, path = "/events", tag = "ledger",
    params(
        ("project" = Option<String>, Query, description = "only this project's (administrators)"),
        ("resource" = Option<String>, Query, description =
            "`volume:ID`, `snapshot:ID`, `type:ID`, `operation:ID`, `debt:ID` or `backend:NAME`"),
        ("kind" = Option<String>, Query, description = "for example `VolumeCreated`"),
        ("since" = Option<String>, Query, description = "at or after this moment (RFC 3339)"),
        ("until" = Option<String>, Query, description = "before this moment (RFC 3339)"),
        ("after" = Option<u64>, Query, description = "only after this position"),
        ("limit" = Option<u32>, Query, description = "100 unless given, 1000 at most; a commit is never split"),
    ),
    responses((status = 200, body = EventList), (status = 400))
)]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    params: Params,
    headers: HeaderMap,
    stopping: Stopping,
) -> Result<Response, Fault> {
    let wanted = Wanted::read(&params, &identity)?;
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        return live::follow(&state, wanted, &headers, &params, stopping).await;
    }
    Ok(Json(page_of(&state, &wanted).await?).into_response())
}

async fn page_of(state: &AppState, wanted: &Wanted) -> Result<EventList, QueryError> {
    let page = state.views.list_events(state.log.as_ref(), &wanted.query).await?;
    let events = wanted.views_of(state, &mut Owners::new(), &page).await?;
    Ok(EventList { events, next: page.next.map(|position| position.0) })
}
