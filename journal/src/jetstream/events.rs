//! Public events on a JetStream stream: message n is the n-th event of the ledger.
//!
//! `Nats-Expected-Last-Sequence` keeps it so, whoever publishes. Messages are sent many at a time
//! without waiting for each answer: each names the number before it, so a message that is lost takes
//! those after it along, and none is ever out of its place. Only a message of somebody else's can
//! stand in for one that is lost, and is looked for. What is there is asked of the stream, never
//! guessed. The message id, the event's place in the ledger, is for whoever copies
//! the stream; the server's deduplication decides nothing here, and its window is as short as can
//! be: an id that a server remembers of a message that it lost must not hold the next try up.
//!
//! Every message follows from the ledger. So on one server the stream does not wait for the disk:
//! its syncs would only delay those of the log, and what a power failure takes is published again,
//! the same bytes under the same number.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::Client;
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, future, stream};

use super::checks::{lacks_messages, stream_problems};
use super::connect::{NatsConfig, NatsError, jetstream};
use super::log::{get_or_create, is_not_found};
use super::placement::placement;
use crate::event_stream::{
    EventMark, EventStream, EventStreamError, MAX_EVENT_BYTES, PublicEvent, RefusedStream, StreamEnd,
    not_an_event,
};
use crate::log::BlockNumber;
use crate::subjects::Cell;

/// The block that an event is in, and its hash: where the event is in the hash chain.
const BLOCK_HEADER: &str = "Tephra-Block";
const BLOCK_HASH_HEADER: &str = "Tephra-Block-Hash";
const ID_HEADER: &str = "Nats-Msg-Id";
const CONTENT_TYPE_HEADER: &str = "Content-Type";
/// CloudEvents in structured mode.
const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Messages that are asked for without waiting for each answer.
const LOOKED_AT_TOGETHER: usize = 64;

/// The shortest that a server takes.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// The public events of one cell. Cheap to clone.
#[derive(Clone)]
pub struct JetStreamEvents {
    context: Context,
    wanted: Config,
    cell: Cell,
}

/// What the stream of events is to be.
fn wanted_stream(config: &NatsConfig) -> Config {
    Config {
        name: config.cell.events_stream(),
        description: Some("Public events: message n is the n-th event of the ledger".to_owned()),
        subjects: vec![config.cell.event_subjects()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        placement: placement(config),
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        persist_mode: (config.replicas == 1).then_some(PersistenceMode::Async),
        ..Config::default()
    }
}

/// One message.
fn message(event: &PublicEvent) -> PublishMessage {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE_HEADER, CONTENT_TYPE);
    headers.insert(BLOCK_HEADER, event.mark.block.0.to_string());
    headers.insert(BLOCK_HASH_HEADER, hex::encode(event.mark.hash));
    PublishMessage::build()
        .headers(headers)
        .payload(event.body.clone())
        .message_id(&event.mark.id)
        .expected_last_sequence(event.number.saturating_sub(1))
}

/// What a message says of its place in the ledger; nothing if it is not one of ours.
fn mark(headers: &HeaderMap) -> Option<EventMark> {
    let header = |name: &str| headers.get(name).map(|value| value.as_str());
    let mut hash = [0; 32];
    hex::decode_to_slice(header(BLOCK_HASH_HEADER)?, &mut hash).ok()?;
    Some(EventMark {
        id: header(ID_HEADER)?.to_owned(),
        block: BlockNumber(header(BLOCK_HEADER)?.parse().ok()?),
        hash,
    })
}

fn unsure(error: impl std::fmt::Display) -> EventStreamError {
    EventStreamError::Unsure(error.to_string())
}

impl JetStreamEvents {
    /// The stream of a cell. Nothing is asked of the servers yet.
    pub fn new(client: &Client, config: &NatsConfig) -> Self {
        let (context, wanted) = (jetstream(client), wanted_stream(config));
        Self { context, wanted, cell: config.cell.clone() }
    }

    fn refused(&self, problem: impl Into<String>) -> EventStreamError {
        RefusedStream::because(&*self.wanted.name, problem).into()
    }

    fn failed(&self, error: impl std::fmt::Display) -> NatsError {
        NatsError::jetstream(format!("stream {}", self.wanted.name), error)
    }

    /// Where the stream ends; nothing if there is no stream.
    ///
    /// # Errors
    /// [`EventStreamError`].
    pub async fn look(&self) -> Result<Option<StreamEnd>, EventStreamError> {
        let stream = match self.context.get_stream(&self.wanted.name).await {
            Ok(stream) => stream,
            Err(error) if is_not_found(error.kind()) => return Ok(None),
            Err(error) => return Err(unsure(error)),
        };
        self.end_of(stream.cached_info()).await.map(Some)
    }

