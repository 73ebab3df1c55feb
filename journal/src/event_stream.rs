//! The event stream port: where every event of the ledger is published, for programs that are not
//! ours.
//!
//! Message n is the n-th event of the ledger. What a message says follows from the ledger alone, so
//! it does not matter who publishes it, how often it is tried, or whether two do it at once: the
//! stream takes message n only directly after message n-1. Where to go on is asked of the stream
//! itself, which is why a publisher keeps nothing.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use bytes::Bytes;

use crate::log::BlockNumber;

/// The largest body of a message. With its headers it fits the server's default `max_payload`.
pub const MAX_EVENT_BYTES: usize = (1 << 20) - (4 << 10);

/// One event as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicEvent {
    /// Which event of the ledger it is, from 1. Its message's place in the stream.
    pub number: u64,
    /// Where it is in the ledger.
    pub mark: EventMark,
    /// Its subject.
    pub subject: String,
    /// What is published.
    pub body: Bytes,
}

/// Where a published event is in the ledger: enough to see that a stream belongs to it, because a
/// block's hash covers all blocks before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMark {
    /// The event's id: `<position>.<index>`.
    pub id: String,
    /// The block that it is in.
    pub block: BlockNumber,
    /// That block's hash.
    pub hash: [u8; 32],
}

/// Where a stream ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The last message; 0 of an empty stream.
    pub last: u64,
    /// What it says of its place in the ledger; nothing if there is no message.
    pub mark: Option<EventMark>,
}

/// Why a stream does not take events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventStreamError {
    /// It is not known how much of it is there: ask where the stream ends, and go on from there.
    #[error("{0}")]
    Unsure(String),
    /// It is not what a stream of this ledger's events must be.
    #[error(transparent)]
    Refused(#[from] RefusedStream),
}

/// A stream that cannot be gone on with, although everything answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "events cannot be published on stream {stream}: {}. Events follow from the ledger and nothing is \
     lost: `tephra events rebuild`, or deleting the stream (`nats stream rm {stream}`), has all of \
     them published again",
    problems.join("; ")
)]
pub struct RefusedStream {
    /// Its name.
    pub stream: String,
    /// What is wrong, one thing each.
    pub problems: Vec<String>,
}

impl RefusedStream {
    /// One thing is wrong.
    pub fn because(stream: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { stream: stream.into(), problems: vec![problem.into()] }
    }
}

/// What is wrong with a message that says nothing of a place in the ledger.
pub(crate) fn not_an_event(message: u64) -> String {
    format!("message {message} was not published by Tephra")
}

/// A stream of public events.
#[async_trait]
pub trait EventStream: Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> String;

    /// Where it ends. Makes the stream if there is none.
    ///
    /// # Errors
    /// [`EventStreamError`].
    async fn end(&self) -> Result<StreamEnd, EventStreamError>;

    /// Makes sure that messages which are there are events of a ledger. [`end`](Self::end) says so of
    /// the last one only, and somebody else's message may have taken the place of an event that was
    /// sent together with those after it: each of them is content with any message before it.
    ///
    /// # Errors
    /// [`EventStreamError`]: refused, with the number of the first that is not one.
    async fn are_events(&self, messages: RangeInclusive<u64>) -> Result<(), EventStreamError>;

    /// Publishes events whose numbers follow one another. All of them are there on success;
    /// otherwise any of them may be, now or a little later.
    ///
    /// # Errors
    /// [`EventStreamError::Unsure`].
    async fn publish(&self, events: &[PublicEvent]) -> Result<(), EventStreamError>;
}
