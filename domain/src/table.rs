//! A keyed table with one layer of pending changes.
//!
//! The sequencer decides commands over state that the journal has not acknowledged yet. While a
//! layer is open, every write goes into it; [`Table::merge`] makes it part of the table when the
//! append is acknowledged, [`Table::discard`] drops it on a conflict. A wrong guess costs nothing.
//!
//! The table is hashed for speed and never shows the hash order: what it lists, it lists by key.

#![allow(clippy::disallowed_types, reason = "the one place that may hash: its order never leaves this file")]

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

/// Rows by key, with at most one pending layer over them.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    base: HashMap<K, V, FxBuildHasher>,
    pending: Option<BTreeMap<K, Option<V>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { base: HashMap::with_hasher(FxBuildHasher), pending: None }
    }
}

/// One row that the pending layer changes: what was, what will be.
pub type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K: Clone + Eq + Ord + Hash, V: Clone> Table<K, V> {
    /// The row as the pending layer sees it.
    pub fn get(&self, key: &K) -> Option<&V> {
        if let Some(row) = self.pending.as_ref().and_then(|layer| layer.get(key)) {
            return row.as_ref();
        }
        self.base.get(key)
    }

    /// The row, to be changed. With a layer open it is copied into the layer first.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match &mut self.pending {
            None => self.base.get_mut(key),
            Some(layer) => {
                if !layer.contains_key(key) {
                    let row = self.base.get(key)?.clone();
                    layer.insert(key.clone(), Some(row));
                }
                layer.get_mut(key)?.as_mut()
            }
        }
    }

    /// Whether there is such a row.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts a row in place of whatever was there.
    pub fn insert(&mut self, key: K, row: V) {
        match &mut self.pending {
            None => {
                self.base.insert(key, row);
            }
            Some(layer) => {
                layer.insert(key, Some(row));
            }
        }
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &K) {
        match &mut self.pending {
            None => {
                self.base.remove(key);
            }
            Some(layer) => {
                layer.insert(key.clone(), None);
            }
        }
    }

    /// Opens a layer, or keeps the one that is open.
    pub fn begin(&mut self) {
        self.pending.get_or_insert_with(BTreeMap::new);
    }

    /// Makes the pending layer part of the table.
    pub fn merge(&mut self) {
        for (key, row) in self.pending.take().unwrap_or_default() {
            match row {
                Some(row) => {
                    self.base.insert(key, row);
                }
                None => {
                    self.base.remove(&key);
                }
            }
        }
    }

    /// Drops the pending layer.
    pub fn discard(&mut self) {
        self.pending = None;
    }

    /// The rows that the pending layer changes, by key.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_, K, V>> {
        self.pending.iter().flatten().map(|(key, row)| (key, self.base.get(key), row.as_ref()))
    }

    /// How many rows there are under the pending layer. Exact while no layer is open.
    pub fn len(&self) -> usize {
        self.base.len()
    }

    /// Whether the table under the pending layer is empty.
    pub fn is_empty(&self) -> bool {
        self.base.is_empty()
    }

    /// Every row by key, the pending layer included. Costs a sort: not for hot paths.
    pub fn sorted(&self) -> Vec<(&K, &V)> {
        let mut rows: Vec<(&K, &V)> = match &self.pending {
            None => self.base.iter().collect(),
            Some(layer) => self
                .base
                .iter()
                .filter(|(key, _)| !layer.contains_key(*key))
                .chain(layer.iter().filter_map(|(key, row)| row.as_ref().map(|row| (key, row))))
                .collect(),
        };
        rows.sort_unstable_by(|a, b| a.0.cmp(b.0));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_discarded_layer_leaves_no_trace() {
        let mut table = Table::default();
        table.insert(1, "one");
        table.begin();
        table.insert(2, "two");
        table.remove(&1);
        assert_eq!(table.sorted(), [(&2, &"two")]);
        table.discard();
        assert_eq!(table.sorted(), [(&1, &"one")]);
    }

    #[test]
    fn a_merged_layer_is_the_table() {
        let mut table = Table::default();
        table.insert(1, "one");
        table.begin();
        if let Some(row) = table.get_mut(&1) {
            *row = "uno";
        }
        assert_eq!(table.changes().collect::<Vec<_>>(), [(&1, Some(&"one"), Some(&"uno"))]);
        table.merge();
        assert_eq!(table.get(&1), Some(&"uno"));
        assert_eq!(table.len(), 1);
    }
}
