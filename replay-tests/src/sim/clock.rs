//! The simulated time, as the machines' clocks show it.

use tephra_domain::units::Timestamp;
use tephra_journal::clock::Clock;
use tokio::time::Instant;

/// When every simulation begins: 2025-06-15, in microseconds.
const EPOCH_MICROS: i64 = 1_750_000_000_000_000;

/// One machine's clock: the simulated time, a little off.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    began: Instant,
    skew_micros: i64,
}

impl SimClock {
    /// A clock that is off by this much. Must be called when the simulation begins.
    pub fn new(skew_micros: i64) -> Self {
        Self { began: Instant::now(), skew_micros }
    }

    /// The same time on a machine whose clock is off by this much.
    pub const fn skewed(self, skew_micros: i64) -> Self {
        Self { skew_micros, ..self }
    }

    /// Milliseconds since the simulation began.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp(EPOCH_MICROS.saturating_add(self.skew_micros).saturating_add(elapsed))
    }
}
