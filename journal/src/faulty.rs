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
}

impl<L: Log> FaultyLog<L> {
    /// One fault for each append, in order.
    pub fn scripted(inner: L, faults: impl IntoIterator<Item = AppendFault>) -> Self {
        let plan = Plan::Script(faults.into_iter().collect());
        Self { inner, plan: Mutex::new(plan), failing_reads: Mutex::new(0) }
    }

    /// Three appends in eight go wrong.
    pub fn seeded(inner: L, seed: u64) -> Self {
        Self { inner, plan: Mutex::new(Plan::Seed(seed)), failing_reads: Mutex::new(0) }
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
        self.inner.read(from, limit).await
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.inner.head().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        self.inner.wait_beyond(known).await;
    }
}
