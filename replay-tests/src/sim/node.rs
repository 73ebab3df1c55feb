//! Nodes and executors: which processes there are, and how each starts and ends.

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::effect::BackendObject;
use tephra_domain::ids::{BackendName, PoolId, PoolName, ZoneName};
use tephra_domain::ledger::Ledger;
use tephra_domain::units::SizeGib;
use tephra_executors::backend::memory::{MemoryBackend, MemoryConfig, MemoryObject};
use tephra_executors::runner::{Runner, RunnerConfig};
use tephra_journal::clock::Clock;
use tephra_journal::feed::Feed;
use tephra_journal::log::{Log, LogError};
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::sequencer::{
    CaughtUp, Sequencer, SequencerConfig, SequencerError, SequencerParts, bootstrap, catch_up_from,
};
use tephra_projector::Views;
use tephra_projector::runner::{Health, Projector, ProjectorHandle};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::SimClock;
use super::disk::SimDisk;
use super::exports::Exports;
use super::faults::Faults;
use super::host::{HostPort, HostState};
use super::invariants::{Invariant, Violation};
use super::log::{LogPort, LogStore};
use super::network::{GatewayPort, Sequencers, Turn};
use super::oracle::Oracle;
use super::process::Process;
use super::queue::QueueStore;
use super::seeds::{SeededIds, Seeds};
use super::trace::Trace;

/// The pause before a candidate tries again to read a log that does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What every process needs to be started.
#[derive(Clone)]
pub struct Site {
    /// The seed.
    pub seeds: Seeds,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub trace: Trace,
    /// The time.
    pub clock: SimClock,
    /// The log.
    pub log: LogStore,
    /// The queue.
    pub queue: QueueStore,
    /// Who knows what is right.
    pub oracle: Oracle,
    /// How full pools are.
    pub pools: PoolBoard,
    /// Who decides commands.
    pub sequencers: Sequencers,
    /// Whether one process has all the roles, as on the embedded journal.
    pub is_single: bool,
}

impl Site {
    fn fails(&self, what: String) {
        self.oracle.found(Violation { invariant: Invariant::NothingDies, found: what });
    }

    /// A way to the sequencers for a process.
    pub fn gateway(&self, process: &Process, incarnation: u64) -> GatewayPort {
        let random = self.seeds.stream(&format!("gateway {process}"), incarnation);
        GatewayPort::new(
            self.sequencers.clone(),
            process.clone(),
            self.faults.clone(),
            self.trace.clone(),
            self.oracle.clone(),
            random,
        )
    }
}

/// A machine with a projector, that may be the sequencer.
pub struct Node {
    site: Site,
    number: u64,
    clock: SimClock,
    incarnation: u64,
    disk: SimDisk,
    cut_off: watch::Sender<bool>,
    running: Option<RunningNode>,
    /// When it starts again, if it is dead.
    pub starts_at: Option<Instant>,
}

struct RunningNode {
    process: Process,
    views: Views,
    projector: ProjectorHandle,
    feed: Feed,
    turn: Option<CancellationToken>,
}

impl Node {
    /// A machine that is switched off.
    pub fn new(site: &Site, number: u64, skew_micros: i64) -> Self {
        Self {
            site: site.clone(),
            number,
            clock: site.clock.skewed(skew_micros),
            incarnation: 0,
            disk: SimDisk::default(),
            cut_off: watch::Sender::new(false),
            running: None,
            starts_at: None,
        }
    }

    /// Its process, if one runs.
    pub fn process(&self) -> Option<&Process> {
        self.running.as_ref().map(|running| &running.process).filter(|process| process.lives())
    }

