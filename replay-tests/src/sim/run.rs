//! Runs a plan on a runtime of its own, whose time goes only when nothing is left to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::coverage::Coverage;
use super::invariants::{Invariant, Violation};
use super::world::{Plan, Report, simulate};

/// Runs a plan. A panic of the simulation itself is a broken invariant too, and so is a thread that
/// anything started: when it is done depends on the machine, and the run could not be repeated.
///
/// # Panics
/// If there is no runtime to be had.
pub fn run(plan: &Plan) -> Report {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let threads = Arc::new(AtomicUsize::new(0));
        let started = Arc::clone(&threads);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true);
        runtime.on_thread_start(move || {
            started.fetch_add(1, Ordering::Relaxed);
        });
        let runtime = runtime.build().unwrap_or_else(|error| panic!("no runtime: {error}"));
        let report = runtime.block_on(simulate(plan));
        drop(runtime);
        let threads = threads.load(Ordering::Relaxed);
        assert_eq!(threads, 0, "threads were started, whose pace is not simulated");
        report
    }));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Report {
            violation: Some(Violation { invariant: Invariant::NothingDies, found: text }),
            trace: Vec::new(),
            head: tephra_journal::hash_chain::ChainHead::default(),
            state: [0; 32],
            blocks: Vec::new(),
            simulated: std::time::Duration::ZERO,
            coverage: Coverage::default(),
            lost_blocks: 0,
            rebuilt_views: 0,
        }
    })
}
