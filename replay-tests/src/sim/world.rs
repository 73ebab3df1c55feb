//! A whole deployment, what goes wrong with it, and who asks it for what.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tephra_domain::effect::BackendObject;
use tephra_domain::event::Idempotency;
use tephra_domain::ids::{CommandId, IdempotencyKey, RequestId, VolumeId};
use tephra_journal::gateway::{CommandGateway as _, Receipt, Submission, SubmitError};
use tephra_journal::hash_chain::ChainHead;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::wire::state::state_hash;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clock::SimClock;
use super::coverage::Coverage;
use super::faults::{FaultKind, Faults};
use super::invariants::{Invariant, Violation};
use super::log::LogStore;
use super::mood::Mood;
use super::network::Sequencers;
use super::node::{Host, Node, Site};
use super::operations::{self, Draw};
use super::oracle::Oracle;
use super::process::Process;
use super::queue::QueueStore;
use super::seeds::{Seeds, fresh_id};
use super::trace::{Keep, Trace};

/// Simulated time in which everything must have ended once nothing goes wrong any more: the longest
/// wait for a lock, three times, and the longest pause between two attempts at a debt, several times.
const REST_WITHIN: Duration = Duration::from_secs(3 * 60 * 60);

/// How long nothing must have been at work for everything to have ended.
const QUIET_FOR: Duration = Duration::from_secs(300);

/// How often it is looked whether everything has ended.
const REST_POLL: Duration = Duration::from_secs(5);

/// Names of backends.
const BACKENDS: [&str; 3] = ["one", "two", "three"];

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// How many operations are asked for.
    pub operations: usize,
    /// Operations that are left out, by their number.
    pub skip: BTreeSet<usize>,
    /// Faults that are left out.
    pub without: BTreeSet<FaultKind>,
    /// Whether the log acknowledges before it has synced, and loses its end when everything goes dark.
    pub unsynced: bool,
    /// What is kept of the trace.
    pub keep: Keep,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// The trace, if it was kept.
    pub trace: Vec<String>,
    /// Where the log ended.
    pub head: ChainHead,
    /// The SHA-256 of the state there.
    pub state: [u8; 32],
    /// The log.
    pub blocks: Vec<Arc<[u8]>>,
    /// How much time went by in the simulation.
    pub simulated: Duration,
    /// What was reached.
    pub coverage: Coverage,
    /// Acknowledged blocks that the log lost.
    pub lost_blocks: usize,
    /// Views that had to be made again because they knew more than the log.
    pub rebuilt_views: usize,
}

/// Something that happens later.
#[derive(Clone, Copy, Debug)]
enum Later {
    /// A node reaches the log again.
    Reconnect(usize),
    /// A node's turn is over.
    StopLeading(usize),
    /// A host answers again.
    HostUp(usize),
    /// A host has room again.
    HostRoom(usize),
    /// Nobody has this object of a host open any more.
    LetGo(usize, BackendObject),
}

struct World {
    plan: Plan,
    mood: Mood,
    site: Site,
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    later: Vec<(Instant, Later)>,
    turns: u64,
    elect_at: Option<Instant>,
    nemesis: fastrand::Rng,
    users: fastrand::Rng,
    asking: JoinSet<()>,
    keyed: Arc<std::sync::Mutex<Vec<Submission>>>,
    coverage: Coverage,
    lost_blocks: usize,
    rebuilt_views: usize,
    began: Instant,
}

/// Simulates what the plan says. Must run on a single-threaded runtime whose time is paused.
pub async fn simulate(plan: &Plan) -> Report {
    let mut world = World::begin(plan);
    world.go_wrong().await;
    world.come_to_rest().await;
    world.report()
}

fn seconds(random: &mut fastrand::Rng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(random.u64(from_ms..to_ms))
}

