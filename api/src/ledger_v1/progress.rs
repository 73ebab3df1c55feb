//! How far long work has come, for a stream of events: beside them, and never one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tephra_domain::effect::BackendObject;
use tephra_domain::ids::OperationId;
use tephra_domain::operation::Operation;
use tephra_journal::progress_board::Progress;
use tephra_projector::ViewsError;
use tephra_projector::events::EventQuery;
use tephra_projector::history::ResourceRef;
use tephra_projector::render::operation::live_progress;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::AppState;

/// The name under which it goes; no event of the ledger is called so.
pub const PROGRESS: &str = "progress";

/// The least time between two looks of one stream: stretches of holes are done in no time.
const PAUSE: Duration = Duration::from_millis(500);

/// After how long it is looked again whether the views have come to what somebody speaks of.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);

/// What one stream has said of progress.
pub struct Watched {
    changes: watch::Receiver<()>,
    said: BTreeMap<OperationId, Progress>,
    /// Somebody speaks of an attempt that the views do not wait for: perhaps not yet.
    has_unknown: bool,
    looked_at: Option<Instant>,
}

impl Watched {
    /// For a stream that begins: it is told at once how things stand. Nothing if the stream wants none.
    pub fn new(state: &AppState, query: &EventQuery) -> Option<Self> {
        let is_wanted = query.kind.as_ref().is_none_or(|kind| kind == PROGRESS) && query.until.is_none();
        let mut changes = state.progress.subscribe();
        changes.mark_changed();
        let watched = Self { changes, said: BTreeMap::new(), has_unknown: false, looked_at: None };
        is_wanted.then_some(watched)
    }

    /// Returns when there may be news.
    pub async fn moved(&self) {
        tokio::time::sleep(self.pause()).await;
        let mut changes = self.changes.clone();
        let changed = async {
            if changes.changed().await.is_err() {
                // nobody reports any more
                std::future::pending::<()>().await;
            }
        };
        if self.has_unknown {
            let _elapsed = tokio::time::timeout(UNKNOWN_PAUSE, changed).await;
        } else {
            changed.await;
        }
    }

    /// What is left of the pause since the last look.
    fn pause(&self) -> Duration {
        self.looked_at.map_or(Duration::ZERO, |at| PAUSE.saturating_sub(at.elapsed()))
    }

    /// What has come further since the last look, of what is asked for: of operations whose attempt at
    /// hand it is, as its own backend says.
    ///
    /// # Errors
    /// If the views fail.
    pub fn news(&mut self, state: &AppState, query: &EventQuery) -> Result<Vec<Value>, ViewsError> {
        let has_changed = self.changes.has_changed().is_ok_and(|changed| changed);
        if !(has_changed || self.has_unknown) || !self.pause().is_zero() {
            return Ok(Vec::new());
        }
        self.changes.mark_unchanged();
        self.has_unknown = false;
        self.looked_at = Some(Instant::now());
        let mut said = BTreeMap::new();
        let mut news = Vec::new();
        for (backend, progress) in state.progress.read(state.now()) {
            let id = progress.key.operation();
            let operation = state.views.open_operation(id)?;
            let due = operation.as_ref().and_then(Operation::due);
            let due = due.filter(|due| due.key == progress.key && due.pool.backend == backend);
            let (Some(operation), Some(due)) = (operation, due) else {
                self.has_unknown = true;
                continue;
            };
            let target = due.effect.target();
            if !is_asked_for(query, &operation, &target) {
                continue;
            }
            if self.said.get(&id) != Some(&progress) {
                news.push(live_progress(&operation, &target, &progress));
            }
            said.insert(id, progress);
        }
        self.said = said;
        Ok(news)
    }
}

fn is_asked_for(query: &EventQuery, operation: &Operation, target: &BackendObject) -> bool {
    let is_theirs = query.project.as_ref().is_none_or(|project| *project == operation.project);
    let is_about = match &query.resource {
        None => true,
        Some(ResourceRef::Operation(id)) => *id == operation.id,
        Some(ResourceRef::Volume(id)) => *id == target.volume(),
        Some(
            ResourceRef::Snapshot(_)
            | ResourceRef::VolumeType(_)
            | ResourceRef::Backend(_)
            | ResourceRef::Debt(_)
            | ResourceRef::Project(_),
        ) => false,
    };
    is_theirs && is_about
}
