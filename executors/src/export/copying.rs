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

/// Copies that are made of files that hosts write to.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// One at a time: they take no time, or are refused.
    written: Arc<Mutex<()>>,
}

/// Held while a copy is made.
#[derive(Debug)]
pub struct Copying {
    _lock: Option<Lock>,
    _turn: Option<OwnedMutexGuard<()>>,
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
        Ok(Copying { _lock: lock(source, operation)?, _turn: turn })
    }
}

/// Refuses to let a host write to a file of which a copy is being made.
///
/// # Errors
/// If one is.
pub fn refuse_if_copied(source: &Path) -> Result<(), Failure> {
    lock(source, FlockOperation::NonBlockingLockExclusive).map(drop)
}

/// A few system calls on a file system of this host, which has just answered: not worth a thread.
fn lock(source: &Path, operation: FlockOperation) -> Result<Option<Lock>, Failure> {
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