impl World {
    fn begin(plan: &Plan) -> Self {
        let seeds = Seeds(plan.seed);
        // what the code under test draws for the lengths of its pauses
        fastrand::seed(seeds.stream("pauses", 0).u64(..));
        let clock = SimClock::new(0);
        let trace = Trace::new(plan.keep, clock);
        let mood = Mood::of(seeds);
        let faults = Faults::new(&plan.without, &mood.harshness);
        let oracle = Oracle::new(trace.clone());
        let mut random = seeds.stream("deployment", 0);
        let nodes = random.u64(1..4);
        let log = if plan.unsynced {
            LogStore::unsynced(oracle.clone(), seeds.stream("syncs", 0))
        } else {
            LogStore::new(oracle.clone())
        };
        let site = Site {
            seeds,
            faults: faults.clone(),
            trace: trace.clone(),
            clock,
            log,
            queue: QueueStore::new(faults, trace, seeds.stream("queue", 0)),
            oracle,
            pools: PoolBoard::default(),
            sequencers: Sequencers::default(),
            is_single: nodes == 1,
        };
        let hosts = BACKENDS.iter().take(random.usize(1..4));
        let hosts: Vec<Host> = hosts.map(|name| Host::new(&site, name, &mut random)).collect();
        for (n, host) in hosts.iter().enumerate() {
            for other in hosts.iter().skip(n + 1) {
                host.meet(other);
            }
        }
        let skew = |random: &mut fastrand::Rng| random.i64(-2_000_000..2_000_000);
        let nodes = (0..nodes).map(|number| Node::new(&site, number, skew(&mut random))).collect();
        Self {
            plan: plan.clone(),
            mood,
            site,
            nodes,
            hosts,
            later: Vec::new(),
            turns: 0,
            elect_at: None,
            nemesis: seeds.stream("nemesis", 0),
            users: seeds.stream("users", 0),
            asking: JoinSet::new(),
            keyed: Arc::default(),
            coverage: Coverage::default(),
            lost_blocks: 0,
            rebuilt_views: 0,
            began: Instant::now(),
        }
    }

    fn is_broken(&self) -> bool {
        self.site.oracle.violation().is_some()
    }

    async fn go_wrong(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        for host in &mut self.hosts {
            host.start();
        }
        self.elect();
        // backends present themselves and say how full they are
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pace_ms = [20, 500, 5_000, 60_000][self.users.usize(0..4)];
        for index in 0..self.plan.operations {
            if self.is_broken() {
                return;
            }
            self.strike();
            self.keep_running();
            self.write_somewhere();
            if !self.plan.skip.contains(&index) {
                self.ask(index);
            }
            let pause = seconds(&mut self.users, 0, 2 * pace_ms);
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes something go wrong, now and then.
    fn strike(&mut self) {
        let faults = self.site.faults.clone();
        let now = Instant::now();
        let node = self.nemesis.usize(0..self.nodes.len());
        let host = self.nemesis.usize(0..self.hosts.len());
        let mut strikes = |kind, one_in| faults.strikes(kind, &mut self.nemesis, one_in);
        let (cut, crash, dies) = (
            strikes(FaultKind::LogPartition, 60),
            strikes(FaultKind::NodeCrash, 60),
            strikes(FaultKind::ExecutorCrash, 60),
        );
        let (blackout, down, full) = (
            strikes(FaultKind::Blackout, if self.plan.unsynced { 50 } else { 250 }),
            strikes(FaultKind::BackendDown, 120),
            strikes(FaultKind::BackendFull, 120),
        );
        let held = strikes(FaultKind::ObjectInUse, 20);
        let exports_lost = strikes(FaultKind::ExportsLost, 60);
        let (change, two) = (strikes(FaultKind::LeaderChange, 50), strikes(FaultKind::TwoLeaders, 40));
        let longest_ms = [60_000, 14_400_000][self.nemesis.usize(0..2)];
        let (short, long) =
            (seconds(&mut self.nemesis, 100, 90_000), seconds(&mut self.nemesis, 1_000, longest_ms));
        if cut {
            self.site.trace.note("nemesis", format_args!("node {node} is cut off for {short:?}"));
            self.nodes[node].cut_off(true);
            self.later.push((now + short, Later::Reconnect(node)));
        }
        if crash {
            self.nodes[node].kill(now + short);
        }
        if dies {
            self.hosts[host].kill(now + short);
        }
        if blackout {
            self.site.trace.note("nemesis", format_args!("everything goes dark"));
            for node in &mut self.nodes {
                node.kill(now + short);
            }
            for host in &mut self.hosts {
                host.kill(now + short);
            }
            let lost = self.site.log.lose_unsynced();
            self.site.trace.note("nemesis", format_args!("the log has lost {lost} blocks"));
            self.lost_blocks += lost;
        }
        if down {
            self.site.trace.note("nemesis", format_args!("{} is down for {long:?}", self.hosts[host].name));
            self.hosts[host].state.down.store(true, Ordering::Relaxed);
            self.later.push((now + long, Later::HostUp(host)));
        }
        if full {
            self.site.trace.note("nemesis", format_args!("{} is full for {long:?}", self.hosts[host].name));
            self.hosts[host].state.full.store(true, Ordering::Relaxed);
            self.later.push((now + long, Later::HostRoom(host)));
        }
        if exports_lost {
            self.site.trace.note("nemesis", format_args!("{} loses its exports", self.hosts[host].name));
            self.hosts[host].exports.restart();
        }
        if held && let Some(object) = self.hosts[host].any_object(&mut self.nemesis) {
            self.site.trace.note("nemesis", format_args!("somebody has {object} open for {long:?}"));
            self.hosts[host].hold(object, true);
            self.later.push((now + long, Later::LetGo(host, object)));
        }
        if (change || two) && self.nodes[node].process().is_some() && !self.nodes[node].leads() {
            for old in 0..self.nodes.len() {
                if two && self.nodes[old].leads() {
                    self.later.push((now + short, Later::StopLeading(old)));
                } else {
                    self.nodes[old].stop_leading();
                }
            }
            self.turns += 1;
            self.nodes[node].lead(self.turns);
        }
    }

    /// Starts what has been dead long enough, and lets be over what is over.
    fn keep_running(&mut self) {
        let now = Instant::now();
        let due: Vec<Later> = self.later.iter().filter(|(at, _)| *at <= now).map(|(_, what)| *what).collect();
        self.later.retain(|(at, _)| *at > now);
        for what in due {
            match what {
                Later::Reconnect(node) => self.nodes[node].cut_off(false),
                Later::StopLeading(node) => {
                    let others = self.nodes.iter().filter(|node| node.leads()).count();
                    if others > 1 {
                        self.nodes[node].stop_leading();
                    }
                }
                Later::HostUp(host) => self.hosts[host].state.down.store(false, Ordering::Relaxed),
                Later::HostRoom(host) => self.hosts[host].state.full.store(false, Ordering::Relaxed),
                Later::LetGo(host, object) => self.hosts[host].hold(object, false),
            }
        }
        for node in &mut self.nodes {
            if node.process().is_none() && node.starts_at.is_none_or(|at| at <= now) {
                node.start();
            }
        }
        if !self.site.oracle.is_whole() {
            for node in &mut self.nodes {
                self.rebuilt_views += usize::from(node.rebuild_if_refused());
            }
        }
        for host in &mut self.hosts {
            if host.process().is_none() {
                let restart = seconds(&mut self.nemesis, 100, 60_000);
                match host.starts_at {
                    // it died by itself
                    None => host.kill(now + restart),
                    Some(at) if at <= now => host.start(),
                    Some(_) => {}
                }
            }
        }
        if !self.nodes.iter().any(Node::leads) {
            match self.elect_at {
                None => self.elect_at = Some(now + seconds(&mut self.nemesis, 0, 15_000)),
                Some(at) if at <= now => self.elect(),
                Some(_) => {}
            }
        }
    }

    fn elect(&mut self) {
        self.elect_at = None;
        let candidates: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].process().is_some()).collect();
        if let Some(node) = self.nemesis.choice(candidates) {
            self.turns += 1;
            self.nodes[node].lead(self.turns);
        }
    }