    /// Cuts it off from the log, or lets it reach the log again.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.cut_off.send_replace(is_cut_off);
    }

    /// Whether it is, or is about to be, the sequencer.
    pub fn leads(&self) -> bool {
        let running = self.running.as_ref().filter(|running| running.process.lives());
        running.and_then(|running| running.turn.as_ref()).is_some_and(|turn| !turn.is_cancelled())
    }

    fn log(&self, process: &Process, what: &str) -> Arc<dyn Log> {
        let random = self.site.seeds.stream(&format!("log {process} {what}"), self.incarnation);
        Arc::new(LogPort::new(
            self.site.log.clone(),
            process.clone(),
            author(process, what).into(),
            self.site.faults.clone(),
            self.site.trace.clone(),
            random,
            self.cut_off.subscribe(),
        ))
    }

    /// Starts its process: the projector, from the views that survived.
    pub fn start(&mut self) {
        self.incarnation += 1;
        self.starts_at = None;
        let process = Process::start(format!("node {}.{}", self.number, self.incarnation));
        self.site.trace.note(&process, format_args!("starts"));
        let views = match Views::open_on(self.disk.clone()) {
            Ok(views) => views,
            Err(error) => return self.site.fails(format!("{process} cannot open its views: {error}")),
        };
        let feed = Feed::new();
        let log = self.log(&process, "projector");
        // a feed has all blocks only where nobody else appends
        let fed = self.site.is_single.then(|| feed.clone());
        let projector = Projector::start(views.clone(), log, fed, process.token());
        self.running = Some(RunningNode { process, views, projector, feed, turn: None });
    }

    /// Kills its process, and lets the disk forget what was not synced.
    pub fn kill(&mut self, starts_at: Instant) {
        if let Some(running) = self.running.take() {
            self.site.trace.note(&running.process, format_args!("is killed"));
            running.process.kill();
            self.disk = self.disk.after_crash();
        }
        self.starts_at = Some(starts_at);
    }

    /// Lets it be the sequencer, from the state of its views.
    pub fn lead(&mut self, number: u64) {
        let Some(running) = &self.running else { return };
        let process = running.process.clone();
        let log = self.log(&process, &turn_name(number));
        let over = process.token();
        let turn = TakenTurn {
            site: self.site.clone(),
            clock: self.clock,
            number,
            process: process.clone(),
            views: running.views.clone(),
            feed: if self.site.is_single { running.feed.clone() } else { Feed::new() },
            log,
            over: over.clone(),
        };
        self.site.trace.note(&process, format_args!("takes turn {number}"));
        self.site.sequencers.give_lease(number);
        if let Some(running) = &mut self.running {
            running.turn = Some(over);
        }
        tokio::spawn(async move { process.run(turn.take()).await });
    }

    /// Tells it that its turn is over.
    pub fn stop_leading(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(turn) = running.turn.take()
        {
            self.site.trace.note(&running.process, format_args!("ends its turn"));
            turn.cancel();
        }
    }

    /// Does what an operator does about views that know more than the log has kept: makes them again.
    pub fn rebuild_if_refused(&mut self) -> bool {
        let Some(running) = &self.running else { return false };
        let Health::Failed { reason } = running.projector.health() else { return false };
        if !reason.contains("does not continue the views") {
            self.site.fails(format!("the projector of {} failed: {reason}", running.process));
            return false;
        }
        self.site.trace.note(&running.process, format_args!("is made again from the log: {reason}"));
        self.kill(Instant::now());
        self.disk = SimDisk::default();
        self.start();
        true
    }

    /// Compares its views with the replay, where they stand.
    pub fn check_views(&self) {
        let Some(running) = self.running.as_ref().filter(|running| running.process.lives()) else { return };
        let (health, is_whole) = (running.projector.health(), self.site.oracle.is_whole());
        if !is_whole && health != Health::Following {
            // It has not compared itself with the log yet, or has refused to go on.
            return;
        }
        if let Health::Failed { reason } = health {
            return self.site.fails(format!("the projector of {} failed: {reason}", running.process));
        }
        match running.views.load_state() {
            Ok((ledger, at)) => {
                let hash = tephra_journal::wire::state::state_hash(&ledger);
                self.site.oracle.check_views(&running.process.to_string(), at.block, hash);
            }
            Err(error) => self.site.fails(format!("the views of {}: {error}", running.process)),
        }
    }

    /// Waits until its views are up with the log, and checks every row and index of them.
    pub async fn check_views_at_rest(&self) {
        let Some(running) = &self.running else { return };
        let head = self.site.log.head();
        let up = running.views.wait_for_block(head);
        if tokio::time::timeout(Duration::from_secs(120), up).await.is_err() {
            let at = running.views.checkpoint().block;
            let found = format!("{} stands at block {}, the log at {}", running.process, at.0, head.0);
            self.site.oracle.found(Violation { invariant: Invariant::ViewsAreReplay, found });
        }
        self.check_views();
        if let Err(error) = running.views.verify() {
            let found = format!("{}: {error}", running.process);
            self.site.oracle.found(Violation { invariant: Invariant::ViewsAreReplay, found });
        }
    }
}

