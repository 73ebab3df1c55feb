//! One file per subcommand, and what several of them share.

pub mod bench;
pub mod config;
pub mod debts;
pub mod drift;
pub mod event_table;
pub mod events;
pub mod history;
pub mod journal;
pub mod log;
pub mod operations;
pub mod rebuild;
pub mod recover;
pub mod serve;
pub mod state;
pub mod verify;
