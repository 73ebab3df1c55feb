//! Which commits are about which resource, and where in the log a commit is.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::debt::DebtEvent;
use tephra_domain::effect::BackendObject;
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{
    BackendName, DebtId, OperationId, Position, ProjectId, SnapshotId, VolumeId, VolumeTypeId,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEvent, ResourceKey};
use tephra_domain::quota::QuotaEvent;
use tephra_domain::snapshot::SnapshotEvent;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::VolumeEvent;
use tephra_journal::log::{Block, BlockNumber, Log, LogError, Sequenced};
use tephra_journal::wire::decode_block;

use crate::error::ViewsError;
use crate::key::{self, Key};
use crate::operations::changes_of;
use crate::row::{BlockRow, RowTable, unseal};
use crate::schema;
use crate::views::Views;

/// Something that has a history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceRef {
    /// A volume: its own events, its snapshots', and those of operations and debts about it.
    Volume(VolumeId),
    /// A snapshot: its own events, and those of operations and debts about it.
    Snapshot(SnapshotId),
    /// A volume type.
    VolumeType(VolumeTypeId),
    /// A backend.
    Backend(BackendName),
    /// An operation, and the debts that it left.
    Operation(OperationId),
    /// A cleanup debt.
    Debt(DebtId),
    /// Everything that belongs to a project, its quota included.
    Project(ProjectId),
}

impl Views {
    /// The positions of up to `limit` commits about a resource, from `from` on, in order.
    ///
    /// # Errors
    /// If the file fails.
    pub fn history(
        &self,
        resource: &ResourceRef,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ViewsError> {
        let txn = self.begin_read()?;
        let table = txn.open_table(schema::HISTORY.definition())?;
        let prefix = key::resource(resource);
        let mut start = prefix.clone();
        start.extend(from.0.to_be_bytes());
        let mut positions = Vec::new();
        for entry in table.range::<&[u8]>(start.as_slice()..)?.take(limit) {
            let (entry, ()) = entry.map(|(key, unit)| (key, unit.value()))?;
            let Some(rest) = entry.value().strip_prefix(prefix.as_slice()) else { break };
            let Some(position) = key::trailing_u64(rest) else {
                return Err(ViewsError::damaged("a key of history is too short"));
            };
            positions.push(Position(position));
        }
        Ok(positions)
    }

    /// The block that holds a commit. Nothing if the views have not come so far.
    ///
    /// # Errors
    /// If the file fails.
    pub fn locate(&self, position: Position) -> Result<Option<BlockNumber>, ViewsError> {
        if position == Position::START || position > self.checkpoint().position {
            return Ok(None);
        }
        let table = RowTable::open(&self.begin_read()?, schema::BLOCKS)?;
        Ok(last_block_from(&table, position)?.map(|(_, row)| row.number))
    }

    /// The last commit up to and at a moment. The log's clock never goes backwards.
    ///
    /// # Errors
    /// If the file or the log fails.
    pub async fn position_at(&self, log: &dyn Log, time: Timestamp) -> Result<Position, ViewsError> {
        let Some((before, block)) = self.block_after(time)? else {
            return Ok(self.checkpoint().position);
        };
        let block = read_block(log, block).await?;
        let passed = block.commits.iter().take_while(|one| one.commit.time <= time).last();
        Ok(passed.map_or(before, |one| one.position))
    }

    /// The first block that ends later than `time`, and the last position before it. Nothing if
    /// there is no such block.
    fn block_after(&self, time: Timestamp) -> Result<Option<(Position, BlockNumber)>, ViewsError> {
        let checkpoint = self.checkpoint();
        if checkpoint.time <= time {
            return Ok(None);
        }
        let table = RowTable::open(&self.begin_read()?, schema::BLOCKS)?;
        // Below `low` every block ends by `time`; the block that holds `high` ends later.
        let (mut low, mut high) = (Position(1), checkpoint.position);
        while low < high {
            let middle = Position(low.0.midpoint(high.0));
            match last_block_from(&table, middle)? {
                Some((first, row)) if row.time > time => high = first,
                Some(_) => low = middle.next(),
                None => return Ok(None),
            }
        }
        let found = last_block_from(&table, high)?;
        Ok(found.map(|(first, row)| (Position(first.0.saturating_sub(1)), row.number)))
    }
}

/// The block that holds a position, with its first position.
fn last_block_from(table: &RowTable, position: Position) -> Result<Option<(Position, BlockRow)>, ViewsError> {
    let end = position.0.to_be_bytes();
    let Some(entry) = table.raw().range::<&[u8]>(..=end.as_slice())?.next_back() else { return Ok(None) };
    let (key, row) = entry?;
    let first =
        key::trailing_u64(key.value()).ok_or_else(|| ViewsError::damaged("a key of blocks is too short"))?;
    Ok(Some((Position(first), unseal(schema::BLOCKS.0, key.value(), row.value())?)))
}

/// Reads one block.
pub(crate) async fn read_block(log: &dyn Log, number: BlockNumber) -> Result<Block, ViewsError> {
    match log.read(number, 1).await?.into_iter().next() {
        Some((found, bytes)) if found == number => Ok(decode_block(number, &bytes)?),
        Some(_) | None => {
            let reason = "it is in the views, and not in the log".to_owned();
            Err(LogError::Corrupt { number, reason }.into())
        }
    }
}

/// Reads commits by position, keeping the block that it read last.
#[derive(Debug, Default)]
pub(crate) struct CommitReader {
    block: Option<Block>,
}

impl CommitReader {
    /// The commit at a position that the views have.
    pub async fn read(
        &mut self,
        views: &Views,
        log: &dyn Log,
        position: Position,
    ) -> Result<Sequenced, ViewsError> {
        if let Some(found) = self.held(position) {
            return Ok(found);
        }
        let missing = || ViewsError::damaged(format_args!("no block is known to hold commit {position}"));
        let number = views.locate(position)?.ok_or_else(missing)?;
        self.block = Some(read_block(log, number).await?);
        self.held(position).ok_or_else(missing)
    }

