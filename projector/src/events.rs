//! Pages of the ledger's events.

use tephra_domain::ids::{Position, ProjectId};
use tephra_domain::units::Timestamp;
use tephra_journal::log::{Log, Sequenced};

use crate::error::{QueryError, ViewsError};
use crate::history::ResourceRef;
use crate::views::Views;

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

#[allow(unused_variables, clippy::unused_async, reason = "signatures come before bodies")]
impl Views {
    /// A page of events.
    pub async fn list_events(&self, log: &dyn Log, query: &EventQuery) -> Result<EventPage, QueryError> {
        Err(ViewsError::Storage("the views are empty".to_owned()).into())
    }
}
