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
//! Reads are complete up to the head that the stream's leader names: a replica that lags may answer,
//! so a read waits for what it knows to be there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::checks::{DurabilityProof, LogHealth, check_durability, check_server, check_stream};
use super::connect::{NatsConfig, NatsError, ledger_jetstream};
use super::placement::{create, lacks_tags, placement, tags, warn_if_elsewhere};
use super::reading::Past;
use super::tail::{Tail, tell};
use crate::log::{AppendOutcome, BlockNumber, LOST_AFTER, Log, LogError, NumberedBytes, seek};

/// Room for the headers of a message, which count towards the server's `max_payload`.
pub const HEADER_BYTES: usize = 1 << 10;

/// The largest block. With its headers it fits the server's default `max_payload`, 1 MiB.
pub const MAX_BLOCK_BYTES: usize = (1 << 20) - HEADER_BYTES;

/// `wait_beyond` returns after this time even if nothing was heard: what a broken subscription
/// misses is found by asking.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// Another append of the same subject is under way on an R3 stream ("subject in process"). It comes
/// without any reason of ours, so the append is repeated.
const IN_PROCESS: ErrorCode = ErrorCode(10164);
const IN_PROCESS_ATTEMPTS: u32 = 40;
const IN_PROCESS_PAUSE: Duration = Duration::from_millis(5);

/// How long an append is tried on while the stream has no leader, or one that does not answer: as long
/// as servers take to elect one (4 to 9 s, which they do not let anybody change).
const APPEND_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before an append that came to nobody is tried again.
const NO_LEADER_PAUSE: Duration = Duration::from_millis(100);

/// The log of one cell. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct JetStreamLog {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    subject: String,
    /// Where whoever appends tells of it.
    news_subject: String,
    may_append: bool,
    health: Arc<Mutex<LogHealth>>,
    tail: Arc<Tail>,
    past: Arc<Past>,
    stop: CancellationToken,
    _stop_with_log: DropGuard,
}