    fn held(&self, position: Position) -> Option<Sequenced> {
        let commits = &self.block.as_ref()?.commits;
        let first = commits.first()?.position;
        let index = usize::try_from(position.0.checked_sub(first.0)?).ok()?;
        commits.get(index).filter(|one| one.position == position).cloned()
    }
}

/// Everything that a commit is about. `ledger` is the state before it.
pub(crate) fn about(ledger: &Ledger, commit: &Commit) -> BTreeSet<ResourceRef> {
    let mut about = About { ledger, refs: BTreeSet::new(), opened: BTreeMap::new(), made: BTreeMap::new() };
    for event in &commit.events {
        about.take(event);
    }
    about.refs
}

struct About<'a> {
    ledger: &'a Ledger,
    refs: BTreeSet<ResourceRef>,
    /// Operations that this commit opens.
    opened: BTreeMap<OperationId, (ProjectId, Vec<ResourceKey>)>,
    /// Debts that this commit brings about.
    made: BTreeMap<DebtId, (ProjectId, BackendObject)>,
}

impl About<'_> {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Volume(id, event) => self.volume(*id, event),
            Event::Snapshot(id, event) => self.snapshot(*id, event),
            Event::VolumeType(id, _) => self.add(ResourceRef::VolumeType(*id)),
            Event::Quota(QuotaEvent::LimitsSet { project, .. } | QuotaEvent::LimitsCleared { project }) => {
                self.add(ResourceRef::Project(project.clone()));
            }
            Event::Quota(QuotaEvent::DefaultsSet { .. }) | Event::TurnBegan { .. } => {}
            Event::Backend(name, _) => self.add(ResourceRef::Backend(name.clone())),
            Event::Operation(id, event) => self.operation(*id, event),
            Event::Debt(id, event) => self.debt(*id, event),
        }
    }

    fn add(&mut self, resource: ResourceRef) {
        self.refs.insert(resource);
    }

    fn volume(&mut self, id: VolumeId, event: &VolumeEvent) {
        let project = if let VolumeEvent::CreateAccepted(accepted)
        | VolumeEvent::ManageAccepted { accepted, .. } = event
        {
            Some(accepted.project.clone())
        } else {
            self.ledger.volumes.get(&id).map(|volume| volume.project.clone())
        };
        self.add(ResourceRef::Volume(id));
        self.refs.extend(project.map(ResourceRef::Project));
    }

    fn snapshot(&mut self, id: SnapshotId, event: &SnapshotEvent) {
        let of = if let SnapshotEvent::CreateAccepted(accepted)
        | SnapshotEvent::ManageAccepted { accepted, .. } = event
        {
            Some((accepted.volume, accepted.project.clone()))
        } else {
            self.ledger.snapshots.get(&id).map(|snapshot| (snapshot.volume, snapshot.project.clone()))
        };
        self.add(ResourceRef::Snapshot(id));
        if let Some((volume, project)) = of {
            self.add(ResourceRef::Volume(volume));
            self.add(ResourceRef::Project(project));
        }
    }

    fn operation(&mut self, id: OperationId, event: &OperationEvent) {
        self.add(ResourceRef::Operation(id));
        if let OperationEvent::Opened { project, kind } = event {
            self.opened.insert(id, (project.clone(), changes_of(kind)));
        }
        let known = self.opened.get(&id).cloned().or_else(|| {
            let open = self.ledger.operations.get(&id)?;
            Some((open.project.clone(), changes_of(&open.kind)))
        });
        let Some((project, changes)) = known else { return };
        self.add(ResourceRef::Project(project));
        for resource in changes {
            self.add(match resource {
                ResourceKey::Volume(id) => ResourceRef::Volume(id),
                ResourceKey::Snapshot(id) => ResourceRef::Snapshot(id),
            });
        }
    }

    fn debt(&mut self, id: DebtId, event: &DebtEvent) {
        self.add(ResourceRef::Debt(id));
        self.add(ResourceRef::Operation(id.operation));
        if let DebtEvent::Incurred { project, object, .. } = event {
            self.made.insert(id, (project.clone(), BackendObject::clone(object)));
        }
        let known = self.made.get(&id).cloned().or_else(|| {
            let owed = self.ledger.debts.get(&id)?;
            Some((owed.project.clone(), owed.object))
        });
        let Some((project, object)) = known else { return };
        self.add(ResourceRef::Project(project));
        self.add(ResourceRef::Volume(object.volume()));
        if let BackendObject::Snapshot { snapshot, .. } = object {
            self.add(ResourceRef::Snapshot(snapshot));
        }
    }
}

/// A resource's entry for a commit.
pub(crate) fn entry(resource: &ResourceRef, position: Position) -> Key {
    let mut key = key::resource(resource);
    key.extend(position.0.to_be_bytes());
    key
}