    /// Deletes the stream with all that is on it. Whoever publishes makes it again.
    ///
    /// # Errors
    /// If the servers do not let us.
    pub async fn delete(&self) -> Result<(), NatsError> {
        self.context.delete_stream(&self.wanted.name).await.map(drop).map_err(|error| self.failed(error))
    }

    /// Makes a durable consumer, which remembers how far its reader has come, of the events after
    /// number `after`, of one project or of all. A reader then needs no more than to ask it for events and to acknowledge
    /// them. One that is there already stays what it is.
    ///
    /// # Errors
    /// If the servers do not let us, or there is another one of that name.
    pub async fn make_consumer(
        &self,
        name: &str,
        project: Option<&str>,
        after: u64,
    ) -> Result<(), NatsError> {
        let filter = match project {
            Some(project) => self.cell.project_event_subjects(Some(project)),
            None => self.cell.event_subjects(),
        };
        let config = PullConfig {
            durable_name: Some(name.to_owned()),
            name: Some(name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.saturating_add(1) },
            filter_subject: filter,
            ..PullConfig::default()
        };
        let made = self.context.create_consumer_strict_on_stream(config, &self.wanted.name).await;
        made.map(drop).map_err(|error| self.failed(error))
    }

    async fn end_of(&self, info: &Info) -> Result<StreamEnd, EventStreamError> {
        let last = info.state.last_sequence;
        let mut problems = stream_problems(info, &self.wanted, MAX_EVENT_BYTES);
        problems.extend(lacks_messages(info));
        if !problems.is_empty() {
            return Err(RefusedStream { stream: self.wanted.name.clone(), problems }.into());
        }
        if last == 0 {
            return Ok(StreamEnd::default());
        }
        let mark = self.mark_of(last).await?;
        Ok(StreamEnd { last, mark: Some(mark) })
    }

    /// What a message says of its place in the ledger.
    async fn mark_of(&self, message: u64) -> Result<EventMark, EventStreamError> {
        let stream = self.context.get_stream_no_info(&self.wanted.name).await.map_err(unsure)?;
        // A leader that was just elected may not have it yet: then it is asked again.
        let raw = stream.get_raw_message(message).await.map_err(unsure)?;
        mark(&raw.headers).ok_or_else(|| self.refused(not_an_event(message)))
    }
}

#[async_trait]
impl EventStream for JetStreamEvents {
    fn name(&self) -> String {
        self.wanted.name.clone()
    }

    async fn end(&self) -> Result<StreamEnd, EventStreamError> {
        match get_or_create(&self.context, &self.wanted).await {
            Ok(info) => self.end_of(&info).await,
            // It says what to do, which waiting is not.
            Err(error @ NatsError::Placement { .. }) => Err(self.refused(error.to_string())),
            Err(
                error @ (NatsError::File { .. }
                | NatsError::Connect { .. }
                | NatsError::Unreachable { .. }
                | NatsError::JetStream { .. }
                | NatsError::Refused(_)),
            ) => Err(unsure(error)),
        }
    }

    async fn are_events(&self, messages: RangeInclusive<u64>) -> Result<(), EventStreamError> {
        let marks = stream::iter(messages).map(|message| self.mark_of(message));
        marks.buffered(LOOKED_AT_TOGETHER).try_for_each(|_| future::ready(Ok(()))).await
    }

    async fn publish(&self, events: &[PublicEvent]) -> Result<(), EventStreamError> {
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            let sending = self.context.send_publish(event.subject.clone(), message(event));
            sent.push((event.number, sending.await.map_err(unsure)?));
        }
        for (number, answer) in sent {
            let stored = answer.await.map_err(unsure)?.sequence;
            if stored != number {
                return Err(unsure(format!("event {number} was stored as message {stored}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, mark, message};
    use crate::event_stream::{EventMark, PublicEvent};
    use crate::log::BlockNumber;

    #[test]
    fn a_message_says_where_its_event_is_in_the_ledger() {
        let placed = EventMark { id: "7.2".into(), block: BlockNumber(3), hash: [0xab; 32] };
        let event = PublicEvent { number: 9, mark: placed.clone(), subject: "a.b".into(), body: "{}".into() };
        let headers = message(&event).outbound_message("a.b").headers.unwrap();
        assert_eq!(mark(&headers), Some(placed));
        assert_eq!(headers.get("Nats-Expected-Last-Sequence").unwrap().as_str(), "8");
        assert_eq!(mark(&HeaderMap::new()), None);
    }
}
