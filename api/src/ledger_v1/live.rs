//! Events as they happen, by server-sent events.
//!
//! A stream first reads what it has missed from the log, then waits for more; it is never fed from
//! anywhere else, so it has no gaps and no repetitions. A client that is cut off sends the last id
//! that it saw and goes on after it. One that reads too slowly is cut off: it loses nothing.
//!
//! Between events it says how far long work has come ([`super::progress`]). That is not in the log: it has
//! no id, so a client that is cut off goes on after the last event, and is told anew how things stand.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tephra_domain::ids::Position;
use tephra_projector::QueryError;
use tephra_projector::render::{EventView, parse_sequence};
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::Wanted;
use super::owners::Owners;
use super::progress::{PROGRESS, Watched};
use crate::auth::Identity;
use crate::error::Fault;
use crate::server::Stopping;
use crate::state::AppState;
use crate::v3::params::Params;

/// The header in which a client says how far it has come.
const LAST_EVENT_ID: &str = "last-event-id";
/// Events that wait for a client at a time.
const BUFFERED_EVENTS: usize = 256;
/// Events that are read from the log at a time.
const PAGE_EVENTS: usize = 256;
/// How long a full buffer may wait for its client before the stream ends.
const SLOW_CLIENT: Duration = Duration::from_secs(30);
/// How often a quiet stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client should wait before it connects again.
const RECONNECT: Duration = Duration::from_secs(2);
/// Streams at a time, in one process: each holds a task and a buffer.
const MAX_STREAMS: usize = 1024;

static STREAMS: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(MAX_STREAMS)));

/// The stream of events.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(live))
}

/// Follows what happens, as server-sent events: `id` is the event's `sequence`, `event` its `kind`,
/// `data` the same JSON as in a list.
///
/// Without a `Last-Event-ID` (or `after`) it begins with what happens from now on.
///
/// Where an executor says how far it has come with something long, as a copy from another backend,
/// `event` is `progress`, without `id`: `data` has `operation_id`, `operation`, `project`, `resource` and
/// `progress` (`done_bytes`, `total_bytes`, `percent`). It is no event of the ledger, and is not repeated.
/// With `kind=progress` there is nothing else; any other `kind` leaves it out.
#[utoipa::path(
    get, path = "/events/live", tag = "ledger",
    params(
        ("Last-Event-ID" = Option<String>, Header, description = "go on after this `sequence`"),
        ("after" = Option<u64>, Query, description = "begin after this position; 0 is the beginning"),
        ("project" = Option<String>, Query), ("resource" = Option<String>, Query),
        ("kind" = Option<String>, Query),
    ),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400), (status = 503))
)]
async fn live(
    State(state): State<AppState>,
    identity: Identity,
    params: Params,
    headers: HeaderMap,
    stopping: Stopping,
) -> Result<Response, Fault> {
    follow(&state, Wanted::read(&params, &identity)?, &headers, &params, stopping).await
}

/// Answers with a stream of what is wanted.
///
/// # Errors
/// 400 for a last event id that is none, 503 if there are too many streams.
pub async fn follow(
    state: &AppState,
    mut wanted: Wanted,
    headers: &HeaderMap,
    params: &Params,
    stopping: Stopping,
) -> Result<Response, Fault> {
    let last = match headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or_default()) {
        Some("") | None => None,
        Some(text) => Some(parse_sequence(text).ok_or_else(|| {
            Fault::bad_request(format!("'{text}' is no event id: it is <position>.<index>."))
        })?),
    };
    let permit = Arc::clone(&STREAMS)
        .try_acquire_owned()
        .map_err(|_| Fault::unavailable("There are too many event streams at the moment."))?;
    wanted.query.limit = PAGE_EVENTS;
    if params.get("after").is_none() {
        wanted.query.after = state.views.checkpoint().position;
    }
    if let Some((position, _)) = last {
        // The rest of that commit may not have arrived: read it again, and leave out what has.
        wanted.query.after = Position(position.0.saturating_sub(1));
    }
    let (sender, receiver) = mpsc::channel(BUFFERED_EVENTS);
    let stream = Stream { state: state.clone(), wanted, last, sender };
    tokio::spawn(stream.run(permit, stopping.0));
    let sse = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = sse.into_response();
    // Proxies that buffer would hold events back until there are many.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

