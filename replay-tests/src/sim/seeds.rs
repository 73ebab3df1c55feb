//! Everything random of a run, from one seed.
//!
//! Whoever draws has a stream of its own, named after it. So a run from which one operation or one
//! kind of fault is taken away leaves what everybody else draws as it was: that is what makes
//! shrinking work.

use std::sync::Mutex;
use std::sync::PoisonError;

use tephra_journal::ids::IdSource;
use uuid::Uuid;

/// The seed of a run.
#[derive(Clone, Copy, Debug)]
pub struct Seeds(pub u64);

impl Seeds {
    /// The stream of whoever has this name and number.
    pub fn stream(self, name: &str, number: u64) -> fastrand::Rng {
        let mut mixed = self.0 ^ 0x9e37_79b9_7f4a_7c15;
        for byte in name.bytes().chain(number.to_le_bytes()) {
            // FNV-1a, and a round of SplitMix64 so that neighbours are nothing alike
            mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            mixed ^= mixed >> 29;
            mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        fastrand::Rng::with_seed(mixed ^ (mixed >> 32))
    }
}

/// An id from a stream, in the form of a random UUID.
pub fn fresh_id(random: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(random.u128(..).to_le_bytes()).into_uuid()
}

/// Ids for the code under test, from a stream.
#[derive(Debug)]
pub struct SeededIds(Mutex<fastrand::Rng>);

impl SeededIds {
    /// Ids from this stream.
    pub const fn new(random: fastrand::Rng) -> Self {
        Self(Mutex::new(random))
    }
}

impl IdSource for SeededIds {
    fn fresh(&self) -> Uuid {
        fresh_id(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
