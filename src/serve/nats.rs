//! A process of a deployment on NATS: any subset of the roles, each over the ports' adapters there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use tephra_api::auth::Authenticator;
use tephra_api::health::RoleBoard;
use tephra_domain::ids::BackendName;
use tephra_executors::backend::Backend;
use tephra_executors::copy::Neighbours;
use tephra_executors::image::Images;
use tephra_executors::inventory::BackendInventory;
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::gateway::CommandGateway;
use tephra_journal::inventory::Inventory;
use tephra_journal::jetstream::{
    GatewayConfig, JetStreamEvents, JetStreamLog, JetStreamQueue, Leadership, LeadershipConfig, NatsConfig,
    NatsError, NatsGateway, NatsInventory, NatsLoans, QueueConfig, Speaker, Warning, connect, follow_pools,
    follow_progress, publish_pools, publish_progress, serve_inventory, serve_loans,
};
use tephra_journal::loans::Lender;
use tephra_journal::log::Log;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::{FORGOTTEN_AFTER, ProgressBoard};
use tephra_projector::Views;
use tephra_projector::reactors::public_events::PublicEvents;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::events::{EventsTurn, publish_by_turns};
use super::images::{open_store, open_worker};
use super::turns::{Candidate, SequencerTurn, take_turns};
use super::{
    ApiParts, RunnerParts, add_executor, catalog, open_backends, open_lender, start_api, start_projector,
    start_runner,
};
use crate::config::{BackendConfig, Config};
use crate::failure::{CommandError, CommandResult, Exit};
use crate::files::{SoundViews, open_views, views_file};
use crate::output::Output;
use crate::roles::{RoleKind, Roles};
use crate::secrets::master_key;

/// The pause before something is tried again that was not there.
const PATIENT_PAUSE: Duration = Duration::from_millis(500);

/// How long an executor's order is its own without a sign of life: three of the runner's.
const ORDER_LEASE: Duration = Duration::from_secs(15);

/// What the roles of this process share.
pub(super) struct NatsStage<'a> {
    config: &'a Config,
    nats: NatsConfig,
    client: Client,
    clock: Arc<dyn Clock>,
    /// What `/readyz` says of the roles, if this process answers it.
    board: RoleBoard,
}

/// What an executor works with besides NATS.
struct Worker {
    opened: Arc<dyn Backend>,
    images: Option<Arc<Images>>,
    neighbours: Arc<Neighbours>,
}

/// The ledger as this process sees it.
struct Ledger {
    log: Arc<dyn Log>,
    views: Views,
    warning: Warning,
}

impl<'a> NatsStage<'a> {
    /// Connects, as soon as a server answers.
    ///
    /// # Errors
    /// If none lets us in.
    pub(super) async fn connect(config: &'a Config, board: RoleBoard) -> CommandResult<Self> {
        let nats = config.nats.adapter()?;
        let roles: Vec<&str> = config.roles.iter().map(|role| role.as_str()).collect();
        let name = format!("tephra {} on {}", roles.join("+"), config.host());
        // After a loss of power the servers may need longer than we.
        let client = patiently(async || connect(&nats, &name).await).await?;
        if config.nats.allow_unsynced {
            tracing::error!(
                "--allow-unsynced: NATS servers are taken even if they lose acknowledged commands on power loss"
            );
        }
        let clock = Arc::new(SystemClock::default());
        Ok(Self { config, nats, client, clock, board })
    }

