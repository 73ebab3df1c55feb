//! One process at a time on a data directory, and how the others find it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::failure::{CommandError, CommandResult, Exit};

const LOCK_FILE: &str = "tephra.lock";
const SERVER_FILE: &str = "server.json";

/// What a running server says about itself in `<data-dir>/server.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Where it listens, as clients address it.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// How it knows who asks: `noauth` or `tokens`.
    pub auth: String,
}

/// The right to work on a data directory. The kernel takes it back when the process ends, however
/// it ends, so a lock is never stale.
#[derive(Debug)]
pub struct DataDirLock {
    directory: PathBuf,
    // held for its lock
    _file: File,
}

/// What [`DataDirLock::try_acquire`] found.
#[derive(Debug)]
pub enum Acquired {
    /// Nobody else is there.
    Locked(DataDirLock),
    /// Another process is; its id, as far as it has said.
    HeldBy(Option<u32>),
}

impl DataDirLock {
    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn try_acquire(directory: &Path) -> CommandResult<Acquired> {
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
                return Ok(Acquired::HeldBy(text.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(anyhow::Error::from(error)
                    .context(format!("cannot lock {}", path.display()))
                    .into());
            }
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())?;
        let lock = Self { directory: directory.to_owned(), _file: file };
        // whoever left this behind was killed: the lock was free
        lock.withdraw()?;
        Ok(Acquired::Locked(lock))
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`Exit::InUse`] if another process has it.
    pub fn acquire(directory: &Path) -> CommandResult<Self> {
        match Self::try_acquire(directory)? {
            Acquired::Locked(lock) => Ok(lock),
            Acquired::HeldBy(pid) => Err(in_use(directory, pid)),
        }
    }

    /// Tells other processes where the server is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn announce(&self, info: &ServerInfo) -> CommandResult {
        let path = self.directory.join(SERVER_FILE);
        let draft = self.directory.join("server.json.new");
        std::fs::write(&draft, serde_json::to_vec_pretty(info)?)
            .and_then(|()| std::fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Takes the announcement back.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn withdraw(&self) -> CommandResult {
        let path = self.directory.join(SERVER_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(anyhow::Error::from(error).context(format!("cannot remove {}", path.display())).into())
            }
        }
    }
}

/// What the server of a data directory says about itself. Only to be believed while the directory
/// is locked: a server that was killed leaves its file behind.
pub fn announced(directory: &Path) -> Option<ServerInfo> {
    let bytes = std::fs::read(directory.join(SERVER_FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The message for a data directory that another process works on.
pub fn in_use(directory: &Path, pid: Option<u32>) -> CommandError {
    let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let error =
        CommandError::new(Exit::InUse, format!("{who} works on the data directory {}", directory.display()));
    match announced(directory) {
        Some(server) => error.hint(format!("its server listens at {}", server.url)),
        None => error.hint("wait for it to end, or choose another directory with --data-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ServerInfo {
        ServerInfo { url: "http://127.0.0.1:1".to_owned(), pid: 7, auth: "noauth".to_owned() }
    }

    #[test]
    fn a_second_taker_learns_who_has_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DataDirLock::acquire(directory.path()).unwrap();
        let second = DataDirLock::acquire(directory.path()).unwrap_err();
        assert_eq!(second.exit, Exit::InUse);
        assert!(second.cause.to_string().contains(&std::process::id().to_string()), "{}", second.cause);
        drop(lock);
        DataDirLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn the_announcement_of_a_killed_server_is_cleared_by_the_next_taker() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DataDirLock::acquire(directory.path()).unwrap();
        lock.announce(&info()).unwrap();
        assert_eq!(announced(directory.path()), Some(info()));
        drop(lock);
        DataDirLock::acquire(directory.path()).unwrap();
        assert_eq!(announced(directory.path()), None);
    }
}
