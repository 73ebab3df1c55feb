//! The task around the decisions: appends, retries, answers, feeds and dispatches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::BoxFuture;
use tephra_domain::event::Event;
use tephra_domain::ids::{BackendName, CommandId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::core::{Answered, Batch, BatchContext, Decided, Pending, SequencerCore};
use super::outbox::Outbox;
use super::start::CaughtUp;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::gateway::{CommandGateway, DecidingGateway, Receipt, Submission, SubmitError};
use crate::ids::IdSource;
use crate::log::{AppendOutcome, Block, BlockNumber, LOST_AFTER, Log, LogError, NumberedBytes};
use crate::pool_board::PoolBoard;
use crate::wire::verify_hash;
use crate::work_queue::WorkQueue;

/// Other writers' blocks that are read at once.
const FOLLOW_BLOCKS: usize = 64;

/// Answers that may wait to be proven before nothing more is decided.
const UNPROVEN_ANSWERS: usize = 256;

/// Bounds of the sequencer.
#[derive(Clone, Copy, Debug)]
pub struct SequencerConfig {
    /// Commands that may wait to be decided.
    pub queue_commands: usize,
    /// How long a command waits for a place among them before it is turned away.
    pub queue_wait_ms: u64,
    /// The first wait before an append or a read is tried again; it doubles up to the longest.
    pub retry_min_ms: u64,
    /// The longest wait before an append or a read is tried again.
    pub retry_max_ms: u64,
    /// How often everything that is due is published again, in case orders were lost.
    pub redispatch_ms: u64,
    /// Orders that have just become due and are on their way to the queue. Those for which there is no room
    /// come later; nothing waits for them.
    pub queued_orders: usize,
    /// How long an append that gets no answer is tried on after the stop was asked for.
    pub drain_ms: u64,
}

impl Default for SequencerConfig {
    fn default() -> Self {
        Self {
            queue_commands: 4_096,
            queue_wait_ms: 5_000,
            retry_min_ms: 10,
            retry_max_ms: 2_000,
            redispatch_ms: 60_000,
            queued_orders: 16_384,
            drain_ms: 5_000,
        }
    }
}

/// What a sequencer works with.
pub struct SequencerParts {
    /// Where blocks go.
    pub log: Arc<dyn Log>,
    /// How full each pool is.
    pub pools: PoolBoard,
    /// Where work orders go.
    pub queue: Arc<dyn WorkQueue>,
    /// Who else in this process wants the blocks.
    pub feed: Feed,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where the ids of blocks come from.
    pub ids: Arc<dyn IdSource>,
    /// Asks it to stop: it takes no more commands, and answers those that it has.
    pub cancel: CancellationToken,
    /// Who begins a turn here, where others may be deciding or come after: the log says so before anything
    /// is answered, so that what another one still has under way is known or can no longer happen. Nothing
    /// where nobody else can append.
    pub turn_of: Option<Box<str>>,
}

/// Why a sequencer ended that nobody had stopped.
#[derive(Debug, thiserror::Error)]
pub enum SequencerError {
    /// The log cannot be followed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another one appended: it knows what this one does not, and this one's turn is over.
    #[error("another sequencer has gone on with block {}", .0.0)]
    Overtaken(BlockNumber),
}

type Ticket = oneshot::Sender<Result<Receipt, SubmitError>>;
type Ending = Option<Result<(), Arc<SequencerError>>>;

/// Answers that rest on the state alone, with nothing appended that has shown that the state is the
/// log's: another sequencer may have gone on, and then they are worth nothing. An executor that asks
/// whether its attempt is still due would act on it and destroy data. So they wait for the next block of
/// ours to land, which shows it, or for the log to be asked.
#[derive(Default)]
struct Unproven {
    answers: Vec<Answered<Ticket>>,
    question: Option<Question>,
}

/// A question to the log where it ends, under way.
struct Question {
    /// How many answers were there before it was asked.
    covers: usize,
    head: BoxFuture<'static, Result<BlockNumber, LogError>>,
}

fn refuse(answers: Vec<Answered<Ticket>>, reason: &str) {
    let unavailable = || Err(SubmitError::Unavailable { reason: reason.to_owned() });
    answer(answers.into_iter().map(|(ticket, _)| (ticket, unavailable())).collect());
}

/// Starts sequencers.
#[derive(Debug)]
pub struct Sequencer;

impl Sequencer {
    /// Starts one at the end of a log, in a task of its own. It publishes at once what is due.
    pub fn start(config: SequencerConfig, mut start: CaughtUp, parts: SequencerParts) -> SequencerHandle {
        let (commands, waiting) = mpsc::channel(config.queue_commands.max(1));
        let (ended, ending) = watch::channel(None);
        let (requests, queue) = (std::mem::take(&mut start.requests), Arc::clone(&parts.queue));
        let outbox = Outbox::open(&start.ledger, requests, queue, config);
        let running = Running {
            config,
            core: SequencerCore::new(start),
            parts,
            outbox,
            commands: waiting,
            waiting: VecDeque::new(),
        };
        tokio::spawn(async move {
            let result = running.run().await.map_err(Arc::new);
            if let Err(error) = &result {
                tracing::error!(%error, "the sequencer has stopped");
            }
            ended.send_replace(Some(result));
        });
        SequencerHandle { commands, ending, queue_wait: Duration::from_millis(config.queue_wait_ms) }
    }
}

/// The way to a running sequencer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SequencerHandle {
    commands: mpsc::Sender<Pending<Ticket>>,
    ending: watch::Receiver<Ending>,
    queue_wait: Duration,
}

