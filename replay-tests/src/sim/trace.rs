//! What happened in a run, line by line: for people, and to tell whether two runs were the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::clock::SimClock;

/// What is kept of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the fastest.
    Nothing,
    /// Every line.
    Lines,
}

/// The trace of one run. Cheap to clone; all clones are one trace.
#[derive(Clone)]
pub struct Trace {
    keep: Keep,
    clock: SimClock,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    /// An empty trace that tells the time by this clock.
    pub fn new(keep: Keep, clock: SimClock) -> Self {
        Self { keep, clock, lines: Arc::default() }
    }

    /// Adds a line: who, and what they did.
    pub fn note(&self, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        if self.keep == Keep::Nothing {
            return;
        }
        let ms = self.clock.elapsed_ms();
        let line = format!("{:>8}.{:03}  {who:<12} {what}", ms / 1000, ms % 1000);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The lines so far, and leaves none.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The digest of a trace.
pub fn digest(lines: &[String]) -> String {
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
    hex::encode(hasher.finalize())
}
