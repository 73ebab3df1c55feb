//! What a backend shows on its pools, asked of whoever serves it.
//!
//! Looking is no command: nothing happens, nobody remembers it, and it may fail. Where the executor
//! is in the same process it is asked by way of an [`InventoryDesk`]; over NATS by
//! [`crate::jetstream::NatsInventory`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId};

/// Somebody who can look.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Everything on a pool. Bounded in time by whoever implements it; a backend that cannot be asked
    /// is `BackendUnavailable` or `TimedOut`, one that cannot list `Unsupported`.
    async fn list(&self, pool: &PoolId) -> Result<Vec<FoundObject>, Failure>;
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InventoryPart {
    /// Some of the objects.
    Objects {
        /// Counts the messages of an answer from 0, so that a lost one is noticed.
        number: u32,
        /// Whether another one follows.
        more: bool,
        /// What was found.
        objects: Vec<FoundObject>,
    },
    /// The backend cannot be looked at.
    Failed(Failure),
}

/// The executors of this process, by backend. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct InventoryDesk {
    backends: Arc<RwLock<BTreeMap<BackendName, Arc<dyn Inventory>>>>,
}

impl InventoryDesk {
    /// From now on a backend is asked here.
    pub fn open(&self, backend: BackendName, inventory: Arc<dyn Inventory>) {
        self.backends.write().unwrap_or_else(PoisonError::into_inner).insert(backend, inventory);
    }
}

#[async_trait]
impl Inventory for InventoryDesk {
    async fn list(&self, pool: &PoolId) -> Result<Vec<FoundObject>, Failure> {
        let served = self.backends.read().unwrap_or_else(PoisonError::into_inner).get(&pool.backend).cloned();
        match served {
            Some(inventory) => inventory.list(pool).await,
            None => Err(nobody_serves(&pool.backend)),
        }
    }
}

/// What is said of a backend that nobody answers for.
pub(crate) fn nobody_serves(backend: &BackendName) -> Failure {
    Failure::new(FailureKind::BackendUnavailable, format!("no executor of backend {backend} is there"))
}
