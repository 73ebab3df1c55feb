//! Where the time comes from.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tephra_domain::units::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock, except that it never goes backwards: the order of times in the ledger is
/// the order of its commits, whatever happens to the machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: AtomicI64,
}

impl SystemClock {
    /// A clock that never says less than `floor`: the time of the last commit, after a restart.
    pub const fn not_before(floor: Timestamp) -> Self {
        Self { latest: AtomicI64::new(floor.0) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

/// A clock that goes only when it is told: for tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    micros: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub const fn at(start: Timestamp) -> Self {
        Self { micros: AtomicI64::new(start.0) }
    }

    /// Moves it on.
    pub fn advance_ms(&self, ms: i64) {
        self.micros.fetch_add(ms.saturating_mul(1000), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.micros.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, ManualClock, SystemClock};
    use tephra_domain::units::Timestamp;

    #[test]
    fn the_system_clock_stands_still_rather_than_go_backwards() {
        let future = Timestamp(i64::MAX / 2);
        let clock = SystemClock::not_before(future);
        assert_eq!(clock.now(), future);
    }

    #[test]
    fn a_manual_clock_goes_only_when_told() {
        let clock = ManualClock::at(Timestamp(5));
        assert_eq!(clock.now(), Timestamp(5));
        clock.advance_ms(2);
        assert_eq!(clock.now(), Timestamp(2005));
    }
}
