//! How full each pool is, as its executor last said: soft state, for the scheduler and for show.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tephra_domain::ids::{BackendName, PoolId};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;

/// An executor that has not reported for this long is down, unless the configuration says
/// otherwise (Cinder's `service_down_time`).
pub const DOWN_AFTER_MS: i64 = 60_000;

/// The latest report of every pool. Cheap to clone; all clones are one board.
#[derive(Clone)]
pub struct PoolBoard {
    pools: Arc<RwLock<BTreeMap<PoolId, PoolStats>>>,
    down_after_ms: i64,
}

impl Default for PoolBoard {
    fn default() -> Self {
        Self { pools: Arc::default(), down_after_ms: DOWN_AFTER_MS }
    }
}

impl PoolBoard {
    /// A board on which backends are down after so long a silence.
    pub fn with_down_after(silence: Duration) -> Self {
        let down_after_ms = i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
        Self { pools: Arc::default(), down_after_ms }
    }

    /// Whether somebody who last reported then is alive.
    pub const fn is_fresh(&self, reported_at: Timestamp, now: Timestamp) -> bool {
        now.micros() < reported_at.plus_ms(self.down_after_ms).micros()
    }

    /// Takes a report in.
    pub fn report(&self, stats: PoolStats) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(stats.pool.clone(), stats);
    }

    /// All pools as of `now`; those that have been silent too long are down.
    pub fn read(&self, now: Timestamp) -> Vec<PoolStats> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = |stats: &PoolStats| self.is_fresh(stats.reported_at, now);
        pools
            .values()
            .map(|stats| PoolStats { is_up: stats.is_up && fresh(stats), ..stats.clone() })
            .collect()
    }

    /// When a backend last reported, if ever.
    pub fn last_report(&self, backend: &BackendName) -> Option<Timestamp> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().filter(|stats| stats.pool.backend == *backend).map(|stats| stats.reported_at).max()
    }
}
