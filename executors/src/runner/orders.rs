//! One order, from its delivery to its acknowledgement.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tephra_domain::effect::{DueEffect, Effect, EffectKey, Failure, FailureKind, Outcome};
use tephra_domain::units::Timestamp;
use tephra_journal::clock::Clock;
use tephra_journal::work_queue::{Delivery, Lease, WorkOrder};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::RunnerConfig;
use super::exports::ExportNotes;
use super::ledger::LedgerClient;
use super::limits::{DUE_NAP, EffectLimits, FINISHED_REMEMBERED, KEEP_PAUSE_MIN, KEEPS_PER_LEASE};
use super::pools::make_way;
use crate::backend::Backend;
use crate::copy;
use crate::fence::Fence;
use crate::locks::{VolumeGuard, VolumeLocks};
use crate::metrics;

/// Where orders are worked on. One for all orders of a runner.
pub struct OrderDesk {
    pub backend: Arc<dyn Backend>,
    pub ledger: Arc<LedgerClient>,
    pub clock: Arc<dyn Clock>,
    pub locks: VolumeLocks,
    pub workers: Arc<Semaphore>,
    pub finished: Arc<Finished>,
    pub changed: Arc<Notify>,
    pub limits: EffectLimits,
    pub export_notes: ExportNotes,
    pub config: RunnerConfig,
    /// No new work.
    pub cancel: CancellationToken,
    /// Not even the end of old work.
    pub abandon: CancellationToken,
}

/// What an order needs while it is performed.
struct Bench {
    _volumes: VolumeGuard,
    _worker: OwnedSemaphorePermit,
}

enum Prepared {
    Ready(Bench),
    /// The ledger no longer waits for it.
    Overtaken,
    /// An earlier delivery of it came to this outcome.
    Known(Outcome),
}

impl OrderDesk {
    /// Sees an order through, or gives it back.
    pub async fn handle(&self, delivery: Box<dyn Delivery>) {
        let order = delivery.order().clone();
        let span = tracing::info_span!(
            "order",
            request = %order.request,
            operation = %order.operation,
            effect = order.due.effect.name(),
            object = %order.due.effect.target(),
            key = %order.due.key,
        );
        let fence = self.backend.is_shared().then(|| self.fence(&order, delivery.lease()));
        let worked = async {
            let keeping = keep_lease(&*delivery, self.config.keep_interval, fence.is_some());
            let done = tokio::select! {
                biased;
                () = self.abandon.cancelled() => false,
                () = lost(fence.as_deref()) => false,
                done = self.work(&order, fence.as_ref()) => done,
                () = keeping => false,
            };
            if let Some(fence) = fence.as_ref().filter(|_| !done) {
                self.let_go(&order, fence).await;
            }
            done
        };
        if worked.instrument(span).await {
            delivery.acknowledge().await;
        }
    }

    fn fence(&self, order: &WorkOrder, lease: Arc<dyn Lease>) -> Arc<Fence> {
        let (ledger, order) = (Arc::clone(&self.ledger), order.clone());
        let confirm = move || {
            let (ledger, order) = (Arc::clone(&ledger), order.clone());
            async move { ledger.is_due(&order).await }.boxed()
        };
        Arc::new(Fence::new(lease, Box::new(confirm)))
    }

    /// Before the order can be somebody else's, nothing is done for it any more. From then on nothing is
    /// known of how it stands, whatever came of it here.
    async fn let_go(&self, order: &WorkOrder, fence: &Fence) {
        fence.close().await;
        self.finished.forget(order.due.key);
        if fence.is_lost() {
            ::metrics::counter!(metrics::LOST_ORDERS_TOTAL, "backend" => self.label()).increment(1);
            tracing::warn!(
                "the order was not kept and may be somebody else's: it is let go, without a report"
            );
        }
    }

