//! How full pools are, on its way to whoever places volumes.

use tephra_domain::scheduler::PoolStats;

use super::codec::{Map, Wire, wire_struct};
use super::values::PoolIdV1;
use crate::wire::Invalid;

wire_struct! {
    /// How full one pool is.
    PoolStatsV1<'a> for PoolStats {
        pool: PoolIdV1<'a>, is_up: bool, total_gib: f64, free_gib: f64, provisioned_gib: f64,
        max_over_subscription_ratio: f64, reserved_percentage: u8, thin: bool, capabilities: Map<'a>,
        reported_at: i64,
    }
}

impl<'a> Wire<'a, f64> for f64 {
    fn to_wire(&'a self) -> f64 {
        *self
    }

    fn from_wire(wire: f64) -> Result<Self, Invalid> {
        Ok(wire)
    }
}
