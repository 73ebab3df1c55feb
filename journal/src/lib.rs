//! The append-only log and everything that writes to it.
//!
//! This is the only crate that makes event bytes ([`wire`]) and the only one that appends. It does
//! no HTTP, keeps no views and touches no storage backend.
//!
//! Rooms:
//! * [`log`]: the port (append with an expectation, read, head). [`embedded`]: the adapter on redb.
//!   [`memory`] and [`faulty`]: for tests and simulation.
//! * [`wire`]: blocks and events as bytes, frozen by version. [`hash_chain`]: what makes them
//!   tamper-evident.
//! * [`gateway`]: how commands reach the sequencer. [`sequencer`]: the one that decides them and
//!   groups their commits into blocks.
//! * [`feed`]: fresh blocks for readers in the same process.
//! * [`work_queue`]: how effects reach executors. [`in_process_queue`]: where those are in the same
//!   process. [`dispatcher`]: which effects are due.
//! * [`event_stream`]: where events are published for programs that are not ours;
//!   [`fake_event_stream`]: for tests.
//! * [`inventory`]: what a backend shows on its pools, asked of its executor.
//! * [`loans`]: what an executor lends to others to be read.
//! * [`pool_board`]: how full each pool is, as last reported. [`progress_board`]: how far long work has
//!   come. [`clock`]: what time it is. [`ids`]: where fresh ids come from.
//! * [`metrics`]: what is counted.
//! * [`secrets`]: passwords that are derived, never written down.
//! * [`jetstream`]: all of these over NATS, for roles on separate hosts. [`subjects`]: every name there.

pub mod clock;
pub mod dispatcher;
pub mod embedded;
pub mod event_stream;
pub mod fake_event_stream;
pub mod faulty;
pub mod feed;
pub mod gateway;
pub mod hash_chain;
pub mod ids;
pub mod in_process_queue;
pub mod inventory;
pub mod jetstream;
pub mod loans;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod pool_board;
pub mod private_file;
pub mod progress_board;
pub mod secrets;
pub mod sequencer;
pub mod subjects;
pub mod wire;
pub mod work_queue;
