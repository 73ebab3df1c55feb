//! The log on a JetStream stream: message n is block n.
//!
//! Each cell has a stream of its own with one subject, so that the stream's sequence is the block's
//! number, without gaps, and `Nats-Expected-Last-Sequence` is the compare-and-append. That header
//! is all that safety rests on. Blocks carry no message id: the server's deduplication ends after
//! some minutes, answers differently on one server and on three, and could only hide what reading
//! back shows.
//!
//! An answer that does not come is [`AppendOutcome::Unknown`], never a guess: the block may still
//! arrive, even after later attempts, and then it meets their expectation or fails its own.
//!
//! Reads are complete up to the head that the stream's leader names: consumers may run on a replica
//! that lags, so a read waits for what it knows to be there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Placement, RawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, StatusCode};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::checks::{DurabilityProof, LogHealth, check_durability, check_server, check_stream};
use super::connect::{NatsConfig, NatsError, jetstream};
use super::tail::Tail;
use crate::log::{AppendOutcome, BlockNumber, Log, LogError};

/// Room for the headers of a message, which count towards the server's `max_payload`.
pub const HEADER_BYTES: usize = 1 << 10;

/// The largest block. With its headers it fits the server's default `max_payload`, 1 MiB.
pub const MAX_BLOCK_BYTES: usize = (1 << 20) - HEADER_BYTES;

/// Blocks in the first fetch of a reader, and in any.
const FIRST_FETCH_BLOCKS: usize = 64;
const MAX_FETCH_BLOCKS: usize = 2000;

/// Bytes that a fetch aims at, judging by the blocks before.
const FETCH_BYTES: usize = 8 << 20;

/// Bytes that one read returns at most, beyond its last fetch.
const READ_BYTES: usize = 16 << 20;

/// How long a read waits for a block that is known to be there.
const READ_WAIT: Duration = Duration::from_secs(3);

/// The pause before a replica that lags is asked again.
const LAG_PAUSE: Duration = Duration::from_millis(5);

/// Readers that are kept for whoever reads on. The server forgets them after [`READER_IDLE`].
const KEPT_READERS: usize = 8;
const READER_IDLE: Duration = Duration::from_secs(30);

/// `wait_beyond` returns after this time even if nothing was heard: what a broken subscription
/// misses is found by asking.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// Another append of the same subject is under way on an R3 stream ("subject in process"). It comes
/// without any reason of ours, so the append is repeated.
const IN_PROCESS: ErrorCode = ErrorCode(10164);
const IN_PROCESS_ATTEMPTS: u32 = 40;
const IN_PROCESS_PAUSE: Duration = Duration::from_millis(5);

/// The log of one cell. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct JetStreamLog {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    stream: Stream<()>,
    subject: String,
    may_append: bool,
    health: LogHealth,
    tail: Arc<Tail>,
    readers: Mutex<Vec<Reader>>,
    stop: CancellationToken,
    _stop_with_log: DropGuard,
}

/// A consumer, and the block that it gives next.
struct Reader {
    consumer: Consumer<PullConfig>,
    next: u64,
    fetch_blocks: usize,
    /// Whether it has given anything. Of several servers, the one that has a new consumer may not be
    /// known to ours yet: then nobody answers for a moment.
    has_answered: bool,
}

/// A consumer that reads on from a block and remembers nothing.
pub(super) fn reading_from(from: BlockNumber) -> PullConfig {
    PullConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.0.max(1) },
        ack_policy: AckPolicy::None,
        inactive_threshold: READER_IDLE,
        memory_storage: true,
        num_replicas: 1,
        ..PullConfig::default()
    }
}

