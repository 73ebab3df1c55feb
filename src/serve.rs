//! `tephra serve`: how the server's roles are wired together, how it starts, and how it stops.

mod backends;
mod events;
mod images;
mod monitor;
mod nats;
mod turns;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tephra_api::auth::{Authenticator, NoAuth, TokenFile, check_listen};
use tephra_api::health::RoleBoard;
use tephra_api::images::ImageCatalog;
use tephra_api::server::{ServerLimits, router};
use tephra_api::state::{ApiSettings, App, AppState};
use tephra_domain::ids::BackendName;
use tephra_executors::backend::Backend;
use tephra_executors::copy::Neighbours;
use tephra_executors::image::{ImageStore, Images};
use tephra_executors::inventory::BackendInventory;
use tephra_executors::runner::{Runner, RunnerConfig};
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::feed::Feed;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::hash_chain::ChainHead;
use tephra_journal::ids::RandomIds;
use tephra_journal::in_process_queue::InProcessQueue;
use tephra_journal::inventory::{Inventory, InventoryDesk};
use tephra_journal::log::Log;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::ProgressBoard;
use tephra_journal::secrets::MasterKey;
use tephra_journal::sequencer::{
    CaughtUp, Sequencer, SequencerConfig, SequencerHandle, SequencerParts, bootstrap, catch_up_from,
};
use tephra_journal::work_queue::WorkQueue;
use tephra_projector::Views;
use tephra_projector::runner::{Health, Projector};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{AuthMode, BackendConfig, Config};
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::files::{SoundViews, journal_error, journal_file, open_views, verify_journal_hashes, views_file};
use crate::lock::{DataDirLock, ServerInfo};
use crate::output::Output;
use crate::roles::{RoleDied, RoleKind, Roles};
use crate::secrets::master_key;
use crate::serve::backends::{open_backends, open_lender};
use crate::serve::monitor::start_monitor;
use crate::serve::nats::NatsStage;

/// How long the backends may take to say how full they are before the server is ready without them.
const BACKEND_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
const BACKEND_POLL: Duration = Duration::from_millis(5);

/// A running server.
pub struct Server {
    roles: Roles,
    lock: DataDirLock,
    drain_limit: Duration,
    /// What it says about itself to clients, if it is an api.
    pub info: Option<ServerInfo>,
    /// Where the journal of this machine ended when it was verified, at the start.
    pub verified: Option<ChainHead>,
}

impl Server {
    /// Starts the roles, in order, and returns when they can do their work.
    ///
    /// # Errors
    /// [`Exit::InUse`], [`Exit::VerificationFailed`], [`Exit::Usage`] for a configuration that
    /// cannot work, or whatever else keeps it from starting.
    pub async fn start(config: &Config, output: Output) -> CommandResult<Self> {
        let auth = authenticator(config)?;
        let is_api = config.has(RoleKind::Api);
        if is_api {
            check_listen(config.listen, &auth).map_err(|_| open_to_all(config.listen))?;
        }
        make_data_dir(&config.data_dir)?;
        let lock = DataDirLock::acquire(&config.data_dir)?;
        let listener = if is_api { Some(listen(config.listen).await?) } else { None };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;

        let mut roles = Roles::default();
        let started =
            start_roles(config, listener.map(|listener| (listener, auth)), &mut roles, output).await;
        let drain_limit = Duration::from_secs(config.limits.drain_timeout_s);
        let verified = match started {
            Ok(verified) => verified,
            Err(error) => {
                // the first failure is the one to tell of
                drop(roles.stop(drain_limit).await);
                return Err(error);
            }
        };
        let info = address.map(|address| ServerInfo {
            url: format!("http://{}", reachable(address)),
            pid: std::process::id(),
            auth: config.auth.mode.as_str().to_owned(),
        });
        if let Some(info) = &info {
            lock.announce(info)?;
        }
        Ok(Self { roles, lock, drain_limit, info, verified })
    }

    /// Returns when a role has died.
    pub async fn died(&mut self) -> RoleDied {
        self.roles.died().await
    }

    /// Takes no more requests, finishes what is under way, and stops.
    ///
    /// # Errors
    /// [`Exit::RoleDied`] if a role did not end well.
    pub async fn stop(self) -> CommandResult {
        let withdrawn = self.lock.withdraw();
        // the api and the runners bound their own draining; a little more lets them say so
        let limit = self.drain_limit.saturating_add(Duration::from_secs(5));
        self.roles.stop(limit).await.exit(Exit::RoleDied)?;
        withdrawn
    }
}

