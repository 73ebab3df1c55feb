//! Takes blocks in: the ledger's own fold, over as much of the state as it needs.
//!
//! The small tables are held whole. Volumes and snapshots are many: those that a batch of blocks
//! touches are loaded before it and let go after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::ReadTransaction;
use tephra_domain::event::{Commit, Event};
use tephra_domain::evolve::{TouchedRow, apply_commit, touched_rows};
use tephra_domain::ids::{
    BackendName, IdempotencyKey, OperationId, PoolId, PoolName, Position, ProjectId, SnapshotId, VolumeId,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::OperationEvent;
use tephra_domain::quota::QuotaLimits;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::volume::Volume;
use tephra_journal::log::Block;

use crate::error::ViewsError;
use crate::history;
use crate::key::{self, Key};
use crate::operations::OperationRecord;
use crate::row::{BlockRow, RowTable};
use crate::schema;
use crate::views::{Checkpoint, DEFAULT_LIMITS_KEY};

/// The state between batches: a ledger without volumes and snapshots, and the open operations.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    pub ledger: Ledger,
    records: BTreeMap<OperationId, OperationRecord>,
}

/// What a batch changes besides the rows of [`Fold::ledger`]'s open layer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// How far the views will have come.
    pub checkpoint: Checkpoint,
    /// Entries of the history.
    pub history: BTreeSet<Key>,
    /// Blocks by their first position.
    pub blocks: Vec<(Position, BlockRow)>,
    /// Operations that went on.
    pub records: BTreeMap<OperationId, OperationRecord>,
    /// Those of them that are new.
    pub opened: BTreeSet<OperationId>,
    went_on: BTreeSet<OperationId>,
    volumes: BTreeSet<VolumeId>,
    snapshots: BTreeSet<SnapshotId>,
}

impl Fold {
    /// Reads the small tables.
    pub fn load(txn: &ReadTransaction, at: Position) -> Result<Self, ViewsError> {
        let mut ledger = Ledger::default();
        load_small_tables(txn, &mut ledger)?;
        ledger.loaded_at(at);
        let (ids, rows) =
            (RowTable::open(txn, schema::OPERATION_IDS)?, RowTable::open(txn, schema::OPERATION_RECORDS)?);
        let mut records = BTreeMap::new();
        for (id, _) in ledger.operations.sorted() {
            let opened: u64 = ids.must_get(id.as_uuid().as_bytes())?;
            records.insert(*id, rows.must_get(&opened.to_be_bytes())?);
        }
        Ok(Self { ledger, records })
    }

    /// Takes blocks into a layer over the state. After an error the fold is of no more use.
    pub fn take(
        &mut self,
        txn: &ReadTransaction,
        from: Checkpoint,
        blocks: &[Arc<Block>],
    ) -> Result<Batch, ViewsError> {
        let mut batch = Batch { checkpoint: from, ..Batch::default() };
        self.load_touched(txn, blocks, &mut batch)?;
        self.ledger.begin();
        for block in blocks {
            self.take_block(block, &mut batch)?;
        }
        let went_on = batch.went_on.iter();
        batch.records = went_on.filter_map(|id| Some((*id, self.records.get(id)?.clone()))).collect();
        Ok(batch)
    }

    /// Makes the layer part of the state, and lets its volumes and snapshots go.
    pub fn settle(&mut self, batch: &Batch) {
        self.ledger.merge();
        for id in &batch.volumes {
            self.ledger.volumes.remove(id);
            self.ledger.exported.remove(id);
        }
        for id in &batch.snapshots {
            self.ledger.snapshots.remove(id);
        }
        for (id, record) in &batch.records {
            if record.end.is_some() {
                self.records.remove(id);
            }
        }
    }

    fn load_touched(
        &mut self,
        txn: &ReadTransaction,
        blocks: &[Arc<Block>],
        batch: &mut Batch,
    ) -> Result<(), ViewsError> {
        let (volumes, snapshots) =
            (RowTable::open(txn, schema::VOLUMES)?, RowTable::open(txn, schema::SNAPSHOTS)?);
        let commits = blocks.iter().flat_map(|block| &block.commits);
        let touched: BTreeSet<TouchedRow> =
            commits.flat_map(|one| &one.commit.events).flat_map(touched_rows).collect();
        let load_volume = |id: VolumeId, batch: &mut Batch, ledger: &mut Ledger| {
            if batch.volumes.insert(id)
                && let Some(row) = volumes.get::<Volume>(id.as_uuid().as_bytes())?
            {
                ledger.volumes.insert(id, row);
            }
            Ok::<(), ViewsError>(())
        };
        for row in touched {
            match row {
                TouchedRow::Volume(id) => load_volume(id, batch, &mut self.ledger)?,
                TouchedRow::Snapshot(id) => {
                    batch.snapshots.insert(id);
                    if let Some(row) = snapshots.get::<Snapshot>(id.as_uuid().as_bytes())? {
                        load_volume(row.volume, batch, &mut self.ledger)?;
                        self.ledger.snapshots.insert(id, row);
                    }
                }
            }
        }
        Ok(())
    }

