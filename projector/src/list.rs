//! Lists of volumes and snapshots: which index serves a query, and the scan over it.
//!
//! A query in the default order, or sorted by one of name, status or size, is a scan that starts at
//! the marker and ends with the page. Filters on a name, on statuses or on a snapshot's volume pick
//! the part of an index that holds nothing else; other filters are looked up row by row on the way.
//! Any other order reads every row that the index part holds, and keeps the page alone (and what
//! its offset skips) in memory.

use std::collections::BinaryHeap;
use std::marker::PhantomData;

use redb::{ReadOnlyTable, ReadTransaction};
use tephra_domain::ids::{ProjectId, SnapshotId, VolumeId};
use tephra_domain::snapshot::Snapshot;
use tephra_domain::volume::Volume;

use crate::error::{QueryError, ViewsError};
use crate::filter::{Hosts, complete_order};
use crate::key::{self, Key};
use crate::listed::{CREATED, Listed, NAME, OF_VOLUME, SIZE, STATUS, Totals};
use crate::query::{Filter, ListQuery, Page, SortDirection, SortKey};
use crate::row::RowTable;
use crate::schema;
use crate::views::{Views, VolumeSummary};

impl Views {
    /// A volume.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, ViewsError> {
        self.one(schema::VOLUMES, id.as_uuid().as_bytes())
    }

    /// A snapshot.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, ViewsError> {
        self.one(schema::SNAPSHOTS, id.as_uuid().as_bytes())
    }

    /// A page of volumes.
    ///
    /// # Errors
    /// [`QueryError::MarkerNotFound`]; if the file fails or is damaged.
    pub fn volumes(&self, query: &ListQuery<VolumeId>) -> Result<Page<Volume>, QueryError> {
        list(self, query)
    }

    /// A page of snapshots.
    ///
    /// # Errors
    /// [`QueryError::MarkerNotFound`]; if the file fails or is damaged.
    pub fn snapshots(&self, query: &ListQuery<SnapshotId>) -> Result<Page<Snapshot>, QueryError> {
        list(self, query)
    }

    /// Volumes counted. Without filters it costs the same for any number of volumes;
    /// `with_metadata` adds a look at each distinct pair of key and value, filters or not, as in
    /// Cinder.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn summary(
        &self,
        project: Option<&ProjectId>,
        filters: &[Filter],
        with_metadata: bool,
    ) -> Result<VolumeSummary, ViewsError> {
        let txn = self.begin_read()?;
        let mut summary = VolumeSummary::default();
        if filters.is_empty() {
            let totals = totals(&txn, project)?;
            (summary.count, summary.total_gib) = (totals.volumes, totals.volume_gib);
        } else {
            let scan = Scan::<Volume>::open(&txn, project, filters)?;
            for id in scan.candidates(&scan.plan(&complete_order(&[])))? {
                if let Some(volume) = scan.passing(id?)? {
                    summary.count = summary.count.saturating_add(1);
                    summary.total_gib = summary.total_gib.saturating_add(u64::from(volume.size.gib()));
                }
            }
        }
        if with_metadata {
            let table = txn.open_table(schema::METADATA.definition())?;
            let start = key::scope(project);
            for entry in table.range::<&[u8]>(start.as_slice()..)? {
                let (key, _) = entry?;
                let Some(rest) = key.value().strip_prefix(start.as_slice()) else { break };
                let (name, value) = crate::fold::two_texts(rest)?;
                summary.metadata.entry(name).or_default().insert(value);
            }
        }
        Ok(summary)
    }
}

fn totals(txn: &ReadTransaction, project: Option<&ProjectId>) -> Result<Totals, ViewsError> {
    Ok(RowTable::open(txn, schema::TOTALS)?.get(&key::scope(project))?.unwrap_or_default())
}

