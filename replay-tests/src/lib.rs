//! What proves the rest: a world in memory to run the ledger in, a simulated backend, and the tests
//! that need several crates at once. See README.md for which test proves what.

pub mod beliefs;
pub mod docs;
#[cfg(feature = "served")]
pub mod drawn;
pub mod model;
#[cfg(feature = "served")]
pub mod served;
pub mod sim;
pub mod sim_backend;
pub mod walk;
pub mod world;
