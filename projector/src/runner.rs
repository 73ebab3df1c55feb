//! Keeps the views up with the log.

use std::path::Path;
use std::sync::Arc;

use tephra_domain::ids::Position;
use tephra_journal::feed::Feed;
use tephra_journal::log::{BlockNumber, Log};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::ViewsError;
use crate::views::Views;

/// How a projector fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Taking in what was written before it started.
    CatchingUp {
        /// How far it has come.
        at: BlockNumber,
        /// Where the log ended when it last looked.
        head: BlockNumber,
    },
    /// Up with the log.
    Following,
    /// It stopped because it was told to.
    Stopped,
    /// It stopped because it could not go on; the views are stale from now on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A projector that runs.
#[derive(Debug)]
pub struct ProjectorHandle {
    health: watch::Receiver<Health>,
}

impl ProjectorHandle {
    /// How it fares.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// To wait for a change in how it fares.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

/// Follows a log and keeps views.
#[derive(Debug)]
pub struct Projector;

/// How far a rebuild has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Blocks taken in.
    pub block: BlockNumber,
    /// Commits taken in.
    pub position: Position,
    /// Where the log ended when the rebuild began.
    pub head: BlockNumber,
}

/// Deletes the views and makes them again from the log.
#[allow(unused_variables, clippy::unused_async, reason = "signatures come before bodies")]
pub async fn rebuild(
    log: Arc<dyn Log>,
    path: &Path,
    progress: impl FnMut(RebuildProgress) + Send,
) -> Result<Views, ViewsError> {
    Views::create_fresh(path)
}

#[allow(unused_variables, reason = "signatures come before bodies")]
impl Projector {
    /// Starts a task that catches up with the log and then follows it: by the feed where it
    /// can, by the log where it must.
    pub fn start(
        views: Views,
        log: Arc<dyn Log>,
        feed: Option<Feed>,
        cancel: CancellationToken,
    ) -> ProjectorHandle {
        ProjectorHandle { health: watch::Sender::new(Health::Stopped).subscribe() }
    }
}
