//! The capacity weigher: the pool with the most room wins (Cinder's `CapacityWeigher`).

use crate::ledger::Ledger;

use super::PoolStats;

/// What is provisioned on the pool now, in GiB: by the ledger, or by the ledger and others when that was
/// measured, whichever is more: what has been deleted since is room from the next report on.
pub fn provisioned_gib(ledger: &Ledger, stats: &PoolStats) -> f64 {
    let usage = ledger.pools.get(&stats.pool).copied().unwrap_or_default();
    (usage.provisioned_gib as f64).max(stats.provisioned_gib)
}

/// What is free now, in GiB: what was measured, less what the ledger has placed since. What others have there
/// is measured too, and is no room: beside it, what was placed since is counted only from the next report on,
/// and a backend that has no room after all says so.
pub fn free_gib(ledger: &Ledger, stats: &PoolStats) -> f64 {
    if stats.thin {
        stats.free_gib
    } else {
        stats.free_gib - (provisioned_gib(ledger, stats) - stats.provisioned_gib)
    }
}

/// The score in thousandths of a GiB. Thin pools count what they may still promise.
pub fn capacity_score(ledger: &Ledger, stats: &PoolStats) -> i64 {
    let reserved_gib = (stats.total_gib * f64::from(stats.reserved_percentage) / 100.0).floor();
    let room_gib = if stats.thin {
        stats.total_gib * stats.max_over_subscription_ratio - provisioned_gib(ledger, stats) - reserved_gib
    } else {
        free_gib(ledger, stats) - reserved_gib
    };
    (room_gib * 1000.0).round() as i64
}
