//! Until when an order is surely ours.
//!
//! * The server counts a lease from when it delivers an order, or gets a sign of life. Both are later than
//!   what we sent to have it, so we count from there.
//! * A sign of life is answered whoever has the order by then, and keeps it with them. So an answer
//!   counts only if it is here before the lease that it renews is over: until then nobody else had it.
//! * Servers tell each other of signs of life after answering. A leader that dies in between loses the
//!   latest one, so the last part of each lease is not counted on ([`UNCOUNTED_PARTS`]).
//! * The clock goes on while the host is suspended. That of a virtual machine may stand still while its
//!   host holds it: that is for the ledger to be asked, before anything is changed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::work_queue::Lease;

/// One of so many parts of a lease is not counted on. Signs of life come at least as often.
const UNCOUNTED_PARTS: u32 = 5;

/// How long this host has been running, suspended or not.
pub fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The lease of one delivery.
pub struct OrderLease {
    /// What of the server's lease is counted on.
    length: Duration,
    until: Mutex<Duration>,
    clock: fn() -> Duration,
}

impl OrderLease {
    /// Of an order that was asked for then.
    pub fn new(lease: Duration, asked: Duration) -> Self {
        Self::by(uptime, lease, asked)
    }

    fn by(clock: fn() -> Duration, lease: Duration, asked: Duration) -> Self {
        let length = lease.saturating_sub(lease / UNCOUNTED_PARTS);
        Self { length, until: Mutex::new(asked.saturating_add(length)), clock }
    }

    /// A sign of life that was sent then has been answered.
    pub fn renew(&self, sent: Duration) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if (self.clock)() < *until {
            *until = sent.saturating_add(self.length).max(*until);
        }
    }
}

impl Lease for OrderLease {
    fn left(&self) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.checked_sub((self.clock)()).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 15 seconds, of which 12 count, of an order that was asked for at second 100.
    fn lease() -> OrderLease {
        OrderLease::by(|| seconds(NOW.get()), seconds(15), seconds(100))
    }

    fn left_at(lease: &OrderLease, now: u64) -> Option<Duration> {
        NOW.set(now);
        lease.left()
    }

    #[test]
    fn a_lease_counts_from_when_the_order_was_asked_for_and_not_to_its_end() {
        let lease = lease();
        assert_eq!(left_at(&lease, 105), Some(seconds(7)));
        assert_eq!(left_at(&lease, 112), None);
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent() {
        let lease = lease();
        NOW.set(111);
        lease.renew(seconds(105));
        assert_eq!(left_at(&lease, 111), Some(seconds(6)));
        lease.renew(seconds(104));
        assert_eq!(left_at(&lease, 111), Some(seconds(6)), "an older one takes nothing away");
    }

    #[test]
    fn a_renewal_that_is_answered_too_late_renews_nothing() {
        let lease = lease();
        NOW.set(112);
        lease.renew(seconds(111));
        assert_eq!(left_at(&lease, 112), None, "somebody else may have had the order in between");
    }

    #[test]
    fn the_clock_goes_on() {
        assert!(uptime() > Duration::ZERO && uptime() <= uptime());
    }
}
