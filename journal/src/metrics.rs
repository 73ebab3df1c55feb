//! The names of everything that this crate counts, in one place. Each name ends in its unit.

/// Counter: deliveries of orders that keep coming back without being done: the tenth of an order, and
/// every one after it. The log names the order. Label: `backend`.
pub const ORDERS_TROUBLED_TOTAL: &str = "tephra_orders_troubled_total";
