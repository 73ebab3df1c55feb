//! The names of everything that this crate counts, in one place. Each name ends in its unit.

/// Histogram: how long an effect took, from holding the locks to its outcome. Labels: `backend`,
/// `effect`, `outcome` (`done`, or the kind of the failure).
pub const EFFECT_DURATION_SECONDS: &str = "tephra_executor_effect_duration_seconds";

/// Histogram: how long an order waited for other effects on its volumes, and for a free worker.
/// Label: `backend`.
pub const EFFECT_WAIT_SECONDS: &str = "tephra_executor_effect_wait_seconds";

/// Gauge: effects that are being performed now. Label: `backend`.
pub const EFFECTS_IN_FLIGHT: &str = "tephra_executor_effects_in_flight";

/// Counter: reports by their fate (`accepted`, `stale`, `rejected`). Labels: `backend`, `fate`.
pub const REPORTS_TOTAL: &str = "tephra_executor_reports_total";

/// Counter: reports that had to be sent again, because the ledger was not available. Label: `backend`.
pub const REPORT_RETRIES_TOTAL: &str = "tephra_executor_report_retries_total";

/// Counter: orders that were not performed, because their attempt had been overtaken. Label: `backend`.
pub const OVERTAKEN_ORDERS_TOTAL: &str = "tephra_executor_overtaken_orders_total";

/// Counter: orders that were let go in the middle, because somebody else may have had them. Label: `backend`.
pub const LOST_ORDERS_TOTAL: &str = "tephra_executor_lost_orders_total";

/// Gauge: 1 while the backend answers, 0 while it does not. Label: `backend`.
pub const BACKEND_UP: &str = "tephra_executor_backend_up";

/// Gauge: the size of a pool in bytes. Labels: `backend`, `pool`.
pub const POOL_TOTAL_BYTES: &str = "tephra_executor_pool_total_bytes";

/// Gauge: the free space of a pool in bytes. Labels: `backend`, `pool`.
pub const POOL_FREE_BYTES: &str = "tephra_executor_pool_free_bytes";