/// Starts the roles that the configuration names. On the journal of this machine those are all.
async fn start_roles(
    config: &Config,
    api: Option<(TcpListener, Authenticator)>,
    roles: &mut Roles,
    output: Output,
) -> CommandResult<Option<ChainHead>> {
    let board = RoleBoard::default();
    let monitor = match config.monitor.listen {
        Some(address) => Some(start_monitor(config, address, &board, roles).await?),
        None => None,
    };
    let verified = if config.nats.is_used() {
        NatsStage::connect(config, board).await?.start(api, roles, output).await?;
        None
    } else {
        Some(start_on_one_machine(config, api, roles, output, board).await?)
    };
    if let Some(monitor) = monitor {
        monitor.started();
    }
    Ok(verified)
}

/// Starts all roles on the journal of this machine. Returns where that ended when it was verified.
async fn start_on_one_machine(
    config: &Config,
    api: Option<(TcpListener, Authenticator)>,
    roles: &mut Roles,
    output: Output,
    board: RoleBoard,
) -> CommandResult<ChainHead> {
    let log: Arc<dyn Log> =
        Arc::new(EmbeddedLog::open(&journal_file(&config.data_dir)).map_err(journal_error)?);
    let verifying = tokio::spawn(verify_journal_hashes(Arc::clone(&log), output));
    let loaded = load(&log, &views_file(&config.data_dir), output).await;
    // damage to the journal is the cause of whatever else went wrong
    let verified = verifying.await.map_err(anyhow::Error::from)??;
    let (views, state) = loaded?;
    let clock = Arc::new(SystemClock::not_before(state.head.time));
    let pools = PoolBoard::with_down_after(config.limits.service_down_time());
    let (desk, key) = (InventoryDesk::default(), master_key(config)?);
    let progress = ProgressBoard::default();
    let stage = Stage { clock, log, views, feed: Feed::new(), pools, progress, desk, key };
    stage.start(config, state, api, roles, board).await?;
    Ok(verified)
}

/// What the roles share where one process has all of them.
struct Stage {
    log: Arc<dyn Log>,
    views: Views,
    feed: Feed,
    pools: PoolBoard,
    progress: ProgressBoard,
    desk: InventoryDesk,
    clock: Arc<dyn Clock>,
    key: Option<MasterKey>,
}

impl Stage {
    async fn start(
        self,
        config: &Config,
        state: CaughtUp,
        api: Option<(TcpListener, Authenticator)>,
        roles: &mut Roles,
        board: RoleBoard,
    ) -> CommandResult {
        let queue = InProcessQueue::new(Arc::clone(&self.clock));
        let sequencer = self.start_sequencer(state, Arc::new(queue.clone()), roles);
        let gateway: Arc<dyn CommandGateway> = Arc::new(sequencer);
        start_projector(&self.views, &self.log, Some(self.feed.clone()), roles).await?;
        bootstrap(gateway.as_ref()).await?;
        let store = images::open_store(config)?;
        let images = store.clone().map(|store| images::open_worker(config, store)).transpose()?;
        let (opened, neighbours) = open_backends(config, self.key.as_ref()).await?;
        let neighbours = Arc::new(neighbours);
        for (backend, opened) in config.backends.iter().zip(opened) {
            let images = images.clone();
            let neighbours = Arc::clone(&neighbours);
            let inventory = Arc::new(BackendInventory::new(Arc::clone(&opened)));
            self.desk.open(opened.name().clone(), inventory);
            let (queue, gateway) = (Arc::new(queue.clone()), Arc::clone(&gateway));
            let (pools, clock) = (self.pools.clone(), Arc::clone(&self.clock));
            let progress = self.progress.clone();
            add_executor(&board, opened.name(), &pools, &clock);
            start_runner(
                config,
                backend,
                RunnerParts { opened, images, neighbours, queue, gateway, pools, progress, clock },
                roles,
            );
        }
        self.wait_for_backends(&config.backends).await;
        if let Some((listener, auth)) = api {
            let Self { log, views, pools, progress, clock, desk, key, .. } = self;
            let (inventory, images) = (Arc::new(desk), catalog(store));
            let parts = ApiParts {
                gateway,
                views,
                log,
                pools,
                progress,
                inventory,
                clock,
                auth,
                warning: None,
                images,
                key,
                board,
            };
            start_api(config, listener, parts, roles);
        }
        Ok(())
    }

