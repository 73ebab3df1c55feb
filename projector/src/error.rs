//! What can go wrong with views.

use tephra_domain::event::IllegalEvent;
use tephra_domain::ids::Position;
use tephra_journal::log::{BlockNumber, LogError};

/// The views cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    /// The file is of another schema, or damaged. Nothing is lost: delete it and replay the log.
    #[error("the views must be rebuilt from the log: {reason}")]
    MustRebuild {
        /// What is wrong, and where.
        reason: String,
    },
    /// Another process has the file open.
    #[error("the views are in use by another process: {path}")]
    InUse {
        /// The file.
        path: String,
    },
    /// The file cannot be read or written.
    #[error("the views' file fails: {0}")]
    Storage(String),
    /// The log's history cannot have happened.
    #[error("block {} cannot be taken into the views: {source}", block.0)]
    IllegalHistory {
        /// Where.
        block: BlockNumber,
        /// What is wrong with it.
        source: IllegalEvent,
    },
    /// The log does not go on where the views stand: it is another log, or it lost its end.
    #[error("the log does not continue the views at block {}: {reason}", block.0)]
    Diverged {
        /// The block that does not fit.
        block: BlockNumber,
        /// Why.
        reason: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A list cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The marker names nothing that the asker may see.
    #[error("marker {marker} could not be found")]
    MarkerNotFound {
        /// As it was given.
        marker: String,
    },
    /// The moment asked for is not in the log yet.
    #[error("position {asked} is beyond the end of the ledger, {head}")]
    BeyondHead {
        /// What was asked for.
        asked: Position,
        /// The last position.
        head: Position,
    },
    /// The views fail.
    #[error(transparent)]
    Views(#[from] ViewsError),
}

impl From<LogError> for QueryError {
    fn from(error: LogError) -> Self {
        Self::Views(error.into())
    }
}

macro_rules! from_redb {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for ViewsError {
            fn from(error: $error) -> Self {
                Self::from_redb(error.into())
            }
        }

        impl From<$error> for QueryError {
            fn from(error: $error) -> Self {
                Self::Views(error.into())
            }
        }
    )*};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
);

impl ViewsError {
    fn from_redb(error: redb::Error) -> Self {
        let text = error.to_string();
        if is_damage(&error) { Self::MustRebuild { reason: text } } else { Self::Storage(text) }
    }

    pub(crate) fn damaged(what: impl std::fmt::Display) -> Self {
        Self::MustRebuild { reason: what.to_string() }
    }
}

/// Whether the error says that the file is not what was written (and not that the disk is full, or
/// the process out of handles).
#[allow(clippy::wildcard_enum_match_arm, reason = "redb's error is not exhaustive")]
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}
