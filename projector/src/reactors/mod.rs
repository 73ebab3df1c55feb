//! What follows the log and tells others, and remembers nothing that the log or the others do not.

mod owners;
pub mod public_events;