    fn start_sequencer(
        &self,
        state: CaughtUp,
        queue: Arc<dyn WorkQueue>,
        roles: &mut Roles,
    ) -> SequencerHandle {
        let cancel = CancellationToken::new();
        let parts = SequencerParts {
            log: Arc::clone(&self.log),
            pools: self.pools.clone(),
            queue,
            feed: self.feed.clone(),
            clock: Arc::clone(&self.clock),
            ids: Arc::new(RandomIds),
            cancel: cancel.clone(),
            // The file is locked: nobody else can append.
            turn_of: None,
        };
        let handle = Sequencer::start(SequencerConfig::default(), state, parts);
        let watched = handle.clone();
        roles.add(RoleKind::Sequencer, cancel, async move {
            watched.drained().await.map_err(|error| error.to_string())
        });
        handle
    }

    /// So that the first volume finds a pool. A backend that cannot say how full it is may come
    /// later; until then nothing is placed on it.
    async fn wait_for_backends(&self, backends: &[BackendConfig]) {
        let names: Vec<BackendName> =
            backends.iter().map(|backend| BackendName::new(&*backend.name)).collect();
        let silent = || names.iter().find(|name| self.pools.last_report(name).is_none());
        let all = async {
            while silent().is_some() {
                tokio::time::sleep(BACKEND_POLL).await;
            }
        };
        if tokio::time::timeout(BACKEND_PATIENCE, all).await.is_err()
            && let Some(backend) = silent()
        {
            tracing::warn!(%backend, "the backend has not reported its capacity: no volume is placed on it yet");
        }
    }
}

/// Starts a projector and waits until it is up with the journal.
async fn start_projector(
    views: &Views,
    log: &Arc<dyn Log>,
    feed: Option<Feed>,
    roles: &mut Roles,
) -> CommandResult {
    let cancel = CancellationToken::new();
    let handle = Projector::start(views.clone(), Arc::clone(log), feed, cancel.clone());
    let (mut ready, mut ended) = (handle.watch_health(), handle.watch_health());
    roles.add(RoleKind::Projector, cancel, async move {
        let over = ended.wait_for(|health| matches!(health, Health::Stopped | Health::Failed { .. })).await;
        match over.map(|health| health.clone()) {
            Ok(Health::Failed { reason }) => Err(reason),
            Ok(Health::Stopped | Health::CatchingUp { .. } | Health::Following) => Ok(()),
            Err(_) => Err("its task is gone".to_owned()),
        }
    });
    let first = ready.wait_for(|health| !matches!(health, Health::CatchingUp { .. })).await;
    match first.map(|health| health.clone()) {
        Ok(Health::Following) => Ok(()),
        Ok(Health::Failed { reason }) => Err(CommandError::new(Exit::Error, reason)),
        Ok(Health::Stopped | Health::CatchingUp { .. }) | Err(_) => {
            Err(CommandError::new(Exit::Error, "the projector stopped before it was up with the journal"))
        }
    }
}

/// What an executor works with.
struct RunnerParts {
    opened: Arc<dyn Backend>,
    images: Option<Arc<Images>>,
    neighbours: Arc<Neighbours>,
    queue: Arc<dyn WorkQueue>,
    gateway: Arc<dyn CommandGateway>,
    pools: PoolBoard,
    progress: ProgressBoard,
    clock: Arc<dyn Clock>,
}

fn start_runner(config: &Config, backend: &BackendConfig, parts: RunnerParts, roles: &mut Roles) {
    let cancel = CancellationToken::new();
    let runner_config = RunnerConfig {
        parallelism: backend.parallelism,
        drain_limit: Duration::from_secs(config.limits.drain_timeout_s),
        images: parts.images.clone(),
        neighbours: Some(Arc::clone(&parts.neighbours)),
        progress: parts.progress.clone(),
        ..RunnerConfig::default()
    };
    let RunnerParts { opened, images: _, neighbours: _, queue, gateway, pools, progress: _, clock } = parts;
    let handle = Runner::start(runner_config, opened, queue, gateway, pools, clock, cancel.clone());
    roles.add(RoleKind::Executor, cancel, async move {
        handle.stopped().await;
        Ok(())
    });
}

/// What an api works with.
struct ApiParts {
    gateway: Arc<dyn CommandGateway>,
    views: Views,
    log: Arc<dyn Log>,
    pools: PoolBoard,
    progress: ProgressBoard,
    inventory: Arc<dyn Inventory>,
    clock: Arc<dyn Clock>,
    auth: Authenticator,
    warning: Option<String>,
    images: Option<Arc<dyn ImageCatalog>>,
    key: Option<MasterKey>,
    board: RoleBoard,
}

