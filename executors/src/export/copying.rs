//! Locks (`flock`) on the files of volumes while they are copied.
//!
//! | | lock | so that |
//! |---|---|---|
//! | hosts may write to it | exclusive | the backend sees that it is in use, and copies it only where that is done at one stroke (a reflink) |
//! | nobody may | shared | it is not exported before the copy is there |
//!
//! They belong to the process: whatever happens to it, they are gone with it. Devices are left alone:
//! their snapshots are taken at one stroke, and udev looks at locks on them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tephra_domain::effect::{Failure, FailureKind};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Copies that are made of what hosts write to.
#[derive(Clone, Debug)]
pub struct Copies {
    /// One of a file at a time: they take no time, or are refused.
    written: Arc<Mutex<()>>,
    /// Whether there are files to be locked.
    of_files: bool,
}

/// Held while a copy is made.
#[derive(Debug)]
pub struct Copying {
    lock: Option<Lock>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Copying {
    /// The copy is made: the lock is free when this returns.
    pub async fn end(self) {
        let Self { lock, _turn } = self;
        if let Some(lock) = lock {
            // what fails here is logged there
            drop(tokio::task::spawn_blocking(|| drop(lock)).await);
        }
    }
}

/// Freed by name: closing the file is not enough while a process that is just being started has it too.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "a lock on a volume's file stays until the file is closed");
        }
    }
}

impl Copies {
    /// Of files.
    pub fn of_files() -> Self {
        Self { written: Arc::default(), of_files: true }
    }

    /// Of what is no file, and has nothing to be locked.
    pub fn of_memory() -> Self {
        Self { written: Arc::default(), of_files: false }
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// If another process has one that excludes it.
    pub async fn begin(&self, source: &Path, is_written: bool) -> Result<Copying, Failure> {
        let turn = if is_written { Some(Arc::clone(&self.written).lock_owned().await) } else { None };
        let operation = if is_written {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        let lock = self.lock(source, operation).await?;
        // a device may be copied for hours, from a snapshot: nobody waits for that
        let turn = turn.filter(|_| lock.is_some());
        Ok(Copying { lock, _turn: turn })
    }

    /// Refuses to let a host write to a file of which a copy is being made.
    ///
    /// # Errors
    /// If one is.
    pub async fn refuse_if_copied(&self, source: &Path) -> Result<(), Failure> {
        let lock = self.lock(source, FlockOperation::NonBlockingLockExclusive).await?;
        Copying { lock, _turn: None }.end().await;
        Ok(())
    }

    async fn lock(&self, source: &Path, operation: FlockOperation) -> Result<Option<Lock>, Failure> {
        if self.of_files { lock(source, operation).await } else { Ok(None) }
    }
}

/// On a thread of its own: a file system over a network may take its time for each of these calls.
async fn lock(source: &Path, operation: FlockOperation) -> Result<Option<Lock>, Failure> {
    let source = source.to_owned();
    let locked = tokio::task::spawn_blocking(move || lock_blocking(&source, operation)).await;
    locked.map_err(|_| Failure::new(FailureKind::BackendUnavailable, "the executor is stopping"))?
}

fn lock_blocking(source: &Path, operation: FlockOperation) -> Result<Option<Lock>, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(FailureKind::BackendError, format!("cannot lock {}: {error}", source.display()))
    };
    match std::fs::metadata(source) {
        Ok(metadata) if metadata.is_file() => {}
        // what is not there is for others to refuse
        Ok(_) | Err(_) => return Ok(None),
    }
    let file = File::open(source).map_err(|error| broken(&error))?;
    match flock(&file, operation) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(Errno::WOULDBLOCK) => {
            Err(Failure::new(FailureKind::Busy, format!("{} is in use, or being copied", source.display())))
        }
        Err(error) => Err(broken(&error)),
    }
}