    /// Whether the order is done with.
    async fn work(&self, order: &WorkOrder, fence: Option<&Arc<Fence>>) -> bool {
        let mut begun = None;
        let outcome = match self.cancel.run_until_cancelled(self.prepare(order)).await {
            None => return false,
            Some(Err(failure)) => Outcome::Failed(failure),
            Some(Ok(Prepared::Overtaken)) => return true,
            Some(Ok(Prepared::Known(outcome))) => outcome,
            Some(Ok(Prepared::Ready(bench))) => {
                begun = Some(self.export_notes.begin());
                match self.perform(order, bench, fence).await {
                    Some(outcome) => outcome,
                    None => return false,
                }
            }
        };
        if self.backend.is_taken_over() {
            make_way(&*self.backend, &self.cancel);
            return false;
        }
        self.ledger.report(order, outcome.clone()).await;
        self.export_notes.reported(&order.due.effect, &outcome, begun);
        true
    }

    /// Waits for everything that must be so before the backend is asked.
    async fn prepare(&self, order: &WorkOrder) -> Result<Prepared, Failure> {
        self.wait_until_due(order.due.not_before).await;
        let began = Instant::now();
        let effect = &order.due.effect;
        let locked = tokio::time::timeout(self.limits.lock, self.locks.acquire(effect)).await;
        // only now: an earlier delivery of the same attempt may have been at work
        if let Some(outcome) = self.finished.outcome(order.due.key) {
            return Ok(Prepared::Known(outcome));
        }
        let Ok(volumes) = locked else {
            let message = format!("{} is still being worked on by an earlier effect", effect.target());
            return Err(Failure::new(FailureKind::TimedOut, message));
        };
        let Ok(worker) = Arc::clone(&self.workers).acquire_owned().await else {
            return Err(Failure::new(FailureKind::BackendUnavailable, "the executor is stopping"));
        };
        // last of all: other effects may take hours, and meanwhile the attempt may be given up
        if !self.ledger.is_due(order).await {
            return Ok(Prepared::Overtaken);
        }
        ::metrics::histogram!(metrics::EFFECT_WAIT_SECONDS, "backend" => self.label())
            .record(began.elapsed());
        Ok(Prepared::Ready(Bench { _volumes: volumes, _worker: worker }))
    }

    async fn wait_until_due(&self, not_before: Timestamp) {
        loop {
            let left = not_before.micros().saturating_sub(self.clock.now().micros());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return };
            tokio::time::sleep(Duration::from_micros(left).min(DUE_NAP)).await;
        }
    }

    /// Performs the effect in a task of its own, which holds the locks: whoever stops waiting for
    /// it, nobody else comes near the volume before it has really ended. The outcome is remembered
    /// before the locks are free, so that a second delivery cannot slip in between. Nothing if the
    /// order was lost.
    async fn perform(&self, order: &WorkOrder, bench: Bench, fence: Option<&Arc<Fence>>) -> Option<Outcome> {
        let DueEffect { key, pool, effect, .. } = order.due.clone();
        let backend = Arc::clone(&self.backend);
        let images = self.config.images.clone();
        let neighbours = self.config.neighbours.clone();
        let finished = Arc::clone(&self.finished);
        let progress = self.config.progress.attempt(backend.name().clone(), key, Arc::clone(&self.clock));
        let in_flight = ::metrics::gauge!(metrics::EFFECTS_IN_FLIGHT, "backend" => self.label());
        let limit = self.limits.of(&effect);
        let began = Instant::now();
        let guarded = fence.cloned();
        let work = async move {
            in_flight.increment(1.0);
            let act = async {
                let images = images.as_deref();
                let neighbours = neighbours.as_deref();
                let progress: Arc<dyn copy::Progress> = Arc::new(progress);
                let act = copy::act(&*backend, images, neighbours, &pool.pool, &effect, Some(progress));
                let outcome = match AssertUnwindSafe(act).catch_unwind().await {
                    Ok(Ok(())) => Outcome::Done,
                    Ok(Err(failure)) => Outcome::Failed(failure),
                    Err(panic) => Outcome::Failed(panicked(&effect, &*panic)),
                };
                finished.remember(key, outcome)
            };
            let outcome = match guarded {
                Some(fence) => fence.guard(act).await,
                None => Some(act.await),
            };
            in_flight.decrement(1.0);
            drop(bench);
            outcome
        };
        let outcome = match tokio::time::timeout(limit, tokio::spawn(work.in_current_span())).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_runtime_stops)) => {
                Outcome::Failed(Failure::new(FailureKind::BackendUnavailable, "the executor is stopping"))
            }
            Err(_elapsed) => {
                if let Some(fence) = fence {
                    // the next attempt may be made on another host, where no lock keeps it from this one
                    fence.close().await;
                }
                let message = format!("not done within {} s", limit.as_secs_f64());
                self.finished.remember(key, Outcome::Failed(Failure::new(FailureKind::TimedOut, message)))
            }
        };
        self.tell(order, &outcome, began.elapsed());
        self.changed.notify_one();
        Some(outcome)
    }

    fn tell(&self, order: &WorkOrder, outcome: &Outcome, took: Duration) {
        let word = match outcome {
            Outcome::Done => {
                tracing::debug!(took_ms = took.as_millis(), "done");
                "done"
            }
            Outcome::Failed(failure) => {
                tracing::warn!(took_ms = took.as_millis(), %failure, "failed");
                failure.kind.as_str()
            }
        };
        let labels = [
            ("backend", self.label()),
            ("effect", order.due.effect.name().to_owned()),
            ("outcome", word.to_owned()),
        ];
        ::metrics::histogram!(metrics::EFFECT_DURATION_SECONDS, &labels).record(took);
    }

    fn label(&self) -> String {
        self.backend.name().as_str().to_owned()
    }
}

