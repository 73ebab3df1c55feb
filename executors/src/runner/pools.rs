//! Says how full the pools are: at the start, regularly, and after changes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::scheduler::PoolStats;
use tephra_journal::clock::Clock;
use tephra_journal::pool_board::PoolBoard;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::limits::{STATS_LIMIT, STATS_PAUSE};
use crate::backend::Backend;
use crate::metrics;

/// Reports one backend's pools.
pub struct PoolReporter {
    pub backend: Arc<dyn Backend>,
    pub board: PoolBoard,
    pub clock: Arc<dyn Clock>,
    pub changed: Arc<Notify>,
    pub interval: Duration,
    /// Cancelled when the backend's storage was taken over.
    pub cancel: CancellationToken,
}

impl PoolReporter {
    /// Goes on until it is dropped. A backend that does not answer is shown as down at once, and
    /// asked again. Ends when another process has taken the storage over, which reports for itself.
    pub async fn run(self) {
        let mut known: Option<Vec<PoolStats>> = None;
        let mut was_up = None;
        loop {
            let asked = self.ask().await;
            if self.backend.is_taken_over() {
                make_way(&*self.backend, &self.cancel);
                return;
            }
            let is_up = asked.is_ok();
            if was_up != Some(is_up) {
                self.tell_change(&asked);
                was_up = Some(is_up);
            }
            if let Ok(stats) = asked {
                known = Some(stats);
            }
            for pool in known.iter().flatten() {
                let is_up = is_up && pool.is_up;
                self.show(PoolStats { is_up, reported_at: self.clock.now(), ..pool.clone() });
            }
            let pause = STATS_PAUSE.min(self.interval);
            tokio::time::sleep(pause).await;
            // an elapsed interval is no error: it is time again
            let _elapsed =
                tokio::time::timeout(self.interval.saturating_sub(pause), self.changed.notified()).await;
        }
    }

    async fn ask(&self) -> Result<Vec<PoolStats>, Failure> {
        let asked = AssertUnwindSafe(self.backend.stats(self.clock.now())).catch_unwind();
        match tokio::time::timeout(STATS_LIMIT, asked).await {
            Ok(Ok(stats)) => stats,
            Ok(Err(_panic)) => Err(Failure::new(FailureKind::BackendError, "the backend's code panicked")),
            Err(_elapsed) => Err(Failure::new(FailureKind::TimedOut, "the backend does not answer")),
        }
    }

    fn tell_change(&self, asked: &Result<Vec<PoolStats>, Failure>) {
        let backend = self.backend.name();
        match asked {
            Ok(_) => tracing::info!(%backend, "the backend is up"),
            Err(failure) => tracing::warn!(%backend, %failure, "the backend is down"),
        }
        let up = if asked.is_ok() { 1.0 } else { 0.0 };
        ::metrics::gauge!(metrics::BACKEND_UP, "backend" => backend.as_str().to_owned()).set(up);
    }

    fn show(&self, stats: PoolStats) {
        let labels = [
            ("backend", stats.pool.backend.as_str().to_owned()),
            ("pool", stats.pool.pool.as_str().to_owned()),
        ];
        let bytes = |gib: f64| gib * f64::from(1 << 30);
        ::metrics::gauge!(metrics::POOL_TOTAL_BYTES, &labels).set(bytes(stats.total_gib));
        ::metrics::gauge!(metrics::POOL_FREE_BYTES, &labels).set(bytes(stats.free_gib));
        self.board.report(stats);
    }
}

/// Ends the runner: another executor has the storage, and the orders are for it.
pub fn make_way(backend: &dyn Backend, cancel: &CancellationToken) {
    if !cancel.is_cancelled() {
        tracing::error!(backend = %backend.name(), "another process has taken the storage over; this one stops");
        cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tephra_domain::backend::BackendDescription;
    use tephra_domain::effect::Effect;
    use tephra_domain::ids::{BackendName, PoolName};
    use tephra_domain::units::Timestamp;
    use tephra_journal::clock::ManualClock;

    use super::*;
    use crate::backend::memory::{MemoryBackend, MemoryConfig};

    /// Answers, but one of its pools is not there.
    struct HalfThere(MemoryBackend);

    #[async_trait]
    impl Backend for HalfThere {
        fn name(&self) -> &BackendName {
            self.0.name()
        }

        fn description(&self) -> BackendDescription {
            self.0.description()
        }

        async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
            let mut stats = self.0.stats(now).await?;
            let mut gone = stats[0].clone();
            (gone.pool.pool, gone.is_up) = (PoolName::new("gone"), false);
            stats.push(gone);
            Ok(stats)
        }

        async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
            self.0.perform(pool, effect).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_its_backend_says_is_down_is_shown_down() {
        let board = PoolBoard::default();
        let reporter = PoolReporter {
            backend: Arc::new(HalfThere(MemoryBackend::new(MemoryConfig::new("disk")))),
            board: board.clone(),
            clock: Arc::new(ManualClock::default()),
            changed: Arc::default(),
            interval: Duration::from_secs(10),
            cancel: CancellationToken::new(),
        };
        let reporting = tokio::spawn(reporter.run());
        tokio::time::sleep(Duration::from_secs(25)).await;
        reporting.abort();
        let shown = board.read(Timestamp(0));
        let shown: Vec<_> = shown.iter().map(|pool| (pool.pool.pool.as_str(), pool.is_up)).collect();
        assert_eq!(shown, [("disk", true), ("gone", false)]);
    }
}
