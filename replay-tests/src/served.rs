//! A whole server in one process, without a socket: log in memory, sequencer, views in a temporary
//! folder, a backend in memory, and the router that requests are handed to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tephra_api::auth::{Authenticator, NoAuth};
use tephra_api::state::{ApiSettings, App, AppState};
use tephra_domain::actor::Actor;
use tephra_domain::command::Command;
use tephra_domain::ids::{CommandId, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_executors::backend::Backend;
use tephra_executors::backend::memory::{MemoryBackend, MemoryConfig};
use tephra_executors::inventory::BackendInventory;
use tephra_executors::runner::{Runner, RunnerConfig};
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::feed::Feed;
use tephra_journal::gateway::{CommandGateway, Submission};
use tephra_journal::ids::RandomIds;
use tephra_journal::in_process_queue::InProcessQueue;
use tephra_journal::inventory::InventoryDesk;
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::memory::MemoryLog;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::ProgressBoard;
use tephra_journal::sequencer::{
    Sequencer, SequencerConfig, SequencerHandle, SequencerParts, bootstrap, catch_up,
};
use tephra_journal::work_queue::WorkQueue;
use tephra_projector::Views;
use tephra_projector::runner::Projector;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

/// How long anything may take in a test before it is called stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether effects are performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executor {
    /// At once: operations end.
    Works,
    /// Never: operations stay open, so that transitional statuses can be looked at.
    Sleeps,
}

/// The server.
pub struct Served {
    /// Where requests go.
    pub router: Router,
    /// Its views.
    pub views: Views,
    /// Its backend.
    pub backend: MemoryBackend,
    /// How far its executor says that it has come.
    pub progress: ProgressBoard,
    /// Its sequencer.
    pub gateway: SequencerHandle,
    stop: tokio_util::sync::DropGuard,
    _folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null if it is empty or no JSON.
    pub json: Value,
}

/// Somebody who asks.
#[derive(Clone)]
pub struct Client<'a> {
    served: &'a Served,
    /// `/v3` or `/v3/<project>`.
    prefix: String,
    headers: Vec<(String, String)>,
}

impl Served {
    /// Starts one that believes every token.
    pub async fn start(executor: Executor) -> Self {
        Self::with_auth(executor, Authenticator::NoAuth(NoAuth::default())).await
    }

    /// Starts one.
    pub async fn with_auth(executor: Executor, auth: Authenticator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let feed = Feed::new();
        let (pools, progress) = (PoolBoard::default(), ProgressBoard::default());
        let cancel = CancellationToken::new();
        let queue: Arc<dyn WorkQueue> = Arc::new(InProcessQueue::new(Arc::clone(&clock)));
        let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
        Projector::start(views.clone(), Arc::clone(&log), Some(feed.clone()), cancel.clone());
        let start = catch_up(Ledger::default(), BlockNumber::default(), log.as_ref()).await.unwrap();
        let parts = SequencerParts {
            log: Arc::clone(&log),
            pools: pools.clone(),
            queue: Arc::clone(&queue),
            feed,
            clock: Arc::clone(&clock),
            ids: Arc::new(RandomIds),
            cancel: cancel.clone(),
            turn_of: None,
        };
        let gateway = Sequencer::start(SequencerConfig::default(), start, parts);
        bootstrap(&gateway).await.unwrap();
        let backend = MemoryBackend::new(MemoryConfig::new("memory"));
        let register = Command::RegisterBackend {
            backend: backend.name().clone(),
            description: Box::new(backend.description()),
        };
        let registered = gateway.submit(by_system(register)).await.unwrap();
        for stats in backend.stats(clock.now()).await.unwrap() {
            pools.report(stats);
        }
        if executor == Executor::Works {
            let works: Arc<dyn CommandGateway> = Arc::new(gateway.clone());
            let worker = Arc::new(backend.clone());
            let (pools, clock, cancel) = (pools.clone(), Arc::clone(&clock), cancel.clone());
            let config = RunnerConfig { progress: progress.clone(), ..RunnerConfig::default() };
            Runner::start(config, worker, queue, works, pools, clock, cancel);
        }
        tokio::time::timeout(PATIENCE, views.wait_for(registered.position())).await.unwrap();
        let desk = InventoryDesk::default();
        if executor == Executor::Works {
            let worker: Arc<dyn Backend> = Arc::new(backend.clone());
            desk.open(backend.name().clone(), Arc::new(BackendInventory::new(worker)));
        }
        let state = AppState::new(App {
            inventory: Arc::new(desk),
            gateway: Arc::new(gateway.clone()),
            views: views.clone(),
            log,
            pools,
            progress: progress.clone(),
            clock: Arc::new(move || clock.now()),
            auth,
            settings: ApiSettings::default(),
        });
        let router = tephra_api::server::router(state);
        Self { router, views, backend, progress, gateway, stop: cancel.drop_guard(), _folder: folder }
    }

