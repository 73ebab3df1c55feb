//! The views' file: opening it, how far it has come, and reading the whole state back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend};
use tephra_domain::ids::Position;
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::Volume;
use tephra_journal::hash_chain::ChainHead;
use tephra_journal::log::BlockNumber;
use tephra_journal::private_file::make_private;
use tephra_journal::wire::state::state_hash;
use tokio::sync::watch;

use crate::error::ViewsError;
use crate::fold::{Fold, load_small_tables};
use crate::row::{RowTable, check, seal};
use crate::schema;

/// How much of the file is kept in memory, in bytes.
const CACHE_BYTES: usize = 256 << 20;

pub(crate) const CHECKPOINT_KEY: &[u8] = b"checkpoint";
pub(crate) const DEFAULT_LIMITS_KEY: &[u8] = b"default_limits";
const SCHEMA_KEY: &str = "version";

/// How far the views have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last block taken in.
    pub block: BlockNumber,
    /// Its last commit.
    pub position: Position,
    /// Its hash; all zero before the first.
    pub hash: [u8; 32],
    /// The latest time of any commit so far.
    pub time: Timestamp,
}

impl From<Checkpoint> for ChainHead {
    fn from(checkpoint: Checkpoint) -> Self {
        let Checkpoint { block, position, hash, time } = checkpoint;
        Self { block, position, hash, time }
    }
}

/// Volumes counted (`/volumes/summary`, microversions 3.12 and 3.36).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSummary {
    /// How many.
    pub count: u64,
    /// Their sizes together, in GiB.
    pub total_gib: u64,
    /// Each key of their metadata with its distinct values.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
}

/// The views. Cloning gives another handle to the same file.
#[derive(Clone, Debug)]
pub struct Views {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub database: Database,
    pub checkpoint: watch::Sender<Checkpoint>,
    /// Whether the storage is memory: then nothing needs a thread of its own to wait for it.
    pub never_blocks: bool,
    /// What the one writer holds between batches; nothing until the first, and after a failure.
    pub fold: Mutex<Option<Fold>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("checkpoint", &*self.checkpoint.borrow()).finish_non_exhaustive()
    }
}

