//! Pages of the ledger's events.

use tephra_domain::event::Event;
use tephra_domain::ids::{Position, ProjectId};
use tephra_domain::units::Timestamp;
use tephra_journal::log::{Log, Sequenced};

use crate::error::QueryError;
use crate::history::{CommitReader, ResourceRef};
use crate::views::Views;

/// Commits that one page looks at, at most. A filter that few pass then gives a short page with a
/// place to go on, rather than a long wait.
const LOOKED_AT: usize = 20_000;
/// Positions that are looked up at once.
const CHUNK: usize = 1000;

/// Which events are asked for. All must hold.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only commits after this one.
    pub after: Position,
    /// Events at most; a commit is never split, so the last one may go over it.
    pub limit: usize,
    /// Only about things of this project.
    pub project: Option<ProjectId>,
    /// Only about this resource.
    pub resource: Option<ResourceRef>,
    /// Only of this name ([`tephra_domain::event::Event::name`]).
    pub kind: Option<String>,
    /// Only at or after this moment.
    pub since: Option<Timestamp>,
    /// Only before this moment.
    pub until: Option<Timestamp>,
}

/// A commit of which some events were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The commit, whole.
    pub commit: Sequenced,
    /// Which of its events pass, by their index.
    pub events: Vec<usize>,
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Commits with events that pass, in order.
    pub rows: Vec<EventRow>,
    /// Where to go on (as [`EventQuery::after`]); nothing at the end. A page may be empty and
    /// still have more after it: a look at the log is bounded.
    pub next: Option<Position>,
}

impl Views {
    /// A page of events, up to where the views have come. A resource's or a project's are found by
    /// index; otherwise the log is read from where the page begins.
    ///
    /// # Errors
    /// If the views or the log fail.
    pub async fn list_events(&self, log: &dyn Log, query: &EventQuery) -> Result<EventPage, QueryError> {
        let head = self.checkpoint().position;
        let mut after = query.after;
        if let Some(since) = query.since {
            after = after.max(self.position_at(log, Timestamp(since.0.saturating_sub(1))).await?);
        }
        let mut end = head;
        if let Some(until) = query.until {
            end = end.min(self.position_at(log, Timestamp(until.0.saturating_sub(1))).await?);
        }
        let mut page = EventPage::default();
        let mut reader = CommitReader::default();
        let (mut events, mut looked_at) = (0_usize, 0_usize);
        while after < end {
            let candidates = self.candidates(query, after, end)?;
            if candidates.is_empty() {
                return Ok(page);
            }
            for position in candidates {
                if position > end {
                    return Ok(page);
                }
                if events >= query.limit || looked_at >= LOOKED_AT {
                    page.next = Some(after);
                    return Ok(page);
                }
                let commit = reader.read(self, log, position).await?;
                looked_at = looked_at.saturating_add(1);
                let passing = query.passing(&commit);
                if !passing.is_empty() {
                    events = events.saturating_add(passing.len());
                    page.rows.push(EventRow { commit, events: passing });
                }
                after = position;
            }
        }
        Ok(page)
    }

    /// Positions of the next commits that may pass, in order.
    fn candidates(
        &self,
        query: &EventQuery,
        after: Position,
        end: Position,
    ) -> Result<Vec<Position>, QueryError> {
        let from = after.next();
        let project = query.project.clone().map(ResourceRef::Project);
        let found = match (&query.resource, project) {
            (Some(resource), None) => self.history(resource, from, CHUNK)?,
            (None, Some(project)) => self.history(&project, from, CHUNK)?,
            (Some(resource), Some(project)) => self.history_of_both(resource, &project, from)?,
            (None, None) => (from.0..=end.0).take(CHUNK).map(Position).collect(),
        };
        Ok(found)
    }

    /// Positions of the next commits that are about both.
    fn history_of_both(
        &self,
        resource: &ResourceRef,
        project: &ResourceRef,
        from: Position,
    ) -> Result<Vec<Position>, QueryError> {
        let mut from = from;
        loop {
            let of_resource = self.history(resource, from, CHUNK)?;
            let Some(last) = of_resource.last() else { return Ok(Vec::new()) };
            let next = last.next();
            let mut both = Vec::new();
            for position in of_resource {
                if self.history(project, position, 1)?.first() == Some(&position) {
                    both.push(position);
                }
            }
            if !both.is_empty() {
                return Ok(both);
            }
            from = next;
        }
    }
}

impl EventQuery {
    /// The events of a commit that pass; that the commit is about the project and the resource is
    /// known already.
    fn passing(&self, commit: &Sequenced) -> Vec<usize> {
        let events = commit.commit.events.iter().enumerate();
        events
            .filter(|(_, event)| {
                self.kind.as_ref().is_none_or(|kind| event.name() == kind)
                    && self.resource.as_ref().is_none_or(|resource| concerns(resource, event))
            })
            .map(|(index, _)| index)
            .collect()
    }
}

/// Whether an event is about a resource, in a commit that is. Operations and debts are about what
/// their commit is about; an operation's commit is about nothing else.
fn concerns(resource: &ResourceRef, event: &Event) -> bool {
    match (resource, event) {
        (ResourceRef::Operation(_) | ResourceRef::Project(_), _) => true,
        (ResourceRef::Volume(id), Event::Volume(of, _)) => id == of,
        (ResourceRef::Volume(_), Event::Snapshot(..) | Event::Operation(..) | Event::Debt(..)) => true,
        (ResourceRef::Snapshot(id), Event::Snapshot(of, _)) => id == of,
        (ResourceRef::Snapshot(_), Event::Operation(..) | Event::Debt(..)) => true,
        (ResourceRef::VolumeType(id), Event::VolumeType(of, _)) => id == of,
        (ResourceRef::Backend(name), Event::Backend(of, _)) => name == of,
        (ResourceRef::Debt(id), Event::Debt(of, _)) => id == of,
        (
            ResourceRef::Volume(_)
            | ResourceRef::Snapshot(_)
            | ResourceRef::VolumeType(_)
            | ResourceRef::Backend(_)
            | ResourceRef::Debt(_),
            Event::Volume(..)
            | Event::Snapshot(..)
            | Event::VolumeType(..)
            | Event::Quota(_)
            | Event::Backend(..)
            | Event::Operation(..)
            | Event::Debt(..)
            | Event::TurnBegan { .. },
        ) => false,
    }
}
