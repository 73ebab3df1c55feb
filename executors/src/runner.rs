//! Takes orders, performs them, reports.
//!
//! For each order, in this row:
//! 1. Wait until it is due (`not_before`), then for the locks of its volumes, then for a worker.
//! 2. Ask the ledger whether the attempt is still due ([`Command::CheckAttempt`]). Asked under the
//!    lock, and with nothing left to wait for, the answer stays true long enough: whatever comes after
//!    this operation on the volume waits for the lock. A late order is dropped here, before it does harm.
//! 3. Perform it under the time limit that the backend has for its kind ([`limits`]). What goes on after
//!    its limit keeps the locks, so the next attempt does not meet it.
//! 4. Report the outcome until the ledger has taken it, then acknowledge.
//!
//! Where other hosts reach the same storage, an order whose lease cannot be kept is dropped at whichever
//! of these it is, with all that runs for it and without a report ([`crate::fence`]): somebody else has it.
//!
//! An order is acknowledged only when its outcome is durable (or the ledger does not want it). At
//! any other end (a stop, a crash) it is given back and comes again, and since effects are
//! idempotent that is no harm.
//!
//! [`Command::CheckAttempt`]: tephra_domain::command::Command::CheckAttempt

pub mod limits;

mod exports;
mod ledger;
mod orders;
mod pools;

use std::sync::Arc;
use std::time::Duration;

use tephra_journal::clock::Clock;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::ProgressBoard;
use tephra_journal::work_queue::WorkQueue;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::exports::ExportNotes;
use self::ledger::LedgerClient;
use self::orders::OrderDesk;
use self::pools::PoolReporter;
use crate::backend::Backend;
use crate::copy::Neighbours;
use crate::image::Images;
use crate::locks::VolumeLocks;

/// How a runner works.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// How many effects it performs at once. The more, the more creates share a flush of the file
    /// system's journal (measured on ext4: 8 give 3.2 k durable creates/s, 16 give 4.3 k, 64 give
    /// 5.7 k), and the more copies compete for the disk.
    pub parallelism: usize,
    /// How many orders it holds at once: those that it performs, and those that wait for their
    /// time or their volume.
    pub orders_held: usize,
    /// How often it says how full the pools are.
    pub stats_interval: Duration,
    /// How often it keeps the lease of an order that it holds.
    pub keep_interval: Duration,
    /// How long effects that are being performed may go on after it was told to stop.
    pub drain_limit: Duration,
    /// What makes volumes of images; nothing if no image store is configured.
    pub images: Option<Arc<Images>>,
    /// What copies volumes from other backends of this process, and which those are.
    pub neighbours: Option<Arc<Neighbours>>,
    /// Where it says how far long effects have come.
    pub progress: ProgressBoard,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            parallelism: 16,
            orders_held: 256,
            stats_interval: Duration::from_secs(10),
            keep_interval: Duration::from_secs(5),
            drain_limit: Duration::from_secs(30),
            images: None,
            neighbours: None,
            progress: ProgressBoard::default(),
        }
    }
}

/// Performs the orders of one backend.
pub struct Runner {
    config: RunnerConfig,
    queue: Arc<dyn WorkQueue>,
    ledger: Arc<LedgerClient>,
    pools: PoolReporter,
    desk: Arc<OrderDesk>,
    cancel: CancellationToken,
    abandon: CancellationToken,
}

/// A running [`Runner`].
pub struct RunnerHandle {
    task: JoinHandle<()>,
}

impl Runner {
    /// Starts: presents the backend to the ledger, says how full it is, takes orders. Ends when
    /// `cancel` is cancelled or the queue closed, after a drain.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        config: RunnerConfig,
        backend: Arc<dyn Backend>,
        queue: Arc<dyn WorkQueue>,
        gateway: Arc<dyn CommandGateway>,
        pools: PoolBoard,
        clock: Arc<dyn Clock>,
        cancel: CancellationToken,
    ) -> RunnerHandle {
        let abandon = CancellationToken::new();
        let changed = Arc::new(Notify::new());
        let ledger = Arc::new(LedgerClient::new(
            Arc::clone(&backend),
            config.neighbours.clone(),
            gateway,
            Arc::clone(&clock),
        ));
        let desk = Arc::new(OrderDesk {
            backend: Arc::clone(&backend),
            ledger: Arc::clone(&ledger),
            clock: Arc::clone(&clock),
            locks: VolumeLocks::default(),
            workers: Arc::new(Semaphore::new(config.parallelism.max(1))),
            finished: Arc::default(),
            limits: backend.limits(),
            changed: Arc::clone(&changed),
            export_notes: ExportNotes::default(),
            config: config.clone(),
            cancel: cancel.clone(),
            abandon: abandon.clone(),
        });
        let interval = config.stats_interval;
        let pools = PoolReporter { backend, board: pools, clock, changed, interval, cancel: cancel.clone() };
        let runner = Self { config, queue, ledger, pools, desk, cancel, abandon };
        RunnerHandle { task: tokio::spawn(runner.run()) }
    }

    async fn run(self) {
        let Self { config, queue, ledger, pools, desk, cancel, abandon } = self;
        let stop_reporting = CancellationToken::new();
        let reporting = tokio::spawn(stop_reporting.clone().run_until_cancelled_owned(pools.run()));
        let registering = tokio::spawn(cancel.clone().run_until_cancelled_owned({
            let ledger = Arc::clone(&ledger);
            let exporter = desk.backend.exporter();
            let notes = desk.export_notes.clone();
            async move {
                let known = ledger.register().await;
                let watching = async {
                    if let Some(exporter) = exporter {
                        exports::watch(exporter, Arc::clone(&ledger), notes).await;
                    }
                };
                tokio::join!(ledger.present_changes(known), watching);
            }
        }));

        let orders = TaskTracker::new();
        take_orders(&config, &*queue, &desk, &cancel, &orders).await;
        orders.close();
        // what waits lets go at once; what is being performed may finish
        cancel.cancel();
        if tokio::time::timeout(config.drain_limit, orders.wait()).await.is_err() {
            tracing::warn!(orders = orders.len(), "giving back orders that took too long to finish");
            abandon.cancel();
            orders.wait().await;
        }
        stop_reporting.cancel();
        for task in [reporting.await.err(), registering.await.err()].into_iter().flatten() {
            tracing::error!(error = %task, "a part of the runner ended badly");
        }
    }
}

async fn take_orders(
    config: &RunnerConfig,
    queue: &dyn WorkQueue,
    desk: &Arc<OrderDesk>,
    cancel: &CancellationToken,
    orders: &TaskTracker,
) {
    let held = Arc::new(Semaphore::new(config.orders_held.max(config.parallelism).max(1)));
    loop {
        let taken = cancel
            .run_until_cancelled(async {
                let place = Arc::clone(&held).acquire_owned().await.ok()?;
                let delivery = queue.next(desk.backend.name()).await?;
                Some((place, delivery))
            })
            .await;
        let Some(Some((place, delivery))) = taken else { return };
        let desk = Arc::clone(desk);
        orders.spawn(async move {
            desk.handle(delivery).await;
            drop(place);
        });
    }
}

impl RunnerHandle {
    /// Waits until it has stopped: everything is finished, or given back.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the runner ended badly");
        }
    }
}