impl Views {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`ViewsError::MustRebuild`] if the file is damaged or of another schema.
    pub fn open(path: &Path) -> Result<Self, ViewsError> {
        let unusable = |error: std::io::Error| ViewsError::Storage(format!("{}: {error}", path.display()));
        make_private(path).map_err(unusable)?;
        let database = match redb::Builder::new().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(ViewsError::InUse { path: path.display().to_string() });
            }
            Err(error) => return Err(error.into()),
        };
        Self::from_database(database, false)
    }

    /// Opens views on a storage that never blocks, such as memory, or makes them there. What the
    /// projector does with them it does in place, without other threads.
    ///
    /// # Errors
    /// As [`Views::open`].
    pub fn open_on(storage: impl StorageBackend) -> Result<Self, ViewsError> {
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(storage)?;
        Self::from_database(database, true)
    }

    fn from_database(database: Database, never_blocks: bool) -> Result<Self, ViewsError> {
        prepare(&database)?;
        let txn = database.begin_read()?;
        let checkpoint = read_checkpoint(&txn)?;
        Ok(Self {
            inner: Arc::new(Inner {
                database,
                checkpoint: watch::Sender::new(checkpoint),
                never_blocks,
                fold: Mutex::new(None),
            }),
        })
    }

    pub(crate) fn never_blocks(&self) -> bool {
        self.inner.never_blocks
    }

    /// Deletes the file if it is there, and makes an empty one.
    ///
    /// # Errors
    /// If the file cannot be removed or made.
    pub fn create_fresh(path: &Path) -> Result<Self, ViewsError> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ViewsError::Storage(format!("{}: {error}", path.display()))),
        }
        Self::open(path)
    }

    /// How far the views have come.
    pub fn checkpoint(&self) -> Checkpoint {
        *self.inner.checkpoint.borrow()
    }

    /// Returns once the views have taken this commit in.
    pub async fn wait_for(&self, position: Position) {
        let mut watching = self.inner.checkpoint.subscribe();
        // The sender lives in `self`, so the channel cannot be closed meanwhile.
        drop(watching.wait_for(|checkpoint| checkpoint.position >= position).await);
    }

    /// Returns once the views have taken this block in.
    pub async fn wait_for_block(&self, block: BlockNumber) {
        let mut watching = self.inner.checkpoint.subscribe();
        drop(watching.wait_for(|checkpoint| checkpoint.block >= block).await);
    }

    /// The whole state, for a sequencer that starts.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn load_ledger(&self) -> Result<Ledger, ViewsError> {
        Ok(self.load_state()?.0)
    }

    /// The whole state with where it stands, also while the views go on.
    ///
    /// # Errors
    /// As [`Views::load_ledger`].
    pub fn load_state(&self) -> Result<(Ledger, Checkpoint), ViewsError> {
        let txn = self.begin_read()?;
        let mut ledger = Ledger::default();
        load_small_tables(&txn, &mut ledger)?;
        for row in RowTable::open(&txn, schema::VOLUMES)?.all::<Volume>()? {
            let (_, row) = row?;
            ledger.load_volume(row);
        }
        for row in RowTable::open(&txn, schema::SNAPSHOTS)?.all::<Snapshot>()? {
            let (_, row) = row?;
            ledger.snapshots.insert(row.id, row);
        }
        let checkpoint = read_checkpoint(&txn)?;
        ledger.loaded_at(checkpoint.position);
        Ok((ledger, checkpoint))
    }

    /// A digest of the whole state, equal for equal states wherever it is taken.
    ///
    /// # Errors
    /// As [`Views::load_ledger`].
    pub fn state_hash(&self) -> Result<[u8; 32], ViewsError> {
        Ok(state_hash(&self.load_ledger()?))
    }

    /// Reads every row and checks its sum, and that the indexes lead to rows.
    ///
    /// # Errors
    /// [`ViewsError::MustRebuild`], naming the first damage found.
    pub fn verify(&self) -> Result<(), ViewsError> {
        let txn = self.begin_read()?;
        for rows in schema::ALL_ROWS {
            for entry in txn.open_table(rows.definition())?.range::<&[u8]>(..)? {
                let (key, bytes) = entry?;
                check(rows.0, key.value(), bytes.value())?;
            }
        }
        for (index, rows) in
            [(schema::VOLUME_INDEX, schema::VOLUMES), (schema::SNAPSHOT_INDEX, schema::SNAPSHOTS)]
        {
            let mut present: HashSet<[u8; 16]> = HashSet::new();
            for entry in txn.open_table(rows.definition())?.range::<&[u8]>(..)? {
                present.extend(entry?.0.value().last_chunk::<16>());
            }
            for entry in txn.open_table(index.definition())?.range::<&[u8]>(..)? {
                let (key, _) = entry?;
                if !key.value().last_chunk::<16>().is_some_and(|id| present.contains(id)) {
                    let key = key.value().escape_ascii();
                    return Err(ViewsError::damaged(format_args!("{} {key} leads nowhere", index.0)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, ViewsError> {
        Ok(self.inner.database.begin_read()?)
    }
}

/// Makes the tables of a new file, and refuses a file of another schema.
fn prepare(database: &Database) -> Result<(), ViewsError> {
    let txn = database.begin_write()?;
    {
        let mut table = txn.open_table(schema::SCHEMA)?;
        let version = table.get(SCHEMA_KEY)?.map(|version| version.value());
        match version {
            Some(schema::VERSION) => return Ok(()),
            Some(other) => {
                let expected = schema::VERSION;
                let reason = format_args!("the file has schema {other}, this program {expected}");
                return Err(ViewsError::damaged(reason));
            }
            None => table.insert(SCHEMA_KEY, schema::VERSION)?,
        };
        for rows in schema::ALL_ROWS {
            txn.open_table(rows.definition())?;
        }
        for index in schema::ALL_INDEXES {
            txn.open_table(index.definition())?;
        }
        let sealed = seal(CHECKPOINT_KEY, &Checkpoint::default());
        txn.open_table(schema::META.definition())?.insert(CHECKPOINT_KEY, sealed.as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

pub(crate) fn read_checkpoint(txn: &ReadTransaction) -> Result<Checkpoint, ViewsError> {
    RowTable::open(txn, schema::META)?.must_get(CHECKPOINT_KEY)
}
