//! The work-queue port: effects on their way to executors.
//!
//! The queue may lose an order or deliver it twice. Lost ones are dispatched again, because due
//! effects follow from the state; for twice-delivered ones effects are idempotent, and the ledger
//! takes a report only for the attempt that it waits for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::effect::DueEffect;
use tephra_domain::ids::{BackendName, OperationId, RequestId};

/// An effect to be performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkOrder {
    /// What, where, and which attempt.
    pub due: DueEffect,
    /// The operation that it belongs to (of a debt: that incurred it).
    pub operation: OperationId,
    /// The request that it all began with.
    pub request: RequestId,
}

/// Until when a delivery is its holder's and nobody else's.
///
/// It runs out while the holder is held still, too: stopped, suspended with its host, or cut off.
pub trait Lease: Send + Sync {
    /// How much longer the delivery is surely its holder's. Nothing once it may be somebody else's, and
    /// that stays so: whoever was late has lost it.
    fn left(&self) -> Option<Duration>;
}

/// Of a delivery that nobody else gets before it is given back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endless;

impl Lease for Endless {
    fn left(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }
}

/// One delivery of an order. Dropping it without [`Delivery::acknowledge`] gives the order back.
#[async_trait]
pub trait Delivery: Send + Sync {
    /// The order.
    fn order(&self) -> &WorkOrder;
    /// Its lease, which [`Delivery::keep`] renews.
    fn lease(&self) -> Arc<dyn Lease>;
    /// Keeps the lease for another lease time; call it well within that.
    async fn keep(&self);
    /// The outcome is reported and durable: the order is done with.
    async fn acknowledge(self: Box<Self>);
}

/// Where orders wait.
#[async_trait]
pub trait WorkQueue: Send + Sync {
    /// Puts an order in. The same attempt twice is one order.
    async fn publish(&self, order: WorkOrder);
    /// Waits for the next order for a backend. Nothing once the queue is closed.
    async fn next(&self, backend: &BackendName) -> Option<Box<dyn Delivery>>;
}
