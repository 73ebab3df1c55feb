//! Asking the ledger: over HTTP where a server runs, and in this process, of the files themselves,
//! where none does. Both ways are the same requests to the same API, so they give the same answers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use clap::Args;
use futures::Stream;
use futures::StreamExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::config::DEFAULT_DATA_DIR;
use crate::failure::{CommandError, CommandResult, Exit};
use crate::files::OfflineLedger;
use crate::lock::{Acquired, DataDirLock, announced, in_use};
use crate::output::Output;

/// The token of whoever has given none: a server with `noauth` takes it for an administrator.
const ADMIN_TOKEN: &str = "admin:admin";

/// What Cinder's part of the API is spoken in: reverting, for one, came with 3.40.
const MICROVERSION: &str = "volume 3.71";

/// How long a server may take to take a connection. Answers may take longer: verifying does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read from the API in this process, in bytes.
const MAX_LOCAL_BODY_BYTES: usize = 1 << 30;

/// Which ledger is meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which ledger")]
pub struct LedgerArgs {
    /// The server to ask. Default: the one that works on the data directory, or its files if none does.
    #[arg(long, env = "TEPHRA_URL", value_name = "URL")]
    pub url: Option<String>,

    /// The data directory.
    #[arg(long, env = "TEPHRA_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,

    /// Who is asking, where the server wants to know: its token.
    #[arg(long, env = "TEPHRA_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A ledger that can be asked.
pub enum LedgerClient {
    /// Through its server.
    Remote(Remote),
    /// In this process: read-only, because nothing would carry a command out.
    Offline(Box<OfflineLedger>),
}

/// A server.
pub struct Remote {
    http: reqwest::Client,
    base: String,
    token: String,
    // what a refused token can be explained with
    token_given: bool,
}

impl LedgerArgs {
    /// Finds the ledger that is meant.
    ///
    /// # Errors
    /// [`Exit::NotFound`] if there is none, [`Exit::InUse`] if another process that is no server
    /// works on it, and whatever is wrong with its files.
    pub async fn open(&self, output: Output) -> CommandResult<LedgerClient> {
        if let Some(url) = &self.url {
            return Ok(LedgerClient::Remote(Remote::new(url, self.token.as_deref())?));
        }
        self.require_ledger()?;
        match DataDirLock::try_acquire(&self.data_dir)? {
            Acquired::Locked(lock) => {
                let offline = OfflineLedger::open(lock, &self.data_dir, output).await?;
                Ok(LedgerClient::Offline(Box::new(offline)))
            }
            Acquired::HeldBy(pid) => match announced(&self.data_dir) {
                Some(server) => Ok(LedgerClient::Remote(Remote::new(&server.url, self.token.as_deref())?)),
                None => Err(in_use(&self.data_dir, pid)),
            },
        }
    }

    /// Insists that there is a journal.
    ///
    /// # Errors
    /// [`Exit::NotFound`].
    pub fn require_ledger(&self) -> CommandResult {
        if self.data_dir.join("ledger.redb").is_file() {
            return Ok(());
        }
        let message = format!("there is no ledger in {}", self.data_dir.display());
        Err(CommandError::new(Exit::NotFound, message).hint(
            "name its directory with --data-dir or its server with --url; `tephra serve` makes a new one",
        ))
    }
}

impl LedgerClient {
    /// Whether a server answers, which can also change things.
    pub const fn is_remote(&self) -> bool {
        match self {
            Self::Remote(_) => true,
            Self::Offline(_) => false,
        }
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// What the API says, with the exit code that fits its status.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> CommandResult<Value> {
        match self {
            Self::Remote(remote) => remote.json(remote.http.get(remote.url(path)).query(query)).await,
            Self::Offline(ledger) => ledger.json(Method::GET, &with_query(path, query)?).await,
        }
    }

    /// The answer to a POST.
    ///
    /// # Errors
    /// What the API says, with the exit code that fits its status; [`Exit::Unreachable`] where no
    /// server runs, because nothing would carry it out.
    pub async fn post(&self, path: &str, body: &Value) -> CommandResult<Value> {
        match self {
            Self::Remote(remote) => remote.json(remote.http.post(remote.url(path)).json(body)).await,
            Self::Offline(_) => Err(CommandError::new(Exit::Unreachable, "no server runs on this ledger")
                .hint("changes are carried out by a running server: start it with `tephra serve`")),
        }
    }

