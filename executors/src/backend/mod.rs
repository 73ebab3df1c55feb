//! What every backend can do.
//!
//! A backend looks ([`Backend::probe`]-like calls are its own business) and acts so that an effect
//! holds afterwards. Performing an effect twice equals performing it once, and a crash at any point
//! is repaired by performing it again.

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::effect::{Effect, Failure};
use tephra_domain::ids::{BackendName, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;

/// A kind of storage, configured.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Its name, unique in the deployment.
    fn name(&self) -> &BackendName;

    /// What it tells the ledger when it starts.
    fn description(&self) -> BackendDescription;

    /// How full its pools are. `provisioned_gib` is left at what the backend itself can see.
    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure>;

    /// Brings the effect about on one of its pools, or says why not. Idempotent.
    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure>;
}