/// What the stream of blocks is to be.
fn wanted_stream(config: &NatsConfig) -> Config {
    let placement = Placement { cluster: None, tags: config.placement_tags.clone() };
    Config {
        name: config.cell.ledger_stream(),
        description: Some("The ledger: one message is one block".to_owned()),
        subjects: vec![config.cell.ledger_subject()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        placement: (!config.placement_tags.is_empty()).then_some(placement),
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

impl JetStreamLog {
    /// Opens the log to append to it: makes the stream if there is none, and checks that nothing
    /// acknowledged can be lost.
    ///
    /// # Errors
    /// [`NatsError::Refused`] with the configuration that would be right; others if NATS does not
    /// answer or does not let us.
    pub async fn open(client: &Client, config: &NatsConfig) -> Result<Self, NatsError> {
        check_server(client)?;
        let context = jetstream(client);
        let wanted = wanted_stream(config);
        let info = get_or_create(&context, &wanted).await?;
        check_stream(&info, &wanted)?;
        let durability = check_durability(client, config, &info).await?;
        Self::over(client, context, &info, durability, config).await
    }

    /// Opens the log to read it, for roles that may do no more than that.
    ///
    /// # Errors
    /// As [`JetStreamLog::open`], and if there is no such log yet.
    pub async fn open_to_read(client: &Client, config: &NatsConfig) -> Result<Self, NatsError> {
        check_server(client)?;
        let context = jetstream(client);
        let wanted = wanted_stream(config);
        let stream = context
            .get_stream(&wanted.name)
            .await
            .map_err(|error| NatsError::jetstream(format!("stream {}", wanted.name), error))?;
        let info = stream.cached_info().clone();
        check_stream(&info, &wanted)?;
        Self::over(client, context, &info, DurabilityProof::NotAsked, config).await
    }

    async fn over(
        client: &Client,
        context: Context,
        info: &Info,
        durability: DurabilityProof,
        config: &NatsConfig,
    ) -> Result<Self, NatsError> {
        let name = config.cell.ledger_stream();
        let stream = context
            .get_stream_no_info(&name)
            .await
            .map_err(|error| NatsError::jetstream(format!("stream {name}"), error))?;
        let may_append = durability != DurabilityProof::NotAsked;
        let health = LogHealth {
            server_version: client.server_info().version,
            replicas: info.config.num_replicas,
            durability,
        };
        let stop = CancellationToken::new();
        let shared = Shared {
            context,
            stream,
            subject: config.cell.ledger_subject(),
            may_append,
            health,
            tail: Arc::new(Tail::new(BlockNumber(info.state.last_sequence))),
            readers: Mutex::default(),
            _stop_with_log: stop.clone().drop_guard(),
            stop,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is known about the servers.
    pub fn health(&self) -> &LogHealth {
        &self.shared.health
    }
}

pub(super) async fn get_or_create(context: &Context, wanted: &Config) -> Result<Info, NatsError> {
    let failed =
        |reason: &dyn std::fmt::Display| NatsError::jetstream(format!("stream {}", wanted.name), reason);
    match context.get_stream(&wanted.name).await {
        Ok(stream) => return Ok(stream.cached_info().clone()),
        Err(error) if is_not_found(error.kind()) => {}
        Err(error) => return Err(failed(&error)),
    }
    match context.create_stream(wanted).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        // Another process may have been quicker.
        Err(refused) => match context.get_stream(&wanted.name).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(_) => Err(failed(&refused)),
        },
    }
}

pub(super) fn is_not_found(kind: GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The server's error code, if the server answered at all.
pub(super) fn code_of(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

/// Whether a fetch came to nobody. The client says it in words only.
fn is_nobody_there(error: &async_nats::Error) -> bool {
    error.to_string().contains(&format!(": {},", StatusCode::NO_RESPONDERS))
}

fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

impl Shared {
    async fn publish(&self, expected: BlockNumber, payload: Bytes) -> Result<u64, PublishError> {
        let message = PublishMessage::build().payload(payload).expected_last_sequence(expected.0);
        let acknowledgement = self.context.send_publish(self.subject.clone(), message).await?;
        Ok(acknowledgement.await?.sequence)
    }

    /// The expectation was not met: because of this very block, sent before, or of another.
    async fn conflict(&self, next: BlockNumber, bytes: &[u8]) -> AppendOutcome {
        let at_next = match self.one(next).await {
            Ok(found) => found,
            Err(error) => return AppendOutcome::Unknown { reason: error.to_string() },
        };
        if at_next.is_some_and(|found| *found == *bytes) {
            return AppendOutcome::Appended(next);
        }
        match self.ask_head().await {
            Ok(head) => AppendOutcome::Conflict { head },
            Err(error) => AppendOutcome::Unknown { reason: error.to_string() },
        }
    }

    /// One block, from the stream's leader.
    async fn one(&self, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
        match self.stream.get_raw_message(number.0).await {
            Ok(message) => {
                self.tail.heard_of(number);
                Ok(Some(message.payload.as_ref().into()))
            }
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(_)
                | RawMessageErrorKind::Other
                | RawMessageErrorKind::InvalidSubject => Err(unavailable(error)),
            },
        }
    }

    /// The last block, from the stream's leader.
    async fn ask_head(&self) -> Result<BlockNumber, LogError> {
        let info = self.stream.get_info().await.map_err(unavailable)?;
        let head = BlockNumber(info.state.last_sequence);
        self.tail.heard_of(head);
        Ok(head)
    }

    fn take_reader(&self, next: u64) -> Option<Reader> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let place = readers.iter().position(|reader| reader.next == next)?;
        Some(readers.remove(place))
    }

    fn keep_reader(&self, reader: Reader) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() >= KEPT_READERS {
            readers.remove(0);
        }
        readers.push(reader);
    }

    async fn new_reader(&self, from: BlockNumber) -> Result<Reader, LogError> {
        let consumer = self.stream.create_consumer(reading_from(from)).await.map_err(unavailable)?;
        Ok(Reader { consumer, next: from.0, fetch_blocks: FIRST_FETCH_BLOCKS, has_answered: false })
    }

    /// The blocks from `from` to `last`, all of which are there, or the first of them.
    async fn fetch(
        &self,
        from: BlockNumber,
        last: BlockNumber,
    ) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
        if let Some(mut reader) = self.take_reader(from.0) {
            // The server may have forgotten it meanwhile, or died: then a new one says more.
            if let Ok(blocks) = reader.read_to(last).await {
                self.keep_reader(reader);
                return Ok(blocks);
            }
        }
        let mut reader = self.new_reader(from).await?;
        let blocks = reader.read_to(last).await?;
        self.keep_reader(reader);
        Ok(blocks)
    }
}

impl Reader {
    async fn read_to(&mut self, last: BlockNumber) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
        let mut blocks = Vec::new();
        let mut bytes = 0_usize;
        let mut patience = tokio::time::Instant::now() + READ_WAIT;
        while self.next <= last.0 && bytes < READ_BYTES {
            let left = usize::try_from(last.0.saturating_sub(self.next)).unwrap_or(usize::MAX);
            let count = left.saturating_add(1).min(self.fetch_blocks);
            let (fetched, size) = self.fetch_once(count, &mut blocks).await?;
            bytes = bytes.saturating_add(size);
            if fetched > 0 {
                let average = size.checked_div(fetched).unwrap_or_default().max(1);
                self.fetch_blocks = (FETCH_BYTES / average).clamp(FIRST_FETCH_BLOCKS, MAX_FETCH_BLOCKS);
                patience = tokio::time::Instant::now() + READ_WAIT;
            } else if tokio::time::Instant::now() > patience {
                let missing = self.next;
                return Err(LogError::Unavailable(format!("block {missing} is there, but does not arrive")));
            } else {
                tokio::time::sleep(LAG_PAUSE).await;
            }
        }
        Ok(blocks)
    }

    /// Fetches what is there of the next `count` blocks: how many came, and their bytes.
    async fn fetch_once(
        &mut self,
        count: usize,
        blocks: &mut Vec<(BlockNumber, Arc<[u8]>)>,
    ) -> Result<(usize, usize), LogError> {
        let mut messages = self.consumer.fetch().max_messages(count).messages().await.map_err(unavailable)?;
        let (mut fetched, mut size) = (0_usize, 0_usize);
        loop {
            let message = match tokio::time::timeout(READ_WAIT, messages.next()).await {
                Err(_) => return Err(LogError::Unavailable("the stream does not answer".to_owned())),
                Ok(None) => return Ok((fetched, size)),
                Ok(Some(Err(error))) if !self.has_answered && is_nobody_there(&error) => {
                    return Ok((fetched, size));
                }
                Ok(Some(message)) => message.map_err(unavailable)?,
            };
            self.has_answered = true;
            let number = message.info().map_err(unavailable)?.stream_sequence;
            if number != self.next {
                return Err(LogError::Corrupt {
                    number: BlockNumber(self.next),
                    reason: format!("the stream does not have it; block {number} comes in its place"),
                });
            }
            self.next = self.next.saturating_add(1);
            fetched = fetched.saturating_add(1);
            size = size.saturating_add(message.payload.len());
            blocks.push((BlockNumber(number), message.payload.as_ref().into()));
        }
    }
}

