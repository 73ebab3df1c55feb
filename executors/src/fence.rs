//! Who has lost an order does nothing more for it.
//!
//! Where several hosts reach the same storage ([`Backend::is_shared`]), an order that is not kept goes to
//! another executor, which finishes and reports it, and users go on with the volume. One that was held
//! still meanwhile must not go on where it stood. So what is done for such an order is done behind a fence:
//!
//! * It closes when the order's lease is over, when its time limit is over, and when the order is given back.
//! * Closed, it drops what is done behind it, and with that kills the programs that run for it.
//! * No program starts behind a closed one ([`crate::process`]); it is looked at last by the thread that
//!   forks.
//! * Before a program that changes something, the ledger is asked whether it still waits for the attempt:
//!   the clock of a virtual machine stands still while its host holds it, so that its lease looks as
//!   if it had only just begun.
//!
//! The fence is known to whatever runs in the task of the attempt, like a span of the log: it is no
//! business of what lies between a runner and a program. Tasks that an attempt spawns are not behind it.
//!
//! [`Backend::is_shared`]: crate::backend::Backend::is_shared

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tephra_journal::work_queue::Lease;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between looks at a lease: timers stand still while the host is suspended, a lease does not.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The least time that is slept for: timers are that coarse.
const SHORTEST_NAP: Duration = Duration::from_millis(1);

tokio::task_local! {
    static CURRENT: Arc<Fence>;
}

/// What is done for this fence's order is done behind it.
pub fn current() -> Option<Arc<Fence>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Whether the ledger still waits for an attempt. Asks until it knows.
pub type Confirm = Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Of one order, from its delivery to its end.
pub struct Fence {
    lease: Arc<dyn Lease>,
    confirm: Confirm,
    closed: CancellationToken,
    behind: TaskTracker,
}

impl Fence {
    /// Around an order with this lease.
    pub fn new(lease: Arc<dyn Lease>, confirm: Confirm) -> Self {
        Self { lease, confirm, closed: CancellationToken::new(), behind: TaskTracker::new() }
    }

    /// Whether work behind it may go on.
    pub fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && self.lease.left().is_some()
    }

    /// Whether the ledger still waits for the attempt. If not, the fence is closed.
    pub async fn is_confirmed(&self) -> bool {
        if !(self.confirm)().await {
            self.closed.cancel();
        }
        self.is_open()
    }

    /// Whether the order may be somebody else's.
    pub fn is_lost(&self) -> bool {
        self.lease.left().is_none()
    }

    /// Waits until it may be.
    pub async fn lost(&self) {
        let mut nap = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        std::future::poll_fn(|context| {
            loop {
                // at each look of whoever waits, and not only when a timer says so
                let Some(left) = self.lease.left() else { return Poll::Ready(()) };
                std::task::ready!(nap.poll_unpin(context));
                let next = left.clamp(SHORTEST_NAP, LONGEST_NAP);
                nap.set(tokio::time::sleep(next));
            }
        })
        .await;
    }

    /// Does something behind the fence. Nothing comes of it if that closes before.
    pub async fn guard<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> Option<T> {
        let _behind = self.behind.token();
        let done = tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            () = self.lost() => None,
            done = CURRENT.scope(Arc::clone(self), work) => Some(done),
        };
        done.filter(|_| self.is_open())
    }

    /// Closes it, and waits until nothing is done behind it any more.
    pub async fn close(&self) {
        self.closed.cancel();
        self.behind.close();
        self.behind.wait().await;
    }
}

#[cfg(test)]
mod tests;
