//! A queue, a ledger and a clock that do as the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tephra_domain::command::Command;
use tephra_domain::effect::{BackendObject, Direction, DueEffect, Effect, EffectKey, Failure, Outcome};
use tephra_domain::ids::{
    BackendName, OperationId, PoolId, PoolName, Position, RequestId, SnapshotId, VolumeId,
};
use tephra_domain::rejection::Rejection;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_executors::backend::Backend;
use tephra_executors::backend::faulty::FaultyBackend;
use tephra_executors::backend::memory::{MemoryBackend, MemoryConfig};
use tephra_executors::runner::{Runner, RunnerConfig, RunnerHandle};
use tephra_journal::clock::ManualClock;
use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::work_queue::{Delivery, Lease, WorkOrder, WorkQueue};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Waits until something is so.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn volume(n: u128) -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
}

pub fn snapshot(of: BackendObject, n: u128) -> BackendObject {
    BackendObject::Snapshot { volume: of.volume(), snapshot: SnapshotId::from_uuid(Uuid::from_u128(n)) }
}

pub fn gib(size: u32) -> SizeGib {
    SizeGib::new(size).unwrap()
}

pub fn create(volume: BackendObject) -> Effect {
    Effect::CreateVolume { volume, size: gib(1) }
}

/// Attempt `attempt` of the only step of operation `n`.
pub fn order(n: u128, attempt: u32, effect: Effect) -> WorkOrder {
    let operation = OperationId::from_uuid(Uuid::from_u128(n));
    let key = EffectKey::Step { operation, direction: Direction::Forward, step: 0, attempt };
    let pool = PoolId { backend: BackendName::new("memory"), pool: PoolName::new("memory") };
    let due = DueEffect { key, pool, effect, not_before: Timestamp(0) };
    WorkOrder { due, operation, request: RequestId::new(format!("req-{n}")) }
}

#[derive(Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<WorkOrder>>,
    arrived: Notify,
    pub acknowledged: Mutex<Vec<EffectKey>>,
    pub given_back: Mutex<Vec<EffectKey>>,
    pub kept: Mutex<u32>,
    /// How long a lease is; without end if it is not said.
    pub lease: Mutex<Option<Duration>>,
    /// Signs of life are not answered.
    pub is_away: Mutex<bool>,
}

impl Queue {
    pub fn send(&self, order: WorkOrder) {
        self.waiting.lock().unwrap().push_back(order);
        self.arrived.notify_one();
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

/// By the time of the test's runtime, which may be paused.
struct TestLease(Mutex<Option<tokio::time::Instant>>);

impl TestLease {
    fn of(length: Option<Duration>) -> Self {
        Self(Mutex::new(length.map(|length| tokio::time::Instant::now() + length)))
    }
}

impl Lease for TestLease {
    fn left(&self) -> Option<Duration> {
        let left = self.0.lock().unwrap().map(|until| until.duration_since(tokio::time::Instant::now()));
        Some(left.unwrap_or(Duration::MAX)).filter(|left| !left.is_zero())
    }
}

struct TestDelivery {
    queue: Arc<Queue>,
    order: WorkOrder,
    lease: Arc<TestLease>,
    acknowledged: bool,
}

#[async_trait]
impl Delivery for TestDelivery {
    fn order(&self) -> &WorkOrder {
        &self.order
    }

    fn lease(&self) -> Arc<dyn Lease> {
        Arc::<TestLease>::clone(&self.lease)
    }

    async fn keep(&self) {
        if *self.queue.is_away.lock().unwrap() {
            return;
        }
        *self.queue.kept.lock().unwrap() += 1;
        let length = *self.queue.lease.lock().unwrap();
        if self.lease.left().is_some() {
            *self.lease.0.lock().unwrap() = *TestLease::of(length).0.lock().unwrap();
        }
    }

    async fn acknowledge(mut self: Box<Self>) {
        self.acknowledged = true;
        self.queue.acknowledged.lock().unwrap().push(self.order.due.key);
    }
}

impl Drop for TestDelivery {
    fn drop(&mut self) {
        if !self.acknowledged {
            self.queue.given_back.lock().unwrap().push(self.order.due.key);
        }
    }
}

/// The queue as runners see it.
pub struct QueuePort(pub Arc<Queue>);

#[async_trait]
impl WorkQueue for QueuePort {
    async fn publish(&self, order: WorkOrder) {
        self.0.send(order);
    }

    async fn next(&self, _backend: &BackendName) -> Option<Box<dyn Delivery>> {
        loop {
            let order = self.0.waiting.lock().unwrap().pop_front();
            if let Some(order) = order {
                let lease = Arc::new(TestLease::of(*self.0.lease.lock().unwrap()));
                return Some(Box::new(TestDelivery {
                    queue: Arc::clone(&self.0),
                    order,
                    lease,
                    acknowledged: false,
                }));
            }
            self.0.arrived.notified().await;
        }
    }
}

pub fn is_report(command: &Command) -> bool {
    matches!(command, Command::ReportOutcome { .. })
}

/// A ledger that takes everything, unless it is told otherwise.
#[derive(Default)]
pub struct Gateway {
    pub submitted: Mutex<Vec<Submission>>,
    /// Also those that were not answered.
    pub attempted: Mutex<Vec<Submission>>,
    /// So many submissions are not answered.
    pub unavailable: Mutex<u32>,
    /// Attempts that have been overtaken.
    pub overtaken: Mutex<Vec<EffectKey>>,
    /// Reports are stale, although the check said that the attempt was due.
    pub refuse_reports: Mutex<bool>,
}

impl Gateway {
    pub fn reports(&self) -> Vec<(EffectKey, Outcome)> {
        let submitted = self.submitted.lock().unwrap();
        let mut reports = Vec::new();
        for submission in submitted.iter() {
            if let Command::ReportOutcome { key, outcome } = &submission.command {
                reports.push((*key, outcome.clone()));
            }
        }
        reports
    }

    pub fn failures(&self) -> Vec<Failure> {
        let failures = self.reports().into_iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Done => None,
        });
        failures.collect()
    }
}

