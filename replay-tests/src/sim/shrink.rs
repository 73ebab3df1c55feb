//! Makes a failing run smaller: fewer operations, fewer kinds of fault, the same broken invariant.

use std::collections::BTreeSet;

use super::faults::FaultKind;
use super::invariants::Violation;
use super::world::{Plan, Report};

/// Runs at most.
const MOST_RUNS: usize = 400;

/// The smallest plan found that breaks the same invariant, and the runs that it took.
pub fn shrink(plan: &Plan, violation: &Violation, run: impl Fn(&Plan) -> Report) -> (Plan, usize) {
    let mut runs = 0_usize;
    let mut best = plan.clone();
    let mut still_fails = |candidate: &Plan| {
        runs += 1;
        runs <= MOST_RUNS
            && run(candidate).violation.is_some_and(|found| found.invariant == violation.invariant)
    };
    // the end first: whatever comes after the failure is not needed
    let mut step = best.operations / 2;
    while step > 0 {
        let fewer = Plan { operations: best.operations - step.min(best.operations), ..best.clone() };
        if still_fails(&fewer) {
            best = fewer;
        } else {
            step /= 2;
        }
    }
    for kind in FaultKind::ALL {
        let mut without = best.without.clone();
        without.insert(*kind);
        let fewer = Plan { without, ..best.clone() };
        if still_fails(&fewer) {
            best = fewer;
        }
    }
    let mut size = best.operations.div_ceil(2).max(1);
    loop {
        let mut start = 0;
        while start < best.operations {
            let range: BTreeSet<usize> = (start..(start + size).min(best.operations)).collect();
            if !range.is_subset(&best.skip) {
                let skip = best.skip.union(&range).copied().collect();
                let fewer = Plan { skip, ..best.clone() };
                if still_fails(&fewer) {
                    best = fewer;
                }
            }
            start += size;
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    (best, runs)
}
