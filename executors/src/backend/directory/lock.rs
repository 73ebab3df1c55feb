//! Whose directory it is.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, openat};
use rustix::io::Errno;
use uuid::Uuid;

use super::files::Refusal;

/// The file whose lock says that a process serves the directory, and whose content says which one.
const LOCK_FILE: &str = ".tephra.lock";

/// What says that the directory is ours.
///
/// The kernel's lock alone does not: it goes with its file if that is removed, and an NFS server gives
/// it to another host if it has not heard of ours for a while, as when we were held still. So whoever
/// has it writes a word of its own into the file, and looks for it before every change.
pub struct Lock {
    /// Locked as long as the directory is served.
    _file: File,
    /// Device and inode of the file.
    identity: (u64, u64),
    /// Our word; nothing if there was no room to write it.
    word: Option<String>,
    is_lost: AtomicBool,
}

impl Lock {
    /// Takes it, unless somebody has it.
    pub fn take(directory: &OwnedFd) -> Result<Self, Refusal> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(directory, LOCK_FILE, flags, Mode::from_raw_mode(0o600))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Refusal::Taken),
            Err(error) => return Err(error.into()),
        }
        let found = fstat(&file)?;
        let word = Uuid::new_v4().to_string();
        let written = file.write_all_at(word.as_bytes(), 0).and_then(|()| file.sync_data());
        if let Err(error) = &written {
            // A full disk must not keep volumes from being deleted.
            tracing::warn!(%error, "the lock file cannot be written: a second executor might not be noticed");
        }
        let word = written.is_ok().then_some(word);
        Ok(Self {
            _file: file,
            identity: (found.st_dev, found.st_ino),
            word,
            is_lost: AtomicBool::new(false),
        })
    }

    /// Fails if another process has the directory now.
    pub fn check(&self, directory: &OwnedFd) -> io::Result<()> {
        if !self.is_in(directory)? {
            self.is_lost.store(true, Ordering::Relaxed);
            // of the kind that says nothing of the effect itself
            return Err(io::Error::new(io::ErrorKind::Interrupted, "another process has taken it over"));
        }
        Ok(())
    }

    /// Whether another process was seen to have it.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Whether what is under the lock's name is still what we locked and wrote.
    fn is_in(&self, directory: &OwnedFd) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match openat(directory, LOCK_FILE, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let found = fstat(&file)?;
        if (found.st_dev, found.st_ino) != self.identity {
            return Ok(false);
        }
        let Some(word) = &self.word else { return Ok(true) };
        let mut said = vec![0; word.len()];
        match file.read_exact(&mut said) {
            Ok(()) => Ok(said == word.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}
