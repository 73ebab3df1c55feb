//! The log port: an ordered, append-only sequence of blocks, written by compare-and-append.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::event::Commit;
use tephra_domain::ids::Position;

/// The place of a block in the log: 1 for the first, no gaps. 0 is the empty log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNumber(pub u64);

/// A commit with its place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequenced {
    /// Its place.
    pub position: Position,
    /// The commit.
    pub commit: Arc<Commit>,
}

/// A block as it was read: what one append made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its place in the log.
    pub number: BlockNumber,
    /// Drawn by whoever appended it; tells one's own block from another's after an ambiguous ack.
    pub id: uuid::Uuid,
    /// SHA-256 of the block before (all zero for the first).
    pub previous_hash: [u8; 32],
    /// SHA-256 of this block.
    pub hash: [u8; 32],
    /// Its commits, at least one, positions without gaps.
    pub commits: Vec<Sequenced>,
}

/// How long a block that was in a log of several servers may seem not to be there: a server that has just
/// been elected may not have taken everything in. A log that has lost its end stays without it.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// The pause before such a block is looked for again.
const SEEK_PAUSE: Duration = Duration::from_millis(200);

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It is durable, at this place.
    Appended(BlockNumber),
    /// The log ends elsewhere than expected; nothing was written.
    Conflict {
        /// Where the log ends.
        head: BlockNumber,
    },
    /// No answer: it may be there or not. Read from the expected place and compare block ids.
    Unknown {
        /// What went wrong.
        reason: String,
    },
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A block is not what was written: the log is damaged or was edited.
    #[error("block {} is corrupt: {reason}", number.0)]
    Corrupt {
        /// Which.
        number: BlockNumber,
        /// What is wrong with it.
        reason: String,
    },
    /// The store does not answer.
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
}

/// A block's bytes with its place.
pub type NumberedBytes = (BlockNumber, Arc<[u8]>);

/// The log.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends encoded bytes as the block after `expected`, durably.
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome;

    /// Up to `limit` blocks' bytes from `from` on, in order, without gaps. Empty at the end.
    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError>;

    /// As [`Log::read`], but as the log itself has the blocks, not as this process remembers them: for
    /// whoever looks for what has become of them.
    async fn read_stored(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        self.read(from, limit).await
    }

    /// A block as the log itself has it, not as this process remembers it. Nothing if it is not there, or
    /// whoever was asked has not taken it in yet.
    async fn stored(&self, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
        let found = self.read_stored(number, 1).await?.into_iter().next();
        Ok(found.filter(|(found, _)| *found == number).map(|(_, bytes)| bytes))
    }

    /// For how long a block that the log has may seem not to be there, because whoever is asked has not
    /// taken it in yet. A log in one place knows at once.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The last block.
    async fn head(&self) -> Result<BlockNumber, LogError>;

    /// Returns once the log has a block after `known`. May return early: ask again.
    async fn wait_beyond(&self, known: BlockNumber);
}

/// A block that was in the log, as the log itself has it. That it is gone is believed only when it has
/// been looked for as long as the log may lag.
///
/// # Errors
/// As the log's; one that cannot be read has not said that the block is gone.
pub async fn seek(log: &dyn Log, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
    let mut sought_for = Duration::ZERO;
    loop {
        if let Some(found) = log.stored(number).await? {
            return Ok(Some(found));
        }
        if sought_for >= log.lag() {
            return Ok(None);
        }
        if sought_for.is_zero() {
            tracing::warn!(block = number.0, "the log does not show a block that it has had; waiting for it");
        }
        tokio::time::sleep(SEEK_PAUSE).await;
        sought_for = sought_for.saturating_add(SEEK_PAUSE);
    }
}