struct Stream {
    state: AppState,
    wanted: Wanted,
    /// The last event that the client has: what comes up to it is left out.
    last: Option<(Position, usize)>,
    sender: Sender<Result<SseEvent, Infallible>>,
}

/// Why a stream ends.
enum End {
    Gone,
    TooSlow,
    Failed(QueryError),
}

impl Stream {
    async fn run(mut self, permit: OwnedSemaphorePermit, stopping: CancellationToken) {
        let closed = self.sender.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = closed.closed() => {}
            end = self.send_all() => match end {
                End::Gone => {}
                End::TooSlow => tracing::info!("cut off an event stream whose client does not keep up"),
                End::Failed(error) => tracing::error!(%error, "an event stream ended"),
            },
        }
        drop(permit);
    }

    async fn send_all(&mut self) -> End {
        let hello = SseEvent::default().retry(RECONNECT).comment("following the ledger");
        if let Err(end) = self.send(hello).await {
            return end;
        }
        let mut owners = Owners::new();
        let mut progress = Watched::new(&self.state, &self.wanted.query);
        loop {
            // Everything up to here is in the views, so a last page is complete up to here.
            let seen = self.state.views.checkpoint().position;
            let log = Arc::clone(&self.state.log);
            let page = match self.state.views.list_events(log.as_ref(), &self.wanted.query).await {
                Ok(page) => page,
                Err(error) => return End::Failed(error),
            };
            let views = match self.wanted.views_of(&self.state, &mut owners, &page).await {
                Ok(views) => views,
                Err(error) => return End::Failed(error),
            };
            for view in views.iter().filter(|view| self.is_new(view)) {
                if let Err(end) = self.send(sse_event(view)).await {
                    return end;
                }
            }
            let read_to = page.rows.last().map_or(Position::START, |row| row.commit.position);
            match page.next {
                Some(next) => self.wanted.query.after = next,
                None => {
                    let after = self.wanted.query.after.max(seen).max(read_to);
                    self.wanted.query.after = after;
                    if let Some(progress) = &mut progress
                        && let Err(end) = self.send_progress(progress).await
                    {
                        return end;
                    }
                    tokio::select! {
                        biased;
                        () = self.state.views.wait_for(after.next()) => {}
                        () = moved(progress.as_ref()) => {}
                    }
                }
            }
        }
    }

    async fn send_progress(&self, progress: &mut Watched) -> Result<(), End> {
        let news = progress.news(&self.state, &self.wanted.query);
        for said in news.map_err(|error| End::Failed(error.into()))? {
            self.send(SseEvent::default().event(PROGRESS).data(said.to_string())).await?;
        }
        Ok(())
    }

    fn is_new(&self, view: &EventView) -> bool {
        match (self.last, parse_sequence(&view.sequence)) {
            (Some(last), Some(this)) => this > last,
            (None, _) | (_, None) => true,
        }
    }

    async fn send(&self, event: SseEvent) -> Result<(), End> {
        match self.sender.send_timeout(Ok(event), SLOW_CLIENT).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(End::TooSlow),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Gone),
        }
    }
}

async fn moved(progress: Option<&Watched>) {
    match progress {
        Some(progress) => progress.moved().await,
        None => std::future::pending().await,
    }
}

fn sse_event(view: &EventView) -> SseEvent {
    // The view is made of texts and numbers: writing it as JSON cannot fail.
    let data = serde_json::to_string(view).unwrap_or_default();
    SseEvent::default().id(view.sequence.clone()).event(view.kind).data(data)
}
