//! The oracle: sees every block as it is appended and every answer as it is given, and says which
//! invariant is broken first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tephra_domain::command::Command;
use tephra_domain::event::{Commit, Event, IdempotencyScope};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{BackendName, CommandId, Position, VolumeId};
use tephra_domain::ledger::{IDEMPOTENCY_WINDOW_MS, Ledger};
use tephra_domain::quota::Usage;
use tephra_domain::rejection::Rejection;
use tephra_domain::volume::VolumeEvent;
use tephra_executors::backend::memory::MemoryBackend;
use tephra_journal::gateway::{Receipt, Submission, SubmitError};
use tephra_journal::hash_chain::ChainHead;
use tephra_journal::log::{BlockNumber, Sequenced};
use tephra_journal::wire::state::state_hash;

use super::contents::Contents;
use super::coverage::Coverage;
use super::exports::{self, Exports};
use super::invariants::{self, Invariant, Violation};
use super::trace::Trace;

/// The oracle. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Oracle {
    inner: Arc<Mutex<Inner>>,
    trace: Trace,
}

struct Inner {
    head: ChainHead,
    ledger: Ledger,
    /// Whose turn it is.
    turn_of: Box<str>,
    commits: Vec<Arc<Commit>>,
    by_command: BTreeMap<CommandId, Position>,
    by_key: BTreeMap<IdempotencyScope, Vec<Position>>,
    rejected: BTreeSet<CommandId>,
    asked: BTreeMap<CommandId, Position>,
    /// Asked before the log lost its end: whatever they are told may be about what is gone.
    asked_before_loss: BTreeSet<CommandId>,
    /// Whether the log has all that was appended. If not, backends hold what nobody knows of any more.
    is_whole: bool,
    hashes: BTreeMap<BlockNumber, [u8; 32]>,
    contents: Contents,
    exports: BTreeMap<BackendName, Exports>,
    /// Volumes that grew while somebody had them, where an export goes on showing the old size.
    unrefreshed: BTreeSet<VolumeId>,
    coverage: Coverage,
    violation: Option<Violation>,
}

impl Oracle {
    /// An oracle that knows of nothing yet.
    pub fn new(trace: Trace) -> Self {
        let inner = Inner {
            head: ChainHead::default(),
            ledger: Ledger::default(),
            turn_of: Box::default(),
            commits: Vec::new(),
            by_command: BTreeMap::new(),
            by_key: BTreeMap::new(),
            rejected: BTreeSet::new(),
            asked: BTreeMap::new(),
            asked_before_loss: BTreeSet::new(),
            is_whole: true,
            hashes: BTreeMap::new(),
            contents: Contents::default(),
            exports: BTreeMap::new(),
            unrefreshed: BTreeSet::new(),
            coverage: Coverage::default(),
            violation: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), trace }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it of a backend's storage.
    pub fn add_host(&self, name: BackendName, store: MemoryBackend, exports: Exports) {
        let mut inner = self.lock();
        inner.exports.insert(name.clone(), exports);
        inner.contents.add_host(name, store);
    }

    /// The first invariant that was broken.
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Notes a broken invariant; the first one counts.
    pub fn found(&self, violation: Violation) {
        let mut inner = self.lock();
        if inner.violation.is_none() {
            self.trace.note("oracle", format_args!("{violation}"));
            inner.violation = Some(violation);
        }
    }

