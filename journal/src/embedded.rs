//! The log in one redb file: one durable transaction per block.
//!
//! One process owns the file while it has it open for writing; a second one is refused. The file
//! holds one table, from block number to bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError,
};
use tokio::sync::watch;

use crate::log::{AppendOutcome, BlockNumber, Log, LogError, NumberedBytes};
use crate::private_file::make_private;

const BLOCKS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("blocks");

/// Memory that redb may keep pages in. The log is written once and read in order: little helps.
const CACHE_BYTES: usize = 64 << 20;

/// Bytes that one read returns at most, beyond its first block.
const READ_BYTES: usize = 16 << 20;

enum File {
    Owned(Database),
    ReadOnly(ReadOnlyDatabase),
}

struct Shared {
    path: PathBuf,
    /// Nothing while the file could not be opened again after an error.
    file: RwLock<Option<File>>,
    appending: Mutex<()>,
    head: watch::Sender<BlockNumber>,
}

/// The embedded log. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

impl EmbeddedLog {
    /// Opens the file for writing, and makes it if it is not there. Blocks the thread; after a
    /// crash, as long as redb takes to check its last commit.
    ///
    /// # Errors
    /// [`LogError::Unavailable`], naming the file: another process has it open, it is damaged, or
    /// it cannot be read.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        Self::over(path, File::Owned(open_to_write(path)?))
    }

    /// Opens the file for reading only: for commands that look at a log which no server has open.
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`], and if the file is not there.
    pub fn open_read_only(path: &Path) -> Result<Self, LogError> {
        let opened =
            guarded(path, || match Database::builder().set_cache_size(CACHE_BYTES).open_read_only(path) {
                Ok(database) => Ok(Some(database)),
                Err(DatabaseError::RepairAborted) => Ok(None),
                Err(error) => Err(open_failed(path, &error)),
            })?;
        match opened {
            Some(database) => Self::over(path, File::ReadOnly(database)),
            // The last process did not close it: redb must settle its last commit first.
            None => Self::open(path),
        }
    }

    fn over(path: &Path, file: File) -> Result<Self, LogError> {
        let head = watch::Sender::new(BlockNumber::default());
        let file = RwLock::new(Some(file));
        let shared = Shared { path: path.to_owned(), file, appending: Mutex::new(()), head };
        let last = guarded(path, || shared.last())?;
        shared.head.send_replace(last);
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || work(&shared));
        match task.await {
            Ok(result) => result,
            Err(error) => Err(LogError::Unavailable(format!("{}: {error}", self.shared.path.display()))),
        }
    }
}

fn open_to_write(path: &Path) -> Result<Database, LogError> {
    guarded(path, || {
        make_private(path).map_err(|error| failed(path, &error))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| open_failed(path, &error))?;
        let transaction = database.begin_write().map_err(|error| failed(path, &error))?;
        transaction.open_table(BLOCKS).map_err(|error| failed(path, &error))?;
        transaction.commit().map_err(|error| failed(path, &error))?;
        Ok(database)
    })
}

/// Runs `work`; if redb panics over damage that it does not expect, that is an error of the file.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(LogError::Unavailable(format!("{} is damaged: its pages contradict each other", path.display())))
    })
}

fn open_failed(path: &Path, error: &DatabaseError) -> LogError {
    let path = path.display();
    #[allow(clippy::wildcard_enum_match_arm, reason = "redb's errors, which may grow: each says what it is")]
    LogError::Unavailable(match error {
        DatabaseError::DatabaseAlreadyOpen => format!("{path} is in use by another process"),
        DatabaseError::Storage(StorageError::Corrupted(reason)) => format!("{path} is damaged: {reason}"),
        _ => format!("{path} cannot be opened: {error}"),
    })
}

fn failed(path: &Path, error: &dyn std::error::Error) -> LogError {
    LogError::Unavailable(format!("{}: {error}", path.display()))
}

impl Shared {
    fn failed(&self, error: &dyn std::error::Error) -> LogError {
        failed(&self.path, error)
    }

    fn begin_read(&self) -> Result<redb::ReadTransaction, LogError> {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = match file.as_ref() {
            Some(File::Owned(database)) => database.begin_read(),
            Some(File::ReadOnly(database)) => database.begin_read(),
            None => return Err(self.closed()),
        };
        transaction.map_err(|error| self.failed(&error))
    }

    fn closed(&self) -> LogError {
        LogError::Unavailable(format!("{} could not be opened again after an error", self.path.display()))
    }

    /// After an error redb refuses everything until the file is opened again, even when the cause
    /// (a full disk) has gone. What the failed transaction left is seen from the head.
    fn open_again(&self) -> Result<(), LogError> {
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        let old = file.take();
        guarded(&self.path, || {
            drop(old);
            Ok(())
        })?;
        *file = Some(File::Owned(open_to_write(&self.path)?));
        drop(file);
        let last = guarded(&self.path, || self.last())?;
        self.head.send_replace(last);
        Ok(())
    }

    /// The table of blocks; nothing in a file that no log has ever been in.
    fn blocks(&self) -> Result<Option<redb::ReadOnlyTable<u64, &'static [u8]>>, LogError> {
        match self.begin_read()?.open_table(BLOCKS) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn last(&self) -> Result<BlockNumber, LogError> {
        let Some(table) = self.blocks()? else { return Ok(BlockNumber::default()) };
        let last = table.last().map_err(|error| self.failed(&error))?;
        Ok(last.map_or_else(BlockNumber::default, |(number, _)| BlockNumber(number.value())))
    }

    fn append(&self, expected: BlockNumber, bytes: &[u8]) -> Result<AppendOutcome, LogError> {
        let _turn = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = self.file.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if !is_open {
            self.open_again()?;
        }
        let head = *self.head.borrow();
        if head != expected {
            return Ok(AppendOutcome::Conflict { head });
        }
        let number = BlockNumber(expected.0.saturating_add(1));
        if let Err(error) = self.write(number, bytes) {
            if !self.is_read_only() {
                self.open_again()?;
            }
            return Err(error);
        }
        self.head.send_replace(number);
        Ok(AppendOutcome::Appended(number))
    }

    fn is_read_only(&self) -> bool {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        matches!(file.as_ref(), Some(File::ReadOnly(_)))
    }

    fn write(&self, number: BlockNumber, bytes: &[u8]) -> Result<(), LogError> {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let database = match file.as_ref() {
            Some(File::Owned(database)) => database,
            Some(File::ReadOnly(_)) => {
                let reason = format!("{} is open for reading only", self.path.display());
                return Err(LogError::Unavailable(reason));
            }
            None => return Err(self.closed()),
        };
        let transaction = database.begin_write().map_err(|error| self.failed(&error))?;
        {
            let mut table = transaction.open_table(BLOCKS).map_err(|error| self.failed(&error))?;
            table.insert(number.0, bytes).map_err(|error| self.failed(&error))?;
        }
        transaction.commit().map_err(|error| self.failed(&error))
    }

    fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        let Some(table) = self.blocks()? else { return Ok(Vec::new()) };
        let mut blocks = Vec::new();
        let mut total = 0_usize;
        for entry in table.range(from.0..).map_err(|error| self.failed(&error))?.take(limit) {
            let (number, bytes) = entry.map_err(|error| self.failed(&error))?;
            let bytes: Arc<[u8]> = bytes.value().into();
            total = total.saturating_add(bytes.len());
            blocks.push((BlockNumber(number.value()), bytes));
            if total > READ_BYTES {
                break;
            }
        }
        Ok(blocks)
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        // A transaction that fails may have become durable all the same: never guess.
        self.blocking(move |shared| shared.append(expected, &bytes))
            .await
            .unwrap_or_else(|error| AppendOutcome::Unknown { reason: error.to_string() })
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        self.blocking(move |shared| shared.read(from, limit)).await
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.blocking(Shared::last).await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        // An error would mean that the log is gone, and the caller with it.
        drop(self.shared.head.subscribe().wait_for(|head| *head > known).await);
    }
}
