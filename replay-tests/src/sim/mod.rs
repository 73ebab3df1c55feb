//! The deterministic simulator: one seed decides everything that happens to a whole deployment.
//!
//! It drives the real domain, sequencer, dispatcher, projector and runner, in one thread, over
//! simulated time, and simulates what is around them: the log, the work queue, the network, the
//! disks, the backends, the clients, and everything that goes wrong. See docs/simulation.md.
//!
//! Rooms:
//! * [`seeds`], [`mood`], [`clock`], [`process`], [`trace`]: what makes a run a run.
//! * [`log`], [`queue`], [`network`], [`disk`], [`host`], [`exports`]: the ports, with their faults ([`faults`]).
//! * [`node`], [`world`]: which processes there are, and what happens to them.
//! * [`operations`]: what is asked, one file per command.
//! * [`oracle`], [`invariants`], [`contents`]: what must hold. [`coverage`]: what was reached.
//! * [`shrink`]: the least that still fails.

pub mod clock;
pub mod contents;
pub mod coverage;
pub mod disk;
pub mod exports;
pub mod faults;
pub mod host;
pub mod invariants;
pub mod log;
pub mod mood;
pub mod network;
pub mod node;
pub mod operations;
pub mod oracle;
pub mod process;
pub mod queue;
#[cfg(feature = "simulated-time")]
pub mod run;
pub mod seeds;
pub mod shrink;
pub mod trace;
pub mod world;

pub use world::{Plan, Report};