#[async_trait]
impl Log for JetStreamLog {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let shared = &self.shared;
        let unknown = |reason: String| AppendOutcome::Unknown { reason };
        if !shared.may_append {
            return unknown("the log is open for reading only".to_owned());
        }
        if bytes.len() > MAX_BLOCK_BYTES {
            let size = bytes.len();
            return unknown(format!("a block of {size} bytes; at most {MAX_BLOCK_BYTES} fit into a message"));
        }
        let next = BlockNumber(expected.0.saturating_add(1));
        let payload = Bytes::from_owner(Arc::clone(&bytes));
        for _ in 0..IN_PROCESS_ATTEMPTS {
            match shared.publish(expected, payload.clone()).await {
                Ok(sequence) if sequence == next.0 => {
                    shared.tail.heard_of(next);
                    return AppendOutcome::Appended(next);
                }
                Ok(sequence) => return unknown(format!("the stream put block {} at {sequence}", next.0)),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    return shared.conflict(next, &bytes).await;
                }
                Err(error) if code_of(&error) == Some(IN_PROCESS) => {
                    tokio::time::sleep(IN_PROCESS_PAUSE).await
                }
                Err(error) => return unknown(error.to_string()),
            }
        }
        unknown("another append is under way".to_owned())
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
        let shared = &self.shared;
        let from = from.max(BlockNumber(1));
        if limit == 0 {
            return Ok(Vec::new());
        }
        let at_hand = shared.tail.at_hand(from, limit);
        if !at_hand.is_empty() {
            return Ok(at_hand);
        }
        let mut head = shared.tail.head();
        if from > head {
            head = shared.ask_head().await?;
        }
        if from > head {
            return Ok(Vec::new());
        }
        let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_sub(1);
        let last = head.min(BlockNumber(from.0.saturating_add(more)));
        if from < last {
            return shared.fetch(from, last).await;
        }
        match shared.one(from).await? {
            Some(bytes) => Ok(vec![(from, bytes)]),
            // A leader that was just elected may not have taken in everything yet.
            None => Err(LogError::Unavailable(format!("block {} is there, but is not found", from.0))),
        }
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.shared.ask_head().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        let shared = &self.shared;
        shared.tail.listen(&shared.stream, &shared.stop);
        // Who is told too early asks again.
        let _heard = tokio::time::timeout(LONGEST_SILENCE, shared.tail.wait_beyond(known)).await.is_ok();
    }
}
