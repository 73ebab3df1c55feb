//! The simulated work queue: leases that expire, orders that are lost, late, twice, or in another
//! order, acknowledgements that never arrive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::ids::BackendName;
use tephra_journal::work_queue::{Delivery, Lease, WorkOrder, WorkQueue};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{FaultKind, Faults};
use super::process::Process;
use super::trace::Trace;

/// How long a delivered order is not delivered again, unless its lease is kept.
const LEASE: Duration = Duration::from_secs(30);

struct Message {
    order: WorkOrder,
    /// Not delivered before.
    visible: Instant,
    /// Which delivery has it, while that is not over.
    delivery: u64,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<u64, Message>,
    next: u64,
}

/// The queue itself. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct QueueStore {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    faults: Faults,
    trace: Trace,
    random: Arc<Mutex<fastrand::Rng>>,
}

impl QueueStore {
    /// An empty queue.
    pub fn new(faults: Faults, trace: Trace, random: fastrand::Rng) -> Self {
        let random = Arc::new(Mutex::new(random));
        Self { state: Arc::default(), changed: Arc::default(), faults, trace, random }
    }

    /// A process's way to it.
    pub fn port(&self, process: Process) -> QueuePort {
        QueuePort { store: self.clone(), process }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn strikes(&self, kind: FaultKind, one_in: u32) -> bool {
        self.draw(|random| self.faults.strikes(kind, random, one_in))
    }

    fn put(&self, order: WorkOrder, after: Duration) {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.messages.insert(number, Message { order, visible: Instant::now() + after, delivery: 0 });
        drop(state);
        self.changed.notify_waiters();
    }

    /// An order that may be delivered now, or when to look again.
    fn take(&self, backend: &BackendName) -> Result<(u64, u64, WorkOrder), Option<Instant>> {
        let now = Instant::now();
        let reorder = self.strikes(FaultKind::OrderReordered, 8);
        let mut state = self.lock();
        let mine = |message: &Message| message.order.due.pool.backend == *backend;
        let ready: Vec<u64> = state
            .messages
            .iter()
            .filter(|(_, message)| mine(message) && message.visible <= now)
            .map(|(number, _)| *number)
            .collect();
        let drawn =
            if reorder { self.draw(|random| random.choice(&ready).copied()) } else { ready.first().copied() };
        let Some(number) = drawn else {
            return Err(state.messages.values().filter(|m| mine(m)).map(|m| m.visible).min());
        };
        let delivery = state.next;
        state.next += 1;
        let Some(message) = state.messages.get_mut(&number) else { return Err(None) };
        message.visible = now + LEASE;
        message.delivery = delivery;
        Ok((number, delivery, message.order.clone()))
    }

    /// Changes a message that this delivery still has.
    fn with_lease(&self, number: u64, delivery: u64, change: impl FnOnce(&mut State, u64)) {
        let mut state = self.lock();
        if state.messages.get(&number).is_some_and(|message| message.delivery == delivery) {
            change(&mut state, number);
        }
    }
}

/// A process's way to the queue.
pub struct QueuePort {
    store: QueueStore,
    process: Process,
}

#[async_trait]
impl WorkQueue for QueuePort {
    async fn publish(&self, order: WorkOrder) {
        self.process.survive().await;
        let key = order.due.key;
        if self.store.strikes(FaultKind::OrderLost, 24) {
            self.store.trace.note(&self.process, format_args!("order {key} is lost"));
            return;
        }
        let twice = self.store.strikes(FaultKind::OrderTwice, 24);
        if !twice && self.store.lock().messages.values().any(|message| message.order.due.key == key) {
            return;
        }
        let ms = if self.store.strikes(FaultKind::OrderLate, 16) {
            self.store.draw(|random| random.u64(1_000..120_000))
        } else {
            self.store.draw(|random| random.u64(0..5))
        };
        let effect = order.due.effect.name();
        self.store.trace.note(&self.process, format_args!("order {key}: {effect}, in {ms} ms"));
        if twice {
            let again = self.store.draw(|random| random.u64(0..60_000));
            self.store.put(order.clone(), Duration::from_millis(again));
        }
        self.store.put(order, Duration::from_millis(ms));
    }

    async fn next(&self, backend: &BackendName) -> Option<Box<dyn Delivery>> {
        let taken = async {
            loop {
                let changed = self.store.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match self.store.take(backend) {
                    Ok(taken) => return taken,
                    Err(None) => changed.await,
                    // whichever comes first; either way it looks again
                    Err(Some(at)) => drop(tokio::time::timeout_at(at, changed).await),
                }
            }
        };
        let (number, delivery, order) = self.process.run(taken).await;
        let (store, process) = (self.store.clone(), self.process.clone());
        store.trace.note(&process, format_args!("takes {}", order.due.key));
        let until = Arc::new(Until(Mutex::new(Instant::now() + LEASE)));
        Some(Box::new(Leased { store, process, number, delivery, order, until, acknowledged: false }))
    }
}

/// When a lease is over, as its holder knows.
struct Until(Mutex<Instant>);

impl Lease for Until {
    fn left(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(until.duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

struct Leased {
    store: QueueStore,
    process: Process,
    number: u64,
    delivery: u64,
    order: WorkOrder,
    until: Arc<Until>,
    acknowledged: bool,
}

#[async_trait]
impl Delivery for Leased {
    fn order(&self) -> &WorkOrder {
        &self.order
    }

    fn lease(&self) -> Arc<dyn Lease> {
        Arc::<Until>::clone(&self.until)
    }

    async fn keep(&self) {
        self.process.survive().await;
        // several in a row must be lost before the lease is
        if !self.store.strikes(FaultKind::LeaseLost, 3) {
            self.store.with_lease(self.number, self.delivery, |state, number| {
                if let Some(message) = state.messages.get_mut(&number) {
                    message.visible = Instant::now() + LEASE;
                    *self.until.0.lock().unwrap_or_else(PoisonError::into_inner) = message.visible;
                }
            });
        }
    }

    async fn acknowledge(mut self: Box<Self>) {
        self.process.survive().await;
        self.acknowledged = true;
        if !self.store.strikes(FaultKind::AckLost, 24) {
            self.store.with_lease(self.number, self.delivery, |state, number| {
                state.messages.remove(&number);
            });
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // the dead give nothing back: the lease has to run out
        if !self.acknowledged && self.process.lives() {
            self.store.with_lease(self.number, self.delivery, |state, number| {
                if let Some(message) = state.messages.get_mut(&number) {
                    message.visible = Instant::now();
                }
            });
            self.store.changed.notify_waiters();
        }
    }
}