    fn take_block(&mut self, block: &Block, batch: &mut Batch) -> Result<(), ViewsError> {
        let before = batch.checkpoint;
        let diverged = |reason: &str| ViewsError::Diverged { block: block.number, reason: reason.to_owned() };
        if block.number.0 != before.block.0.saturating_add(1) {
            return Err(diverged("it is not the block that follows"));
        }
        if block.previous_hash != before.hash {
            return Err(diverged("it does not carry the hash of the block before it"));
        }
        let mut time = before.time;
        for sequenced in &block.commits {
            let (position, commit) = (sequenced.position, &*sequenced.commit);
            for resource in history::about(&self.ledger, commit) {
                batch.history.insert(history::entry(&resource, position));
            }
            apply_commit(&mut self.ledger, position, commit)
                .map_err(|source| ViewsError::IllegalHistory { block: block.number, source })?;
            self.take_operations(position, commit, batch);
            time = time.max(commit.time);
        }
        let row = BlockRow { number: block.number, time };
        batch.blocks.push((before.position.next(), row));
        batch.checkpoint =
            Checkpoint { block: block.number, position: self.ledger.position(), hash: block.hash, time };
        Ok(())
    }

    fn take_operations(&mut self, position: Position, commit: &Commit, batch: &mut Batch) {
        for event in &commit.events {
            let Event::Operation(id, event) = event else { continue };
            if let OperationEvent::Opened { project, kind } = event {
                let record = OperationRecord::opened(*id, project.clone(), kind, position, commit.time);
                self.records.insert(*id, record);
                batch.opened.insert(*id);
            } else if let Some(record) = self.records.get_mut(id) {
                record.apply(commit.time, event);
            }
            batch.went_on.insert(*id);
        }
    }
}

/// Reads everything but volumes, snapshots and the head.
pub(crate) fn load_small_tables(txn: &ReadTransaction, ledger: &mut Ledger) -> Result<(), ViewsError> {
    for row in RowTable::open(txn, schema::VOLUME_TYPES)?.all::<tephra_domain::volume_type::VolumeType>()? {
        let (_, row) = row?;
        ledger.volume_types.insert(row.id, row);
    }
    for row in RowTable::open(txn, schema::BACKENDS)?.all::<tephra_domain::backend::Backend>()? {
        let (_, row) = row?;
        ledger.backends.insert(row.name.clone(), row);
    }
    for row in RowTable::open(txn, schema::OPEN_OPERATIONS)?.all::<tephra_domain::operation::Operation>()? {
        let (_, row) = row?;
        ledger.operations.insert(row.id, row);
    }
    for row in RowTable::open(txn, schema::DEBTS)?.all::<tephra_domain::debt::CleanupDebt>()? {
        let (_, row) = row?;
        ledger.debts.insert(row.id, row);
    }
    for row in RowTable::open(txn, schema::LIMITS)?.all()? {
        let (key, row) = row?;
        ledger.limits.insert(ProjectId::new(one_text(&key)?), row);
    }
    for row in RowTable::open(txn, schema::USAGE)?.all()? {
        let (key, row) = row?;
        ledger.usage.insert(ProjectId::new(one_text(&key)?), row);
    }
    for row in RowTable::open(txn, schema::POOLS)?.all()? {
        let (key, row) = row?;
        let (backend, pool) = two_texts(&key)?;
        let id = PoolId { backend: BackendName::new(backend), pool: PoolName::new(pool) };
        ledger.pools.insert(id, row);
    }
    for row in RowTable::open(txn, schema::IDEMPOTENCY)?.all()? {
        let (key, row) = row?;
        let (project, scope) = two_texts(&key)?;
        ledger.idempotency.insert((ProjectId::new(project), IdempotencyKey::new(scope)), row);
    }
    if let Some(row) = RowTable::open(txn, schema::META)?.get::<QuotaLimits>(DEFAULT_LIMITS_KEY)? {
        ledger.default_limits.insert((), row);
    }
    Ok(())
}

fn one_text(bytes: &[u8]) -> Result<String, ViewsError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ViewsError::damaged("the name of a project is not text"))
}

/// Reads a key of two texts back.
pub(crate) fn two_texts(bytes: &[u8]) -> Result<(String, String), ViewsError> {
    key::pair(bytes).ok_or_else(|| ViewsError::damaged("a key is not a pair of texts"))
}