impl SequencerHandle {
    /// Returns once the sequencer has stopped and everything it took is answered.
    ///
    /// # Errors
    /// What made it stop by itself.
    pub async fn drained(&self) -> Result<(), Arc<SequencerError>> {
        let mut ending = self.ending.clone();
        let ended = match ending.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => {
                let reason = "the sequencer ended without a word: a fault of the program".to_owned();
                Some(Err(Arc::new(LogError::Unavailable(reason).into())))
            }
        };
        ended.unwrap_or(Ok(()))
    }

    /// Whether it takes commands.
    pub fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }
}

impl SequencerHandle {
    async fn ask(
        &self,
        executor: Option<BackendName>,
        submission: Submission,
    ) -> Result<Receipt, SubmitError> {
        let unavailable = |reason: &str| SubmitError::Unavailable { reason: reason.to_owned() };
        let (ticket, answer) = oneshot::channel();
        match tokio::time::timeout(self.queue_wait, self.commands.reserve()).await {
            Err(_) => return Err(unavailable("too many commands are waiting to be decided")),
            Ok(Err(_)) => return Err(unavailable("the sequencer has stopped")),
            Ok(Ok(place)) => place.send(Pending { submission, executor, ticket }),
        }
        answer.await.unwrap_or_else(|_| Err(unavailable("the sequencer stopped before it answered")))
    }
}

#[async_trait]
impl CommandGateway for SequencerHandle {
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.ask(None, submission).await
    }
}

#[async_trait]
impl DecidingGateway for SequencerHandle {
    async fn submit_of_executor(
        &self,
        backend: BackendName,
        submission: Submission,
    ) -> Result<Receipt, SubmitError> {
        self.ask(Some(backend), submission).await
    }
}

fn answer(answers: Vec<Answered<Ticket>>) {
    for (ticket, result) in answers {
        // Whoever asked may have gone away; what was decided stays decided.
        drop(ticket.send(result));
    }
}

fn begins_a_turn(block: &Block) -> bool {
    let mut events = block.commits.iter().flat_map(|sequenced| &sequenced.commit.events);
    events.any(|event| matches!(event, Event::TurnBegan { .. }))
}

enum Appended {
    Landed,
    Overtaken,
    GivenUp(String),
}

struct Running {
    config: SequencerConfig,
    core: SequencerCore<Ticket>,
    parts: SequencerParts,
    outbox: Outbox,
    commands: mpsc::Receiver<Pending<Ticket>>,
    waiting: VecDeque<Pending<Ticket>>,
}