    /// Users write into volumes, and look at views.
    fn write_somewhere(&mut self) {
        let volumes: Vec<VolumeId> = self
            .site
            .oracle
            .with_ledger(|ledger| ledger.volumes.sorted().into_iter().map(|(id, _)| *id).collect());
        if let Some(volume) = self.users.choice(&volumes)
            && let Some(block) = self.site.oracle.write(*volume, &mut self.users)
        {
            self.site.trace.note("user", format_args!("writes block {block} of {volume}"));
        }
        if self.users.u8(0..8) == 0 {
            let node = self.users.usize(0..self.nodes.len());
            self.nodes[node].check_views();
        }
    }

    /// A client asks for something.
    fn ask(&mut self, index: usize) {
        let number = u64::try_from(index).unwrap_or(u64::MAX);
        let mut random = self.site.seeds.stream("operation", number);
        let Some(submission) = self.submission(&mut random, number) else { return };
        self.coverage.operation(operations::operation_of(&submission.command));
        let process = Process::start(format!("client {index}"));
        let client = Client {
            site: self.site.clone(),
            gives_up: self.site.faults.strikes(FaultKind::ClientGivesUp, &mut random, 24),
            number,
            process,
            random,
            keyed: Arc::clone(&self.keyed),
        };
        self.asking.spawn(client.ask(submission));
        // what has ended is forgotten
        while self.asking.try_join_next().is_some() {}
    }

    fn submission(&self, random: &mut fastrand::Rng, number: u64) -> Option<Submission> {
        let keyed = self.keyed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if random.u8(0..12) == 0
            && let Some(earlier) = random.choice(keyed.iter())
        {
            let mut again = earlier.clone();
            again.id = CommandId::from_uuid(fresh_id(random));
            if let (true, Some(idempotency)) = (random.u8(0..4) == 0, &mut again.idempotency) {
                idempotency.fingerprint = [1; 32];
            }
            return Some(again);
        }
        drop(keyed);
        let strangers: Vec<_> = self.hosts.iter().flat_map(Host::strangers).collect();
        let weights = &self.mood.weights;
        let ask = self.site.oracle.with_ledger(|ledger| {
            operations::next(weights, &mut Draw { ledger, strangers: &strangers, random })
        })?;
        let idempotency = (random.u8(0..4) == 0)
            .then(|| Idempotency { key: IdempotencyKey::new(format!("key-{number}")), fingerprint: [0; 32] });
        let id = CommandId::from_uuid(fresh_id(random));
        let request = RequestId::new(format!("req-{number}"));
        Some(Submission { id, request, actor: ask.actor, idempotency, command: ask.command })
    }

