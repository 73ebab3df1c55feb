//! Views are the replay of the log: at any position, after any crash, in any order asked for.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "views_cases/fold.rs"]
mod fold;
#[path = "views_cases/follow.rs"]
mod follow;
#[path = "views_cases/history.rs"]
mod history;
#[path = "views_cases/lists.rs"]
mod lists;
#[path = "views_cases/past.rs"]
mod past;
