//! The append-only log and everything that writes to it.
//!
//! This is the only crate that makes event bytes ([`wire`]) and the only one that appends. It does
//! no HTTP, keeps no views and touches no storage backend.
//!
//! Rooms:
//! * [`log`]: the port (append with an expectation, read, head). [`embedded`]: the adapter on redb.
//! * [`wire`]: blocks and events as bytes, frozen by version. [`hash_chain`]: what makes them
//!   tamper-evident.
//! * [`gateway`]: how commands reach the sequencer. [`sequencer`]: the one that decides them and
//!   groups their commits into blocks.
//! * [`work_queue`]: how effects reach executors. [`dispatcher`]: which effects are due.
//! * [`pool_board`]: how full each pool is, as last reported.

pub mod clock;
pub mod feed;
pub mod gateway;
pub mod log;
pub mod pool_board;
pub mod wire;
pub mod work_queue;
