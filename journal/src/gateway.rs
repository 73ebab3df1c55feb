//! The way of a command to the one sequencer, from wherever it is asked.

use std::sync::Arc;

use async_trait::async_trait;
use tephra_domain::actor::Actor;
use tephra_domain::command::Command;
use tephra_domain::event::{Commit, Idempotency};
use tephra_domain::ids::{BackendName, CommandId, Position, RequestId};
use tephra_domain::rejection::Rejection;

/// A command with who asks. The sequencer adds the time and the pools' figures.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Fresh, drawn by the asker; repeated on a retry of the same command.
    pub id: CommandId,
    /// The request that it belongs to.
    pub request: RequestId,
    /// Who asks.
    pub actor: Actor,
    /// The client's key for repeating it.
    pub idempotency: Option<Idempotency>,
    /// What is asked.
    pub command: Command,
}

/// An answer that is durable: nothing in it can be lost any more.
#[derive(Clone, Debug)]
pub enum Receipt {
    /// It happened.
    Accepted {
        /// Where.
        position: Position,
        /// What happened.
        commit: Arc<Commit>,
    },
    /// It happened before, under the same idempotency key; or it is this very command, repeated after so
    /// many others that only its place is still known.
    Repeated {
        /// Where.
        position: Position,
    },
    /// It is so already; `position` is as far as one must have read to see that.
    NothingToDo {
        /// The last commit that the decision rests on.
        position: Position,
    },
}

impl Receipt {
    /// How far a view must have come to show what the receipt says.
    pub const fn position(&self) -> Position {
        match self {
            Self::Accepted { position, .. }
            | Self::Repeated { position }
            | Self::NothingToDo { position } => *position,
        }
    }
}

/// Why there is no receipt.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The business says no. Nothing has changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// What is asked is more than a commit, or a message to the sequencer, can hold. Nothing has
    /// changed, and asking again does not help.
    #[error("what is asked for is too much at once: {reason}")]
    TooLarge {
        /// How much, and what the limit is.
        reason: String,
    },
    /// The sequencer cannot decide now; the same submission may be sent again.
    #[error("the ledger is not available: {reason}")]
    Unavailable {
        /// What went wrong.
        reason: String,
    },
}

/// Where commands go.
#[async_trait]
pub trait CommandGateway: Send + Sync {
    /// Has a command decided and made durable.
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError>;
}

/// Where commands are decided, for whoever hears them from afar and knows who speaks.
#[async_trait]
pub trait DecidingGateway: CommandGateway {
    /// Has a command decided that came from the executor of a backend. What it says of an attempt counts
    /// only if that is one of its own backend.
    async fn submit_of_executor(
        &self,
        backend: BackendName,
        submission: Submission,
    ) -> Result<Receipt, SubmitError>;
}
