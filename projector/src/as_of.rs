//! The past: what a resource, or everything, was at a position or a time.

use std::sync::Arc;

use tephra_domain::event::{Event, IllegalEvent};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{Position, SnapshotId, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::{Snapshot, SnapshotEvent};
use tephra_domain::units::Timestamp;
use tephra_domain::volume::{Volume, VolumeEvent};
use tephra_journal::log::{BlockNumber, Log, Sequenced};
use tephra_journal::wire::decode_block;

use crate::error::{QueryError, ViewsError};
use crate::history::{CommitReader, ResourceRef};
use crate::views::Views;

/// Positions that are looked up at once.
const CHUNK: usize = 1000;
/// Blocks that a replay reads at once.
const READ_BLOCKS: usize = 64;

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Just after this commit.
    Position(Position),
    /// After everything up to and at this moment.
    Time(Timestamp),
}

impl Views {
    /// A volume as it was. Nothing if it was not there.
    ///
    /// # Errors
    /// [`QueryError::BeyondHead`]; if the views or the log fail.
    pub async fn volume_as_of(
        &self,
        log: &dyn Log,
        id: VolumeId,
        as_of: AsOf,
    ) -> Result<Option<Volume>, QueryError> {
        let mut past: Option<Volume> = None;
        let end = self.resolve(log, as_of).await?;
        self.replay(log, &ResourceRef::Volume(id), end, |at, event| match event {
            Event::Volume(of, VolumeEvent::CreateAccepted(accepted)) if *of == id => {
                past = Some(Volume::accepted(id, at, accepted));
                Ok(())
            }
            Event::Volume(of, VolumeEvent::ManageAccepted { accepted, .. }) if *of == id => {
                past = Some(Volume::managed(id, at, accepted));
                Ok(())
            }
            Event::Volume(of, event) if *of == id => step(&mut past, |volume| volume.apply(at, event)),
            Event::Snapshot(
                snapshot,
                SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. },
            ) if accepted.volume == id => step(&mut past, |volume| {
                volume.snapshots.push(*snapshot);
                Ok(true)
            }),
            Event::Snapshot(snapshot, SnapshotEvent::Deleted | SnapshotEvent::Unmanaged) => {
                if let Some(volume) = &mut past {
                    volume.snapshots.retain(|other| other != snapshot);
                }
                Ok(())
            }
            Event::Volume(..)
            | Event::Snapshot(..)
            | Event::VolumeType(..)
            | Event::Quota(_)
            | Event::Backend(..)
            | Event::Operation(..)
            | Event::Debt(..)
            | Event::TurnBegan { .. } => Ok(()),
        })
        .await?;
        Ok(past)
    }

    /// A snapshot as it was. Nothing if it was not there.
    ///
    /// # Errors
    /// [`QueryError::BeyondHead`]; if the views or the log fail.
    pub async fn snapshot_as_of(
        &self,
        log: &dyn Log,
        id: SnapshotId,
        as_of: AsOf,
    ) -> Result<Option<Snapshot>, QueryError> {
        let mut past: Option<Snapshot> = None;
        let end = self.resolve(log, as_of).await?;
        self.replay(log, &ResourceRef::Snapshot(id), end, |at, event| match event {
            Event::Snapshot(
                of,
                SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. },
            ) if *of == id => {
                past = Some(Snapshot::accepted(id, at, accepted));
                Ok(())
            }
            Event::Snapshot(of, event) if *of == id => step(&mut past, |snapshot| snapshot.apply(at, event)),
            Event::Volume(..)
            | Event::Snapshot(..)
            | Event::VolumeType(..)
            | Event::Quota(_)
            | Event::Backend(..)
            | Event::Operation(..)
            | Event::Debt(..)
            | Event::TurnBegan { .. } => Ok(()),
        })
        .await?;
        Ok(past)
    }

    /// The position that is meant.
    ///
    /// # Errors
    /// [`QueryError::BeyondHead`]; if the views or the log fail.
    pub async fn resolve(&self, log: &dyn Log, as_of: AsOf) -> Result<Position, QueryError> {
        let head = self.checkpoint().position;
        match as_of {
            AsOf::Position(asked) if asked > head => Err(QueryError::BeyondHead { asked, head }),
            AsOf::Position(position) => Ok(position),
            AsOf::Time(time) => Ok(self.position_at(log, time).await?),
        }
    }

    /// Goes through all events of commits about a resource, up to `end`.
    async fn replay(
        &self,
        log: &dyn Log,
        resource: &ResourceRef,
        end: Position,
        mut take: impl FnMut(Timestamp, &Event) -> Result<(), IllegalEvent> + Send,
    ) -> Result<(), QueryError> {
        let mut reader = CommitReader::default();
        let mut from = Position(1);
        loop {
            let positions = self.history(resource, from, CHUNK)?;
            let Some(last) = positions.last() else { return Ok(()) };
            from = last.next();
            for position in positions {
                if position > end {
                    return Ok(());
                }
                let Sequenced { commit, .. } = reader.read(self, log, position).await?;
                for event in &commit.events {
                    if let Err(source) = take(commit.time, event) {
                        let block = self.locate(position)?.unwrap_or_default();
                        return Err(ViewsError::IllegalHistory { block, source }.into());
                    }
                }
            }
        }
    }
}

/// Changes what is there; false from the change says that it is gone.
fn step<T>(
    past: &mut Option<T>,
    change: impl FnOnce(&mut T) -> Result<bool, IllegalEvent>,
) -> Result<(), IllegalEvent> {
    if let Some(present) = past
        && !change(present)?
    {
        *past = None;
    }
    Ok(())
}

/// Everything as it was, by replaying the log from its beginning. Needs no views.
///
/// # Errors
/// [`QueryError::BeyondHead`]; if the log fails or holds an illegal history.
pub async fn ledger_as_of(log: &dyn Log, as_of: AsOf) -> Result<Ledger, QueryError> {
    let mut ledger = Ledger::default();
    let mut next = BlockNumber(1);
    loop {
        let blocks = log.read(next, READ_BLOCKS).await?;
        if blocks.is_empty() {
            let head = ledger.position();
            return match as_of {
                AsOf::Position(asked) if asked > head => Err(QueryError::BeyondHead { asked, head }),
                AsOf::Position(_) | AsOf::Time(_) => Ok(ledger),
            };
        }
        for (number, bytes) in blocks {
            for Sequenced { position, commit } in decode_block(number, &bytes)?.commits {
                let beyond = match as_of {
                    AsOf::Position(end) => position > end,
                    AsOf::Time(end) => commit.time > end,
                };
                if beyond {
                    return Ok(ledger);
                }
                apply_commit(&mut ledger, position, &Arc::clone(&commit))
                    .map_err(|source| ViewsError::IllegalHistory { block: number, source })?;
            }
            next = BlockNumber(number.0.saturating_add(1));
        }
    }
}
