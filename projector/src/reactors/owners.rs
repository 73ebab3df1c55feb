//! Whose everything is, folded from the log: an event names the owner of its resource only once.

use std::collections::{BTreeSet, HashMap};

use tephra_domain::debt::DebtEvent;
use tephra_domain::event::Event;
use tephra_domain::ids::{DebtId, OperationId, ProjectId, SnapshotId, VolumeId};
use tephra_domain::operation::OperationEvent;
use tephra_domain::snapshot::SnapshotEvent;
use tephra_domain::volume::VolumeEvent;

use crate::render::event::named_project;

/// What belongs to a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owned {
    Volume(VolumeId),
    Snapshot(SnapshotId),
    Operation(OperationId),
    Debt(DebtId),
}

/// An event of something whose owner was never named: the log is not one of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} happened to something that was never said to be anybody's")]
pub(super) struct Unowned(&'static str);

/// The owners of everything that there is.
#[derive(Debug, Default)]
pub(super) struct Owners {
    owners: HashMap<Owned, ProjectId>,
    /// Each name once: there are many volumes and few projects.
    projects: BTreeSet<ProjectId>,
}

impl Owners {
    /// Takes the next event in, and says whose it is: nobody's is the deployment's.
    pub fn take(&mut self, event: &Event) -> Result<Option<ProjectId>, Unowned> {
        let Some(owned) = owned(event) else { return Ok(named_project(event).cloned()) };
        let owner = match named_project(event) {
            Some(named) => {
                let owner = self.projects.get(named).unwrap_or(named).clone();
                self.projects.insert(owner.clone());
                self.owners.insert(owned, owner.clone());
                owner
            }
            None => self.owners.get(&owned).cloned().ok_or(Unowned(event.name()))?,
        };
        if is_the_last(event) {
            self.owners.remove(&owned);
        }
        Ok(Some(owner))
    }
}

const fn owned(event: &Event) -> Option<Owned> {
    match event {
        Event::Volume(id, _) => Some(Owned::Volume(*id)),
        Event::Snapshot(id, _) => Some(Owned::Snapshot(*id)),
        Event::Operation(id, _) => Some(Owned::Operation(*id)),
        Event::Debt(id, _) => Some(Owned::Debt(*id)),
        Event::VolumeType(..) | Event::Quota(_) | Event::Backend(..) | Event::TurnBegan { .. } => None,
    }
}

/// Whether nothing more can happen to its resource, so that it can be forgotten.
const fn is_the_last(event: &Event) -> bool {
    matches!(
        event,
        Event::Volume(_, VolumeEvent::Deleted)
            | Event::Snapshot(_, SnapshotEvent::Deleted)
            | Event::Operation(_, OperationEvent::Closed { .. })
            | Event::Debt(_, DebtEvent::Paid)
    )
}