    fn check(&self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.found(violation);
        }
    }

    /// Looks at the state at the end of the log.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock().ledger)
    }

    /// Where the log ends.
    pub fn head(&self) -> ChainHead {
        self.lock().head
    }

    /// What the run has reached so far.
    pub fn coverage(&self) -> Coverage {
        self.lock().coverage.clone()
    }

    /// A user writes into a volume, if nothing is at work on it. Says where.
    pub fn write(&self, volume: VolumeId, random: &mut fastrand::Rng) -> Option<u64> {
        let inner = &mut *self.lock();
        if !inner.is_whole {
            return None;
        }
        inner.contents.write(&inner.ledger, volume, random)
    }

    /// Whether the log has all that was ever appended.
    pub fn is_whole(&self) -> bool {
        self.lock().is_whole
    }

    /// The log ends with these blocks now, though more had been acknowledged. What is gone is forgotten;
    /// everything that does not rest on it must go on holding.
    pub fn log_lost_its_end(&self, kept: &[Arc<[u8]>]) {
        let result = self.lock().forget_after(kept);
        self.check(result);
    }

    /// A block has become part of the log.
    pub fn block_appended(&self, number: BlockNumber, bytes: &[u8], by: &str) {
        let result = self.lock().take_block(number, bytes, by, &self.trace);
        self.check(result);
    }

    /// Somebody asks something, for the first time or again.
    pub fn asked(&self, submission: &Submission) {
        let inner = &mut *self.lock();
        let position = inner.ledger.position();
        inner.asked.entry(submission.id).or_insert(position);
    }

    /// Somebody was answered.
    pub fn answered(&self, submission: &Submission, answer: &Result<Receipt, SubmitError>) {
        if self.lock().asked_before_loss.contains(&submission.id) {
            return;
        }
        let result = match answer {
            Ok(receipt) => self.lock().check_receipt(submission, receipt),
            Err(SubmitError::Rejected(rejection)) => self.lock().check_rejection(submission, rejection),
            Err(SubmitError::Unavailable { .. } | SubmitError::TooLarge { .. }) => Ok(()),
        };
        self.check(result);
    }

    /// Compares views with the replay up to the block where they stand.
    pub fn check_views(&self, whose: &str, at: BlockNumber, hash: [u8; 32]) {
        let expected = self.lock().hashes.get(&at).copied();
        if at != BlockNumber::default() && expected != Some(hash) {
            let found = format!("the views of {whose} at block {} are not the replay", at.0);
            self.found(Violation { invariant: Invariant::ViewsAreReplay, found });
        }
    }

    /// Whether nothing is at work any more. If not, says on what.
    pub fn unfinished(&self) -> Option<String> {
        let inner = self.lock();
        let operations = inner.ledger.operations.sorted();
        if let Some((id, operation)) = operations.first() {
            let name = operation.kind.name();
            return Some(format!("{} operations, among them {id} ({name})", operations.len()));
        }
        let debts = inner.ledger.debts.sorted();
        let owed = debts.iter().find(|(_, debt)| !debt.held);
        owed.map(|(id, debt)| format!("debt {id} over {} on {}: {}", debt.object, debt.pool, debt.reason))
    }

    /// What must hold once nothing is at work any more.
    pub fn check_at_rest(&self) {
        let result = {
            let inner = self.lock();
            if !inner.is_whole {
                return;
            }
            let available = inner.contents.check_available(&inner.ledger);
            available
                .and_then(|()| inner.contents.check_nothing_is_orphaned(&inner.ledger))
                .and_then(|()| inner.contents.check_images())
                .and_then(|()| exports::check_at_rest(&inner.ledger, &inner.exports, &inner.unrefreshed))
        };
        self.check(result);
    }
}

fn violation(invariant: Invariant, found: String) -> Violation {
    Violation { invariant, found }
}

fn illegal(error: &dyn std::error::Error) -> Violation {
    violation(Invariant::HistoryIsLegal, error.to_string())
}

impl Inner {
    fn take_block(
        &mut self,
        number: BlockNumber,
        bytes: &[u8],
        by: &str,
        trace: &Trace,
    ) -> Result<(), Violation> {
        let block = self.head.follow(number, bytes).map_err(|error| illegal(&error))?;
        for Sequenced { position, commit } in &block.commits {
            for event in &commit.events {
                trace.note("ledger", format_args!("{position} {} {}", event.name(), subject(event)));
            }
            self.take_commit(*position, commit)?;
        }
        if &*self.turn_of != by {
            let found = format!("{by} appended block {} in the turn of {}", number.0, self.turn_of);
            return Err(violation(Invariant::TurnsAreWhole, found));
        }
        invariants::check(&self.ledger)?;
        if self.is_whole {
            self.contents.check_available(&self.ledger)?;
        }
        self.hashes.insert(number, state_hash(&self.ledger));
        Ok(())
    }

