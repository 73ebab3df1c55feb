//! Writes a batch: rows, indexes, history and checkpoint, in one transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use redb::{Durability, ReadableTable, WriteTransaction};
use tephra_domain::ids::ProjectId;
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::table::Change;
use tephra_domain::volume::Volume;
use tephra_journal::log::Block;

use crate::attachments::write_attachments;
use crate::error::ViewsError;
use crate::fold::{Batch, Fold};
use crate::key::{self, Key};
use crate::listed::{Listed, Totals};
use crate::row::{Row, seal, unseal};
use crate::schema::{self, Index, Rows};
use crate::views::{CHECKPOINT_KEY, Checkpoint, DEFAULT_LIMITS_KEY, Views};

impl Views {
    /// Takes blocks in, the ones that follow. What is not written durably is lost in a crash of
    /// the machine or the process, as a whole: the views then stand where they stood at the last
    /// durable write, and take the same blocks in again.
    ///
    /// # Errors
    /// If the file fails, or the blocks do not follow. Nothing has changed then.
    pub fn take(&self, blocks: &[Arc<Block>], durable: bool) -> Result<Checkpoint, ViewsError> {
        let mut held = self.inner.fold.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.checkpoint();
        let txn = self.begin_read()?;
        // Taken out, so that after an error or a panic it is read again from the file.
        let mut fold = match held.take() {
            Some(fold) => fold,
            None => Fold::load(&txn, from.position)?,
        };
        let batch = fold.take(&txn, from, blocks)?;
        drop(txn);
        self.write(&fold.ledger, &batch, durable)?;
        fold.settle(&batch);
        *held = Some(fold);
        self.inner.checkpoint.send_replace(batch.checkpoint);
        Ok(batch.checkpoint)
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// If the file fails.
    pub fn flush(&self) -> Result<(), ViewsError> {
        let mut txn = self.inner.database.begin_write()?;
        txn.set_quick_repair(true);
        Ok(txn.commit()?)
    }

    fn write(&self, ledger: &Ledger, batch: &Batch, durable: bool) -> Result<(), ViewsError> {
        let mut txn = self.inner.database.begin_write()?;
        if durable {
            // The next start then finds its way at once, whatever ended this process.
            txn.set_quick_repair(true);
        } else {
            txn.set_durability(Durability::None)?;
        }
        write_ledger(&txn, ledger)?;
        write_operations(&txn, batch)?;
        write_totals(&txn, ledger)?;
        write_entries(&txn, schema::HISTORY, batch.history.iter().map(|key| (key, true)))?;
        let blocks = batch.blocks.iter().map(|(first, row)| (first.0.to_be_bytes(), Some(row)));
        write_rows(&txn, schema::BLOCKS, blocks)?;
        write_rows(&txn, schema::META, [(CHECKPOINT_KEY, Some(&batch.checkpoint))].into_iter())?;
        Ok(txn.commit()?)
    }
}

pub(crate) fn write_rows<'a, K: AsRef<[u8]>, R: Row + 'a>(
    txn: &WriteTransaction,
    rows: Rows,
    changes: impl Iterator<Item = (K, Option<&'a R>)>,
) -> Result<(), ViewsError> {
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return Ok(());
    }
    let mut table = txn.open_table(rows.definition())?;
    for (key, row) in changes {
        let key = key.as_ref();
        match row {
            Some(row) => table.insert(key, seal(key, row).as_slice())?,
            None => table.remove(key)?,
        };
    }
    Ok(())
}

pub(crate) fn write_entries<'a>(
    txn: &WriteTransaction,
    index: Index,
    entries: impl Iterator<Item = (&'a Key, bool)>,
) -> Result<(), ViewsError> {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    let mut table = txn.open_table(index.definition())?;
    for (key, stays) in entries {
        if stays {
            table.insert(key.as_slice(), ())?
        } else {
            table.remove(key.as_slice())?
        };
    }
    Ok(())
}

fn write_listed<'a, K: 'a, R: Listed + PartialEq + 'a>(
    txn: &WriteTransaction,
    changes: impl Iterator<Item = Change<'a, K, R>>,
) -> Result<(), ViewsError> {
    let mut entries: BTreeMap<Key, bool> = BTreeMap::new();
    let mut rows = Vec::new();
    for (_, old, new) in changes {
        if old == new {
            continue;
        }
        let Some(id) = new.or(old).map(Listed::id_bytes) else { continue };
        rows.push((id, new));
        let before = old.map(Listed::entries).unwrap_or_default();
        let after = new.map(Listed::entries).unwrap_or_default();
        // What stays is first taken out of both, so that only differences are written.
        let gone = before.iter().filter(|key| !after.contains(key));
        entries.extend(gone.map(|key| (key.clone(), false)));
        entries.extend(after.into_iter().filter(|key| !before.contains(key)).map(|key| (key, true)));
    }
    write_rows(txn, R::ROWS, rows.into_iter())?;
    write_entries(txn, R::INDEX, entries.iter().map(|(key, stays)| (key, *stays)))
}

