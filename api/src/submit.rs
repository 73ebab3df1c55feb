//! The road of a command: submitted, durable, and to be seen by the asker's next request.

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::command::Command;
use tephra_domain::event::{Commit, Idempotency};
use tephra_domain::ids::{CommandId, Position};
use tephra_journal::gateway::{Receipt, Submission};
use tephra_projector::events::EventQuery;
use uuid::Uuid;

use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;

/// How long an answer waits for the views to show what it says. After that it is given anyway: the
/// command is durable, and taking it back or calling it failed would be a lie.
const VIEWS_WAIT: Duration = Duration::from_secs(5);

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How far a view must have come to show it.
    pub position: Position,
    /// What happened, now or when the same request came before; nothing if it was so already.
    pub commit: Option<Arc<Commit>>,
    /// Whether it happened under this idempotency key before.
    pub repeated: bool,
}

impl Outcome {
    /// What the commit created, by one of the functions of [`crate::lookup`].
    ///
    /// # Errors
    /// 500 if it created no such thing, which would be a fault of the program.
    pub fn created<T>(&self, find: impl FnOnce(&Commit) -> Option<T>) -> Result<T, Fault> {
        let found = self.commit.as_deref().and_then(find);
        found.ok_or_else(|| Fault::internal(&format!("the commit at {} created nothing", self.position)))
    }
}

impl AppState {
    /// Has a command decided, and waits until the local views show what came of it.
    ///
    /// # Errors
    /// The fault of a rejection, or 503.
    pub async fn submit(
        &self,
        identity: &Identity,
        idempotency: Option<Idempotency>,
        command: Command,
    ) -> Result<Outcome, Fault> {
        let submission = Submission {
            id: CommandId::from_uuid(Uuid::new_v4()),
            request: identity.request.clone(),
            actor: identity.actor.clone(),
            idempotency,
            command,
        };
        let receipt = self.gateway.submit(submission).await?;
        let position = receipt.position();
        if tokio::time::timeout(VIEWS_WAIT, self.views.wait_for(position)).await.is_err() {
            tracing::warn!(position = position.0, "the views are behind; answering without them");
        }
        match receipt {
            Receipt::Accepted { position, commit } => {
                Ok(Outcome { position, commit: Some(commit), repeated: false })
            }
            Receipt::NothingToDo { position } => Ok(Outcome { position, commit: None, repeated: false }),
            Receipt::Repeated { position } => {
                let commit = self.commit_at(position).await?;
                Ok(Outcome { position, commit: Some(commit), repeated: true })
            }
        }
    }

    /// What happened at a position, from the log.
    async fn commit_at(&self, position: Position) -> Result<Arc<Commit>, Fault> {
        let query =
            EventQuery { after: Position(position.0.saturating_sub(1)), limit: 1, ..EventQuery::default() };
        let page = self.views.list_events(self.log.as_ref(), &query).await?;
        let found = page.rows.into_iter().map(|row| row.commit).find(|commit| commit.position == position);
        found.map(|found| found.commit).ok_or_else(|| {
            Fault::internal(&format!("the log has no commit at {position}, which was accepted before"))
        })
    }
}