fn list<R: Listed>(views: &Views, query: &ListQuery<R::Id>) -> Result<Page<R>, QueryError> {
    let txn = views.begin_read()?;
    let scan = Scan::<R>::open(&txn, query.project.as_ref(), &query.filters)?;
    let marker = match query.marker {
        None => None,
        Some(marker) => {
            let row: Option<R> = scan.rows.get(&R::marker_bytes(marker))?;
            let visible =
                row.filter(|row| query.project.as_ref().is_none_or(|project| row.project() == project));
            Some(visible.ok_or_else(|| QueryError::MarkerNotFound { marker: marker.to_string() })?)
        }
    };
    let count = if query.with_count { Some(scan.count(&txn)?) } else { None };
    let order = complete_order(&query.sort);
    let plan = scan.plan(&order);
    let rows = match plan {
        Plan::InOrder(parts) => scan.page_in_order(&parts, marker.as_ref(), query.offset, query.limit)?,
        Plan::OneRow(_) | Plan::Unordered(_) => {
            scan.page_by_sorting(&plan, &order, marker.as_ref(), query.offset, query.limit)?
        }
    };
    Ok(Page { rows, count })
}

/// How a query is answered.
enum Plan {
    /// A filter names the row.
    OneRow([u8; 16]),
    /// These parts of the index, merged, are in the order that was asked for.
    InOrder(Parts),
    /// These parts of the index hold the rows, in another order.
    Unordered(Parts),
}

/// Parts of an index, disjoint, each the entries that begin with a prefix.
struct Parts {
    prefixes: Vec<Key>,
    descending: bool,
    /// The order whose fields follow the prefix; nothing if that is age alone.
    sorted_by: Option<u8>,
    /// Whether the parts hold exactly the rows that pass, so that none needs to be read.
    exact: bool,
}

struct Scan<'a, R> {
    rows: RowTable,
    index: ReadOnlyTable<&'static [u8], ()>,
    hosts: Hosts,
    project: Option<&'a ProjectId>,
    filters: &'a [Filter],
    listed: PhantomData<R>,
}

type Id = [u8; 16];

impl<'a, R: Listed> Scan<'a, R> {
    fn open(
        txn: &ReadTransaction,
        project: Option<&'a ProjectId>,
        filters: &'a [Filter],
    ) -> Result<Self, ViewsError> {
        let backends = RowTable::open(txn, schema::BACKENDS)?;
        let backends = backends.all()?.map(|row| row.map(|(_, row)| row)).collect::<Result<_, _>>()?;
        Ok(Self {
            rows: RowTable::open(txn, R::ROWS)?,
            index: txn.open_table(R::INDEX.definition())?,
            hosts: Hosts::of(backends),
            project,
            filters,
            listed: PhantomData,
        })
    }

    fn plan(&self, order: &[(SortKey, SortDirection)]) -> Plan {
        if let Some(id) = self.filters.iter().find_map(R::only) {
            return Plan::OneRow(id);
        }
        let by_age = by_age(order);
        let aged = |prefixes, exact| {
            let descending = by_age == Some(SortDirection::Descending);
            let parts = Parts { prefixes, descending, sorted_by: None, exact };
            if by_age.is_some() { Plan::InOrder(parts) } else { Plan::Unordered(parts) }
        };
        let alone = self.filters.len() == 1;
        if let Some((prefix, exact)) = self.filters.iter().find_map(|filter| self.narrow(filter)) {
            return aged(vec![prefix], exact && alone);
        }
        if let Some((tag, direction)) = served_by_index(order) {
            return Plan::InOrder(Parts {
                prefixes: vec![self.part(tag)],
                descending: direction == SortDirection::Descending,
                sorted_by: Some(tag),
                exact: self.filters.is_empty(),
            });
        }
        match self.filters.iter().find_map(|filter| self.statuses(filter)) {
            Some(prefixes) => aged(prefixes, alone),
            None => aged(vec![self.part(CREATED)], self.filters.is_empty()),
        }
    }

    fn part(&self, tag: u8) -> Key {
        let mut prefix = vec![tag];
        key::push_scope(&mut prefix, self.project);
        prefix
    }