impl Running {
    async fn run(mut self) -> Result<(), SequencerError> {
        if !self.begin_turn().await? {
            return Ok(());
        }
        let cancel = self.parts.cancel.clone();
        let log = Arc::clone(&self.parts.log);
        loop {
            let head = self.core.head().block;
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.commands.is_closed() => self.commands.close(),
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.waiting.push_back(command);
                        self.decide_waiting().await?;
                    }
                    None => return Ok(()),
                },
                () = self.outbox.turn() => self.outbox.go_on(self.core.ledger()),
                () = log.wait_beyond(head) => self.end_if_overtaken().await?,
            }
        }
    }

    /// Nothing is decided before the log says whose turn it is. What another one had under way is in the
    /// log by then, or meets a conflict. Says whether it has begun: it may be over before.
    async fn begin_turn(&mut self) -> Result<bool, SequencerError> {
        let Some(sequencer) = self.parts.turn_of.clone() else { return Ok(true) };
        while !self.parts.cancel.is_cancelled() {
            self.find_head_in_log().await?;
            let (now, ids) = (self.parts.clock.now(), &self.parts.ids);
            let command = CommandId::from_uuid(ids.fresh());
            let Some(batch) = self.core.begin_turn(&sequencer, now, command, ids.fresh()) else { break };
            match self.append(&batch).await? {
                Appended::Landed => {
                    if let Some((block, _)) = self.core.acknowledged() {
                        self.pass_on(&block);
                    }
                    return Ok(true);
                }
                Appended::Overtaken => {
                    self.core.overtaken(&mut self.waiting);
                    if self.follow().await? {
                        return Err(SequencerError::Overtaken(batch.next()));
                    }
                }
                Appended::GivenUp(reason) => {
                    self.core.abandon(&reason);
                    return Err(LogError::Unavailable(reason).into());
                }
            }
        }
        Ok(false)
    }

    /// Makes sure that the log goes on where the state stands. One that lost its end may have none there, or
    /// has grown another in its place; a block after it would break the chain for good.
    async fn find_head_in_log(&self) -> Result<(), SequencerError> {
        let head = self.core.head();
        let is_lost = |reason: &str| {
            let (number, reason) = (head.block, reason.to_owned());
            Err(LogError::Corrupt { number, reason }.into())
        };
        let (mut waits, mut absent_for) = (self.waits(), Duration::ZERO);
        while head.block > BlockNumber::default() && !self.parts.cancel.is_cancelled() {
            let wait = waits.next().unwrap_or(self.longest_wait());
            match self.parts.log.stored(head.block).await {
                Ok(Some(bytes)) if verify_hash(head.block, &bytes)?.hash == head.hash => return Ok(()),
                Ok(Some(_)) => return is_lost("the log has another block where the state stands"),
                Ok(None) if absent_for > LOST_AFTER => return is_lost("the log ends before the state"),
                Ok(None) => absent_for = absent_for.saturating_add(wait),
                Err(error @ LogError::Corrupt { .. }) => return Err(error.into()),
                Err(LogError::Unavailable(reason)) => tracing::warn!(%reason, "the log cannot be read"),
            }
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Decides everything that waits, block by block, with what arrives meanwhile.
    async fn decide_waiting(&mut self) -> Result<(), SequencerError> {
        let mut unproven = Unproven::default();
        loop {
            // Commands may come without end: what is due goes out meanwhile.
            self.outbox.go_on(self.core.ledger());
            while self.waiting.len() < self.config.queue_commands {
                let Ok(command) = self.commands.try_recv() else { break };
                self.waiting.push_back(command);
            }
            // Whoever no longer waits for an answer has asked another sequencer meanwhile, or has been
            // told that nobody knows: what was asked must not happen after that.
            self.waiting.retain(|pending| !pending.ticket.is_closed());
            if self.waiting.is_empty() && unproven.answers.is_empty() {
                return Ok(());
            }
            if self.waiting.is_empty() || unproven.answers.len() >= UNPROVEN_ANSWERS {
                self.prove(&mut unproven).await?;
                continue;
            }
            let now = self.parts.clock.now();
            let block_id = self.parts.ids.fresh();
            let context = BatchContext { now, pools: self.parts.pools.read(now), block_id };
            match self.core.decide_batch(&mut self.waiting, context) {
                Decided::Answers(answers) => unproven.answers.extend(answers),
                Decided::Append(batch) => match self.append(&batch).await? {
                    Appended::Landed => {
                        answer(std::mem::take(&mut unproven).answers);
                        if let Some((block, answers)) = self.core.acknowledged() {
                            answer(answers);
                            self.pass_on(&block);
                        }
                    }
                    Appended::Overtaken => {
                        // Whoever appended knows what is true now, and may have been asked the same.
                        refuse(unproven.answers, "another sequencer has gone on");
                        answer(self.core.overtaken(&mut self.waiting));
                        return Err(SequencerError::Overtaken(batch.next()));
                    }
                    Appended::GivenUp(reason) => {
                        refuse(unproven.answers, &reason);
                        answer(self.core.abandon(&reason));
                        return Err(LogError::Unavailable(reason).into());
                    }
                },
            }
            // Askers that were just answered may have more: let them come into the next block.
            tokio::task::yield_now().await;
        }
    }

    /// Asks the log whether the state is still its own, and then gives the answers that rest on that; or
    /// returns when there is a command: what is appended for it shows the same.
    async fn prove(&mut self, unproven: &mut Unproven) -> Result<(), SequencerError> {
        let Unproven { answers, question } = unproven;
        let asked = question.get_or_insert_with(|| {
            let log = Arc::clone(&self.parts.log);
            Question { covers: answers.len(), head: Box::pin(async move { log.head().await }) }
        });
        let may_wait = answers.len() < UNPROVEN_ANSWERS;
        let head = tokio::select! {
            biased;
            head = &mut asked.head => head,
            Some(command) = self.commands.recv(), if may_wait => {
                self.waiting.push_back(command);
                return Ok(());
            }
        };
        // Those that came after the question are not covered by its answer.
        let later = answers.split_off(asked.covers.min(answers.len()));
        let covered = std::mem::replace(answers, later);
        *question = None;
        match head {
            Ok(head) if head == self.core.head().block => {
                answer(covered);
                Ok(())
            }
            Ok(head) => {
                let reason = format!("the log ends at block {} meanwhile", head.0);
                refuse(covered, &reason);
                refuse(std::mem::take(answers), &reason);
                self.end_if_overtaken().await
            }
            Err(LogError::Unavailable(reason)) => {
                refuse(covered, &reason);
                Ok(())
            }
            Err(error @ LogError::Corrupt { .. }) => Err(error.into()),
        }
    }

    /// Appends a block until it is known whether it is in the log. The same bytes are appended
    /// again, so that however many attempts arrive, one block at most is there.
    async fn append(&self, batch: &Batch) -> Result<Appended, LogError> {
        let next = batch.next();
        let mut waits = self.waits();
        let (mut stopping_for, mut lost_for) = (Duration::ZERO, Duration::ZERO);
        loop {
            let mut ends_before = false;
            let reason = match self.parts.log.append(batch.expected, Arc::clone(&batch.bytes)).await {
                AppendOutcome::Appended(number) if number == next => return Ok(Appended::Landed),
                AppendOutcome::Appended(number) => {
                    format!("the log put block {} at {}", next.0, number.0)
                }
                AppendOutcome::Conflict { head } => {
                    ends_before = head < batch.expected;
                    format!("the log ends at block {}", head.0)
                }
                AppendOutcome::Unknown { reason } => reason,
            };
            let reason = match self.parts.log.read(next, 1).await {
                Ok(blocks) => match blocks.first() {
                    Some((number, bytes)) => {
                        let landed = verify_hash(*number, bytes)?.id == batch.block_id && *number == next;
                        return Ok(if landed { Appended::Landed } else { Appended::Overtaken });
                    }
                    None => reason,
                },
                Err(LogError::Unavailable(reason)) => reason,
                Err(error @ LogError::Corrupt { .. }) => return Err(error),
            };
            let wait = waits.next().unwrap_or(self.longest_wait());
            lost_for = if ends_before { lost_for.saturating_add(wait) } else { Duration::ZERO };
            if lost_for > LOST_AFTER {
                return Err(LogError::Corrupt { number: batch.expected, reason });
            }
            if self.parts.cancel.is_cancelled() {
                stopping_for = stopping_for.saturating_add(wait);
                if stopping_for > Duration::from_millis(self.config.drain_ms) {
                    return Ok(Appended::GivenUp(reason));
                }
            }
            tracing::warn!(%reason, block = next.0, wait_ms = wait.as_millis(), "an append is not acknowledged");
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends the turn if there is a block of another.
    async fn end_if_overtaken(&self) -> Result<(), SequencerError> {
        let next = self.next_block();
        let blocks = self.read(next, 1).await?;
        if blocks.is_empty() { Ok(()) } else { Err(SequencerError::Overtaken(next)) }
    }

    /// Takes in what others appended before the turn began. Says whether another turn began with it.
    async fn follow(&mut self) -> Result<bool, LogError> {
        let mut another = false;
        loop {
            let blocks = self.read(self.next_block(), FOLLOW_BLOCKS).await?;
            if blocks.is_empty() {
                return Ok(another);
            }
            for (number, bytes) in blocks {
                let block = self.core.take_in(number, &bytes)?;
                another |= begins_a_turn(&block);
                self.pass_on(&block);
            }
        }
    }

    /// Reads the log, however long it does not answer, unless the stop was asked for.
    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        let mut waits = self.waits();
        loop {
            match self.parts.log.read(from, limit).await {
                Err(LogError::Unavailable(reason)) if !self.parts.cancel.is_cancelled() => {
                    tracing::warn!(%reason, "the log cannot be read");
                    tokio::time::sleep(waits.next().unwrap_or(self.longest_wait())).await;
                }
                read => return read,
            }
        }
    }

    const fn next_block(&self) -> BlockNumber {
        BlockNumber(self.core.head().block.0.saturating_add(1))
    }

    fn pass_on(&mut self, block: &Arc<Block>) {
        self.parts.feed.publish(Arc::clone(block));
        self.outbox.after(self.core.ledger(), block);
    }

    fn waits(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(self.config.retry_min_ms))
            .with_max_delay(self.longest_wait())
            .with_jitter()
            .without_max_times()
            .build()
    }

    const fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.config.retry_max_ms)
    }
}
