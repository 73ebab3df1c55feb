//! Every table of the views on one screen.
//!
//! Keys are bytes that compare as the rows are to be read (see [`crate::key`]). Values that hold
//! rows end with a checksum (see [`crate::row`]). Whoever changes a table, a key or a value raises
//! [`VERSION`]: older files are then rebuilt from the log.

use redb::TableDefinition;

/// The version of all that is written here.
pub const VERSION: u32 = 3;

/// A table of rows, each with a checksum.
#[derive(Clone, Copy, Debug)]
pub struct Rows(pub &'static str);

impl Rows {
    /// The table as redb knows it.
    pub const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// A table whose keys say it all.
#[derive(Clone, Copy, Debug)]
pub struct Index(pub &'static str);

impl Index {
    /// The table as redb knows it.
    pub const fn definition(self) -> TableDefinition<'static, &'static [u8], ()> {
        TableDefinition::new(self.0)
    }
}

/// [`VERSION`], in this one place as a plain number for ever.
pub const SCHEMA: TableDefinition<'static, &'static str, u32> = TableDefinition::new("schema");
/// `checkpoint` → how far the views have come; `default_limits` → the limits for everybody.
pub const META: Rows = Rows("meta");

/// id → volume
pub const VOLUMES: Rows = Rows("volumes");
/// id → snapshot
pub const SNAPSHOTS: Rows = Rows("snapshots");
/// (order, scope, field, created, id); see [`crate::listed`]
pub const VOLUME_INDEX: Index = Index("volume_index");
/// (order, scope, field, created, id); see [`crate::listed`]
pub const SNAPSHOT_INDEX: Index = Index("snapshot_index");

/// attachment id → volume id
pub const ATTACHMENTS: Rows = Rows("attachments");
/// (scope or instance, created, attachment id); see [`crate::attachments`]
pub const ATTACHMENT_INDEX: Index = Index("attachment_index");

/// scope → how many volumes, their GiB, how many snapshots
pub const TOTALS: Rows = Rows("totals");
/// (scope, key, value) → how many volumes have this metadata
pub const METADATA: Rows = Rows("metadata");

/// id → volume type
pub const VOLUME_TYPES: Rows = Rows("volume_types");
/// name → backend
pub const BACKENDS: Rows = Rows("backends");
/// id → debt
pub const DEBTS: Rows = Rows("debts");
/// project → limits that were set for it
pub const LIMITS: Rows = Rows("limits");
/// project → what it uses
pub const USAGE: Rows = Rows("usage");
/// (backend, pool) → what is placed there
pub const POOLS: Rows = Rows("pools");
/// (project, key) → the command that was accepted under it
pub const IDEMPOTENCY: Rows = Rows("idempotency");

/// id → an open operation, as the ledger knows it
pub const OPEN_OPERATIONS: Rows = Rows("open_operations");
/// position of its opening → an operation, open or ended, as it went
pub const OPERATION_RECORDS: Rows = Rows("operation_records");
/// id → position of its opening
pub const OPERATION_IDS: Rows = Rows("operation_ids");
/// (project or resource, position of its opening)
pub const OPERATION_INDEX: Index = Index("operation_index");

/// (resource, position of a commit about it)
pub const HISTORY: Index = Index("history");
/// first position of a block → (number of the block, latest time in the log up to its end, µs)
pub const BLOCKS: Rows = Rows("blocks");

/// Every table of rows.
pub const ALL_ROWS: &[Rows] = &[
    META,
    VOLUMES,
    SNAPSHOTS,
    ATTACHMENTS,
    TOTALS,
    METADATA,
    VOLUME_TYPES,
    BACKENDS,
    DEBTS,
    LIMITS,
    USAGE,
    POOLS,
    IDEMPOTENCY,
    OPEN_OPERATIONS,
    OPERATION_RECORDS,
    OPERATION_IDS,
    BLOCKS,
];
/// Every table of keys.
pub const ALL_INDEXES: &[Index] = &[VOLUME_INDEX, SNAPSHOT_INDEX, ATTACHMENT_INDEX, OPERATION_INDEX, HISTORY];
