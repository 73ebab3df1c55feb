//! Quantities with their unit in the type.

use std::fmt;

/// A size in whole GiB, between 1 and [`SizeGib::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeGib(u32);

impl SizeGib {
    /// Cinder's largest integer (`MAX_INT` of its database, 2^31 - 1).
    pub const MAX: u32 = 0x7FFF_FFFF;

    /// A size, or nothing if it is zero or over [`SizeGib::MAX`].
    pub const fn new(gib: u32) -> Option<Self> {
        if gib == 0 || gib > Self::MAX { None } else { Some(Self(gib)) }
    }

    /// The whole GiB that so many bytes take (Cinder rounds the size of what it takes over up).
    /// Nothing for no bytes, and beyond [`SizeGib::MAX`].
    pub fn holding(bytes: u64) -> Option<Self> {
        u32::try_from(bytes.div_ceil(1 << 30)).ok().and_then(Self::new)
    }

    /// The size in GiB.
    pub const fn gib(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 30
    }
}

impl fmt::Display for SizeGib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `ms` milliseconds later.
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Whole microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }
}