fn turn_name(number: u64) -> String {
    format!("turn {number}")
}

fn author(process: &Process, what: &str) -> String {
    format!("{process} {what}")
}

/// One turn as the sequencer.
struct TakenTurn {
    site: Site,
    clock: SimClock,
    number: u64,
    process: Process,
    views: Views,
    feed: Feed,
    log: Arc<dyn Log>,
    over: CancellationToken,
}

impl TakenTurn {
    /// Decides until it is told that its turn is over, or another goes on who has the lease.
    async fn take(self) {
        let ids = Arc::new(SeededIds::new(self.site.seeds.stream("blocks", self.number)));
        while !self.over.is_cancelled() {
            self.decide(Arc::clone(&ids)).await;
        }
        self.site.trace.note(&self.process, format_args!("turn {} has ended", self.number));
    }

    async fn decide(&self, ids: Arc<SeededIds>) {
        let Some(loaded) = self.over.run_until_cancelled(self.load()).await else { return };
        let state = match loaded {
            Ok(state) => state,
            Err(error) => {
                self.over.cancel();
                if self.site.oracle.is_whole() {
                    self.site.fails(format!("{} cannot take its turn: {error}", self.process));
                }
                return;
            }
        };
        let parts = SequencerParts {
            log: Arc::clone(&self.log),
            pools: self.site.pools.clone(),
            queue: Arc::new(self.site.queue.port(self.process.clone())),
            feed: self.feed.clone(),
            clock: Arc::new(self.clock),
            ids,
            cancel: self.over.clone(),
            turn_of: Some(author(&self.process, &turn_name(self.number)).into()),
        };
        let handle = Sequencer::start(SequencerConfig::default(), state, parts);
        match self.over.run_until_cancelled(bootstrap(&handle)).await {
            Some(Ok(())) => {
                let turn =
                    Turn { number: self.number, process: self.process.clone(), handle: handle.clone() };
                self.site.sequencers.add(turn);
            }
            // it has ended, and says why below
            Some(Err(_)) if !handle.is_running() => {}
            Some(Err(error)) => {
                self.site.trace.note(&self.process, format_args!("gives turn {} up: {error}", self.number));
                self.over.cancel();
            }
            None => {}
        }
        let drained = handle.drained().await;
        self.site.sequencers.remove(self.number);
        match drained {
            Ok(()) => self.over.cancel(),
            Err(error) => match &*error {
                SequencerError::Overtaken(_) => {
                    self.site.trace.note(&self.process, format_args!("turn {}: {error}", self.number));
                    if !self.site.sequencers.has_lease(self.number) {
                        self.over.cancel();
                    }
                }
                // told to stop while the log does not answer
                SequencerError::Log(LogError::Unavailable(_)) if self.over.is_cancelled() => {}
                SequencerError::Log(_) => {
                    self.over.cancel();
                    self.site.fails(format!("the sequencer of {} died: {error}", self.process));
                }
            },
        }
    }

    async fn load(&self) -> Result<CaughtUp, LogError> {
        loop {
            match self.try_load().await {
                Err(LogError::Unavailable(_)) => tokio::time::sleep(RETRY_PAUSE).await,
                loaded => return loaded,
            }
        }
    }

    async fn try_load(&self) -> Result<CaughtUp, LogError> {
        let (ledger, at): (Ledger, _) = self.views.load_state().map_err(|error| LogError::Corrupt {
            number: self.views.checkpoint().block,
            reason: format!("the views: {error}"),
        })?;
        let mut state = catch_up_from(ledger, at.into(), self.log.as_ref()).await?;
        state.remember(self.log.as_ref()).await?;
        Ok(state)
    }
}

