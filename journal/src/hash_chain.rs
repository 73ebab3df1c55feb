//! What makes the log tamper-evident: each block repeats the hash of the one before.
//!
//! Whoever keeps the hash of a block elsewhere can tell later whether anything up to it was
//! changed, removed or inserted.

use tephra_domain::ids::Position;
use tephra_domain::units::Timestamp;

use crate::log::{Block, BlockNumber, Log, LogError};
use crate::wire::{decode_block, verify_hash};

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

    /// Checks by its header alone that a block follows, and goes on to it; the time stays behind.
    fn pass(&mut self, number: BlockNumber, bytes: &[u8]) -> Result<(), LogError> {
        let expected = BlockNumber(self.block.0.saturating_add(1));
        let corrupt = |reason| LogError::Corrupt { number: expected, reason };
        if number != expected {
            return Err(corrupt(format!(
                "block {} stands where it should, after commit {}",
                number.0, self.position
            )));
        }
        let header = verify_hash(number, bytes).map_err(|error| self.located(error))?;
        if header.previous_hash != self.hash {
            return Err(corrupt(format!(
                "it follows a block with SHA-256 {}, but the one before it has {} (after commit {})",
                hex::encode(header.previous_hash),
                hex::encode(self.hash),
                self.position,
            )));
        }
        let (Some(first), Some(position)) = (header.first_position, header.last_position()) else {
            return Err(corrupt(format!("it has no commits (after commit {})", self.position)));
        };
        if first != self.position.next() {
            return Err(corrupt(format!(
                "it begins with commit {first} where commit {} should be",
                self.position.next()
            )));
        }
        *self = Self { block: number, position, hash: header.hash, time: self.time };
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

/// Verifies every block's hash, the chain and the positions, but does not read events: finds any
/// byte that was changed, at a fraction of the cost of [`verify_chain`]. For every start.
///
/// # Errors
/// [`LogError::Corrupt`] at the first fault, or whatever the log says.
pub async fn verify_hashes(
    log: &dyn Log,
    mut on_block: impl FnMut(BlockNumber) + Send,
) -> Result<ChainHead, LogError> {
    let mut head = ChainHead::default();
    let mut last = None;
    loop {
        let next = BlockNumber(head.block.0.saturating_add(1));
        let blocks = log.read(next, BLOCKS_PER_READ).await?;
        if blocks.is_empty() {
            break;
        }
        for (number, bytes) in blocks {
            head.pass(number, &bytes)?;
            on_block(number);
            last = Some((number, bytes));
        }
        tokio::task::yield_now().await;
    }
    if let Some((number, bytes)) = last {
        let block = decode_block(number, &bytes).map_err(|error| head.located(error))?;
        head.time = block.commits.last().map_or(head.time, |commit| commit.commit.time);
    }
    Ok(head)
}

/// As [`verify_chain`], for what comes after a head that is known already.
///
/// # Errors
/// As [`verify_chain`].
pub async fn follow_chain(
    log: &dyn Log,
    head: ChainHead,
    on_block: impl FnMut(Block, ChainHead) -> Result<(), LogError> + Send,
) -> Result<ChainHead, LogError> {
    follow_chain_to(log, head, BlockNumber(u64::MAX), on_block).await
}

/// As [`follow_chain`], until a block is reached: where others append faster than can be read, the end
/// is never seen.
///
/// # Errors
/// As [`verify_chain`].
pub async fn follow_chain_to(
    log: &dyn Log,
    mut head: ChainHead,
    until: BlockNumber,
    mut on_block: impl FnMut(Block, ChainHead) -> Result<(), LogError> + Send,
) -> Result<ChainHead, LogError> {
    while head.block < until {
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
    Ok(head)
}