    fn take_commit(&mut self, position: Position, commit: &Arc<Commit>) -> Result<(), Violation> {
        if let Some(earlier) = self.by_command.insert(commit.command, position) {
            let found = format!("command {} was done at {earlier} and at {position}", commit.command);
            return Err(violation(Invariant::AcknowledgedIsDurable, found));
        }
        if self.rejected.contains(&commit.command) {
            let found = format!("command {} was rejected, and done at {position}", commit.command);
            return Err(violation(Invariant::RejectionHasNoEffect, found));
        }
        if let Some(idempotency) = &commit.idempotency {
            let scope = (commit.actor.project.clone(), idempotency.key.clone());
            let uses = self.by_key.entry(scope).or_default();
            let last = uses.last().and_then(|last| commit_at(&self.commits, *last));
            let fresh = |last: &Arc<Commit>| commit.time < last.time.plus_ms(IDEMPOTENCY_WINDOW_MS);
            if last.is_some_and(fresh) {
                let found = format!("{} was used at {uses:?} and at {position}", idempotency.key);
                return Err(violation(Invariant::KeysAreUnique, found));
            }
            uses.push(position);
        }
        invariants::authority_holds(&self.ledger, commit)?;
        let before = self.ledger.clone();
        let used: BTreeMap<_, Usage> =
            before.usage.sorted().into_iter().map(|(id, row)| (id.clone(), row.clone())).collect();
        apply_commit(&mut self.ledger, position, commit).map_err(|illegal| {
            violation(Invariant::HistoryIsLegal, format!("commit {position}: {illegal}"))
        })?;
        self.commits.push(Arc::clone(commit));
        self.note_turn(commit);
        invariants::limits_hold(&used, &self.ledger)?;
        for event in &commit.events {
            if self.is_whole {
                self.contents.follow(&before, &self.ledger, event);
                self.unrefreshed.extend(exports::unrefreshed(&before, event));
            }
        }
        self.coverage.follow(&before, commit);
        Ok(())
    }

    fn forget_after(&mut self, kept: &[Arc<[u8]>]) -> Result<(), Violation> {
        self.is_whole = false;
        (self.head, self.ledger, self.turn_of) = (ChainHead::default(), Ledger::default(), Box::default());
        for (number, bytes) in (1..).map(BlockNumber).zip(kept) {
            let block = self.head.follow(number, bytes).map_err(|error| illegal(&error))?;
            for Sequenced { position, commit } in &block.commits {
                apply_commit(&mut self.ledger, *position, commit).map_err(|error| illegal(&error))?;
                self.note_turn(commit);
            }
        }
        let (head, end) = (self.head.block, self.ledger.position());
        self.commits.truncate(usize::try_from(end.0).unwrap_or(usize::MAX));
        self.by_command.retain(|_, position| *position <= end);
        self.by_key.values_mut().for_each(|uses| uses.retain(|position| *position <= end));
        self.hashes.retain(|number, _| *number <= head);
        // Who was told no may ask again, and be told otherwise on what is left.
        self.rejected.clear();
        self.asked_before_loss.extend(std::mem::take(&mut self.asked).into_keys());
        Ok(())
    }

    fn note_turn(&mut self, commit: &Commit) {
        for event in &commit.events {
            if let Event::TurnBegan { sequencer } = event {
                self.turn_of.clone_from(sequencer);
            }
        }
    }

    fn check_receipt(&self, submission: &Submission, receipt: &Receipt) -> Result<(), Violation> {
        let asked = self.asked.get(&submission.id).copied().unwrap_or_default();
        let lost = |found| Err(violation(Invariant::AcknowledgedIsDurable, found));
        match receipt {
            Receipt::Accepted { position, commit } => {
                let in_log = commit_at(&self.commits, *position);
                if in_log.is_none_or(|in_log| in_log != commit) || commit.command != submission.id {
                    return lost(format!("command {} was accepted, and is not at {position}", submission.id));
                }
            }
            Receipt::Repeated { position } => {
                let known = commit_at(&self.commits, *position);
                let same = |commit: &&Arc<Commit>| {
                    commit.idempotency == submission.idempotency
                        && commit.actor.project == submission.actor.project
                };
                if submission.idempotency.is_none() || known.filter(same).is_none() {
                    return lost(format!("command {} repeats nothing at {position}", submission.id));
                }
            }
            Receipt::NothingToDo { position } => {
                if *position > self.ledger.position() {
                    return lost(format!("nothing to do for {} as of {position}", submission.id));
                }
                if *position < asked {
                    let found = format!(
                        "{:?} was asked at {asked}, the answer is as of {position}",
                        submission.command
                    );
                    return Err(violation(Invariant::AnswersAreFresh, found));
                }
            }
        }
        Ok(())
    }