/// A storage host with its executor.
pub struct Host {
    site: Site,
    /// The backend's name.
    pub name: BackendName,
    store: MemoryBackend,
    /// What servers can reach of it.
    pub exports: Exports,
    /// What is the matter with it.
    pub state: Arc<HostState>,
    clock: SimClock,
    parallelism: usize,
    incarnation: u64,
    process: Option<Process>,
    /// When its executor starts again, if it is dead.
    pub starts_at: Option<Instant>,
}

impl Host {
    /// A host whose executor does not run yet.
    pub fn new(site: &Site, name: &str, random: &mut fastrand::Rng) -> Self {
        let config = MemoryConfig {
            host: format!("host-{name}"),
            availability_zone: ZoneName::new("nova"),
            capacity_gib: random.u64(40..200),
            native_revert: random.bool(),
            ..MemoryConfig::new(name)
        };
        let store = MemoryBackend::new(config);
        for (lun, size_gib) in [("lun-1", 1), ("lun-2", 2), ("their-snapshot", 1)] {
            let Some(size) = SizeGib::new(size_gib) else { continue };
            let mut object = MemoryObject::blank(size);
            object.blocks.insert(u64::from(size_gib), lun.as_bytes().into());
            store.put_stranger(lun, object);
        }
        let name = BackendName::new(name);
        let state = Arc::<HostState>::default();
        let exports = Exports::new(store.clone(), Arc::clone(&state));
        site.oracle.add_host(name.clone(), store.clone(), exports.clone());
        Self {
            site: site.clone(),
            name,
            store,
            exports,
            state,
            clock: site.clock.skewed(random.i64(-2_000_000..2_000_000)),
            parallelism: random.usize(1..5),
            incarnation: 0,
            process: None,
            starts_at: None,
        }
    }

    /// Each of the two can copy from the other.
    pub fn meet(&self, other: &Self) {
        self.store.read_from(&other.store);
        other.store.read_from(&self.store);
    }

    /// What is on it that is none of the ledger's.
    pub fn strangers(&self) -> Vec<(PoolId, Box<str>, SizeGib)> {
        let pool = PoolId { backend: self.name.clone(), pool: PoolName::new(self.name.as_str()) };
        let strangers = self.store.strangers();
        strangers.iter().map(|(name, found)| (pool.clone(), name.clone(), found.size)).collect()
    }

    /// Something of the ledger's on it.
    pub fn any_object(&self, random: &mut fastrand::Rng) -> Option<BackendObject> {
        random.choice(self.store.objects().into_keys())
    }

    /// Somebody, none of the ledger's, has an object open, or lets it go.
    pub fn hold(&self, object: BackendObject, is_held: bool) {
        self.store.set_in_use(object, is_held);
    }

    /// Its executor, if it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.lives())
    }

    /// Starts its executor.
    pub fn start(&mut self) {
        self.incarnation += 1;
        self.starts_at = None;
        let process = Process::start(format!("{}.{}", self.name, self.incarnation));
        self.site.trace.note(&process, format_args!("starts"));
        let backend = HostPort::new(
            self.store.clone(),
            self.exports.clone(),
            Arc::clone(&self.state),
            process.clone(),
            &self.site,
            self.site.seeds.stream(&format!("host {}", self.name), self.incarnation),
        );
        let config = RunnerConfig { parallelism: self.parallelism, ..RunnerConfig::default() };
        let clock: Arc<dyn Clock> = Arc::new(self.clock);
        let gateway = Arc::new(self.site.gateway(&process, self.incarnation));
        let queue = Arc::new(self.site.queue.port(process.clone()));
        // it ends with its process
        drop(Runner::start(
            config,
            Arc::new(backend),
            queue,
            gateway,
            self.site.pools.clone(),
            clock,
            process.token(),
        ));
        self.process = Some(process);
    }

    /// Kills its executor.
    pub fn kill(&mut self, starts_at: Instant) {
        if let Some(process) = self.process.take() {
            self.site.trace.note(&process, format_args!("is killed"));
            process.kill();
        }
        self.starts_at = Some(starts_at);
    }
}
