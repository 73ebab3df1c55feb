//! The way of commands to whichever sequencers run, with requests and answers that are lost or late.
//!
//! As over NATS, an asker waits for each attempt a while and asks again with the same command id,
//! and a sequencer does not go on with what nobody waits for any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
use tephra_journal::sequencer::SequencerHandle;
use tokio::sync::oneshot;

use super::faults::{FaultKind, Faults};
use super::oracle::Oracle;
use super::process::Process;
use super::trace::Trace;

/// How long an asker waits for one attempt.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long an asker goes on asking.
const TOTAL: Duration = Duration::from_secs(15);
/// How long a sequencer goes on with an attempt: less than the asker waits for it.
const SERVED: Duration = Duration::from_secs(3);

/// A sequencer that runs.
#[derive(Clone)]
pub struct Turn {
    /// Counts up.
    pub number: u64,
    /// The node's process.
    pub process: Process,
    /// The way to it.
    pub handle: SequencerHandle,
}

/// The sequencers that run, the latest last. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Sequencers {
    running: Arc<Mutex<Vec<Turn>>>,
    /// Who has the lease.
    lease: Arc<AtomicU64>,
}

impl Sequencers {
    fn lock(&self) -> MutexGuard<'_, Vec<Turn>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lease to a turn.
    pub fn give_lease(&self, number: u64) {
        self.lease.store(number, Ordering::Relaxed);
    }

    /// Whether a turn has the lease.
    pub fn has_lease(&self, number: u64) -> bool {
        self.lease.load(Ordering::Relaxed) == number
    }

    /// One has started.
    pub fn add(&self, turn: Turn) {
        self.lock().push(turn);
    }

    /// One has ended.
    pub fn remove(&self, number: u64) {
        self.lock().retain(|turn| turn.number != number);
    }

    /// Those whose process lives, the latest last.
    pub fn alive(&self) -> Vec<Turn> {
        let mut running = self.lock();
        running.retain(|turn| turn.process.lives());
        running.clone()
    }
}

/// An asker's way to the sequencers.
#[derive(Clone)]
pub struct GatewayPort {
    sequencers: Sequencers,
    process: Process,
    faults: Faults,
    trace: Trace,
    oracle: Oracle,
    random: Arc<Mutex<fastrand::Rng>>,
}

impl GatewayPort {
    /// A way for this process.
    pub fn new(
        sequencers: Sequencers,
        process: Process,
        faults: Faults,
        trace: Trace,
        oracle: Oracle,
        random: fastrand::Rng,
    ) -> Self {
        Self { sequencers, process, faults, trace, oracle, random: Arc::new(Mutex::new(random)) }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn strikes(&self, kind: FaultKind, one_in: u32) -> bool {
        self.draw(|random| self.faults.strikes(kind, random, one_in))
    }

    fn sequencer(&self) -> Option<Turn> {
        let alive = self.sequencers.alive();
        if alive.len() > 1 && self.strikes(FaultKind::StaleSequencer, 3) {
            return self.draw(|random| random.choice(alive));
        }
        alive.last().cloned()
    }

    async fn attempt(&self, submission: &Submission) -> Result<Receipt, SubmitError> {
        let unavailable = |reason: &str| Err(SubmitError::Unavailable { reason: reason.to_owned() });
        let ms = if self.strikes(FaultKind::RequestLate, 24) {
            self.draw(|random| random.u64(5..900))
        } else {
            self.draw(|random| random.u64(0..3))
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        if self.strikes(FaultKind::RequestLost, 24) {
            tokio::time::sleep(ATTEMPT).await;
            return unavailable("the sequencer does not answer");
        }
        let Some(turn) = self.sequencer() else { return unavailable("there is no sequencer") };
        let (reply, answer) = oneshot::channel();
        let asked = submission.clone();
        tokio::spawn(async move {
            let Turn { process, handle, .. } = turn;
            let served = process.run(tokio::time::timeout(SERVED, handle.submit(asked))).await;
            if let Ok(answer) = served {
                // whoever asked may have gone away
                drop(reply.send(answer));
            }
        });
        let lost = self.strikes(FaultKind::ReplyLost, 24);
        match tokio::time::timeout(ATTEMPT, answer).await {
            Ok(Ok(answer)) if !lost => answer,
            Ok(Ok(_)) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                unavailable("the answer was lost")
            }
            Ok(Err(_)) | Err(_) => unavailable("the sequencer does not answer"),
        }
    }

    async fn ask(&self, submission: &Submission) -> Result<Receipt, SubmitError> {
        let until = tokio::time::Instant::now() + TOTAL;
        loop {
            let answer = self.attempt(submission).await;
            let again = matches!(answer, Err(SubmitError::Unavailable { .. }));
            if !again || tokio::time::Instant::now() >= until {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(self.draw(|random| random.u64(50..500)))).await;
        }
    }
}

#[async_trait]
impl CommandGateway for GatewayPort {
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.process.survive().await;
        self.oracle.asked(&submission);
        let answer = self.process.run(self.ask(&submission)).await;
        self.oracle.answered(&submission, &answer);
        match &answer {
            Ok(Receipt::Accepted { position, .. }) => {
                self.trace.note(&self.process, format_args!("{} accepted at {position}", submission.id));
            }
            Ok(Receipt::Repeated { position }) => {
                self.trace.note(&self.process, format_args!("{} repeats {position}", submission.id));
            }
            Ok(Receipt::NothingToDo { position }) => {
                self.trace.note(&self.process, format_args!("{} nothing to do, {position}", submission.id));
            }
            Err(error) => self.trace.note(&self.process, format_args!("{} {error}", submission.id)),
        }
        answer
    }
}
