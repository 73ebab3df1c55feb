//! Data from an object of one pool into a volume of another, whatever the two are.
//!
//! A copy goes stretch by stretch ([`stretch`]), each by one run of `qemu-img convert` ([`qemu`]) and
//! then read back and compared with its source, byte for byte: whatever goes wrong on the way is found out
//! before anybody believes in the volume. It is written and read back past what the host keeps in memory;
//! on file systems that do not let that be, each write is flushed by itself. Holes and zeroes are not written where
//! a new volume is known to hold zeroes; elsewhere zeroes are written, or discarded where the storage
//! reads those as zeroes.
//!
//! **Resuming.** The record of how far a copy came is the target itself. An attempt that finds its
//! target there already, because an earlier one died or because it is repeated, compares each stretch
//! before it copies it, and copies only those that differ. So there is no record that could outlive its
//! target, speak of another source, or claim more than is there; and none that would have to be swept,
//! or carried to the host that goes on. It costs reading what was copied (measured on a local disk, 1 GiB of
//! data in three runs: 1.3 to 4.5 s to copy, 0.3 to 0.7 s to compare right after; holes cost nothing).
//! What an attempt wrote that died may be in the kernel's memory alone: it is flushed at the end,
//! whoever wrote it.
//!
//! [`work`] is what a runner asks. It reads from the backends of its process by itself, and from those of
//! others what their executors lend it ([`lender`], [`borrower`]): on another host, with nothing but NATS
//! and a port between them.
//!
//! Nobody sees the volume before its operation has ended, and the ledger believes in none whose
//! creation did not complete: that it is filled in place shows to nobody.

mod borrower;
mod key;
mod lender;
mod qemu;
mod stretch;
mod work;

use std::sync::Arc;

use futures::future::BoxFuture;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::PoolName;
use tephra_domain::units::SizeGib;
use tephra_journal::progress_board::AttemptProgress;

pub use self::borrower::Borrowed;
pub use self::lender::{LOAN_LASTS, LendingConfig, QemuLender};
pub use self::qemu::Limits;
use self::qemu::{Blank, Runs};
pub(crate) use self::qemu::{DIFFERENT, End, escaped};
use self::stretch::{Stretch, stretches};
pub use self::work::{Neighbours, act};
use crate::backend::{Backend, Content};
use crate::process::Launcher;

/// How often one stretch is begun again because what it is read from is elsewhere.
const MOST_MOVES: u32 = 5;

/// Hears how far a copy has come.
pub trait Progress: Send + Sync {
    /// So many bytes of so many are in their place. Said after each stretch, also of one that was found there.
    fn reached(&self, done_bytes: u64, total_bytes: u64);
}

impl Progress for AttemptProgress {
    fn reached(&self, done_bytes: u64, total_bytes: u64) {
        self.report(done_bytes, total_bytes);
    }
}

/// Copies between backends.
#[derive(Clone)]
pub struct Copier {
    launcher: Arc<dyn Launcher>,
    limits: Limits,
    progress: Option<Arc<dyn Progress>>,
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What a copy was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Stretches that were written.
    pub written: usize,
    /// Stretches that were found in their place.
    pub found: usize,
}

impl std::ops::AddAssign for Copied {
    fn add_assign(&mut self, more: Self) {
        self.written = self.written.saturating_add(more.written);
        self.found = self.found.saturating_add(more.found);
    }
}

/// Where the data comes from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// From where this host reaches it.
    Here(&'a Content),
    /// From another executor.
    Lent(&'a Borrowed),
}

impl<'a> Source<'a> {
    /// Works with what is read at one place, as long as it is there; with that at another place once more.
    async fn with<'w, T>(
        self,
        work: impl Fn(End<'a>) -> BoxFuture<'w, Result<T, Failure>> + Send + Sync,
    ) -> Result<T, Failure> {
        let borrowed = match self {
            Self::Here(content) => return work(End::of(content).await).await,
            Self::Lent(borrowed) => borrowed,
        };
        let mut moves = 0_u32;
        loop {
            if moves > MOST_MOVES {
                let message = "the source was lent again and again, and could not be read";
                return Err(Failure::new(FailureKind::BackendError, message));
            }
            moves = moves.saturating_add(1);
            let access = borrowed.access()?;
            let worked = tokio::select! {
                biased;
                worked = work(End::lent(Arc::clone(&access))) => worked,
                () = borrowed.is_elsewhere(&access) => continue,
            };
            match worked {
                Err(failure) if failure.kind.is_retryable() && borrowed.has_moved(&access).await? => {
                    tracing::info!(%failure, "reading goes on elsewhere");
                }
                worked => return worked,
            }
        }
    }
}

/// Where a volume is to be made.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// On which backend.
    pub backend: &'a dyn Backend,
    /// In which of its pools.
    pub pool: &'a PoolName,
    /// As which object.
    pub volume: BackendObject,
    /// Of which size.
    pub size: SizeGib,
}