    /// The live events of a GET from after the event with this sequence on, as the data of each.
    ///
    /// # Errors
    /// What the API says; [`Exit::Unreachable`] where no server runs: nothing will happen there.
    pub async fn events(
        &self,
        path: &str,
        query: &[(&str, String)],
        after: &str,
    ) -> CommandResult<impl Stream<Item = CommandResult<Value>> + use<>> {
        match self {
            Self::Remote(remote) => {
                let request = remote.http.get(remote.url(path)).query(query);
                let request = request.header("Accept", "text/event-stream").header("Last-Event-ID", after);
                let response = remote.send(request).await?;
                let chunks = response.bytes_stream().map(|chunk| {
                    let chunk = chunk.map_err(|error| unreachable_server(error.into()))?;
                    Ok::<Vec<u8>, CommandError>(chunk.to_vec())
                });
                Ok(server_sent_events(chunks.boxed()))
            }
            Self::Offline(_) => Err(CommandError::new(
                Exit::Unreachable,
                "no server runs on this ledger, so nothing will happen there",
            )
            .hint("leave --follow out, or start the server with `tephra serve`")),
        }
    }
}

impl Remote {
    /// A server by its URL.
    ///
    /// # Errors
    /// [`Exit::Usage`] if that is none.
    pub fn new(url: &str, token: Option<&str>) -> CommandResult<Self> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            return Err(CommandError::new(Exit::Usage, format!("`{url}` is not the URL of a server"))
                .hint("it begins with http://, for example http://127.0.0.1:8776"));
        }
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().build()?;
        let token_given = token.is_some();
        Ok(Self { http, base, token: token.unwrap_or(ADMIN_TOKEN).to_owned(), token_given })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> CommandResult<reqwest::Response> {
        let request = request
            .header("X-Auth-Token", &self.token)
            .header("OpenStack-API-Version", MICROVERSION)
            .build()?;
        let method = request.method().clone();
        let response = self
            .http
            .execute(request)
            .await
            .with_context(|| format!("the server at {} does not answer", self.base))
            .map_err(unreachable_server)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| unreachable_server(error.into()))?;
        let error = fault(&method, status, &body);
        Err(if status == StatusCode::UNAUTHORIZED && !self.token_given {
            error.hint("this server knows its users: give a token with --token or TEPHRA_TOKEN")
        } else {
            error
        })
    }

    /// Sends a request with or without a JSON body and reads the JSON of its answer.
    ///
    /// # Errors
    /// As [`LedgerClient::get`].
    pub async fn send_json(&self, method: Method, path: &str, body: Option<&Value>) -> CommandResult<Value> {
        let mut request = self.http.request(method, self.url(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.json(request).await
    }

    /// Sends a request and reads the JSON of its answer.
    ///
    /// # Errors
    /// As [`LedgerClient::get`].
    async fn json(&self, request: reqwest::RequestBuilder) -> CommandResult<Value> {
        let body =
            self.send(request).await?.bytes().await.map_err(|error| unreachable_server(error.into()))?;
        parse(&body)
    }
}

impl OfflineLedger {
    async fn json(&self, method: Method, path: &str) -> CommandResult<Value> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("X-Auth-Token", ADMIN_TOKEN)
            .body(Body::empty())?;
        let response = match self.router().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), MAX_LOCAL_BODY_BYTES).await?;
        if status.is_success() { parse(&body) } else { Err(fault(&method, status, &body)) }
    }
}

fn parse(body: &[u8]) -> CommandResult<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(body).context("the answer is not JSON: is this a tephra server?")?)
}

fn unreachable_server(cause: anyhow::Error) -> CommandError {
    CommandError { exit: Exit::Unreachable, cause, hint: None }
}

/// What the API said instead of an answer, in Cinder's form: `{"itemNotFound": {"message": …}}`.
fn fault(method: &Method, status: StatusCode, body: &[u8]) -> CommandError {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed
        .as_ref()
        .and_then(Value::as_object)
        .and_then(|object| object.values().find_map(|inner| inner.get("message")?.as_str()))
        .map_or_else(|| format!("the server answered {status}"), str::to_owned);
    CommandError::new(exit_of(method, status), message)
}