    /// Starts the roles of this process, and returns when they can work.
    ///
    /// # Errors
    /// What keeps one of them from starting.
    pub(super) async fn start(
        &self,
        api: Option<(TcpListener, Authenticator)>,
        roles: &mut Roles,
        output: Output,
    ) -> CommandResult {
        if self.config.has(RoleKind::Executor) {
            let store = open_store(self.config)?;
            let images = store.map(|store| open_worker(self.config, store)).transpose()?;
            let (opened, neighbours) = open_backends(self.config, master_key(self.config)?.as_ref()).await?;
            let lender = open_lender(self.config, &opened).await?;
            let loans = NatsLoans::new(self.client.clone(), self.nats.cell.clone());
            let neighbours = Arc::new(neighbours.among_others(Arc::new(loans), lender.is_some()));
            for (backend, opened) in self.config.backends.iter().zip(opened) {
                if let Some(lender) = &lender {
                    self.start_lending(opened.name().clone(), Arc::clone(lender), roles);
                }
                let worker = Worker { opened, images: images.clone(), neighbours: Arc::clone(&neighbours) };
                self.start_executor(backend, worker, roles).await?;
            }
        }
        let has_any = |any: &[RoleKind]| any.iter().any(|role| self.config.has(*role));
        let needs_views = has_any(&[RoleKind::Api, RoleKind::Sequencer, RoleKind::Projector]);
        if !needs_views && !self.config.has(RoleKind::Events) {
            return Ok(());
        }
        let (log, warning) = self.open_log().await?;
        if self.config.has(RoleKind::Events) {
            self.start_events(Arc::clone(&log), roles);
        }
        if !needs_views {
            return Ok(());
        }
        let SoundViews { views, .. } = open_views(&log, &views_file(&self.config.data_dir), output).await?;
        let ledger = Ledger { log, views, warning };
        if self.config.has(RoleKind::Sequencer) {
            // Before the projector is up: the candidate reads the state that was just verified.
            self.start_candidate(&ledger, roles).await?;
        }
        // The api answers from views of its own, and a candidate begins its turns from them.
        start_projector(&ledger.views, &ledger.log, None, roles).await?;
        if let Some((listener, auth)) = api {
            let pools = self.heard_pools(RoleKind::Api, roles);
            let progress = self.heard_progress(roles);
            let gateway = self.gateway(&Speaker::Api);
            let told = gateway.clone();
            self.board.add_warning(move || told.warning());
            let warning = Arc::clone(&ledger.warning);
            self.board.add_warning(move || warning());
            let parts = ApiParts {
                gateway: Arc::new(gateway),
                views: ledger.views,
                log: ledger.log,
                pools,
                progress,
                inventory: Arc::new(NatsInventory::new(self.client.clone(), self.nats.cell.clone())),
                clock: Arc::clone(&self.clock),
                auth,
                warning: None,
                images: catalog(open_store(self.config)?),
                key: master_key(self.config)?,
                board: self.board.clone(),
            };
            start_api(self.config, listener, parts, roles);
        }
        Ok(())
    }

    /// The log, and what is to be said about its servers.
    async fn open_log(&self) -> CommandResult<(Arc<dyn Log>, Warning)> {
        let log = if self.config.has(RoleKind::Sequencer) {
            patiently(async || JetStreamLog::open(&self.client, &self.nats).await).await?
        } else {
            // The first sequencer makes the ledger: processes may be started in any order.
            patiently(async || JetStreamLog::open_to_read(&self.client, &self.nats).await).await?
        };
        let (asked, allow_unsynced) = (log.clone(), self.config.nats.allow_unsynced);
        let unsynced = "started with --allow-unsynced: acknowledged commands may be lost on power loss";
        let warning =
            move || asked.health().warning().or_else(|| allow_unsynced.then(|| unsynced.to_owned()));
        Ok((Arc::new(log), Arc::new(warning)))
    }

    /// Publishes events when it is this process's turn to. Nobody waits for it.
    fn start_events(&self, log: Arc<dyn Log>, roles: &mut Roles) {
        let stop = CancellationToken::new();
        let stream = JetStreamEvents::new(&self.client, &self.nats);
        let events = PublicEvents::new(log, Arc::new(stream), self.nats.cell.clone());
        let (client, nats, lease) = (self.client.clone(), self.nats.clone(), self.lease());
        let (stopped, turn) = (stop.clone(), EventsTurn::shown_on(&self.board, &events));
        let publishing =
            tokio::spawn(
                async move { publish_by_turns(&client, &nats, lease, events, &turn, &stopped).await },
            );
        roles.add(RoleKind::Events, stop, async move { publishing.await.map_err(|panic| panic.to_string()) });
    }