    /// The part of an index that a filter leaves, if that is a small one, and whether it holds
    /// nothing that does not pass.
    fn narrow(&self, filter: &Filter) -> Option<(Key, bool)> {
        if let Filter::Name(name) = filter {
            let mut prefix = self.part(NAME);
            key::push_optional_text(&mut prefix, Some(name));
            return Some((prefix, true));
        }
        if let (Filter::VolumeId(volume), true) = (filter, R::HAS_VOLUME) {
            let mut prefix = vec![OF_VOLUME];
            prefix.extend(volume.as_uuid().as_bytes());
            // An administrator's snapshot of another project's volume is not that project's.
            return Some((prefix, self.project.is_none()));
        }
        None
    }

    /// The parts of the index that a filter on statuses leaves.
    fn statuses(&self, filter: &Filter) -> Option<Vec<Key>> {
        let Filter::Status(asked) = filter else { return None };
        let mut prefixes: Vec<Key> = asked
            .iter()
            .map(|status| {
                let mut prefix = self.part(STATUS);
                key::push_text(&mut prefix, status);
                prefix
            })
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Some(prefixes)
    }

    /// The row, if it passes.
    fn passing(&self, id: Id) -> Result<Option<R>, ViewsError> {
        let row: R = self.rows.must_get(&id)?;
        let passes = self.project.is_none_or(|project| row.project() == project)
            && self.filters.iter().all(|filter| row.passes(filter, &self.hosts));
        Ok(passes.then_some(row))
    }

