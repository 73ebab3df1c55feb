//! Freshly appended blocks, for readers in the same process.
//!
//! The feed spares a reader decoding what the sequencer has just made. It is a short cut, not a
//! source: whoever is too slow, or comes late, reads the log, which has everything. A reader
//! therefore keeps the number of the block that it needs next, takes a fed block only if it is that
//! one, and otherwise reads the log up to it.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::log::Block;

/// Blocks kept for a slow subscriber. At a block a millisecond, a quarter of a second.
const KEPT_BLOCKS: usize = 256;

/// The publishing end. Cheap to clone; all clones are one feed.
#[derive(Clone, Debug)]
pub struct Feed {
    sender: broadcast::Sender<Arc<Block>>,
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// A feed without subscribers.
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(KEPT_BLOCKS) }
    }

    /// Hands a durable block to all subscribers.
    pub fn publish(&self, block: Arc<Block>) {
        // Nobody listening is not a failure.
        drop(self.sender.send(block));
    }

    /// Blocks that are published from now on.
    pub fn subscribe(&self) -> FeedSubscription {
        FeedSubscription { receiver: self.sender.subscribe() }
    }
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fed {
    /// The next block that was published.
    Block(Arc<Block>),
    /// This subscriber was too slow and has missed blocks: read the log from where you are.
    Missed,
    /// The publishing end is gone; the log may still grow by other hands.
    Closed,
}

/// The receiving end.
#[derive(Debug)]
pub struct FeedSubscription {
    receiver: broadcast::Receiver<Arc<Block>>,
}

impl FeedSubscription {
    /// Waits for the next block. Can be dropped while waiting without losing one.
    pub async fn next(&mut self) -> Fed {
        match self.receiver.recv().await {
            Ok(block) => Fed::Block(block),
            Err(broadcast::error::RecvError::Lagged(_)) => Fed::Missed,
            Err(broadcast::error::RecvError::Closed) => Fed::Closed,
        }
    }

    /// The next block if it is there already.
    pub fn try_next(&mut self) -> Option<Fed> {
        match self.receiver.try_recv() {
            Ok(block) => Some(Fed::Block(block)),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Some(Fed::Missed),
            Err(broadcast::error::TryRecvError::Closed) => Some(Fed::Closed),
            Err(broadcast::error::TryRecvError::Empty) => None,
        }
    }
}