/// A panic's text goes to the log alone: it may say anything, and a failure's message is shown to
/// users.
fn panicked(effect: &Effect, panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    tracing::error!(panic = text, "the backend's code panicked");
    Failure::new(FailureKind::BackendError, format!("the backend's code panicked at {}", effect.name()))
}

/// Keeps an order's lease for as long as it is polled. Where work must end with it, the more often the
/// less of it is left; otherwise it is asked for again even when it was over.
async fn keep_lease(delivery: &dyn Delivery, interval: Duration, ends_work: bool) {
    let lease = delivery.lease();
    loop {
        let left = lease.left().filter(|_| ends_work);
        let pause = left.map_or(interval, |left| interval.min(left / KEEPS_PER_LEASE));
        tokio::time::sleep(pause.max(KEEP_PAUSE_MIN)).await;
        delivery.keep().await;
    }
}

async fn lost(fence: Option<&Fence>) {
    match fence {
        Some(fence) => fence.lost().await,
        None => std::future::pending().await,
    }
}

/// The outcomes of the latest attempts. A queue may deliver an order twice; performing it again
/// after it was reported could undo what a user did in between.
#[derive(Default)]
pub struct Finished {
    latest: Mutex<(HashMap<EffectKey, Outcome>, VecDeque<EffectKey>)>,
}

impl Finished {
    fn outcome(&self, key: EffectKey) -> Option<Outcome> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.0.get(&key).cloned()
    }

    /// What an attempt came to here counts for nothing any more.
    fn forget(&self, key: EffectKey) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcomes, order) = &mut *latest;
        if outcomes.remove(&key).is_some() {
            order.retain(|known| *known != key);
        }
    }

    /// Takes an outcome in, and says what counts: an attempt has one outcome, the first.
    fn remember(&self, key: EffectKey, outcome: Outcome) -> Outcome {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcomes, order) = &mut *latest;
        if let Some(first) = outcomes.get(&key) {
            return first.clone();
        }
        outcomes.insert(key, outcome.clone());
        order.push_back(key);
        while order.len() > FINISHED_REMEMBERED {
            if let Some(oldest) = order.pop_front() {
                outcomes.remove(&oldest);
            }
        }
        outcome
    }
}
