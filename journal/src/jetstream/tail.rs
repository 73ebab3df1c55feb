//! How readers hear of new blocks: whoever appends one tells everybody, with the block itself.
//!
//! Nothing rests on it. Who missed something notices by the next block's number, or by asking for the
//! head now and then, and reads the stream. A number that is not the next one is not believed, but
//! asked about.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reading::Past;
use crate::log::{BlockNumber, LogError};

/// Blocks kept at hand, and their bytes at most. Who is further behind reads the stream.
const KEPT_BLOCKS: usize = 256;
const KEPT_BYTES: usize = 16 << 20;

/// The number of the block that a message is.
const BLOCK_HEADER: &str = "Tephra-Block";

/// The wait before a broken subscription is made anew.
const PAUSE: Duration = Duration::from_millis(200);

/// Tells whoever listens of a block that is in the stream.
pub(super) async fn tell(client: &Client, subject: &str, number: BlockNumber, bytes: Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(BLOCK_HEADER, number.0.to_string());
    if let Err(error) = client.publish_with_headers(subject.to_owned(), headers, bytes).await {
        tracing::debug!(%error, "nobody is told of a block; it is found by asking");
    }
}

fn number_of(message: &Message) -> Option<BlockNumber> {
    let number = message.headers.as_ref()?.get(BLOCK_HEADER)?.as_str().parse().ok()?;
    Some(BlockNumber(number))
}

/// The latest blocks, without gaps.
#[derive(Default)]
struct Recent {
    blocks: VecDeque<(BlockNumber, Arc<[u8]>)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, number: BlockNumber, bytes: Arc<[u8]>) {
        let next = self.blocks.back().map(|(last, _)| last.0.saturating_add(1));
        let known = self.from(number, 1).into_iter().next();
        let is_another = known.as_ref().is_some_and(|(_, known)| *known != bytes);
        if next.is_some_and(|next| number.0 < next) && !is_another {
            return;
        }
        // What is kept has a gap before this one, or is of a log that has lost its end since.
        if is_another || next.is_some_and(|next| number.0 > next) {
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

    /// A block that is in the stream: we appended it, or were told of it.
    pub fn has(&self, number: BlockNumber, bytes: Arc<[u8]>) {
        self.recent().push(number, bytes);
        self.heard_of(number);
    }

    /// Starts listening, once, until `stop`.
    pub fn listen(self: &Arc<Self>, past: &Arc<Past>, subject: &str, stop: &CancellationToken) {
        self.started.call_once(|| {
            let (tail, past, subject) = (Arc::clone(self), Arc::clone(past), subject.to_owned());
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(tail.follow(&past, &subject)).await });
        });
    }

    async fn follow(&self, past: &Past, subject: &str) {
        loop {
            if let Err(reason) = self.follow_once(past, subject).await {
                tracing::debug!(%reason, "listening for new blocks begins anew");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow_once(&self, past: &Past, subject: &str) -> Result<(), async_nats::Error> {
        let mut messages = past.client.subscribe(subject.to_owned()).await?;
        // What was appended before the servers knew that we listen.
        self.heard_of(past.head().await?);
        while let Some(message) = messages.next().await {
            if let Some(number) = number_of(&message) {
                self.told(past, number, &message).await?;
            }
        }
        Ok(())
    }

    async fn told(&self, past: &Past, number: BlockNumber, message: &Message) -> Result<(), LogError> {
        if number.0 > self.head().0.saturating_add(1) {
            self.heard_of(past.head().await?);
        }
        if number.0 <= self.head().0.saturating_add(1) {
            self.has(number, message.payload.as_ref().into());
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
        recent.push(BlockNumber(9), Arc::from(vec![0; 3]));
        recent.push(BlockNumber(8), Arc::from(vec![1; 7]));
        assert_eq!(recent.from(BlockNumber(9), 9), [(BlockNumber(9), Arc::from(vec![0; 3]))]);
        assert_eq!(recent.bytes, 3);
    }

    #[test]
    fn nothing_is_kept_of_a_log_that_has_lost_its_end() {
        let mut recent = Recent::default();
        for number in [4, 5, 6] {
            recent.push(BlockNumber(number), Arc::from(vec![0; 3]));
        }
        recent.push(BlockNumber(5), Arc::from(vec![1; 7]));
        assert_eq!(recent.from(BlockNumber(4), 9), []);
        assert_eq!(recent.from(BlockNumber(5), 9), [(BlockNumber(5), Arc::from(vec![1; 7]))]);
        assert_eq!(recent.bytes, 7);
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
