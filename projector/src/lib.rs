//! Views of the ledger that queries read, kept in one redb file per process.
//!
//! The projector follows the log, folds every commit with the domain's own `evolve`, and writes the
//! rows that changed together with its checkpoint in one transaction. Views are disposable: deleting
//! the file costs time, never truth. Nothing is decided here.
//!
//! [`reactors`] follow the log and tell others. [`render`] has the ledger's words for people and programs, in which all readers are answered.

pub mod as_of;
pub mod attachments;
mod drift;
pub mod error;
pub mod events;
mod filter;
mod fold;
pub mod history;
mod key;
mod list;
mod listed;
pub mod operations;
pub mod query;
pub mod reactors;
pub mod render;
mod row;
pub mod runner;
mod schema;
mod tables;
pub mod views;
mod write;

pub use error::{QueryError, ViewsError};
pub use views::{Checkpoint, Views, VolumeSummary};
