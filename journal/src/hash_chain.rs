//! What makes the log tamper-evident: each block repeats the hash of the one before.
//!
//! Whoever keeps the hash of a block elsewhere can tell later whether anything up to it was
//! changed, removed or inserted.

use tephra_domain::ids::Position;
use tephra_domain::units::Timestamp;

use crate::log::{Block, BlockNumber, Log, LogError};
use crate::wire::decode_block;

/// Blocks that are read at once.
const BLOCKS_PER_READ: usize = 256;

/// How far a chain goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    /// The last block; 0 if there is none.
    pub block: BlockNumber,
    /// The last commit; 0 if there is none.
    pub position: Position,
    /// The last block's SHA-256; all zero if there is none.
    pub hash: [u8; 32],
    /// The time of the last commit.
    pub time: Timestamp,
}

impl ChainHead {
    /// Reads the bytes of the block that should follow, checks that it does, and goes on to it.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], naming the block, and the position where it is about one.
    pub fn follow(&mut self, number: BlockNumber, bytes: &[u8]) -> Result<Block, LogError> {
        let expected = BlockNumber(self.block.0.saturating_add(1));
        if number != expected {
            let reason = format!("block {} stands where it should, after commit {}", number.0, self.position);
            return Err(LogError::Corrupt { number: expected, reason });
        }
        let block = decode_block(number, bytes).map_err(|error| self.located(error))?;
        self.advance(&block)?;
        Ok(block)
    }

    /// Checks that a block follows, and goes on to it.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if it does not.
    pub fn advance(&mut self, block: &Block) -> Result<(), LogError> {
        let corrupt = |reason| LogError::Corrupt { number: block.number, reason };
        if block.previous_hash != self.hash {
            return Err(corrupt(format!(
                "it follows a block with SHA-256 {}, but the one before it has {} (after commit {})",
                hex::encode(block.previous_hash),
                hex::encode(self.hash),
                self.position,
            )));
        }
        let (Some(first), Some(last)) = (block.commits.first(), block.commits.last()) else {
            return Err(corrupt(format!("it has no commits (after commit {})", self.position)));
        };
        if first.position != self.position.next() {
            return Err(corrupt(format!(
                "it begins with commit {} where commit {} should be",
                first.position,
                self.position.next()
            )));
        }
        *self =
            Self { block: block.number, position: last.position, hash: block.hash, time: last.commit.time };
        Ok(())
    }

    fn located(&self, error: LogError) -> LogError {
        match error {
            LogError::Corrupt { number, reason } => {
                LogError::Corrupt { number, reason: format!("{reason} (after commit {})", self.position) }
            }
            LogError::Unavailable(reason) => LogError::Unavailable(reason),
        }
    }
}

/// Verifies the whole log: every block's hash, the chain, the positions, and that every event is
/// known. `on_block` sees each verified block with the head that it makes, to show progress or to
/// take the commits in; what it returns as an error ends the walk.
///
/// # Errors
/// [`LogError::Corrupt`] at the first fault, or whatever the log or `on_block` says.
pub async fn verify_chain(
    log: &dyn Log,
    on_block: impl FnMut(Block, ChainHead) -> Result<(), LogError> + Send,
) -> Result<ChainHead, LogError> {
    follow_chain(log, ChainHead::default(), on_block).await
}

/// As [`verify_chain`], for what comes after a head that is known already.
///
/// # Errors
/// As [`verify_chain`].
pub async fn follow_chain(
    log: &dyn Log,
    mut head: ChainHead,
    mut on_block: impl FnMut(Block, ChainHead) -> Result<(), LogError> + Send,
) -> Result<ChainHead, LogError> {
    loop {
        let next = BlockNumber(head.block.0.saturating_add(1));
        let blocks = log.read(next, BLOCKS_PER_READ).await?;
        if blocks.is_empty() {
            return Ok(head);
        }
        for (number, bytes) in blocks {
            let block = head.follow(number, &bytes)?;
            on_block(block, head)?;
        }
        // Decoding is work for a processor: let others have it now and then.
        tokio::task::yield_now().await;
    }
}
