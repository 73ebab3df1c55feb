//! Given a history, when a command, then these events: one file per operation, each with its
//! rejections in the order in which they are checked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod given_when_then;
