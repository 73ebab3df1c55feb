//! The `rbd` backend on a real Ceph cluster, which each test starts for itself (`labs/ceph-lab`).
//!
//! They are ignored by default because they need Ceph's packages: `./test ceph` installs those and
//! runs all of them.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

mod attaching;
mod bad_days;
mod conformance;
mod figures;
mod held_still;
mod images;
mod lab;
mod leftovers;