    fn lease(&self) -> LeadershipConfig {
        LeadershipConfig { candidate: self.config.host(), lease: self.config.nats.lease() }
    }

    fn gateway(&self, speaker: &Speaker) -> NatsGateway {
        NatsGateway::new(self.client.clone(), &self.nats.cell, speaker, GatewayConfig::default())
    }

    /// A board of what executors say.
    fn heard_pools(&self, listener: RoleKind, roles: &mut Roles) -> PoolBoard {
        let board = PoolBoard::with_down_after(self.config.limits.service_down_time());
        let cancel = CancellationToken::new();
        let (client, cell) = (self.client.clone(), self.nats.cell.clone());
        let (heard, clock, stop) = (board.clone(), Arc::clone(&self.clock), cancel.clone());
        roles.add(listener, cancel, async move {
            follow_pools(&client, &cell, &heard, &clock, stop).await.map_err(|error| error.to_string())
        });
        board
    }

    async fn start_candidate(&self, ledger: &Ledger, roles: &mut Roles) -> CommandResult {
        let stop = CancellationToken::new();
        let pools = self.heard_pools(RoleKind::Sequencer, roles);
        let queue = patiently(async || {
            let never = CancellationToken::new();
            JetStreamQueue::open(&self.client, &self.nats, order_queue(), never).await
        })
        .await?;
        let lease = self.lease();
        let leadership =
            patiently(async || Leadership::open(&self.client, &self.nats, lease.clone()).await).await?;
        let candidate = Candidate {
            client: self.client.clone(),
            nats: self.nats.clone(),
            leadership,
            log: Arc::clone(&ledger.log),
            views: ledger.views.clone(),
            queue: Arc::new(queue),
            pools,
            turn: SequencerTurn::shown_on(&self.board),
            warning: Arc::clone(&ledger.warning),
        };
        let turns = tokio::spawn(take_turns(candidate, stop.clone()));
        roles.add(RoleKind::Sequencer, stop, async move {
            match turns.await {
                Ok(ended) => ended,
                Err(panic) => Err(panic.to_string()),
            }
        });
        Ok(())
    }

    async fn start_executor(
        &self,
        backend: &BackendConfig,
        worker: Worker,
        roles: &mut Roles,
    ) -> CommandResult {
        let Worker { opened, images, neighbours } = worker;
        let name = BackendName::new(&*backend.name);
        let queue =
            JetStreamQueue::open_to_take(&self.client, &self.nats, order_queue(), CancellationToken::new())
                .await
                .map_err(nats_error)?;
        let gateway: Arc<dyn CommandGateway> = Arc::new(self.gateway(&Speaker::Executor(name.clone())));
        // Its own board: what it says is not mixed with what it hears.
        let (board, cancel) = (PoolBoard::default(), CancellationToken::new());
        let (client, cell) = (self.client.clone(), self.nats.cell.clone());
        add_executor(&self.board, &name, &board, &self.clock);
        let (said, clock, stop) = (board.clone(), Arc::clone(&self.clock), cancel.clone());
        let telling = tokio::spawn(async move {
            publish_pools(&client, &cell, &name, &said, &clock, stop).await;
        });
        roles.add(
            RoleKind::Executor,
            cancel,
            async move { telling.await.map_err(|panic| panic.to_string()) },
        );
        self.start_inventory(&opened, roles);
        let progress = self.told_progress(opened.name().clone(), roles);
        let (queue, clock) = (Arc::new(queue), Arc::clone(&self.clock));
        let parts = RunnerParts { opened, images, neighbours, queue, gateway, pools: board, progress, clock };
        start_runner(self.config, backend, parts, roles);
        Ok(())
    }
}

