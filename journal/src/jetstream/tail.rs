//! How readers hear of new blocks: one subscription a process, with the latest blocks at hand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::log::reading_from;
use crate::log::BlockNumber;

/// Blocks kept at hand, and their bytes at most. Who is further behind reads the stream.
const KEPT_BLOCKS: usize = 256;
const KEPT_BYTES: usize = 16 << 20;

/// The server's sign of life on an idle subscription. After two that fail to come it is made anew.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long the server keeps a request for blocks open.
const REQUEST_TIME: Duration = Duration::from_secs(20);

/// Blocks in one request.
const REQUEST_BLOCKS: usize = 64;

/// The wait before a broken subscription is made anew.
const PAUSE: Duration = Duration::from_millis(200);

/// The latest blocks, without gaps.
#[derive(Default)]
struct Recent {
    blocks: VecDeque<(BlockNumber, Arc<[u8]>)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, number: BlockNumber, bytes: Arc<[u8]>) {
        let follows = self.blocks.back().is_none_or(|(last, _)| last.0.saturating_add(1) == number.0);
        if !follows {
            self.blocks.clear();
            self.bytes = 0;
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.blocks.push_back((number, bytes));
        while self.blocks.len() > KEPT_BLOCKS || self.bytes > KEPT_BYTES {
            let Some((_, dropped)) = self.blocks.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(dropped.len());
        }
    }

    /// Blocks from `from` on, if that one is here.
    fn from(&self, from: BlockNumber, limit: usize) -> Vec<(BlockNumber, Arc<[u8]>)> {
        let Some((first, _)) = self.blocks.front() else { return Vec::new() };
        let Some(skipped) = from.0.checked_sub(first.0) else { return Vec::new() };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        self.blocks.iter().skip(skipped).take(limit).cloned().collect()
    }
}

/// What a process knows of the log's end.
pub(super) struct Tail {
    head: watch::Sender<BlockNumber>,
    recent: Mutex<Recent>,
    started: std::sync::Once,
}

impl Tail {
    pub fn new(head: BlockNumber) -> Self {
        Self { head: watch::Sender::new(head), recent: Mutex::default(), started: std::sync::Once::new() }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last block that this process has heard of.
    pub fn head(&self) -> BlockNumber {
        *self.head.borrow()
    }

    /// Somebody has seen this block.
    pub fn heard_of(&self, number: BlockNumber) {
        self.head.send_if_modified(|head| {
            let is_news = number > *head;
            *head = number.max(*head);
            is_news
        });
    }

    /// The blocks from `from` on that are at hand; nothing if that one is not.
    pub fn at_hand(&self, from: BlockNumber, limit: usize) -> Vec<(BlockNumber, Arc<[u8]>)> {
        self.recent().from(from, limit)
    }

    /// Waits until a block after `known` is heard of.
    pub async fn wait_beyond(&self, known: BlockNumber) {
        // The sender is in `self`, so it cannot be gone.
        drop(self.head.subscribe().wait_for(|head| *head > known).await);
    }

    /// Starts listening, once, until `stop`.
    pub fn listen(self: &Arc<Self>, stream: &Stream<()>, stop: &CancellationToken) {
        self.started.call_once(|| {
            let (tail, stream, stop) = (Arc::clone(self), stream.clone(), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(tail.follow(&stream)).await });
        });
    }

    async fn follow(&self, stream: &Stream<()>) {
        loop {
            if let Err(reason) = self.follow_once(stream).await {
                tracing::debug!(%reason, "listening for new blocks begins anew");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow_once(&self, stream: &Stream<()>) -> Result<(), async_nats::Error> {
        let next = self.head().0.saturating_add(1);
        let consumer = stream.create_consumer(reading_from(BlockNumber(next))).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(REQUEST_BLOCKS)
            .expires(REQUEST_TIME)
            .heartbeat(HEARTBEAT)
            .messages()
            .await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let number = BlockNumber(message.info()?.stream_sequence);
            self.recent().push(number, message.payload.as_ref().into());
            self.heard_of(number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{KEPT_BLOCKS, KEPT_BYTES, Recent};
    use crate::log::BlockNumber;

    fn numbers(recent: &Recent, from: u64, limit: usize) -> Vec<u64> {
        recent.from(BlockNumber(from), limit).iter().map(|(number, _)| number.0).collect()
    }

    #[test]
    fn recent_blocks_are_without_gaps() {
        let mut recent = Recent::default();
        for number in [4, 5, 6] {
            recent.push(BlockNumber(number), Arc::from(vec![0; 3]));
        }
        assert_eq!(numbers(&recent, 4, 9), [4, 5, 6]);
        assert_eq!(numbers(&recent, 5, 1), [5]);
        assert_eq!(numbers(&recent, 3, 9), [0; 0]);
        assert_eq!(numbers(&recent, 7, 9), [0; 0]);
        recent.push(BlockNumber(9), Arc::from(vec![0; 3]));
        assert_eq!(numbers(&recent, 6, 9), [0; 0]);
        assert_eq!(numbers(&recent, 9, 9), [9]);
        assert_eq!(recent.bytes, 3);
    }

    #[test]
    fn recent_blocks_are_few_and_small() {
        let mut recent = Recent::default();
        for number in 1..=1000 {
            recent.push(BlockNumber(number), Arc::from(vec![0; 3]));
        }
        assert_eq!(recent.blocks.len(), KEPT_BLOCKS);
        for number in 1001..=1100 {
            recent.push(BlockNumber(number), Arc::from(vec![0; KEPT_BYTES / 4]));
        }
        assert_eq!(numbers(&recent, 1097, 9), [1097, 1098, 1099, 1100]);
        assert!(recent.bytes <= KEPT_BYTES);
    }
}
