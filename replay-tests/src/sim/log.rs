//! The simulated log: one truth, and a port to it for each process, over a network that loses,
//! delays and doubts.
//!
//! What is appended is durable at once, unless the log is one that answers before it has synced: then
//! a power failure takes the end of it. The oracle sees every block before anybody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError, NumberedBytes};
use tokio::sync::watch;

use super::faults::{FaultKind, Faults};
use super::oracle::Oracle;
use super::process::Process;
use super::trace::Trace;

/// How long a node waits for a log that does not answer.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(5);

/// The log itself. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct LogStore {
    blocks: Arc<Mutex<Blocks>>,
    head: watch::Sender<BlockNumber>,
    oracle: Oracle,
}

#[derive(Default)]
struct Blocks {
    all: Vec<Arc<[u8]>>,
    /// How many of them are on the disk, and what says when the others come there; nothing if all are.
    synced: Option<(usize, fastrand::Rng)>,
    /// How often the power has failed: what was on its way to the log before is gone with it.
    failures: u64,
}

impl LogStore {
    /// An empty log, watched by an oracle.
    pub fn new(oracle: Oracle) -> Self {
        Self { blocks: Arc::default(), head: watch::Sender::new(BlockNumber::default()), oracle }
    }

    /// An empty log that acknowledges before it has synced.
    pub fn unsynced(oracle: Oracle, random: fastrand::Rng) -> Self {
        let log = Self::new(oracle);
        log.lock().synced = Some((0, random));
        log
    }

    /// The power fails: what was not synced is gone. Says how many blocks.
    pub fn lose_unsynced(&self) -> usize {
        let (kept, lost) = {
            let mut blocks = self.lock();
            let Blocks { all, synced, failures } = &mut *blocks;
            *failures += 1;
            let synced = synced.as_ref().map_or(all.len(), |(synced, _)| *synced);
            let lost = all.len().saturating_sub(synced);
            all.truncate(synced);
            (all.clone(), lost)
        };
        if lost > 0 {
            self.oracle.log_lost_its_end(&kept);
            self.head.send_replace(number_of(kept.len()));
        }
        lost
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last block.
    pub fn head(&self) -> BlockNumber {
        *self.head.borrow()
    }

    /// Every block.
    pub fn blocks(&self) -> Vec<Arc<[u8]>> {
        self.lock().all.clone()
    }

    /// Compare and append, for somebody.
    fn append(&self, by: &str, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let number = {
            let mut blocks = self.lock();
            let Blocks { all, synced, .. } = &mut *blocks;
            let head = number_of(all.len());
            if head != expected {
                return AppendOutcome::Conflict { head };
            }
            all.push(Arc::clone(&bytes));
            if let Some((synced, random)) = synced
                && random.u8(0..8) == 0
            {
                *synced = all.len();
            }
            number_of(all.len())
        };
        self.oracle.block_appended(number, &bytes, by);
        self.head.send_replace(number);
        AppendOutcome::Appended(number)
    }

    fn read(&self, from: BlockNumber, limit: usize) -> Vec<NumberedBytes> {
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let blocks = self.lock();
        let numbered = (1..).map(BlockNumber).zip(blocks.all.iter().cloned());
        numbered.skip(skip).take(limit).collect()
    }
}

fn number_of(count: usize) -> BlockNumber {
    BlockNumber(u64::try_from(count).unwrap_or(u64::MAX))
}

/// A process's way to the log.
pub struct LogPort {
    store: LogStore,
    process: Process,
    /// Who of the process it is that appends.
    author: Arc<str>,
    faults: Faults,
    trace: Trace,
    random: Mutex<fastrand::Rng>,
    /// Whether the process's node is cut off.
    cut_off: watch::Receiver<bool>,
}

impl LogPort {
    /// A way to the log for a process of a node, and for whoever of it appends.
    pub const fn new(
        store: LogStore,
        process: Process,
        author: Arc<str>,
        faults: Faults,
        trace: Trace,
        random: fastrand::Rng,
        cut_off: watch::Receiver<bool>,
    ) -> Self {
        Self { store, process, author, faults, trace, random: Mutex::new(random), cut_off }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn strikes(&self, kind: FaultKind, one_in: u32) -> bool {
        self.draw(|random| self.faults.strikes(kind, random, one_in))
    }

    fn is_cut_off(&self) -> bool {
        *self.cut_off.borrow()
    }

    async fn append_with_faults(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let unknown = |reason: &str| AppendOutcome::Unknown { reason: reason.to_owned() };
        tokio::time::sleep(Duration::from_millis(self.draw(|random| random.u64(0..4)))).await;
        if self.strikes(FaultKind::AppendSlow, 24) {
            tokio::time::sleep(Duration::from_millis(self.draw(|random| random.u64(10..4_000)))).await;
        }
        if self.is_cut_off() {
            tokio::time::sleep(NO_ANSWER_AFTER).await;
            return unknown("the log cannot be reached");
        }
        if self.strikes(FaultKind::AppendUnknownLost, 24) {
            tokio::time::sleep(NO_ANSWER_AFTER).await;
            return unknown("the append was lost");
        }
        if self.strikes(FaultKind::AppendConflict, 32) {
            return AppendOutcome::Conflict { head: self.store.head() };
        }
        if self.strikes(FaultKind::AppendLate, 32) {
            let (store, trace, by) = (self.store.clone(), self.trace.clone(), Arc::clone(&self.author));
            let late = Duration::from_millis(self.draw(|random| random.u64(100..20_000)));
            let failures = store.lock().failures;
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                if store.lock().failures != failures {
                    return;
                }
                let outcome = store.append(&by, expected, bytes);
                trace.note("log", format_args!("a late append after {}: {outcome:?}", expected.0));
            });
            tokio::time::sleep(NO_ANSWER_AFTER.min(late / 2)).await;
            return unknown("the append is under way");
        }
        let outcome = self.store.append(&self.author, expected, bytes);
        if self.strikes(FaultKind::AppendUnknownWritten, 24) {
            return unknown("the answer was lost");
        }
        tokio::time::sleep(Duration::from_millis(self.draw(|random| random.u64(0..4)))).await;
        outcome
    }
}

#[async_trait]
impl Log for LogPort {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let outcome = self.process.run(self.append_with_faults(expected, bytes)).await;
        self.trace.note(&self.process, format_args!("append after {}: {outcome:?}", expected.0));
        outcome
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        self.process.survive().await;
        if self.is_cut_off() {
            self.process.run(tokio::time::sleep(NO_ANSWER_AFTER)).await;
            return Err(LogError::Unavailable("the log cannot be reached".to_owned()));
        }
        if self.strikes(FaultKind::ReadFails, 64) {
            return Err(LogError::Unavailable("the read failed".to_owned()));
        }
        // short answers are allowed as long as there are no gaps
        let limit = self.draw(|random| random.usize(1..=limit.max(1)));
        Ok(self.store.read(from, limit))
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.process.survive().await;
        if self.is_cut_off() {
            self.process.run(tokio::time::sleep(NO_ANSWER_AFTER)).await;
            return Err(LogError::Unavailable("the log cannot be reached".to_owned()));
        }
        Ok(self.store.head())
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        let mut cut_off = self.cut_off.clone();
        let mut head = self.store.head.subscribe();
        let grown = async {
            loop {
                // an error would mean that the simulation is over
                drop(cut_off.wait_for(|cut_off| !*cut_off).await);
                drop(head.wait_for(|head| *head > known).await);
                if !*cut_off.borrow() {
                    return;
                }
            }
        };
        self.process.run(grown).await;
    }
}
