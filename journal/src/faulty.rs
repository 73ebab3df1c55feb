//! A fake for tests: a log that answers as a network does, with conflicts, lost answers and delays.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::log::{AppendOutcome, BlockNumber, Log, LogError, NumberedBytes};

/// What happens to one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// Nothing unusual.
    None,
    /// A conflict is reported though nobody else wrote.
    Conflict,
    /// It is written, and the answer is lost.
    UnknownWithEffect,
    /// It is not written, and no answer comes.
    UnknownWithoutEffect,
    /// It takes this long.
    Delay(Duration),
}

enum Plan {
    Script(VecDeque<AppendFault>),
    Seed(u64),
}

/// Injects faults into the appends of another log: by a script, after which nothing more goes
/// wrong, or by a seed, for ever. The same seed gives the same faults.
pub struct FaultyLog<L> {
    inner: L,
    plan: Mutex<Plan>,
    failing_reads: Mutex<u32>,
    lagging: Mutex<Lagging>,
}

/// Of a log whose new leader has not taken in the last block yet.
#[derive(Clone, Copy, Default)]
struct Lagging {
    /// Reads that do not find it.
    reads: u32,
    /// For how long it may be missing.
    longest: Duration,
}

impl<L: Log> FaultyLog<L> {
    /// One fault for each append, in order.
    pub fn scripted(inner: L, faults: impl IntoIterator<Item = AppendFault>) -> Self {
        let plan = Plan::Script(faults.into_iter().collect());
        Self { inner, plan: Mutex::new(plan), failing_reads: Mutex::default(), lagging: Mutex::default() }
    }

    /// Three appends in eight go wrong.
    pub fn seeded(inner: L, seed: u64) -> Self {
        let plan = Mutex::new(Plan::Seed(seed));
        Self { inner, plan, failing_reads: Mutex::default(), lagging: Mutex::default() }
    }

    /// The log without the faults.
    pub const fn inner(&self) -> &L {
        &self.inner
    }

    /// Adds a fault to the script's end.
    pub fn push(&self, fault: AppendFault) {
        match &mut *self.plan.lock().unwrap_or_else(PoisonError::into_inner) {
            Plan::Script(script) => script.push_back(fault),
            Plan::Seed(_) => {}
        }
    }

    /// Lets that many reads fail before one works again.
    pub fn fail_reads(&self, count: u32) {
        *self.failing_reads.lock().unwrap_or_else(PoisonError::into_inner) = count;
    }

    /// From now on the log may lag for `longest`, and that many reads do not find its last block.
    pub fn lag_for(&self, reads: u32, longest: Duration) {
        *self.lagging.lock().unwrap_or_else(PoisonError::into_inner) = Lagging { reads, longest };
    }

    fn lagging(&self) -> Lagging {
        *self.lagging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the log ends for whoever reads it now.
    async fn seen_head(&self) -> Result<BlockNumber, LogError> {
        let head = self.inner.head().await?;
        Ok(if self.lagging().reads == 0 { head } else { BlockNumber(head.0.saturating_sub(1)) })
    }

    fn next_fault(&self) -> AppendFault {
        match &mut *self.plan.lock().unwrap_or_else(PoisonError::into_inner) {
            Plan::Script(script) => script.pop_front().unwrap_or(AppendFault::None),
            Plan::Seed(state) => {
                // SplitMix64: small, and the same on every machine.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut draw = *state;
                draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                match (draw ^ (draw >> 31)) % 8 {
                    0 => AppendFault::Conflict,
                    1 => AppendFault::UnknownWithEffect,
                    2 => AppendFault::UnknownWithoutEffect,
                    _ => AppendFault::None,
                }
            }
        }
    }
}

#[async_trait]
impl<L: Log> Log for FaultyLog<L> {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        let no_answer = || AppendOutcome::Unknown { reason: "the answer was lost on purpose".to_owned() };
        match self.next_fault() {
            AppendFault::None => self.inner.append(expected, bytes).await,
            AppendFault::Conflict => match self.inner.head().await {
                Ok(head) => AppendOutcome::Conflict { head },
                Err(error) => AppendOutcome::Unknown { reason: error.to_string() },
            },
            AppendFault::UnknownWithEffect => {
                drop(self.inner.append(expected, bytes).await);
                no_answer()
            }
            AppendFault::UnknownWithoutEffect => no_answer(),
            AppendFault::Delay(time) => {
                tokio::time::sleep(time).await;
                self.inner.append(expected, bytes).await
            }
        }
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<NumberedBytes>, LogError> {
        {
            let mut failing = self.failing_reads.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left) = failing.checked_sub(1) {
                *failing = left;
                return Err(LogError::Unavailable("the read failed on purpose".to_owned()));
            }
        }
        let end = self.seen_head().await?;
        let mut blocks = self.inner.read(from, limit).await?;
        if self.lagging().reads > 0 {
            blocks.retain(|(number, _)| *number <= end);
            let mut lagging = self.lagging.lock().unwrap_or_else(PoisonError::into_inner);
            lagging.reads = lagging.reads.saturating_sub(1);
        }
        Ok(blocks)
    }

    fn lag(&self) -> Duration {
        self.lagging().longest
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.seen_head().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        self.inner.wait_beyond(known).await;
    }
}