#[async_trait]
impl CommandGateway for Gateway {
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.attempted.lock().unwrap().push(submission.clone());
        let mut unavailable = self.unavailable.lock().unwrap();
        if *unavailable > 0 {
            *unavailable -= 1;
            return Err(SubmitError::Unavailable { reason: "the test says so".to_owned() });
        }
        self.submitted.lock().unwrap().push(submission.clone());
        let stale = if let Command::CheckAttempt { key } = &submission.command {
            self.overtaken.lock().unwrap().contains(key)
        } else {
            is_report(&submission.command) && *self.refuse_reports.lock().unwrap()
        };
        if stale {
            return Err(Rejection::StaleReport.into());
        }
        Ok(Receipt::NothingToDo { position: Position(1) })
    }
}

/// A runner over a simulated backend with faults.
pub struct Lab {
    pub memory: MemoryBackend,
    pub faulty: Arc<FaultyBackend>,
    pub queue: Arc<Queue>,
    pub gateway: Arc<Gateway>,
    pub board: PoolBoard,
    pub clock: Arc<ManualClock>,
    pub cancel: CancellationToken,
}

impl Lab {
    pub fn new() -> Self {
        let memory = MemoryBackend::new(MemoryConfig::new("memory"));
        Self {
            faulty: Arc::new(FaultyBackend::new(Arc::new(memory.clone()))),
            memory,
            queue: Arc::default(),
            gateway: Arc::default(),
            board: PoolBoard::default(),
            clock: Arc::new(ManualClock::at(Timestamp(1_000_000))),
            cancel: CancellationToken::new(),
        }
    }

    pub fn start(&self) -> RunnerHandle {
        self.start_with(|_| {})
    }

    pub fn start_with(&self, change: impl FnOnce(&mut RunnerConfig)) -> RunnerHandle {
        let mut config =
            RunnerConfig { stats_interval: Duration::from_millis(20), ..RunnerConfig::default() };
        change(&mut config);
        Runner::start(
            config,
            Arc::clone(&self.faulty) as Arc<dyn Backend>,
            Arc::new(QueuePort(Arc::clone(&self.queue))),
            Arc::clone(&self.gateway) as Arc<dyn CommandGateway>,
            self.board.clone(),
            Arc::clone(&self.clock) as Arc<dyn tephra_journal::clock::Clock>,
            self.cancel.clone(),
        )
    }

    pub async fn acknowledged(&self, orders: usize) {
        eventually("orders are acknowledged", || self.queue.acknowledged() == orders).await;
    }
}