/// What the stream of blocks is to be.
fn wanted_stream(config: &NatsConfig) -> Config {
    Config {
        name: config.cell.ledger_stream(),
        description: Some("The ledger: one message is one block".to_owned()),
        subjects: vec![config.cell.ledger_subject()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        placement: placement(config),
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
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
        let context = ledger_jetstream(client, config);
        let wanted = wanted_stream(config);
        let info = get_or_create(&context, &wanted).await?;
        check_stream(&info, &wanted)?;
        warn_if_elsewhere(&info, &wanted);
        let (durability, inquiry) = check_durability(client, config, &info).await?;
        let log = Self::over(client, context, &info, durability, config).await?;
        let (health, stop) = (Arc::clone(&log.shared.health), log.shared.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(inquiry.go_on(health)).await });
        Ok(log)
    }

    /// Opens the log to read it, for roles that may do no more than that.
    ///
    /// # Errors
    /// As [`JetStreamLog::open`], and if there is no such log yet.
    pub async fn open_to_read(client: &Client, config: &NatsConfig) -> Result<Self, NatsError> {
        check_server(client)?;
        let context = ledger_jetstream(client, config);
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
        if !info.config.allow_direct {
            tracing::info!("stream {name} has no allow_direct: its blocks are read one by one");
        }
        let direct_subject =
            info.config.allow_direct.then(|| format!("{}.DIRECT.GET.{name}", config.ledger_api));
        let stop = CancellationToken::new();
        let shared = Shared {
            context,
            subject: config.cell.ledger_subject(),
            news_subject: config.cell.block_subject(),
            may_append,
            health: Arc::new(Mutex::new(health)),
            tail: Arc::new(Tail::new(BlockNumber(info.state.last_sequence))),
            past: Arc::new(Past { client: client.clone(), stream, direct_subject }),
            _stop_with_log: stop.clone().drop_guard(),
            stop,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is known about the servers now: those that had nothing to say at the start are asked again.
    pub fn health(&self) -> LogHealth {
        self.shared.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    match create(context, wanted).await {
        Ok(info) => Ok(info),
        Err(refused) if lacks_tags(&refused) => Err(NatsError::Placement {
            stream: wanted.name.clone(),
            tags: tags(wanted).to_vec(),
            replicas: wanted.num_replicas,
            reason: refused.to_string(),
        }),
        // Another process may have been quicker.
        Err(refused) => match context.get_stream(&wanted.name).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(_) => Err(failed(&refused)),
        },
    }
}

/// Whether the servers say that there is no such stream.
pub(super) async fn is_lost(context: &Context, name: &str) -> Result<bool, GetStreamError> {
    match context.get_stream(name).await {
        Ok(_) => Ok(false),
        Err(error) if is_not_found(error.kind()) => Ok(true),
        Err(error) => Err(error),
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

impl Shared {
    async fn publish(&self, expected: BlockNumber, payload: Bytes) -> Result<u64, PublishError> {
        let message = PublishMessage::build().payload(payload).expected_last_sequence(expected.0);
        let acknowledgement = self.context.send_publish(self.subject.clone(), message).await?;
        Ok(acknowledgement.await?.sequence)
    }

    /// The expectation was not met: because of this very block, sent before, or of another.
    async fn conflict(&self, next: BlockNumber, bytes: &Arc<[u8]>, payload: Bytes) -> AppendOutcome {
        let at_next = match self.one(next).await {
            Ok(found) => found,
            Err(error) => return AppendOutcome::Unknown { reason: error.to_string() },
        };
        if at_next.is_some_and(|found| found == *bytes) {
            return self.appended(next, bytes, payload).await;
        }
        match self.ask_head().await {
            Ok(head) => AppendOutcome::Conflict { head },
            Err(error) => AppendOutcome::Unknown { reason: error.to_string() },
        }
    }

    /// Blocks from `from` on, out of those up to `head`.
    async fn read_past(
        &self,
        from: BlockNumber,
        limit: usize,
        head: BlockNumber,
    ) -> Result<Vec<NumberedBytes>, LogError> {
        if limit == 0 || from > head {
            return Ok(Vec::new());
        }
        let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_sub(1);
        let last = head.min(BlockNumber(from.0.saturating_add(more)));
        if from < last {
            return self.past.fetch(from, last).await;
        }
        match self.one(from).await? {
            Some(bytes) => Ok(vec![(from, bytes)]),
            // A leader that was just elected may not have taken in everything yet.
            None => Err(LogError::Unavailable(format!("block {} is there, but is not found", from.0))),
        }
    }

    async fn one(&self, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
        let found = self.past.one(number).await?;
        if found.is_some() {
            self.tail.heard_of(number);
        }
        Ok(found)
    }

    async fn ask_head(&self) -> Result<BlockNumber, LogError> {
        let head = self.past.head().await?;
        self.tail.heard_of(head);
        Ok(head)
    }

    /// A block of ours is in the stream: readers here and elsewhere need not read it.
    async fn appended(&self, number: BlockNumber, bytes: &Arc<[u8]>, payload: Bytes) -> AppendOutcome {
        self.tail.has(number, Arc::clone(bytes));
        tell(&self.past.client, &self.news_subject, number, payload).await;
        AppendOutcome::Appended(number)
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
        let until = Instant::now() + APPEND_PATIENCE;
        let mut in_process = 0;
        loop {
            let error = match shared.publish(expected, payload.clone()).await {
                Ok(sequence) if sequence == next.0 => {
                    return shared.appended(next, &bytes, payload).await;
                }
                Ok(sequence) => return unknown(format!("the stream put block {} at {sequence}", next.0)),
                Err(error) => error,
            };
            // The same block again, whatever became of it: it is there once at most.
            let pause = match error.kind() {
                PublishErrorKind::WrongLastSequence => return shared.conflict(next, &bytes, payload).await,
                PublishErrorKind::StreamNotFound => NO_LEADER_PAUSE,
                PublishErrorKind::TimedOut => Duration::ZERO,
                PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::MaxPayloadExceeded
                | PublishErrorKind::Other => {
                    in_process += 1;
                    if code_of(&error) != Some(IN_PROCESS) || in_process > IN_PROCESS_ATTEMPTS {
                        return unknown(error.to_string());
                    }
                    IN_PROCESS_PAUSE
                }
            };
            if Instant::now() + pause >= until {
                return unknown(error.to_string());
            }
            tokio::time::sleep(pause).await;
        }
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
        shared.read_past(from, limit, head).await
    }

    async fn read_stored(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        let (shared, from) = (&self.shared, from.max(BlockNumber(1)));
        let mut head = shared.past.head().await?;
        // That it ends before a block that it has had is not believed at once.
        if head < from && from <= shared.tail.head() {
            seek(self, from).await?;
            head = shared.past.head().await?;
        }
        shared.read_past(from, limit, head).await
    }

    async fn stored(&self, number: BlockNumber) -> Result<Option<Arc<[u8]>>, LogError> {
        self.shared.past.one(number).await
    }

    fn lag(&self) -> Duration {
        LOST_AFTER
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.shared.ask_head().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        let shared = &self.shared;
        shared.tail.listen(&shared.past, &shared.news_subject, &shared.stop);
        // Who is told too early asks again.
        let _heard = tokio::time::timeout(LONGEST_SILENCE, shared.tail.wait_beyond(known)).await.is_ok();
    }
}
