//! Runs a plan on a runtime of its own, whose time goes only when nothing is left to do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::coverage::Coverage;
use super::invariants::{Invariant, Violation};
use super::world::{Plan, Report, simulate};

/// Runs a plan. A panic of the simulation itself is a broken invariant too.
///
/// # Panics
/// If there is no runtime to be had.
pub fn run(plan: &Plan) -> Report {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        runtime.block_on(simulate(plan))
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
