//! The unwind harness on real storage: creating and reverting volumes while every command that
//! changes the storage fails, loses its answer, or is the last of an executor that dies, once or for
//! good. However it goes, the operation ends, the data is what was asked for or what it was before,
//! and the storage holds what the ledger and its debts say and nothing else.
//!
//! The control plane is the pure one of `tests/unwind.rs`, which does the same to every operation on
//! simulated storage. Here the storage is lvm2 (in the guest of `./test lvm`) and Ceph (`./test ceph`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod image;
mod lvm;
mod rbd;
mod sabotage;
mod stage;
