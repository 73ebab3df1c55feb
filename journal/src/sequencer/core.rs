//! The decisions of the sequencer, without I/O.
//!
//! Commands are decided in batches over a layer on the committed state. A batch becomes one block;
//! while that is being appended nothing else is decided. Acknowledged, the layer is merged and the
//! answers go out; overtaken by another writer, the layer is dropped, and the same submissions may be
//! decided again on what the other wrote.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tephra_domain::actor::Actor;
use tephra_domain::command::{Command, Context};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::decide::{self, Verdict};
use tephra_domain::effect::EffectKey;
use tephra_domain::event::{Commit, Event};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{BackendName, CommandId, Position, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::Operation;
use tephra_domain::rejection::Rejection;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;
use uuid::Uuid;

use super::recent::{RecentCommands, Remembered};
use super::start::{CaughtUp, take_in};
use crate::gateway::{Receipt, Submission, SubmitError};
use crate::hash_chain::ChainHead;
use crate::log::{Block, BlockNumber, LogError, Sequenced};
use crate::wire::block::{encode_commit, seal_block};

/// Commits in a block at most. One sync pays for all of them; more would only make the first ones
/// wait longer for the last.
pub const MAX_BLOCK_COMMITS: usize = 512;

/// A block takes no further commits once it has this many bytes.
pub const FULL_BLOCK_BYTES: usize = 384 << 10;

/// The largest commit. With [`FULL_BLOCK_BYTES`] and a header it stays under 1 MiB, the largest
/// message of a NATS server by default.
pub const MAX_COMMIT_BYTES: usize = 512 << 10;

/// A submission with whatever its answer goes back to.
#[derive(Clone, Debug)]
pub struct Pending<T> {
    /// What is asked.
    pub submission: Submission,
    /// The backend whose executor asks, if it came on a way that is an executor's.
    pub executor: Option<BackendName>,
    /// What the answer goes back to.
    pub ticket: T,
}

impl<T> From<(Submission, T)> for Pending<T> {
    /// Of somebody who is no executor, or is trusted like one.
    fn from((submission, ticket): (Submission, T)) -> Self {
        Self { submission, executor: None, ticket }
    }
}

/// An answer with where it goes.
pub type Answered<T> = (T, Result<Receipt, SubmitError>);

/// What a batch is decided with.
#[derive(Clone, Debug)]
pub struct BatchContext {
    /// The time. Earlier than the last commit's counts as that.
    pub now: Timestamp,
    /// How full each pool is.
    pub pools: Vec<PoolStats>,
    /// A fresh id for the block, if there is one.
    pub block_id: Uuid,
}

/// A block to be appended, and what waits for it.
#[derive(Debug)]
pub struct Batch {
    /// The block that it must follow.
    pub expected: BlockNumber,
    /// What is to be stored.
    pub bytes: Arc<[u8]>,
    /// Tells it from other writers' blocks.
    pub block_id: Uuid,
}

impl Batch {
    /// Where it is to stand.
    pub const fn next(&self) -> BlockNumber {
        BlockNumber(self.expected.0.saturating_add(1))
    }
}

/// What became of a batch of commands.
#[derive(Debug)]
pub enum Decided<T> {
    /// Nothing happened that would have to be durable first.
    Answers(Vec<Answered<T>>),
    /// Append this, and say how that went: [`SequencerCore::acknowledged`] or
    /// [`SequencerCore::overtaken`].
    Append(Batch),
}

struct InFlight<T> {
    block: Block,
    answers: Vec<(Pending<T>, Result<Receipt, SubmitError>)>,
    /// Too large to be decided, whatever becomes of the block.
    refused: Vec<Answered<T>>,
}

/// The state, and at most one block that is being appended.
pub struct SequencerCore<T> {
    ledger: Ledger,
    head: ChainHead,
    recent: RecentCommands,
    in_flight: Option<InFlight<T>>,
}

/// What has been decided of a batch so far.
#[derive(Default)]
struct Draft {
    commits: Vec<Sequenced>,
    body: Vec<u8>,
    by_command: BTreeMap<CommandId, usize>,
}

impl Draft {
    fn is_full(&self) -> bool {
        self.commits.len() >= MAX_BLOCK_COMMITS || self.body.len() >= FULL_BLOCK_BYTES
    }
}

/// A commit would not fit into a block.
struct TooLarge {
    index: usize,
}

impl<T> SequencerCore<T> {
    /// Begins at the end of a log.
    pub fn new(start: CaughtUp) -> Self {
        let CaughtUp { ledger, head, recent, requests: _ } = start;
        Self { ledger, head, recent, in_flight: None }
    }

    /// The state; with a block in flight, as it will be.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The last acknowledged block.
    pub const fn head(&self) -> ChainHead {
        self.head
    }

    /// Decides as many of the waiting commands as fit into a block, and takes them out of
    /// `waiting`. Must not be called while a block is in flight; then it does nothing.
    pub fn decide_batch(&mut self, waiting: &mut VecDeque<Pending<T>>, context: BatchContext) -> Decided<T> {
        if self.in_flight.is_some() {
            return Decided::Answers(Vec::new());
        }
        let mut refused = Vec::new();
        loop {
            self.ledger.begin();
            match self.try_batch(waiting, &context) {
                Ok((draft, results)) => {
                    return self.finish(waiting, draft, results, refused, context.block_id);
                }
                Err(TooLarge { index }) => {
                    // It cannot be taken out of the layer alone: begin again without it.
                    self.ledger.discard();
                    if let Some(Pending { submission, ticket, .. }) = waiting.remove(index) {
                        let reason = format!(
                            "what command {} asks for is more than one commit can hold ({MAX_COMMIT_BYTES} bytes)",
                            submission.id
                        );
                        refused.push((ticket, Err(SubmitError::TooLarge { reason })));
                    }
                }
            }
        }
    }

    /// A block that says that another process decides from here on, and nothing else. Must not be called
    /// while a block is in flight; then there is none.
    pub fn begin_turn(
        &mut self,
        sequencer: &str,
        now: Timestamp,
        command: CommandId,
        block_id: Uuid,
    ) -> Option<Batch> {
        if self.in_flight.is_some() {
            return None;
        }
        let commit = Commit {
            command,
            request: RequestId::new(format!("req-{command}")),
            causation: None,
            actor: Actor::system(),
            time: now.max(self.head.time),
            idempotency: None,
            events: vec![Event::TurnBegan { sequencer: sequencer.into() }],
        };
        let sequenced = Sequenced { position: self.head.position.next(), commit: Arc::new(commit) };
        self.ledger.begin();
        if apply_commit(&mut self.ledger, sequenced.position, &sequenced.commit).is_err() {
            self.ledger.discard();
            return None;
        }
        let mut draft = Draft::default();
        encode_commit(&sequenced, &mut draft.body);
        draft.commits.push(sequenced);
        Some(self.seal(draft, block_id, Vec::new(), Vec::new()))
    }

    fn try_batch(
        &mut self,
        waiting: &VecDeque<Pending<T>>,
        context: &BatchContext,
    ) -> Result<(Draft, Vec<Result<Receipt, SubmitError>>), TooLarge> {
        let now = context.now.max(self.head.time);
        let mut draft = Draft::default();
        let mut results = Vec::new();
        let Some(Pending { submission: first, .. }) = waiting.front() else { return Ok((draft, results)) };
        let mut ctx = Context {
            command: first.id,
            request: first.request.clone(),
            actor: first.actor.clone(),
            now,
            idempotency: None,
            pools: context.pools.clone(),
        };
        for (index, pending) in waiting.iter().enumerate() {
            let submission = &pending.submission;
            if draft.is_full() {
                break;
            }
            ctx.command = submission.id;
            ctx.request.clone_from(&submission.request);
            ctx.actor.clone_from(&submission.actor);
            ctx.idempotency.clone_from(&submission.idempotency);
            results.push(self.decide_one(pending, &ctx, &mut draft, index)?);
        }
        Ok((draft, results))
    }

    fn decide_one(
        &mut self,
        pending: &Pending<T>,
        ctx: &Context,
        draft: &mut Draft,
        index: usize,
    ) -> Result<Result<Receipt, SubmitError>, TooLarge> {
        let submission = &pending.submission;
        if let Some(backend) = &pending.executor
            && self.is_of_another(backend, &submission.command)
        {
            return Ok(Err(Rejection::PolicyNotAuthorized { action: "executor:report" }.into()));
        }
        let in_draft = draft.by_command.get(&submission.id).and_then(|at| draft.commits.get(*at));
        if let Some(done) = in_draft {
            return Ok(Ok(accepted(done)));
        }
        match self.recent.get(submission.id) {
            Some(Remembered::Whole(done)) => return Ok(Ok(accepted(done))),
            Some(Remembered::At(position)) => return Ok(Ok(Receipt::Repeated { position })),
            None => {}
        }
        Ok(match decide::submit(&mut self.ledger, &submission.command, ctx) {
            Verdict::Accepted { position, commit } => {
                let sequenced = Sequenced { position, commit: Arc::new(commit) };
                let before = draft.body.len();
                encode_commit(&sequenced, &mut draft.body);
                if draft.body.len().saturating_sub(before) > MAX_COMMIT_BYTES {
                    return Err(TooLarge { index });
                }
                let receipt = accepted(&sequenced);
                draft.by_command.insert(submission.id, draft.commits.len());
                draft.commits.push(sequenced);
                Ok(receipt)
            }
            Verdict::NothingToDo => Ok(Receipt::NothingToDo { position: self.ledger.position() }),
            Verdict::Repeated { position } => Ok(Receipt::Repeated { position }),
            Verdict::Rejected(rejection) => Err(SubmitError::Rejected(rejection)),
        })
    }

    /// Whether this is about an attempt that the executor of another backend is at.
    fn is_of_another(&self, backend: &BackendName, command: &Command) -> bool {
        let (Command::ReportOutcome { key, .. } | Command::CheckAttempt { key }) = command else {
            return false;
        };
        let due = match *key {
            EffectKey::Step { operation, .. } => {
                self.ledger.operations.get(&operation).and_then(Operation::due)
            }
            EffectKey::Debt { debt, .. } => self.ledger.debts.get(&debt).and_then(CleanupDebt::due),
        };
        due.is_some_and(|due| due.key == *key && due.pool.backend != *backend)
    }

    fn finish(
        &mut self,
        waiting: &mut VecDeque<Pending<T>>,
        draft: Draft,
        results: Vec<Result<Receipt, SubmitError>>,
        refused: Vec<Answered<T>>,
        block_id: Uuid,
    ) -> Decided<T> {
        let decided = waiting.drain(..results.len()).zip(results);
        if draft.commits.is_empty() {
            let answers = decided.map(|(pending, result)| (pending.ticket, result));
            let answers = refused.into_iter().chain(answers).collect();
            self.ledger.discard();
            return Decided::Answers(answers);
        }
        let answers = decided.collect();
        Decided::Append(self.seal(draft, block_id, answers, refused))
    }

    fn seal(
        &mut self,
        draft: Draft,
        block_id: Uuid,
        answers: Vec<(Pending<T>, Result<Receipt, SubmitError>)>,
        refused: Vec<Answered<T>>,
    ) -> Batch {
        let encoded = seal_block(block_id, self.head.hash, draft.commits.len(), &draft.body);
        let block = Block {
            number: BlockNumber(self.head.block.0.saturating_add(1)),
            id: block_id,
            previous_hash: self.head.hash,
            hash: encoded.hash,
            commits: draft.commits,
        };
        self.in_flight = Some(InFlight { block, answers, refused });
        Batch { expected: self.head.block, bytes: encoded.bytes, block_id }
    }

    /// The block in flight is durable: its commits are the state now, and these are the answers.
    /// Nothing if there is none.
    pub fn acknowledged(&mut self) -> Option<(Arc<Block>, Vec<Answered<T>>)> {
        let InFlight { block, answers, refused } = self.in_flight.take()?;
        self.ledger.merge();
        for sequenced in &block.commits {
            self.recent.remember(sequenced);
        }
        let last = block.commits.last();
        self.head = ChainHead {
            block: block.number,
            position: self.ledger.position(),
            hash: block.hash,
            time: last.map_or(self.head.time, |last| last.commit.time),
        };
        let answers = answers.into_iter().map(|(pending, result)| (pending.ticket, result));
        Some((Arc::new(block), refused.into_iter().chain(answers).collect()))
    }

    /// The block in flight is not and will not be in the log: its commits never happened. The same
    /// submissions go back to the front of `waiting`, to be decided again after
    /// [`SequencerCore::take_in`] of what is in the log instead. Returns the answers that do not
    /// depend on it.
    pub fn overtaken(&mut self, waiting: &mut VecDeque<Pending<T>>) -> Vec<Answered<T>> {
        let Some(InFlight { answers, refused, .. }) = self.in_flight.take() else { return Vec::new() };
        self.ledger.discard();
        for (pending, _) in answers.into_iter().rev() {
            waiting.push_front(pending);
        }
        refused
    }

    /// Takes in a block that another writer appended.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if it does not follow. The state is unusable then.
    pub fn take_in(&mut self, number: BlockNumber, bytes: &[u8]) -> Result<Arc<Block>, LogError> {
        if self.in_flight.is_some() {
            let reason = "it was read while a block of this sequencer was in flight".to_owned();
            return Err(LogError::Corrupt { number, reason });
        }
        let block = self.head.follow(number, bytes)?;
        take_in(&mut self.ledger, &block)?;
        for sequenced in &block.commits {
            self.recent.remember(sequenced);
        }
        Ok(Arc::new(block))
    }

    /// Gives everything up that waits for the block in flight, without an answer from the ledger.
    pub fn abandon(&mut self, reason: &str) -> Vec<Answered<T>> {
        let Some(InFlight { answers, refused, .. }) = self.in_flight.take() else { return Vec::new() };
        self.ledger.discard();
        let error = || SubmitError::Unavailable { reason: reason.to_owned() };
        let answers = answers.into_iter().map(|(pending, _)| (pending.ticket, Err(error())));
        refused.into_iter().chain(answers).collect()
    }

    /// The last commit, the one in flight included.
    pub fn position(&self) -> Position {
        self.ledger.position()
    }
}

fn accepted(sequenced: &Sequenced) -> Receipt {
    Receipt::Accepted { position: sequenced.position, commit: Arc::clone(&sequenced.commit) }
}
