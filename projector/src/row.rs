//! Rows as they are kept: their bytes, and a checksum over key and bytes.

use redb::{ReadOnlyTable, ReadTransaction};
use tephra_domain::backend::{Backend, PoolUsage};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::ledger::RememberedCommand;
use tephra_domain::operation::Operation;
use tephra_domain::quota::{QuotaLimits, Usage};
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::Volume;
use tephra_domain::volume_type::VolumeType;
use tephra_journal::log::BlockNumber;
use tephra_journal::wire::state;

use crate::error::ViewsError;
use crate::listed::Totals;
use crate::schema::Rows;
use crate::views::Checkpoint;

/// Length of the checksum that ends a row.
const CHECKSUM_BYTES: usize = 4;

/// Something that is kept as a row.
pub trait Row: Sized {
    /// Its bytes, without the checksum.
    fn encode(&self) -> Vec<u8>;
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// The row's bytes with their checksum, which covers the key too: a row in another's place is
/// found out.
pub fn seal(key: &[u8], row: &impl Row) -> Vec<u8> {
    let mut bytes = row.encode();
    let sum = checksum(key, &bytes);
    bytes.extend(sum);
    bytes
}

/// Reads a row.
///
/// # Errors
/// [`ViewsError::MustRebuild`], naming the row, if it is not what was written.
pub fn unseal<T: Row>(table: &str, key: &[u8], bytes: &[u8]) -> Result<T, ViewsError> {
    let row = check(table, key, bytes)?;
    T::decode(row).map_err(|reason| damaged(table, key, &reason))
}

/// The row's bytes without their checksum, if that is right.
///
/// # Errors
/// [`ViewsError::MustRebuild`], naming the row.
pub fn check<'a>(table: &str, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], ViewsError> {
    let Some((row, sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged(table, key, "it is too short"));
    };
    if checksum(key, row) != *sum {
        return Err(damaged(table, key, "its checksum is wrong"));
    }
    Ok(row)
}

fn checksum(key: &[u8], row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(row);
    hasher.finalize().to_le_bytes()
}

fn damaged(table: &str, key: &[u8], reason: &str) -> ViewsError {
    ViewsError::damaged(format_args!("row {} of {table}: {reason}", key.escape_ascii()))
}

/// A table of rows within one reading.
#[derive(Debug)]
pub struct RowTable {
    name: &'static str,
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl RowTable {
    /// Opens it.
    ///
    /// # Errors
    /// If the file fails.
    pub fn open(txn: &ReadTransaction, definition: Rows) -> Result<Self, ViewsError> {
        Ok(Self { name: definition.0, table: txn.open_table(definition.definition())? })
    }

    /// One row.
    ///
    /// # Errors
    /// If the file fails, or the row is damaged.
    pub fn get<T: Row>(&self, key: &[u8]) -> Result<Option<T>, ViewsError> {
        let Some(bytes) = self.table.get(key)? else { return Ok(None) };
        unseal(self.name, key, bytes.value()).map(Some)
    }

    /// One row that another row or an index speaks of.
    ///
    /// # Errors
    /// As [`RowTable::get`], and if it is not there.
    pub fn must_get<T: Row>(&self, key: &[u8]) -> Result<T, ViewsError> {
        self.get(key)?.ok_or_else(|| damaged(self.name, key, "it is missing"))
    }

    /// All rows with their keys, in order.
    ///
    /// # Errors
    /// If the file fails, or a row is damaged.
    pub fn all<T: Row>(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, T), ViewsError>> + '_, ViewsError> {
        Ok(self.table.range::<&[u8]>(..)?.map(|entry| {
            let (key, bytes) = entry?;
            let row = unseal(self.name, key.value(), bytes.value())?;
            Ok((key.value().to_vec(), row))
        }))
    }

    /// The table itself, for other ranges.
    pub const fn raw(&self) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        &self.table
    }
}

macro_rules! ledger_rows {
    ($($row:ty: $encode:ident, $decode:ident;)*) => {$(
        impl Row for $row {
            fn encode(&self) -> Vec<u8> {
                state::$encode(self)
            }

            fn decode(bytes: &[u8]) -> Result<Self, String> {
                state::$decode(bytes).map_err(|invalid| invalid.to_string())
            }
        }
    )*};
}

ledger_rows! {
    Volume: encode_volume, decode_volume;
    Snapshot: encode_snapshot, decode_snapshot;
    VolumeType: encode_volume_type, decode_volume_type;
    Backend: encode_backend, decode_backend;
    Operation: encode_operation, decode_operation;
    CleanupDebt: encode_debt, decode_debt;
    QuotaLimits: encode_limits, decode_limits;
    Usage: encode_usage, decode_usage;
    PoolUsage: encode_pool_usage, decode_pool_usage;
    RememberedCommand: encode_remembered, decode_remembered;
}

macro_rules! number_rows {
    ($($row:ty as $numbers:ty, $write:expr, $read:expr;)*) => {$(
        impl Row for $row {
            fn encode(&self) -> Vec<u8> {
                let numbers: $numbers = $write(self);
                // Numbers always have a postcard form, and a vector takes all of it.
                postcard::to_stdvec(&numbers).unwrap_or_default()
            }

            fn decode(bytes: &[u8]) -> Result<Self, String> {
                let numbers: $numbers = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
                Ok($read(numbers))
            }
        }
    )*};
}

/// Where a block is: its number, and the latest time of any commit up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Its number.
    pub number: BlockNumber,
    /// The latest time so far.
    pub time: Timestamp,
}

number_rows! {
    u64 as u64, |number: &u64| *number, |number| number;
    Totals as (u64, u64, u64),
        |totals: &Totals| (totals.volumes, totals.volume_gib, totals.snapshots),
        |(volumes, volume_gib, snapshots)| Totals { volumes, volume_gib, snapshots };
    BlockRow as (u64, i64),
        |row: &BlockRow| (row.number.0, row.time.0),
        |(number, time)| BlockRow { number: BlockNumber(number), time: Timestamp(time) };
    Checkpoint as (u64, u64, [u8; 32], i64),
        |checkpoint: &Checkpoint| {
            (checkpoint.block.0, checkpoint.position.0, checkpoint.hash, checkpoint.time.0)
        },
        |(block, position, hash, time)| Checkpoint {
            block: BlockNumber(block),
            position: tephra_domain::ids::Position(position),
            hash,
            time: Timestamp(time),
        };
}