fn exit_of(method: &Method, status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        // a question can only be put wrongly; a command can be refused for what is the case
        StatusCode::BAD_REQUEST if method == Method::GET => Exit::Usage,
        status if status.is_client_error() => Exit::Refused,
        _ => Exit::Error,
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> CommandResult<String> {
    // reqwest's url type knows how to escape; the authority is of no importance
    let mut url = reqwest::Url::parse("http://offline")?.join(path)?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
}

/// The `data:` of each event of the ledger on a stream of server-sent events. What has no id is none of them
/// and is skipped: comments (heartbeats), and how far long work has come.
fn server_sent_events(
    chunks: futures::stream::BoxStream<'static, CommandResult<Vec<u8>>>,
) -> impl Stream<Item = CommandResult<Value>> {
    futures::stream::unfold((chunks, SseBuffer::default()), |(mut chunks, mut buffer)| async move {
        loop {
            if let Some(data) = buffer.next_event() {
                let event = serde_json::from_str(&data).context("an event is not JSON").map_err(Into::into);
                return Some((event, (chunks, buffer)));
            }
            match chunks.next().await {
                Some(Ok(chunk)) => buffer.bytes.extend_from_slice(&chunk),
                Some(Err(error)) => return Some((Err(error), (chunks, buffer))),
                None => return None,
            }
        }
    })
}

#[derive(Default)]
struct SseBuffer {
    bytes: Vec<u8>,
}

impl SseBuffer {
    /// Takes the next whole event out, if there is one with an id and data.
    fn next_event(&mut self) -> Option<String> {
        loop {
            let end = self.bytes.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.bytes.drain(..end.saturating_add(2)).collect();
            let text = String::from_utf8_lossy(&event);
            let data: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
            let has_id = text.lines().any(|line| line.starts_with("id:"));
            if has_id && !data.is_empty() {
                return Some(data.join("\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_network_cuts_them() {
        let mut buffer = SseBuffer::default();
        buffer.bytes.extend_from_slice(b": heartbeat\n\nid: 1.0\nevent: a\ndata: {\"a\"");
        assert_eq!(buffer.next_event(), None);
        buffer.bytes.extend_from_slice(b":1}\n\nevent: progress\ndata: {}\n\nid: 1.1\ndata: 2\n\n");
        assert_eq!(buffer.next_event().as_deref(), Some("{\"a\":1}"));
        assert_eq!(buffer.next_event().as_deref(), Some("2"));
        assert_eq!(buffer.next_event(), None);
    }

    #[test]
    fn a_fault_of_the_server_becomes_a_message_and_an_exit_code() {
        let body = br#"{"itemNotFound": {"code": 404, "message": "Volume x could not be found."}}"#;
        let error = fault(&Method::GET, StatusCode::NOT_FOUND, body);
        assert_eq!(
            (error.exit, error.cause.to_string().as_str()),
            (Exit::NotFound, "Volume x could not be found.")
        );
        assert_eq!(fault(&Method::GET, StatusCode::BAD_REQUEST, b"").exit, Exit::Usage);
        assert_eq!(fault(&Method::POST, StatusCode::BAD_REQUEST, b"").exit, Exit::Refused);
        assert_eq!(fault(&Method::GET, StatusCode::FORBIDDEN, b"").exit, Exit::Refused);
        assert_eq!(fault(&Method::GET, StatusCode::BAD_GATEWAY, b"<html>").exit, Exit::Error);
    }

    #[test]
    fn queries_are_escaped() {
        let path = with_query("/ledger/v1/events", &[("project", "a b&c".to_owned())]).unwrap();
        assert_eq!(path, "/ledger/v1/events?project=a+b%26c");
        assert_eq!(with_query("/x", &[]).unwrap(), "/x");
    }

    #[test]
    fn a_url_without_its_scheme_is_refused() {
        assert_eq!(Remote::new("localhost:8776", None).err().map(|error| error.exit), Some(Exit::Usage));
    }
}
