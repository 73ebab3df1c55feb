//! The work queue for executors in the same process.
//!
//! First in, first out for each backend; an order with a `not_before` waits until then. Nothing is
//! kept on disk: after a restart the dispatcher publishes what is due again. A lease cannot expire
//! here, because a delivery that is dropped, by a panic too, gives its order back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::effect::EffectKey;
use tephra_domain::ids::BackendName;
use tephra_domain::units::Timestamp;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::work_queue::{Delivery, Endless, Lease, WorkOrder, WorkQueue};

/// The longest sleep before the clock is asked again: a clock may be set while an order waits.
const LONGEST_SLEEP_MS: u64 = 60_000;

#[derive(Default)]
struct Line {
    ready: VecDeque<WorkOrder>,
    /// By time, then by the order in which they came.
    waiting: BTreeMap<(Timestamp, u64), WorkOrder>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    lines: BTreeMap<BackendName, Line>,
    /// Orders that are in a line or with an executor.
    known: BTreeSet<EffectKey>,
    published: u64,
    closed: bool,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct InProcessQueue {
    shared: Arc<Shared>,
}

impl InProcessQueue {
    /// An empty queue.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { shared: Arc::new(Shared { clock, state: Mutex::new(State::default()) }) }
    }

    /// Lets every [`WorkQueue::next`] return nothing from now on.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        for line in state.lines.values() {
            line.changed.notify_waiters();
        }
    }

    /// How many orders are in the queue or with an executor.
    pub fn len(&self) -> usize {
        self.shared.lock().known.len()
    }

    /// Whether no order is in the queue or with an executor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next order that is due, or how long until there may be one.
    fn take(&self, backend: &BackendName) -> Taken {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        if state.closed {
            return Taken::Closed;
        }
        let line = state.lines.entry(backend.clone()).or_default();
        while let Some(first) = line.waiting.first_entry() {
            if first.key().0 > now {
                break;
            }
            line.ready.push_back(first.remove());
        }
        match line.ready.pop_front() {
            Some(order) => Taken::Order(order),
            None => {
                Taken::Nothing { wait: line.waiting.first_key_value().map(|((due, _), _)| until(now, *due)) }
            }
        }
    }
}

enum Taken {
    Order(WorkOrder),
    Nothing { wait: Option<Duration> },
    Closed,
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    let micros = u64::try_from(due.0.saturating_sub(now.0)).unwrap_or_default();
    // A whole millisecond more, because timers are that coarse and waking early costs a round.
    Duration::from_micros(micros.saturating_add(1_000)).min(Duration::from_millis(LONGEST_SLEEP_MS))
}

#[async_trait]
impl WorkQueue for InProcessQueue {
    async fn publish(&self, order: WorkOrder) {
        let mut state = self.shared.lock();
        if !state.known.insert(order.due.key) {
            return;
        }
        state.published = state.published.saturating_add(1);
        let arrival = state.published;
        let line = state.lines.entry(order.due.pool.backend.clone()).or_default();
        line.waiting.insert((order.due.not_before, arrival), order);
        line.changed.notify_waiters();
    }

    async fn next(&self, backend: &BackendName) -> Option<Box<dyn Delivery>> {
        loop {
            // Listening starts before looking, so that nothing published in between is missed.
            let changed = {
                let mut state = self.shared.lock();
                Arc::clone(&state.lines.entry(backend.clone()).or_default().changed)
            };
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            match self.take(backend) {
                Taken::Closed => return None,
                Taken::Order(order) => {
                    let shared = Arc::clone(&self.shared);
                    return Some(Box::new(InProcessDelivery { shared, order, acknowledged: false }));
                }
                Taken::Nothing { wait: None } => notified.await,
                Taken::Nothing { wait: Some(wait) } => {
                    tokio::select! {
                        biased;
                        () = notified => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }
}

struct InProcessDelivery {
    shared: Arc<Shared>,
    order: WorkOrder,
    acknowledged: bool,
}

#[async_trait]
impl Delivery for InProcessDelivery {
    fn order(&self) -> &WorkOrder {
        &self.order
    }

    fn lease(&self) -> Arc<dyn Lease> {
        Arc::new(Endless)
    }

    async fn keep(&self) {}

    async fn acknowledge(mut self: Box<Self>) {
        self.acknowledged = true;
        self.shared.lock().known.remove(&self.order.due.key);
    }
}

impl Drop for InProcessDelivery {
    fn drop(&mut self) {
        if self.acknowledged {
            return;
        }
        let mut state = self.shared.lock();
        let line = state.lines.entry(self.order.due.pool.backend.clone()).or_default();
        line.ready.push_front(self.order.clone());
        line.changed.notify_waiters();
    }
}
