//! The `lvm` backend on real logical volumes.
//!
//! These tests make volume groups and must be root on a machine that is theirs: `./test lvm` runs
//! them in a throw-away guest (`labs/lvm-vm`). Elsewhere they are ignored.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

mod bad_days;
mod conformance;
mod exports;
mod figures;

mod support;
