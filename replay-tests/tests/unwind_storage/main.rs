//! The unwind harness on real storage: creating and reverting volumes while every command that
//! changes the storage fails, loses its answer, or is the last of an executor that dies, once or for
//! good. What passes leaves no trace: what was asked for is there, after as many attempts as it took. What
//! lasts for every attempt at a step ends as the step's table says, with the data as it was before and
//! the volume in its documented status. Either way the storage holds what the ledger says and nothing
//! else. No other end is accepted, of any fault.
//!
//! The control plane is the pure one of `tests/unwind.rs`, which does the same to every operation on
//! simulated storage. Here the storage is lvm2 (in the guest of `./test lvm`) and Ceph (`./test ceph`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod image;
mod lvm;
mod rbd;
mod sabotage;
mod stage;
