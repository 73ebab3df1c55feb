//! Shows what is on a backend's pools to whoever asks.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::PoolId;
use tephra_journal::inventory::Inventory;

use crate::backend::Backend;
use crate::runner::limits::LIST_LIMIT;

/// A backend's pools, looked at within [`LIST_LIMIT`].
pub struct BackendInventory {
    backend: Arc<dyn Backend>,
}

impl BackendInventory {
    /// Of one backend.
    pub const fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }
}

#[async_trait]
impl Inventory for BackendInventory {
    async fn list(&self, pool: &PoolId) -> Result<Vec<FoundObject>, Failure> {
        let listing = AssertUnwindSafe(self.backend.list(&pool.pool)).catch_unwind();
        match tokio::time::timeout(LIST_LIMIT, listing).await {
            Ok(Ok(found)) => found,
            Ok(Err(_panic)) => Err(Failure::new(FailureKind::BackendError, "the backend's code panicked")),
            Err(_elapsed) => {
                let message = format!("{} has not listed its objects in time", self.backend.name());
                Err(Failure::new(FailureKind::TimedOut, message))
            }
        }
    }
}