    /// The rows that a plan looks at.
    fn candidates(&self, plan: &Plan) -> Result<Places<'_>, ViewsError> {
        match plan {
            Plan::OneRow(id) => {
                let there = self.rows.raw().get(id.as_slice())?.is_some();
                Ok(Places { parts: Vec::new(), descending: false, first: there.then_some(*id) })
            }
            Plan::InOrder(parts) | Plan::Unordered(parts) => self.places(parts, None),
        }
    }

    /// The ids in parts of the index, merged by what follows their prefixes, after a place.
    fn places(&self, parts: &Parts, after: Option<&[u8]>) -> Result<Places<'_>, ViewsError> {
        let mut places = Vec::with_capacity(parts.prefixes.len());
        for prefix in &parts.prefixes {
            let mut start = prefix.clone();
            // No prefix is all ones: each begins with an order's tag.
            let mut end = key::after_prefix(prefix).unwrap_or_default();
            if let Some(after) = after {
                let mut place = prefix.clone();
                place.extend(after);
                if parts.descending {
                    end = place;
                } else {
                    // The next key there can be: all entries of an order end themselves.
                    place.push(0);
                    start = place;
                }
            }
            let range = self.index.range::<&[u8]>(start.as_slice()..end.as_slice())?;
            let mut part =
                Part { range, prefix_length: prefix.len(), descending: parts.descending, head: None };
            part.advance()?;
            places.push(part);
        }
        Ok(Places { parts: places, descending: parts.descending, first: None })
    }

    fn count(&self, txn: &ReadTransaction) -> Result<u64, ViewsError> {
        if self.filters.is_empty() {
            return Ok(R::total(totals(txn, self.project)?));
        }
        let plan = self.plan(&complete_order(&[]));
        let exact = match &plan {
            Plan::OneRow(_) => false,
            Plan::InOrder(parts) | Plan::Unordered(parts) => parts.exact,
        };
        let mut count: u64 = 0;
        for id in self.candidates(&plan)? {
            let id = id?;
            if exact || self.passing(id)?.is_some() {
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    fn page_in_order(
        &self,
        parts: &Parts,
        marker: Option<&R>,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<R>, ViewsError> {
        let after = marker.map(|row| match parts.sorted_by {
            Some(tag) => row.entry(tag, self.project).split_off(self.part(tag).len()),
            None => row.age(),
        });
        let mut rows = Vec::new();
        let mut skipped = 0;
        for id in self.places(parts, after.as_deref())? {
            if rows.len() >= limit {
                break;
            }
            let id = id?;
            if parts.exact && skipped < offset {
                skipped = skipped.saturating_add(1);
                continue;
            }
            if let Some(row) = self.passing(id)? {
                if skipped < offset {
                    skipped = skipped.saturating_add(1);
                } else {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    fn page_by_sorting(
        &self,
        plan: &Plan,
        order: &[(SortKey, SortDirection)],
        marker: Option<&R>,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<R>, ViewsError> {
        let place_of = |row: &R| {
            let mut place = Key::new();
            for (key, direction) in order {
                row.sort_value(*key, &self.hosts).push(&mut place, *direction);
            }
            place
        };
        let after = marker.map(place_of);
        let wanted = offset.saturating_add(limit);
        // The places wanted so far, the last of them on top.
        let mut kept: BinaryHeap<(Key, Id)> = BinaryHeap::new();
        for id in self.candidates(plan)? {
            let id = id?;
            let Some(row) = self.passing(id)? else { continue };
            let place = place_of(&row);
            if after.as_ref().is_some_and(|after| place <= *after) {
                continue;
            }
            kept.push((place, id));
            if kept.len() > wanted {
                kept.pop();
            }
        }
        let page = kept.into_sorted_vec().into_iter().skip(offset);
        page.map(|(_, id)| self.rows.must_get(&id)).collect()
    }
}

/// Whether there is an index in this order.
pub(crate) fn is_indexed(sort: &[(SortKey, SortDirection)]) -> bool {
    let order = complete_order(sort);
    by_age(&order).is_some() || served_by_index(&order).is_some()
}

/// The direction of an order by age alone.
fn by_age(order: &[(SortKey, SortDirection)]) -> Option<SortDirection> {
    match order {
        [(SortKey::CreatedAt, first), (SortKey::Id, second)] if first == second => Some(*first),
        [..] => None,
    }
}

/// The index whose order this is, and the direction of the scan.
fn served_by_index(order: &[(SortKey, SortDirection)]) -> Option<(u8, SortDirection)> {
    let [(key, direction), (SortKey::CreatedAt, second), (SortKey::Id, third)] = order else { return None };
    if direction != second || second != third {
        return None;
    }
    match key {
        SortKey::Name => Some((NAME, *direction)),
        SortKey::Status => Some((STATUS, *direction)),
        SortKey::Size => Some((SIZE, *direction)),
        SortKey::Id
        | SortKey::AvailabilityZone
        | SortKey::Bootable
        | SortKey::CreatedAt
        | SortKey::UpdatedAt
        | SortKey::VolumeId
        | SortKey::Host
        | SortKey::Project
        | SortKey::VolumeType
        | SortKey::Description => None,
    }
}

/// One part of an index, with the entry that comes next in it.
struct Part<'t> {
    range: redb::Range<'t, &'static [u8], ()>,
    prefix_length: usize,
    descending: bool,
    head: Option<Key>,
}

impl Part<'_> {
    /// Takes the next entry's key, without its prefix, and looks up the one after it.
    fn advance(&mut self) -> Result<Option<Key>, ViewsError> {
        let next = if self.descending { self.range.next_back() } else { self.range.next() };
        let next = next
            .transpose()?
            .map(|(key, _)| key.value().get(self.prefix_length..).unwrap_or_default().to_vec());
        Ok(std::mem::replace(&mut self.head, next))
    }
}

/// Ids from parts of an index, in one order.
struct Places<'t> {
    parts: Vec<Part<'t>>,
    descending: bool,
    first: Option<Id>,
}

impl Iterator for Places<'_> {
    type Item = Result<Id, ViewsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let heads = self.parts.iter_mut().filter(|part| part.head.is_some());
        let part = if self.descending {
            heads.max_by(|a, b| a.head.cmp(&b.head))
        } else {
            heads.min_by(|a, b| a.head.cmp(&b.head))
        }?;
        match part.advance() {
            Err(error) => Some(Err(error)),
            Ok(place) => {
                let id = place.as_deref().and_then(<[u8]>::last_chunk::<16>).copied();
                Some(id.ok_or_else(|| ViewsError::damaged("an entry of an index is too short")))
            }
        }
    }
}
