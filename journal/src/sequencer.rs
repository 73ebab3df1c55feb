//! The one that decides: commands in, blocks out, one after the other.
//!
//! * [`SequencerCore`]: the decisions, without I/O, tasks or clocks, so that a simulation can drive
//!   it step by step.
//! * [`Sequencer`]: the task around it, that appends, retries, answers and dispatches.
//! * [`catch_up`]: the state at the end of a log, for the start.

mod core;
mod outbox;
mod recent;
mod requests;
mod shell;
mod start;

pub use core::{Answered, Batch, BatchContext, Decided, MAX_COMMIT_BYTES, Pending, SequencerCore};
pub use recent::{RecentCommands, RecentLimits, Remembered};
pub use requests::Requests;
pub use shell::{Sequencer, SequencerConfig, SequencerError, SequencerHandle, SequencerParts};
pub use start::{CaughtUp, bootstrap, catch_up, catch_up_from};