impl NatsStage<'_> {
    /// Answers what is on the backend's pools.
    fn start_inventory(&self, opened: &Arc<dyn Backend>, roles: &mut Roles) {
        let inventory: Arc<dyn Inventory> = Arc::new(BackendInventory::new(Arc::clone(opened)));
        let (backend, cancel) = (opened.name().clone(), CancellationToken::new());
        let (client, cell, stop) = (self.client.clone(), self.nats.cell.clone(), cancel.clone());
        let answering = tokio::spawn(async move {
            serve_inventory(&client, &cell, &backend, &inventory, stop)
                .await
                .map_err(|error| error.to_string())
        });
        roles.add(RoleKind::Executor, cancel, async move {
            match answering.await {
                Ok(ended) => ended,
                Err(panic) => Err(panic.to_string()),
            }
        });
    }
}

impl NatsStage<'_> {
    /// A board of how far executors say that they have come.
    fn heard_progress(&self, roles: &mut Roles) -> ProgressBoard {
        let (board, cancel) =
            (ProgressBoard::with_forgotten_after(FORGOTTEN_AFTER), CancellationToken::new());
        let (client, cell, heard) = (self.client.clone(), self.nats.cell.clone(), board.clone());
        let (clock, stop) = (Arc::clone(&self.clock), cancel.clone());
        roles.add(RoleKind::Api, cancel, async move {
            follow_progress(&client, &cell, &heard, &clock, stop).await.map_err(|error| error.to_string())
        });
        board
    }

    /// A board whose word on a backend everybody is told.
    fn told_progress(&self, backend: BackendName, roles: &mut Roles) -> ProgressBoard {
        let (board, cancel) = (ProgressBoard::default(), CancellationToken::new());
        let (client, cell, told) = (self.client.clone(), self.nats.cell.clone(), board.clone());
        let (clock, stop) = (Arc::clone(&self.clock), cancel.clone());
        let telling = tokio::spawn(async move {
            publish_progress(&client, &cell, &backend, &told, &clock, stop).await;
        });
        roles.add(
            RoleKind::Executor,
            cancel,
            async move { telling.await.map_err(|panic| panic.to_string()) },
        );
        board
    }
}

impl NatsStage<'_> {
    /// Lends what the backend holds to executors of other processes.
    fn start_lending(&self, backend: BackendName, lender: Arc<dyn Lender>, roles: &mut Roles) {
        let cancel = CancellationToken::new();
        let (client, cell, stop) = (self.client.clone(), self.nats.cell.clone(), cancel.clone());
        let lending = tokio::spawn(async move {
            let served = serve_loans(&client, &cell, &backend, &lender, stop).await;
            served.map_err(|error| error.to_string())
        });
        roles.add(RoleKind::Executor, cancel, async move {
            match lending.await {
                Ok(ended) => ended,
                Err(panic) => Err(panic.to_string()),
            }
        });
    }
}

fn order_queue() -> QueueConfig {
    QueueConfig { lease: ORDER_LEASE, ..QueueConfig::default() }
}

/// Tries until it works: servers may be started later than we, those that elect among themselves do not
/// answer for a while, and what one process waits for another makes. What cannot get better by waiting is
/// an error at once.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, NatsError>) -> CommandResult<T> {
    let mut said = false;
    loop {
        let (what, reason) = match attempt().await {
            Ok(done) => return Ok(done),
            Err(NatsError::JetStream { what, reason }) => (what, reason),
            Err(NatsError::Unreachable { servers, reason }) => {
                (format!("a NATS server at {servers}"), reason)
            }
            Err(
                error @ (NatsError::Refused(_)
                | NatsError::Placement { .. }
                | NatsError::File { .. }
                | NatsError::Connect { .. }),
            ) => return Err(nats_error(error)),
        };
        if !said {
            tracing::warn!(what, reason, "waiting for what is not there yet");
            said = true;
        }
        tokio::time::sleep(PATIENT_PAUSE).await;
    }
}

fn nats_error(error: NatsError) -> CommandError {
    match error {
        refused @ (NatsError::Refused(_) | NatsError::Placement { .. }) => {
            CommandError::new(Exit::Usage, refused)
        }
        error @ (NatsError::File { .. }
        | NatsError::Connect { .. }
        | NatsError::Unreachable { .. }
        | NatsError::JetStream { .. }) => CommandError::new(Exit::Error, error),
    }
}
