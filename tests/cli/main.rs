//! The program as it is run: the server, and everything that can be asked and told on the command
//! line.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod attaching;
mod commands;
mod copies;
mod drift;
mod serve;
mod support;
