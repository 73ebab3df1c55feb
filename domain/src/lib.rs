//! The ledger as a deterministic state machine: what may happen to block storage, and what follows.
//!
//! Nothing here does I/O, reads a clock, draws a random number or spawns a task. Time and fresh
//! ids arrive in [`command::Context`], pool figures too; the rest is decided from the state alone,
//! so that the same history gives the same state, byte for byte, on every machine.
//!
//! Rooms:
//! * [`ids`], [`units`], [`actor`]: the nouns that everything else is made of.
//! * [`volume`], [`attachment`], [`snapshot`], [`volume_type`], [`quota`], [`backend`], [`debt`]: one aggregate
//!   each, opened by its statuses and its transition table.
//! * [`command`] (what is asked), [`rejection`] (the business says no), [`event`] (what happened),
//!   [`effect`] (work for an executor).
//! * [`operation`]: the engine that walks step tables; [`operations`]: one file per operation.
//! * [`image`]: what must be known of an image.
//! * [`scheduler`]: which pool takes a new volume, and why.
//! * [`drift`]: the ledger's word against what a backend shows.
//! * [`ledger`]: the whole state; [`mod@decide`] and [`evolve`]: the two functions over it.

pub mod actor;
pub mod attachment;
pub mod backend;
pub mod command;
pub mod debt;
pub mod decide;
pub mod drift;
pub mod effect;
pub mod event;
pub mod evolve;
pub mod ids;
pub mod image;
pub mod ledger;
pub mod operation;
pub mod operations;
pub mod quota;
pub mod rejection;
pub mod scheduler;
pub mod snapshot;
pub mod table;
pub mod units;
pub mod volume;
pub mod volume_type;