fn write_ledger(txn: &WriteTransaction, ledger: &Ledger) -> Result<(), ViewsError> {
    write_listed(txn, ledger.volumes.changes())?;
    write_attachments(txn, ledger.volumes.changes())?;
    write_listed(txn, ledger.snapshots.changes())?;
    let types = ledger.volume_types.changes().map(|(id, _, row)| (id.as_uuid().into_bytes(), row));
    write_rows(txn, schema::VOLUME_TYPES, types)?;
    let backends = ledger.backends.changes().map(|(name, _, row)| (name.as_str(), row));
    write_rows(txn, schema::BACKENDS, backends)?;
    let open = ledger.operations.changes().map(|(id, _, row)| (id.as_uuid().into_bytes(), row));
    write_rows(txn, schema::OPEN_OPERATIONS, open)?;
    let debts = ledger.debts.changes().map(|(id, _, row)| (key::debt(*id), row));
    write_rows(txn, schema::DEBTS, debts)?;
    let limits = ledger.limits.changes().map(|(project, _, row)| (project.as_str(), row));
    write_rows(txn, schema::LIMITS, limits)?;
    let usage = ledger.usage.changes().map(|(project, _, row)| (project.as_str(), row));
    write_rows(txn, schema::USAGE, usage)?;
    let pools = ledger.pools.changes().map(|(id, _, row)| (key::pool(id), row));
    write_rows(txn, schema::POOLS, pools)?;
    let remembered = ledger.idempotency.changes().map(|(scope, _, row)| (key::idempotency(scope), row));
    write_rows(txn, schema::IDEMPOTENCY, remembered)?;
    let defaults = ledger.default_limits.changes().map(|((), _, row)| (DEFAULT_LIMITS_KEY, row));
    write_rows(txn, schema::META, defaults)
}

fn write_operations(txn: &WriteTransaction, batch: &Batch) -> Result<(), ViewsError> {
    let mut records: Vec<_> =
        batch.records.values().map(|record| (record.opened.0.to_be_bytes(), Some(record))).collect();
    records.sort_unstable_by_key(|(opened, _)| *opened);
    write_rows(txn, schema::OPERATION_RECORDS, records.into_iter())?;
    let opened: Vec<_> = batch
        .opened
        .iter()
        .filter_map(|id| Some((id.as_uuid().into_bytes(), batch.records.get(id)?)))
        .collect();
    let ids = opened.iter().map(|(id, record)| (id, Some(&record.opened.0)));
    write_rows(txn, schema::OPERATION_IDS, ids)?;
    let mut entries = BTreeMap::new();
    for (_, record) in &opened {
        let on_resources = record.changes.iter().map(|resource| key::operations_on(*resource));
        for mut entry in on_resources.chain([key::operations_of_project(&record.project)]) {
            entry.extend(record.opened.0.to_be_bytes());
            entries.insert(entry, true);
        }
    }
    write_entries(txn, schema::OPERATION_INDEX, entries.iter().map(|(key, stays)| (key, *stays)))
}

#[derive(Default)]
struct Delta {
    volumes: i64,
    volume_gib: i64,
    snapshots: i64,
}

#[derive(Default)]
struct Deltas {
    totals: BTreeMap<Key, Delta>,
    metadata: BTreeMap<Key, i64>,
}

impl Deltas {
    fn add(&mut self, project: &ProjectId, change: impl Fn(&mut Delta)) {
        for scope in [None, Some(project)] {
            change(self.totals.entry(key::scope(scope)).or_default());
        }
    }

    fn add_volume(&mut self, volume: &Volume, sign: i64) {
        self.add(&volume.project, |delta| {
            delta.volumes += sign;
            delta.volume_gib += sign * i64::from(volume.size.gib());
        });
        for (name, value) in &volume.metadata {
            for scope in [None, Some(&volume.project)] {
                *self.metadata.entry(key::metadata(scope, name, value)).or_default() += sign;
            }
        }
    }

    fn add_snapshot(&mut self, snapshot: &Snapshot, sign: i64) {
        self.add(&snapshot.project, |delta| delta.snapshots += sign);
    }
}

fn write_totals(txn: &WriteTransaction, ledger: &Ledger) -> Result<(), ViewsError> {
    let mut deltas = Deltas::default();
    for (_, old, new) in ledger.volumes.changes() {
        for (row, sign) in [(old, -1), (new, 1)] {
            if let Some(row) = row {
                deltas.add_volume(row, sign);
            }
        }
    }
    for (_, old, new) in ledger.snapshots.changes() {
        for (row, sign) in [(old, -1), (new, 1)] {
            if let Some(row) = row {
                deltas.add_snapshot(row, sign);
            }
        }
    }
    let mut table = txn.open_table(schema::TOTALS.definition())?;
    for (scope, delta) in &deltas.totals {
        update(&mut table, schema::TOTALS, scope, |totals: Totals| Totals {
            volumes: totals.volumes.saturating_add_signed(delta.volumes),
            volume_gib: totals.volume_gib.saturating_add_signed(delta.volume_gib),
            snapshots: totals.snapshots.saturating_add_signed(delta.snapshots),
        })?;
    }
    let mut table = txn.open_table(schema::METADATA.definition())?;
    for (pair, delta) in deltas.metadata.iter().filter(|(_, delta)| **delta != 0) {
        update(&mut table, schema::METADATA, pair, |count: u64| count.saturating_add_signed(*delta))?;
    }
    Ok(())
}

/// Changes a row that counts; one that counts nothing is not kept.
fn update<R: Row + Default + PartialEq>(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    rows: Rows,
    key: &[u8],
    change: impl Fn(R) -> R,
) -> Result<(), ViewsError> {
    let old = match table.get(key)? {
        Some(bytes) => unseal(rows.0, key, bytes.value())?,
        None => R::default(),
    };
    let new = change(old);
    if new == R::default() {
        table.remove(key)?;
    } else {
        table.insert(key, seal(key, &new).as_slice())?;
    }
    Ok(())
}
