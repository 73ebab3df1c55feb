//! Holds the ledger against what the backends show. Nothing here changes anything.

use std::time::Duration;

use futures::future::join_all;
use tephra_domain::drift::{Expectation, Finding, FoundObject, compare};
use tephra_domain::effect::Failure;
use tephra_domain::ids::{BackendName, PoolId};
use tephra_journal::log::BlockNumber;

use crate::error::Fault;
use crate::state::AppState;

/// How long the views may take to come up with the log between two looks.
const VIEWS_PATIENCE: Duration = Duration::from_secs(5);

/// One pool, compared.
#[derive(Clone, Debug)]
pub struct PoolDrift {
    /// Which.
    pub pool: PoolId,
    /// Where ledger and backend differ; or why the backend could not be looked at.
    pub findings: Result<Vec<Finding>, Failure>,
}

/// What one pool shows, beside what the ledger said before and after.
pub struct Look {
    before: Expectation,
    after: Expectation,
    /// Everything that is there.
    pub found: Vec<FoundObject>,
}

impl Look {
    /// Whether a name is the ledger's.
    pub fn is_known(&self, name: &str) -> bool {
        self.before.knows(name) || self.after.knows(name)
    }
}

impl AppState {
    /// Compares the pools that are meant: all, one backend's, or one.
    ///
    /// # Errors
    /// 404 if there is no such pool; 500 if the views fail.
    pub async fn drift(
        &self,
        backend: Option<&BackendName>,
        pool: Option<&str>,
    ) -> Result<Vec<PoolDrift>, Fault> {
        let mut meant = Vec::new();
        for row in self.views.backends()? {
            let pools = row.description.pools.iter();
            meant.extend(pools.map(|pool| PoolId { backend: row.name.clone(), pool: pool.clone() }));
        }
        meant.retain(|known| {
            backend.is_none_or(|backend| known.backend == *backend)
                && pool.is_none_or(|pool| known.to_string() == pool)
        });
        if meant.is_empty() && (backend.is_some() || pool.is_some()) {
            let name =
                pool.map_or_else(|| backend.map(ToString::to_string).unwrap_or_default(), str::to_owned);
            return Err(Fault::not_found(format!("Pool {name} could not be found.")));
        }
        let compared = join_all(meant.into_iter().map(|pool| self.compare_pool(pool))).await;
        compared.into_iter().collect()
    }

    async fn compare_pool(&self, pool: PoolId) -> Result<PoolDrift, Fault> {
        let findings = match self.found_drift(&pool).await? {
            Err(failure) => Err(failure),
            Ok(first) if first.is_empty() => Ok(first),
            // what came and went while the backend was looked at does not show a second time
            Ok(first) => self.found_drift(&pool).await?.map(|mut again| {
                again.retain(|finding| first.contains(finding));
                again
            }),
        };
        Ok(PoolDrift { pool, findings })
    }

    async fn found_drift(&self, pool: &PoolId) -> Result<Result<Vec<Finding>, Failure>, Fault> {
        Ok(self.look(pool).await?.map(|look| compare(&look.before, &look.after, &look.found)))
    }

    /// Asks the backend what is on a pool, and the ledger before and after.
    ///
    /// # Errors
    /// 500 if the views fail; the inner failure if the backend cannot be looked at.
    pub async fn look(&self, pool: &PoolId) -> Result<Result<Look, Failure>, Fault> {
        let before = self.expectation(pool).await?;
        let found = match self.inventory.list(pool).await {
            Ok(found) => found,
            Err(failure) => return Ok(Err(failure)),
        };
        self.come_up_with_log().await;
        let after = self.expectation(pool).await?;
        Ok(Ok(Look { before, after, found }))
    }

    async fn expectation(&self, pool: &PoolId) -> Result<Expectation, Fault> {
        let pool = pool.clone();
        Ok(self.scan(move |views| views.expectation(&pool)).await??)
    }

    /// So that what the backend shows already is not taken for unknown because the views are late.
    /// Views that do not come up make a finding too many, which the second look takes back.
    async fn come_up_with_log(&self) {
        let up = async {
            match self.log.head().await {
                Ok(BlockNumber(0)) | Err(_) => {}
                Ok(head) => self.views.wait_for_block(head).await,
            }
        };
        if tokio::time::timeout(VIEWS_PATIENCE, up).await.is_err() {
            tracing::warn!("the views are behind the log while a backend is compared");
        }
    }
}