    /// Nothing goes wrong any more: everything must end, and everything must be right.
    async fn come_to_rest(&mut self) {
        if self.is_broken() {
            return;
        }
        self.site.trace.note("nemesis", format_args!("nothing goes wrong any more"));
        self.site.faults.stop();
        let now = Instant::now();
        for (at, _) in &mut self.later {
            *at = now;
        }
        for node in &mut self.nodes {
            node.starts_at = node.starts_at.map(|_| now);
        }
        for host in &mut self.hosts {
            host.starts_at = host.starts_at.map(|_| now);
        }
        let until = now + REST_WITHIN;
        let mut quiet_since = None;
        loop {
            self.keep_running();
            while self.asking.try_join_next().is_some() {}
            let unfinished = self.site.oracle.unfinished();
            let all_run = self.nodes.iter().all(|node| node.process().is_some())
                && self.hosts.iter().all(|host| host.process().is_some());
            if self.is_broken() {
                return;
            }
            let now = Instant::now();
            if unfinished.is_none() && self.asking.is_empty() && all_run {
                // orders that are still on their way find nothing to do, and nobody finds more
                if *quiet_since.get_or_insert(now) + QUIET_FOR <= now {
                    break;
                }
            } else {
                quiet_since = None;
            }
            if now >= until + QUIET_FOR {
                let found = unfinished.unwrap_or_else(|| format!("{} clients wait", self.asking.len()));
                self.site.oracle.found(Violation { invariant: Invariant::EverythingEnds, found });
                return;
            }
            tokio::time::sleep(REST_POLL).await;
        }
        self.site.oracle.check_at_rest();
        for node in &self.nodes {
            node.check_views_at_rest().await;
        }
    }

    fn report(mut self) -> Report {
        self.coverage.add(&self.site.oracle.coverage());
        self.coverage.faults(&self.site.faults.struck());
        Report {
            violation: self.site.oracle.violation(),
            trace: self.site.trace.take(),
            head: self.site.oracle.head(),
            state: self.site.oracle.with_ledger(state_hash),
            blocks: self.site.log.blocks(),
            simulated: self.began.elapsed(),
            coverage: self.coverage,
            lost_blocks: self.lost_blocks,
            rebuilt_views: self.rebuilt_views,
        }
    }
}

/// Somebody who asks for one thing, and with an idempotency key for the same thing again.
struct Client {
    site: Site,
    gives_up: bool,
    number: u64,
    process: Process,
    random: fastrand::Rng,
    keyed: Arc<std::sync::Mutex<Vec<Submission>>>,
}

impl Client {
    async fn ask(mut self, submission: Submission) {
        let gateway = self.site.gateway(&self.process, self.number);
        self.site.trace.note(
            &self.process,
            format_args!("{} as {}: {:?}", submission.id, submission.actor.user, submission.command),
        );
        if self.gives_up {
            let patience = Duration::from_millis(self.random.u64(0..10));
            if tokio::time::timeout(patience, gateway.submit(submission.clone())).await.is_err() {
                self.site.trace.note(&self.process, format_args!("does not wait"));
            }
            return;
        }
        let mut submission = submission;
        for _ in 0..20 {
            let answer = gateway.submit(submission.clone()).await;
            self.check_fencing(&submission, &answer);
            if submission.idempotency.is_none() {
                return;
            }
            match answer {
                // without a key nobody could know whether it happened; with one it is safe to ask again
                Err(SubmitError::Unavailable { .. }) => {
                    submission.id = CommandId::from_uuid(fresh_id(&mut self.random));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::TooLarge { .. }) => {
                    let mut keyed = self.keyed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    keyed.push(submission);
                    return;
                }
            }
        }
    }

    /// What clients report is overtaken: whoever takes it in has no fence.
    fn check_fencing(&self, submission: &Submission, answer: &Result<Receipt, SubmitError>) {
        let is_report = matches!(submission.command, tephra_domain::command::Command::ReportOutcome { .. });
        if is_report && matches!(answer, Ok(Receipt::Accepted { .. })) {
            let found = format!("{:?} was overtaken, and taken in", submission.command);
            self.site.oracle.found(Violation { invariant: Invariant::StaleReportsAreRefused, found });
        }
    }
}