/// A stretch that is to be brought about.
#[derive(Clone, Copy)]
struct Work<'a> {
    target: Target<'a>,
    end: &'a End<'a>,
    stretch: Stretch,
    is_new: bool,
    blank: Blank,
}

impl Copier {
    /// Runs programs through a launcher, within limits.
    pub fn new(launcher: Arc<dyn Launcher>, limits: Limits) -> Self {
        Self { launcher, limits, progress: None }
    }

    /// The same, which tells somebody how far it has come.
    #[must_use]
    pub fn telling(self, progress: Option<Arc<dyn Progress>>) -> Self {
        Self { progress, ..self }
    }

    /// The target exists with its size and holds what the source holds, zeroes beyond, durably.
    /// Whoever asks holds both: the source does not change, and nobody writes to the target.
    ///
    /// # Errors
    /// If the source cannot be read, is not whole or does not fit; if the target cannot be made or
    /// written; `Mismatch` if it does not hold what was written.
    pub async fn copy(&self, source: Source<'_>, target: Target<'_>) -> Result<Copied, Failure> {
        let Target { backend, pool, volume, size } = target;
        let length = source.with(|from| Box::pin(async move { self.runs(from).length().await })).await?;
        let stretches = stretches(length, size.bytes())?;

        let is_new = match backend.content(pool, volume).await {
            Ok(_) => false,
            Err(failure) if failure.kind == FailureKind::ObjectMissing => true,
            Err(failure) => return Err(failure),
        };
        backend.perform(pool, &Effect::CreateVolume { volume, size }).await?;
        let blank = if is_new && backend.new_volumes_hold_zeroes() { Blank::Zeroes } else { Blank::Unknown };
        let content = backend.content(pool, volume).await?;
        let end = End::of(&content).await;

        let mut copied = Copied::default();
        for stretch in stretches {
            let work = Work { target, end: &end, stretch, is_new, blank };
            copied += source.with(|from| Box::pin(self.stretch(from, work))).await?;
            let done_bytes = stretch.start.saturating_add(stretch.length);
            tracing::debug!(%volume, done_bytes, "copied so far");
            if let Some(progress) = &self.progress {
                progress.reached(done_bytes, size.bytes());
            }
        }
        self.runs(end.clone()).make_durable(&end, size.bytes()).await?;
        Ok(copied)
    }

    const fn runs<'a>(&'a self, source: End<'a>) -> Runs<'a> {
        Runs { launcher: &self.launcher, limits: self.limits, source }
    }

    async fn stretch(&self, from: End<'_>, work: Work<'_>) -> Result<Copied, Failure> {
        let Work { target: Target { backend, pool, volume, .. }, end, stretch, is_new, blank } = work;
        let runs = self.runs(from);
        if !is_new && runs.is_there(stretch, end).await? {
            return Ok(Copied { written: 0, found: 1 });
        }
        // the storage may have been taken over by another process while the last one took its time
        backend.content(pool, volume).await?;
        runs.write(stretch, end, blank).await?;
        if runs.is_there(stretch, end).await? {
            return Ok(Copied { written: 1, found: 0 });
        }
        let message = format!(
            "{volume} does not hold what was copied into it, between bytes {} and {}",
            stretch.start,
            stretch.start.saturating_add(stretch.length)
        );
        Err(Failure::new(FailureKind::Mismatch, message))
    }
}

#[cfg(test)]
mod tests;
