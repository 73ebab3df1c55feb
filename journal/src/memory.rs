//! A log that lives as long as the process: for unit tests and simulation. Nothing is durable.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::log::{AppendOutcome, BlockNumber, Log, LogError, NumberedBytes};

/// Blocks in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    blocks: Mutex<Vec<Arc<[u8]>>>,
    head: watch::Sender<BlockNumber>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that holds these bytes, whatever they are.
    pub fn holding(blocks: Vec<Arc<[u8]>>) -> Self {
        let head = BlockNumber(count(&blocks));
        Self { blocks: Mutex::new(blocks), head: watch::Sender::new(head) }
    }
}

fn count(blocks: &[Arc<[u8]>]) -> u64 {
    u64::try_from(blocks.len()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let head = BlockNumber(count(&blocks));
        if head != expected {
            return AppendOutcome::Conflict { head };
        }
        blocks.push(bytes);
        let number = BlockNumber(count(&blocks));
        self.head.send_replace(number);
        AppendOutcome::Appended(number)
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let numbered = (1..).map(BlockNumber).zip(blocks.iter().cloned());
        Ok(numbered.skip(skip).take(limit).collect())
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        Ok(*self.head.borrow())
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        // An error would mean that the log is gone, and the caller with it.
        drop(self.head.subscribe().wait_for(|head| *head > known).await);
    }
}
