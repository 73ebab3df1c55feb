//! Orders from the sequencer to a queue that takes none for a while.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use support::{Running, create_volume, pool_stats, replayed};
use tephra_domain::ids::{BackendName, OperationId};
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::feed::Feed;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::ids::RandomIds;
use tephra_journal::log::Log;
use tephra_journal::memory::MemoryLog;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::sequencer::{Sequencer, SequencerConfig, SequencerHandle, SequencerParts};
use tephra_journal::work_queue::{Delivery, WorkOrder, WorkQueue};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

/// Takes as many orders as it is let.
struct Gated {
    gate: Semaphore,
    taken: Mutex<Vec<WorkOrder>>,
}

impl Gated {
    fn shut() -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(0), taken: Mutex::default() })
    }

    fn taken(&self) -> Vec<WorkOrder> {
        self.taken.lock().unwrap().clone()
    }

    fn operations(&self) -> BTreeSet<OperationId> {
        self.taken().into_iter().map(|order| order.operation).collect()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "waited too long for {what}");
    }
}

#[async_trait]
impl WorkQueue for Gated {
    async fn publish(&self, order: WorkOrder) {
        self.gate.acquire().await.unwrap().forget();
        self.taken.lock().unwrap().push(order);
    }

    async fn next(&self, _backend: &BackendName) -> Option<Box<dyn Delivery>> {
        std::future::pending().await
    }
}

const FEW: usize = 4;

async fn start(
    log: &Arc<dyn Log>,
    queue: Arc<Gated>,
    redispatch_ms: u64,
) -> (SequencerHandle, CancellationToken) {
    let state = replayed(&**log).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::not_before(state.head.time));
    let (pools, cancel) = (PoolBoard::default(), CancellationToken::new());
    pools.report(pool_stats(clock.now().plus_ms(3_600_000)));
    let parts = SequencerParts {
        log: Arc::clone(log),
        pools,
        queue,
        feed: Feed::new(),
        clock,
        ids: Arc::new(RandomIds),
        cancel: cancel.clone(),
        turn_of: None,
    };
    let config = SequencerConfig { redispatch_ms, queued_orders: FEW, ..SequencerConfig::default() };
    (Sequencer::start(config, state, parts), cancel)
}

async fn ready() -> Arc<dyn Log> {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
    Running::ready(Arc::clone(&log)).await.stop().await;
    log
}

async fn create(handle: &SequencerHandle, volumes: usize) {
    for _ in 0..volumes {
        let answer = tokio::time::timeout(DEADLINE, handle.submit(create_volume(1))).await;
        answer.unwrap_or_else(|_| panic!("no command is decided while the queue takes no orders")).unwrap();
    }
}

const NEVER_MS: u64 = 3_600_000;

/// A log after which so many orders are due.
async fn with_due(orders: usize) -> Arc<dyn Log> {
    let log = ready().await;
    let (handle, cancel) = start(&log, Gated::shut(), NEVER_MS).await;
    create(&handle, orders).await;
    cancel.cancel();
    handle.drained().await.unwrap();
    log
}

#[tokio::test]
async fn a_queue_that_takes_no_orders_holds_up_no_command_and_gets_them_all_in_the_end() {
    let (log, queue) = (ready().await, Gated::shut());
    let (handle, cancel) = start(&log, Arc::clone(&queue), NEVER_MS).await;
    create(&handle, FEW * 20).await;
    assert!(queue.taken().is_empty());
    queue.gate.add_permits(FEW * 20);
    // Without a round: what did not fit has kept its place.
    queue.until("every order", |queue| queue.operations().len() == FEW * 20).await;
    cancel.cancel();
    handle.drained().await.unwrap();
}

#[tokio::test]
async fn a_start_with_more_due_than_fits_decides_commands_at_once_and_publishes_all_of_it() {
    const DUE: usize = 600;
    let log = with_due(DUE).await;

    let queue = Gated::shut();
    let (handle, cancel) = start(&log, Arc::clone(&queue), NEVER_MS).await;
    create(&handle, 1).await;
    queue.gate.add_permits(10 * DUE);
    queue.until("every order", |queue| queue.operations().len() == DUE + 1).await;
    cancel.cancel();
    handle.drained().await.unwrap();
}

#[tokio::test]
async fn what_has_just_become_due_does_not_wait_for_a_long_line() {
    const DUE: usize = 600;
    let log = with_due(DUE).await;
    let known: BTreeSet<OperationId> =
        replayed(&*log).await.ledger.operations.sorted().iter().map(|(id, _)| **id).collect();

    let queue = Gated::shut();
    let (handle, cancel) = start(&log, Arc::clone(&queue), NEVER_MS).await;
    create(&handle, 1).await;
    queue.gate.add_permits(10);
    queue.until("ten orders", |queue| queue.taken().len() == 10).await;
    assert!(queue.operations().iter().any(|operation| !known.contains(operation)), "it has just become due");
    cancel.cancel();
    handle.drained().await.unwrap();
}

#[tokio::test]
async fn lost_orders_are_published_again_round_after_round_the_last_ones_too() {
    const DUE: usize = 600;
    let (log, queue) = (ready().await, Gated::shut());
    queue.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    // Rounds come sooner than one of them is through: each goes on where the line stands.
    let (handle, cancel) = start(&log, Arc::clone(&queue), 1).await;
    create(&handle, DUE).await;
    queue.taken.lock().unwrap().clear();
    queue.until("every order again", |queue| queue.operations().len() == DUE).await;
    queue.taken.lock().unwrap().clear();
    queue.until("every order once more", |queue| queue.operations().len() == DUE).await;
    cancel.cancel();
    handle.drained().await.unwrap();
}
