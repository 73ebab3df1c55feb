//! How full each pool is, as its executor last said: soft state, for the scheduler and for show.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tephra_domain::ids::{BackendName, PoolId};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;

/// An executor that has not reported for this long is down (Cinder's `service_down_time`).
pub const DOWN_AFTER_MS: i64 = 60_000;

/// The latest report of every pool. Cheap to clone; all clones are one board.
#[derive(Clone, Default)]
pub struct PoolBoard {
    pools: Arc<RwLock<BTreeMap<PoolId, PoolStats>>>,
}

impl PoolBoard {
    /// Takes a report in.
    pub fn report(&self, stats: PoolStats) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(stats.pool.clone(), stats);
    }

    /// All pools as of `now`; those that have been silent too long are down.
    pub fn read(&self, now: Timestamp) -> Vec<PoolStats> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = |stats: &PoolStats| now < stats.reported_at.plus_ms(DOWN_AFTER_MS);
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
