//! The router, the listener's limits, and the road that every request takes.

use std::any::Any;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::FutureExt;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::Instrument;

use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::{MAX_BODY_BYTES, REQUEST_ID_HEADER, RequestIds};
use crate::state::AppState;
use crate::{consistency, metrics, openapi, v3};

/// What bounds a server. Each has a default that fits one machine.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at a time, as far as the system's limit of open files allows; more wait to be
    /// accepted.
    pub connections: usize,
    /// How long a client may take to send a request's head, and to be idle between requests.
    pub head_timeout: Duration,
    /// How long a request may take from its head to the head of its answer, its body included.
    pub request_timeout: Duration,
    /// How long requests that are under way may take once the server stops.
    pub drain_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            head_timeout: Duration::from_secs(60),
            request_timeout: REQUEST_TIMEOUT,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// How long a request may take unless the limits say otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait before accepting again when the system is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Open files that connections leave for everything else.
const FILES_KEPT: usize = 512;
/// Bytes of a request's head, at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Bytes of a body that is too large that are read all the same, at most, so that its sender gets
/// the answer rather than a reset.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;

/// Every route.
pub fn router(state: AppState) -> Router {
    metrics::install();
    let (v3, _) = v3::routes().split_for_parts();
    let (unversioned, _) = openapi::unversioned().split_for_parts();
    Router::new()
        .merge(unversioned)
        .nest("/v3", v3.clone())
        .nest("/v3/{project_id}", v3)
        .fallback(|| async { Fault::no_such_route() })
        .method_not_allowed_fallback(|| async {
            Fault::new(StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed for this resource.")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(state.clone(), consistency::wait_if_asked))
        .layer(middleware::from_fn(edge))
        .layer(middleware::from_fn(metrics::track))
        .with_state(state)
}

/// What all routes have in common, in one layer: ids, microversion, time limit, and an answer even
/// where the program is wrong.
async fn edge(mut request: Request, next: Next) -> Response {
    let ids = RequestIds::draw(request.headers());
    let own_id = HeaderValue::try_from(ids.own.as_str());
    let span = tracing::info_span!(
        "request",
        id = %ids.correlation,
        method = %request.method(),
        path = request.uri().path(),
    );
    let version = if request.uri().path().starts_with("/v3") {
        Some(Microversion::negotiate(request.headers()))
    } else {
        None
    };
    request.extensions_mut().insert(ids);
    let spoken = match version {
        Some(Ok(version)) => {
            request.extensions_mut().insert(version);
            Some(version)
        }
        Some(Err(_)) | None => None,
    };
    let timeout = request.extensions().get::<RequestTimeout>().map_or(REQUEST_TIMEOUT, |limit| limit.0);
    let answered = async move {
        let request = with_whole_body(request).await?;
        match version {
            Some(Err(fault)) => Err(fault),
            Some(Ok(_)) | None => Ok(next.run(request).await),
        }
    };
    let handled = AssertUnwindSafe(answered).catch_unwind().instrument(span);
    let mut response = match tokio::time::timeout(timeout, handled).await {
        Ok(Ok(answer)) => answer.into_response(),
        Ok(Err(panic)) => Fault::internal(&panic_message(panic.as_ref())).into_response(),
        Err(_) => Fault::new(StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response(),
    };
    let headers = response.headers_mut();
    if let Some(version) = spoken {
        version.announce(headers);
    }
    if let Ok(id) = own_id {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// Takes the body in before anything is answered. What an early answer (404, 403) leaves unread
/// forces the connection to be closed, under the feet of a client that sends its next request on it.
async fn with_whole_body(request: Request) -> Result<Request, Fault> {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Request::from_parts(parts, body));
    }
    let (mut body, mut whole, mut read) = (body, BytesMut::new(), 0_usize);
    while read <= MAX_DISCARDED_BYTES
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| Fault::bad_request("The request body could not be read."))?;
        if let Ok(data) = frame.into_data() {
            read = read.saturating_add(data.len());
            if read <= MAX_BODY_BYTES {
                whole.extend_from_slice(&data);
            }
        }
    }
    if read > MAX_BODY_BYTES {
        return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "Request is too large."));
    }
    Ok(Request::from_parts(parts, Body::from(whole.freeze())))
}

#[derive(Clone, Copy)]
struct RequestTimeout(Duration);

/// Cancelled when the server stops: answers that go on for long must end then. Without a server
/// (a request that is handed to the router itself) it never is.
#[derive(Clone, Debug, Default)]
pub struct Stopping(pub CancellationToken);

impl<S: Sync> FromRequestParts<S> for Stopping {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&'static str>().copied());
    text.unwrap_or("a handler panicked").to_owned()
}

/// Serves until `cancel`, then lets requests that are under way end.
///
/// HTTP/1.1 only, as Cinder: that way the time limit on heads covers a connection's first byte too.
///
/// # Errors
/// If the listener's address cannot be read.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let room = Arc::new(Semaphore::new(limits.connections.min(connections_possible())));
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { break };
        let connection = connection(stream, peer, router.clone(), limits, cancel.clone());
        tracker.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(limits.drain_timeout, tracker.wait()).await.is_err() {
        tracing::warn!(%address, left = tracker.len(), "stopped with requests still under way");
    }
    Ok(())
}

/// As many connections as leave the process some open files of its own: else a crowd of clients
/// would keep the journal and the volumes from being opened. Asks the system for all that it allows.
fn connections_possible() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::debug!(%error, "the limit of open files stays as it is"),
        }
    }
    let files = limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub(FILES_KEPT).max(1)
}

/// The next connection, once there is room for it. Nothing if the room is closed.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Some((stream, peer, permit)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ServerLimits,
    cancel: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn Nagle's algorithm off");
    }
    // a peer that takes nothing of its answers must not hold its connection for ever
    let unread_ms = u32::try_from(limits.request_timeout.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, unread_ms) {
        tracing::debug!(%error, "cannot limit how long an answer waits to be read");
    }
    let stopping = cancel.clone();
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(RequestTimeout(limits.request_timeout));
        request.extensions_mut().insert(Stopping(stopping.clone()));
        request.map(axum::body::Body::new)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