    fn check_rejection(&mut self, submission: &Submission, rejection: &Rejection) -> Result<(), Violation> {
        self.coverage.rejected(rejection);
        if let Some(position) = self.by_command.get(&submission.id) {
            let found =
                format!("command {} is rejected ({rejection}), and was done at {position}", submission.id);
            return Err(violation(Invariant::RejectionHasNoEffect, found));
        }
        // Orders of a history that is gone are still on their way, and name attempts that come again.
        let may_come_again = !self.is_whole && matches!(submission.command, Command::ReportOutcome { .. });
        if !may_come_again {
            self.rejected.insert(submission.id);
        }
        let asked = self.asked.get(&submission.id).copied().unwrap_or_default();
        self.check_justified(submission, rejection, asked)
    }

    /// What is said not to be there must not have been there, or must not be there now.
    fn check_justified(
        &self,
        submission: &Submission,
        rejection: &Rejection,
        asked: Position,
    ) -> Result<(), Violation> {
        let unjustified = || {
            let found = format!("{:?} was asked at {asked} and rejected: {rejection}", submission.command);
            Err(violation(Invariant::RejectionHasNoEffect, found))
        };
        if let Rejection::VolumeNotFound { volume } = rejection
            && let Some(row) = self.ledger.volumes.get(volume)
            && submission.actor.can_see(&row.project)
            && self.was_there_since(asked, *volume)
        {
            return unjustified();
        }
        if let (Rejection::StaleReport, Command::CheckAttempt { key }) = (rejection, &submission.command) {
            let due = self
                .ledger
                .operations
                .get(&key.operation())
                .and_then(tephra_domain::operation::Operation::due);
            let asked_at = usize::try_from(asked.0).unwrap_or(usize::MAX);
            let unmoved = asked_at >= self.commits.len();
            if unmoved && due.is_some_and(|due| due.key == *key) {
                return unjustified();
            }
        }
        Ok(())
    }

    /// Whether a volume that is there now was there all the while: the same id may be used again.
    fn was_there_since(&self, position: Position, volume: VolumeId) -> bool {
        let count = usize::try_from(position.0).unwrap_or(usize::MAX);
        self.commits.iter().skip(count).flat_map(|commit| &commit.events).all(|event| match event {
            Event::Volume(id, VolumeEvent::CreateAccepted(_) | VolumeEvent::ManageAccepted { .. }) => {
                *id != volume
            }
            Event::Volume(..)
            | Event::Snapshot(..)
            | Event::VolumeType(..)
            | Event::Quota(_)
            | Event::Backend(..)
            | Event::Operation(..)
            | Event::Debt(..)
            | Event::TurnBegan { .. } => true,
        })
    }
}

fn commit_at(commits: &[Arc<Commit>], position: Position) -> Option<&Arc<Commit>> {
    let index = usize::try_from(position.0).ok()?.checked_sub(1)?;
    commits.get(index)
}

/// What an event is about, for the trace.
fn subject(event: &Event) -> String {
    use tephra_domain::operation::OperationEvent;
    match event {
        Event::Volume(id, _) => id.to_string(),
        Event::Snapshot(id, _) => id.to_string(),
        Event::VolumeType(id, _) => id.to_string(),
        Event::Quota(_) => String::new(),
        Event::Backend(name, _) => name.to_string(),
        Event::Operation(id, OperationEvent::Opened { kind, .. }) => format!("{id} {}", kind.name()),
        Event::Operation(
            id,
            OperationEvent::AttemptFailed { failure, .. }
            | OperationEvent::StepWaived { failure, .. }
            | OperationEvent::UndoStarted { failure, .. }
            | OperationEvent::UndoWaived { failure, .. },
        ) => format!("{id}: {failure}"),
        Event::Operation(
            id,
            OperationEvent::StepCompleted { .. }
            | OperationEvent::StepUndone { .. }
            | OperationEvent::Rescheduled { .. }
            | OperationEvent::Closed { .. },
        ) => id.to_string(),
        Event::Debt(id, _) => id.to_string(),
        Event::TurnBegan { sequencer } => sequencer.to_string(),
    }
}
