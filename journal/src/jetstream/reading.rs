//! Blocks of the stream, asked for by number: one from the stream's leader, or many at a time.
//!
//! Readers make no consumers. Whoever makes one says where the server sends messages, and the server
//! sends them also where the maker may not publish: into the ledger, or to JetStream as a request to
//! delete something. What is asked for here goes to an inbox, and nowhere but in the asker's account.
//!
//! Many blocks come from any server that has the stream (`allow_direct`), which may lag: they are
//! asked for until those are there that the leader has named. A stream that was made without that
//! gives its blocks one by one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::{Client, StatusCode};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::time::Instant;

use crate::log::{BlockNumber, LogError};

/// Blocks in one request at most.
const BATCH_BLOCKS: usize = 2000;

/// Bytes after which the server ends its answer to one request.
const BATCH_BYTES: usize = 8 << 20;

/// Bytes that one read returns at most, beyond its last request.
const READ_BYTES: usize = 16 << 20;

/// Blocks that are asked for at a time where each takes a request.
const SINGLE_REQUESTS: usize = 16;

/// How long a read waits for a block that is known to be there.
const READ_WAIT: Duration = Duration::from_secs(3);

/// The pause before a replica that lags is asked again.
const LAG_PAUSE: Duration = Duration::from_millis(5);

/// The number of a message, in an answer to a direct request.
const SEQUENCE_HEADER: &str = "Nats-Sequence";

/// A block and its number.
pub(super) type Block = (BlockNumber, Arc<[u8]>);

/// What a request for many blocks says.
#[derive(Serialize)]
struct Batch {
    seq: u64,
    batch: usize,
    max_bytes: usize,
}

/// The stream, for whoever reads it.
pub(super) struct Past {
    pub client: Client,
    pub stream: Stream<()>,
    /// Where many blocks are asked for; nothing if the stream does not answer that.
    pub direct_subject: Option<String>,
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

/// Whether an answer has no more: what came was all of it; there is none; or no server that has the
/// stream is there just now.
fn ends_answer(status: StatusCode) -> bool {
    const END_OF_BATCH: u16 = 204;
    status.as_u16() == END_OF_BATCH || [StatusCode::NOT_FOUND, StatusCode::NO_RESPONDERS].contains(&status)
}

impl Past {
    /// The last block, from the stream's leader.
    pub async fn head(&self) -> Result<BlockNumber, LogError> {
        let info = self.stream.get_info().await.map_err(unavailable)?;
        Ok(BlockNumber(info.state.last_sequence))
    }

    /// One block, from the stream's leader.
    pub async fn one(&self, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
        match self.stream.get_raw_message(number.0).await {
            Ok(message) => Ok(Some(message.payload.as_ref().into())),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(_)
                | RawMessageErrorKind::Other
                | RawMessageErrorKind::InvalidSubject => Err(unavailable(error)),
            },
        }
    }

    /// The blocks from `from` to `last`, all of which are there, or the first of them.
    pub async fn fetch(&self, from: BlockNumber, last: BlockNumber) -> Result<Vec<Block>, LogError> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut bytes = 0_usize;
        let mut next = from.0;
        let mut patience = Instant::now() + READ_WAIT;
        while next <= last.0 && bytes < READ_BYTES {
            let left = usize::try_from(last.0.saturating_sub(next)).unwrap_or(usize::MAX);
            let count = left.saturating_add(1).min(BATCH_BLOCKS);
            let fetched = match &self.direct_subject {
                Some(subject) => self.fetch_many(subject, next, count).await?,
                None => self.fetch_each(next, count.min(SINGLE_REQUESTS)).await?,
            };
            if !fetched.is_empty() {
                patience = Instant::now() + READ_WAIT;
            } else if Instant::now() > patience {
                return Err(LogError::Unavailable(format!("block {next} is there, but does not arrive")));
            } else {
                tokio::time::sleep(LAG_PAUSE).await;
            }
            for block in fetched {
                next = block.0.0.saturating_add(1);
                bytes = bytes.saturating_add(block.1.len());
                blocks.push(block);
            }
        }
        Ok(blocks)
    }

    /// What the server that answers has of the `count` blocks from `from` on, without gaps.
    async fn fetch_many(&self, subject: &str, from: u64, count: usize) -> Result<Vec<Block>, LogError> {
        let question = Batch { seq: from, batch: count, max_bytes: BATCH_BYTES };
        let question = serde_json::to_vec(&question).map_err(unavailable)?;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        let asked = self.client.publish_with_reply(subject.to_owned(), inbox, question.into()).await;
        asked.map_err(unavailable)?;
        let mut blocks = Vec::new();
        let mut next = from;
        loop {
            let answer = match tokio::time::timeout(READ_WAIT, answers.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(unavailable("the connection to NATS has ended")),
                Err(_elapsed) => return Err(unavailable("the stream does not answer")),
            };
            match answer.status {
                None | Some(StatusCode::OK) => {}
                Some(status) if ends_answer(status) => return Ok(blocks),
                Some(refused) => {
                    let reason = answer.description.unwrap_or_default();
                    return Err(unavailable(format!("the stream says {refused} {reason}")));
                }
            }
            let headers = answer.headers.as_ref();
            let number = headers.and_then(|headers| headers.get(SEQUENCE_HEADER)?.as_str().parse().ok());
            if number != Some(next) {
                return self.gap(next, number, blocks).await;
            }
            blocks.push((BlockNumber(next), answer.payload.as_ref().into()));
            next = next.saturating_add(1);
            if blocks.len() == count {
                return Ok(blocks);
            }
        }
    }

    /// Something else came where `missing` should be, after `blocks`. A connection that was lost and made
    /// again in the middle of an answer has gaps too, so only the stream itself can say that it has no
    /// such block: what came before is taken, and the next question begins where the gap does.
    async fn gap(
        &self,
        missing: u64,
        found: Option<u64>,
        blocks: Vec<Block>,
    ) -> Result<Vec<Block>, LogError> {
        if !blocks.is_empty() {
            return Ok(blocks);
        }
        let found = found.map_or_else(|| "something else".to_owned(), |n| format!("block {n}"));
        match self.one(BlockNumber(missing)).await? {
            Some(_) => Err(unavailable(format!("{found} came in place of block {missing}, which is there"))),
            None => Err(LogError::Corrupt {
                number: BlockNumber(missing),
                reason: format!("the stream does not have it; {found} comes in its place"),
            }),
        }
    }

    /// The same from a stream that gives one block a request.
    async fn fetch_each(&self, from: u64, count: usize) -> Result<Vec<Block>, LogError> {
        let asking = futures::stream::iter((from..).take(count))
            .map(|number| async move { Ok::<_, LogError>((number, self.one(BlockNumber(number)).await?)) })
            .buffered(SINGLE_REQUESTS);
        let found: Vec<_> = asking.try_collect().await?;
        let there = found.into_iter().map_while(|(number, bytes)| Some((BlockNumber(number), bytes?)));
        Ok(there.collect())
    }
}
