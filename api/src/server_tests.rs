//! The listener and the layer that all requests pass, over real sockets.

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

async fn serve_on(router: Router, limits: ServerLimits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let cancel = CancellationToken::new();
    let task = tokio::spawn(serve(listener, router, limits, cancel.clone()));
    Server { address, cancel, task }
}

fn small_router() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/body", post(|body: String| async move { body.len().to_string() }))
        .route("/panic", get(|| async { panic_now() }))
        .route("/never", get(std::future::pending::<&'static str>))
        .route(
            "/until-stopped",
            get(|Stopping(stop): Stopping| async move {
                stop.cancelled().await;
                "stopped"
            }),
        )
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(edge))
}

#[allow(clippy::panic, reason = "this is what the test is about")]
fn panic_now() -> &'static str {
    panic!("on purpose")
}

/// Sends bytes and reads until the server closes or says `enough`.
async fn talk(address: SocketAddr, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("to be heard");
    listen(&mut stream, enough).await
}

async fn listen(stream: &mut TcpStream, enough: &str) -> String {
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    let hearing = async {
        loop {
            let read = stream.read(&mut chunk).await.unwrap_or(0);
            heard.extend_from_slice(&chunk[..read]);
            if read == 0 || (!enough.is_empty() && String::from_utf8_lossy(&heard).contains(enough)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hearing).await.expect("an answer in time");
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let server = serve_on(small_router(), ServerLimits::default()).await;
    let two = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let last = "GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let heard = talk(server.address, format!("{two}{last}").as_bytes(), "").await;
    assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), 3, "{heard}");
    assert_eq!(heard.matches("\r\n\r\nhello").count(), 3, "{heard}");
    assert_eq!(heard.matches("x-compute-request-id: req-").count(), 3, "{heard}");
}

#[tokio::test]
async fn a_panic_is_a_fault_and_the_server_goes_on() {
    let server = serve_on(small_router(), ServerLimits::default()).await;
    for _ in 0..2 {
        let request = b"GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let heard = talk(server.address, request, "").await;
        assert!(heard.starts_with("HTTP/1.1 500"), "{heard}");
        assert!(heard.contains("computeFault") && !heard.contains("on purpose"), "{heard}");
    }
}

#[tokio::test]
async fn a_request_may_not_take_for_ever() {
    let limits = ServerLimits { request_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let server = serve_on(small_router(), limits).await;
    for request in [
        &b"GET /never HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"[..],
        b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhalf",
    ] {
        let heard = talk(server.address, request, "The request took too long.").await;
        assert!(heard.starts_with("HTTP/1.1 408"), "{heard}");
    }
}

#[tokio::test]
async fn clients_that_say_nothing_or_too_slowly_are_hung_up_on() {
    let limits = ServerLimits { head_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = serve_on(small_router(), limits).await;
    for bytes in [&b""[..], b"GET /hello HTTP/1.1\r\nho", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"] {
        // the third one is answered, and hung up on when nothing follows
        let heard = talk(server.address, bytes, "").await;
        assert_eq!(heard.contains("200 OK"), bytes.ends_with(b"\r\n\r\n"), "{heard}");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let server = serve_on(small_router(), ServerLimits::default()).await;
    for (length, status) in [(MAX_BODY_BYTES, "HTTP/1.1 200"), (MAX_BODY_BYTES + 1, "HTTP/1.1 413")] {
        let head = format!(
            "POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        let body = "x".repeat(length);
        let heard = talk(server.address, format!("{head}{body}").as_bytes(), "\r\n\r\n").await;
        assert!(heard.starts_with(status), "{length}: {heard}");
    }
}

#[tokio::test]
async fn what_is_no_http_does_no_harm() {
    let server = serve_on(small_router(), ServerLimits::default()).await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(MAX_HEAD_BYTES));
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"NONSENSE\r\n\r\n", long.as_bytes()] {
        let heard = talk(server.address, bytes, "").await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{heard}");
    }
    let heard = talk(server.address, b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "hello").await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_wait_their_turn() {
    let limits = ServerLimits { connections: 4, ..ServerLimits::default() };
    let server = serve_on(small_router(), limits).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("to be heard");
        listen(&mut stream, "hello").await;
        idle.push(stream);
    }
    let mut fifth = TcpStream::connect(server.address).await.expect("a place in the queue");
    fifth.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("to be heard later");
    idle.pop();
    assert!(listen(&mut fifth, "hello").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_takes_no_more() {
    let server = serve_on(small_router(), ServerLimits::default()).await;
    let mut under_way = TcpStream::connect(server.address).await.expect("a connection");
    let mut idle = TcpStream::connect(server.address).await.expect("a connection");
    let hello = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    idle.write_all(hello).await.expect("to be heard");
    listen(&mut idle, "hello").await;
    // answered, so the connection is served before the stop; the second request is the one under way
    under_way.write_all(hello).await.expect("to be heard");
    listen(&mut under_way, "hello").await;
    under_way.write_all(b"GET /until-stopped HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("to be heard");
    server.cancel.cancel();
    let ended = tokio::time::timeout(PATIENCE, server.task).await.expect("an end in time");
    assert!(ended.expect("no panic").is_ok());
    assert_eq!(listen(&mut idle, "").await, "", "an idle connection is closed");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let limits = ServerLimits { drain_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let server = serve_on(small_router(), limits).await;
    let mut stuck = TcpStream::connect(server.address).await.expect("a connection");
    stuck.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("to be heard");
    listen(&mut stuck, "hello").await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("to be heard");
    server.cancel.cancel();
    let ended = tokio::time::timeout(PATIENCE, server.task).await.expect("an end in time");
    assert!(ended.expect("no panic").is_ok());
}