/// Has `/readyz` say whether a backend's executor reports.
fn add_executor(board: &RoleBoard, backend: &BackendName, pools: &PoolBoard, clock: &Arc<dyn Clock>) {
    let (name, pools, clock) = (backend.clone(), pools.clone(), Arc::clone(clock));
    board.add(format!("{} {backend}", RoleKind::Executor.as_str()), move || {
        let mut pools = pools.read(clock.now());
        pools.retain(|stats| stats.pool.backend == name);
        match (pools.len(), pools.iter().filter(|stats| stats.is_up).count()) {
            (0, _) => Err("the backend has not said yet how full it is".to_owned()),
            (all, up) if up == all => Ok(format!("{all} pools are up")),
            (all, up) => Err(format!("{up} of {all} pools are up")),
        }
    });
}

fn catalog(store: Option<Arc<dyn ImageStore>>) -> Option<Arc<dyn ImageCatalog>> {
    store.map(|store| -> Arc<dyn ImageCatalog> { Arc::new(images::Catalog(store)) })
}

fn start_api(config: &Config, listener: TcpListener, parts: ApiParts, roles: &mut Roles) {
    let ApiParts {
        gateway,
        views,
        log,
        pools,
        progress,
        inventory,
        clock,
        auth,
        warning,
        images,
        key,
        board,
    } = parts;
    let state = AppState::new(App {
        gateway,
        views,
        log,
        pools,
        progress,
        inventory,
        clock: Arc::new(move || clock.now()),
        auth,
        settings: ApiSettings {
            public_endpoint: config.public_endpoint.clone(),
            warning,
            images,
            master_key: key,
            roles: board,
        },
    });
    let (limits, cancel) = (server_limits(config), CancellationToken::new());
    let serving = tokio::spawn(tephra_api::server::serve(listener, router(state), limits, cancel.clone()));
    roles.add(RoleKind::Api, cancel, async move {
        match serving.await {
            Ok(served) => served.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    });
}

const fn server_limits(config: &Config) -> ServerLimits {
    ServerLimits {
        connections: config.limits.connections,
        head_timeout: Duration::from_secs(config.limits.header_timeout_s),
        request_timeout: Duration::from_secs(config.limits.request_timeout_s),
        drain_timeout: Duration::from_secs(config.limits.drain_timeout_s),
    }
}

/// The views, and the state at the end of the journal.
async fn load(log: &Arc<dyn Log>, path: &Path, output: Output) -> CommandResult<(Views, CaughtUp)> {
    let SoundViews { views, ledger } = open_views(log, path, output).await?;
    let saved = views.checkpoint().into();
    let mut state = catch_up_from(ledger, saved, log.as_ref()).await.map_err(journal_error)?;
    state.find_requests(log.as_ref()).await.map_err(journal_error)?;
    Ok((views, state))
}

/// Makes a data directory that only its owner can read, unless it is there.
///
/// # Errors
/// If it cannot be made.
pub fn make_data_dir(path: &Path) -> CommandResult {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the data directory {}", path.display()))?;
    Ok(())
}

async fn listen(address: SocketAddr) -> CommandResult<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let failed = CommandError::from(anyhow::Error::from(error).context(format!("cannot listen at {address}")));
        if in_use {
            failed.hint("another server is there (Cinder's own?); choose another address with --listen, port 0 for a free one")
        } else {
            failed
        }
    })
}

/// The address as a client on this machine reaches it: nobody can connect to "any address".
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip @ (std::net::IpAddr::V4(_) | std::net::IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn authenticator(config: &Config) -> CommandResult<Authenticator> {
    match (config.auth.mode, &config.auth.token_file) {
        (AuthMode::Tokens, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the token file {}", path.display()))
                .exit(Exit::Usage)?;
            let tokens =
                TokenFile::parse(&text).with_context(|| path.display().to_string()).exit(Exit::Usage)?;
            Ok(Authenticator::TokenFile(tokens))
        }
        (AuthMode::Tokens, None) => Err(CommandError::new(Exit::Usage, "auth.token_file is missing")),
        (AuthMode::Noauth, _) => Ok(Authenticator::NoAuth(NoAuth {
            everybody_is_admin: config.auth.everybody_is_admin,
            allow_any_address: config.auth.i_know_that_noauth_lets_everybody_in,
        })),
    }
}

fn open_to_all(address: SocketAddr) -> CommandError {
    let message = format!(
        "{address} can be reached from other machines, and noauth believes everybody who says to be an administrator"
    );
    CommandError::new(Exit::Usage, message).hint(
        "listen at 127.0.0.1, configure tokens ([auth] mode = \"tokens\"), or set [auth] i_know_that_noauth_lets_everybody_in = true",
    )
}

/// The data directory in full, for messages.
pub fn full_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