    /// Somebody with a token, on paths without a project, at the newest microversion.
    pub fn client(&self, token: &str) -> Client<'_> {
        let client = Client { served: self, prefix: "/v3".to_owned(), headers: Vec::new() };
        client.with("x-auth-token", token).at("3.71")
    }

    /// The administrator of project `demo`.
    pub fn admin(&self) -> Client<'_> {
        self.client("admin:demo")
    }

    /// A member of project `demo`.
    pub fn member(&self) -> Client<'_> {
        self.client("alice:demo")
    }

    /// Waits until all that is done shows in the views and `is_met` holds.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn until(&self, what: &str, mut is_met: impl FnMut(&Views) -> bool) {
        let met = async {
            loop {
                let seen = self.views.checkpoint().position;
                if is_met(&self.views) {
                    return;
                }
                self.views.wait_for(seen.next()).await;
            }
        };
        tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }

    /// Stops what runs.
    pub fn stop(self) {
        drop(self.stop);
    }
}

/// A command of the system's own, such as an executor's.
pub fn by_system(command: Command) -> Submission {
    let id = Uuid::new_v4();
    Submission {
        id: CommandId::from_uuid(id),
        request: RequestId::new(format!("req-{id}")),
        actor: Actor::system(),
        idempotency: None,
        command,
    }
}

impl Client<'_> {
    /// The same with another header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same at another microversion.
    #[must_use]
    pub fn at(self, version: &str) -> Self {
        let value = format!("volume {version}");
        self.with("openstack-api-version", &value)
    }

    /// The same on paths that name a project.
    #[must_use]
    pub fn under(mut self, project: &str) -> Self {
        self.prefix = format!("/v3/{project}");
        self
    }

    /// The same on whole paths, from the root on.
    #[must_use]
    pub fn at_root(mut self) -> Self {
        self.prefix.clear();
        self
    }

    /// Sends a request with a body of these bytes.
    ///
    /// # Panics
    /// If there is no answer, which a router always gives.
    pub async fn send(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Reply {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("{}{path}", self.prefix))
            .header("host", "tephra.example:8776");
        let typed = self.headers.iter().any(|(name, _)| name == "content-type");
        if body.is_some() && !typed {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body.map_or_else(Body::empty, Body::from)).unwrap();
        let response = self.served.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, json }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, None).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Some(body.to_string().into_bytes())).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, Some(body.to_string().into_bytes())).await
    }

    /// Creates a volume of this size and waits until it is available; its id.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn volume(&self, size_gib: u32) -> String {
        let reply = self.post("/volumes", &serde_json::json!({"volume": {"size": size_gib}})).await;
        let id = reply.ok().id("volume");
        self.becomes("volume", &id, "available").await;
        id
    }

    /// Takes a snapshot and waits until it is available; its id.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn snapshot(&self, volume: &str) -> String {
        let body = serde_json::json!({"snapshot": {"volume_id": volume}});
        let id = self.post("/snapshots", &body).await.ok().id("snapshot");
        self.becomes("snapshot", &id, "available").await;
        id
    }

    /// Waits until a volume or snapshot has a status.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn becomes(&self, kind: &str, id: &str, status: &str) {
        self.served
            .until(&format!("{kind} {id} is {status}"), |views| {
                let found = match kind {
                    "volume" => {
                        let row = views.volume(id.parse().unwrap()).unwrap();
                        row.map(|row| row.status.wire_name())
                    }
                    _ => {
                        let row = views.snapshot(id.parse().unwrap()).unwrap();
                        row.map(|row| row.status.wire_name())
                    }
                };
                found.unwrap_or("gone") == status
            })
            .await;
    }
}

impl Reply {
    /// Itself, if it is a success.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{}: {}", self.status, self.json);
        self
    }

    /// The id of what it shows under `key`.
    ///
    /// # Panics
    /// If there is none.
    pub fn id(&self, key: &str) -> String {
        self.json[key]["id"].as_str().unwrap_or_else(|| panic!("no {key} in {}", self.json)).to_owned()
    }

    /// The name and message of a fault.
    pub fn fault(&self) -> (String, String) {
        let Some((name, fault)) = self.json.as_object().and_then(|body| body.iter().next()) else {
            return (String::new(), String::new());
        };
        assert_eq!(fault["code"], self.status.as_u16(), "{}", self.json);
        (name.clone(), fault["message"].as_str().unwrap_or_default().to_owned())
    }

    /// The names of the fields under `key`.
    pub fn fields(&self, key: &str) -> Vec<&str> {
        self.json[key]
            .as_object()
            .map(|fields| fields.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }
}
