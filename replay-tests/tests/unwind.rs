//! Runs every operation through every failure: each effect fails (before or after it acted, for
//! good or once), each undo fails, each report is repeated, each order is delivered twice. However
//! it goes, every operation ends, no status is stuck, nothing is orphaned, and the data is either
//! what was asked for or what it was before.
//!
//! An operation that has no scenario here fails `every_operation_is_enrolled`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod unwind_scenarios;

use std::collections::BTreeSet;

use tephra_domain::command::Command;
use tephra_domain::effect::{DueEffect, EffectKey, Failure, FailureKind, Outcome};
use tephra_domain::operations::OperationKind;
use tephra_domain::rejection::Rejection;
use tephra_domain::volume::{Volume, VolumeState};
use tephra_replay_tests::world::World;
use unwind_scenarios::{SCENARIOS, Scenario, Subject};

/// How an effect goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails without having acted.
    Before(FailureKind),
    /// It acts, and then says that it failed.
    After(FailureKind),
    /// It acts and the executor dies; the order is delivered again.
    CrashAfterActing,
    /// It is performed and reported twice.
    Twice,
}

const FAULTS: &[Fault] = &[
    Fault::Before(FailureKind::BackendError),
    Fault::Before(FailureKind::NoSpace),
    Fault::Before(FailureKind::Busy),
    Fault::After(FailureKind::BackendError),
    Fault::After(FailureKind::Mismatch),
    Fault::CrashAfterActing,
    Fault::Twice,
];

/// A fault at the n-th effect: at its first attempt, or at every one.
#[derive(Clone, Copy, Debug)]
struct FaultAt {
    effect: usize,
    fault: Fault,
    for_good: bool,
}

/// Debts are retried for ever: a fault lets them go after so many attempts.
const DEBT_ATTEMPTS: u32 = 5;

/// Goes on until nothing is due. Returns how many different effects there were.
fn run(world: &mut World, faults: &[FaultAt]) -> usize {
    let mut count = 0;
    let mut last: Option<DueEffect> = None;
    for _ in 0..1_000 {
        let Some(due) = world.next_due() else { return count };
        let again = last.as_ref().is_some_and(|last| last.effect == due.effect && last.pool == due.pool);
        if !again {
            count += 1;
        }
        let n = count - 1;
        let gives_in = matches!(due.key, EffectKey::Debt { attempt, .. } if attempt > DEBT_ATTEMPTS);
        let fault = faults
            .iter()
            .find(|at| at.effect == n && (!again || at.for_good) && !gives_in)
            .map(|at| at.fault);
        perform_with(world, &due, fault);
        world.check_invariants();
        last = Some(due);
    }
    panic!("it does not come to an end: {:?}", world.ledger.all_due());
}

fn perform_with(world: &mut World, due: &DueEffect, fault: Option<Fault>) {
    let injected = |kind| Outcome::Failed(Failure::new(kind, "injected"));
    let result = match fault {
        None => world.perform(due),
        Some(Fault::Before(kind)) => world.report(due.key, injected(kind)),
        Some(Fault::After(kind)) => {
            drop(world.storage.perform(&due.pool, &due.effect));
            world.report(due.key, injected(kind))
        }
        Some(Fault::CrashAfterActing) => {
            drop(world.storage.perform(&due.pool, &due.effect));
            world.perform(due)
        }
        Some(Fault::Twice) => {
            let done = world.perform(due);
            assert_eq!(world.report(due.key, Outcome::Done), Err(Rejection::StaleReport), "{due:?}");
            done
        }
    };
    result.unwrap_or_else(|rejection| panic!("the report of {due:?}: {rejection}"));
}

fn opened(scenario: &Scenario) -> (World, Subject) {
    let mut world = World::with_neighbours(scenario.backends, scenario.native_revert);
    let subject = (scenario.open)(&mut world);
    (world, subject)
}

fn opened_and_performed(scenario: &Scenario, effects: usize) -> (World, Subject) {
    let (mut world, subject) = opened(scenario);
    for _ in 0..effects {
        let due = world.next_due().expect("an effect is due");
        world.perform(&due).unwrap();
    }
    (world, subject)
}

/// Names the case in a failure's output.
fn in_case(case: &str, check: impl FnOnce()) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    if let Err(panic) = outcome {
        eprintln!("in the case {case}");
        std::panic::resume_unwind(panic);
    }
}

fn check_with_faults(scenario: &Scenario, case: &str, faults: &[FaultAt]) {
    in_case(&format!("{case}: {faults:?}"), || {
        let (mut world, subject) = opened(scenario);
        run(&mut world, faults);
        world.check_at_rest();
        (scenario.check)(&world, &subject);
    });
}

#[test]
fn every_operation_is_enrolled() {
    let enrolled: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.operation).collect();
    let all: BTreeSet<&str> = OperationKind::NAMES.iter().copied().collect();
    assert_eq!(enrolled, all);
    for scenario in SCENARIOS {
        let (world, _) = opened(scenario);
        let open: Vec<_> = world.ledger.operations.sorted().iter().map(|(_, o)| o.kind.name()).collect();
        assert_eq!(open, [scenario.operation], "the scenario opens the operation that it is named after");
    }
}

#[test]
fn every_operation_ends_well_without_faults() {
    for scenario in SCENARIOS {
        check_with_faults(scenario, scenario.case, &[]);
    }
}

#[test]
fn every_operation_ends_clean_whichever_effect_fails_and_however() {
    for scenario in SCENARIOS {
        let effects = run(&mut opened(scenario).0, &[]);
        for effect in 0..effects {
            for fault in FAULTS {
                for for_good in [false, true] {
                    let fault = FaultAt { effect, fault: *fault, for_good };
                    check_with_faults(scenario, scenario.case, &[fault]);
                }
            }
        }
    }
}

#[test]
fn every_operation_ends_clean_when_what_follows_a_failure_fails_too() {
    // one failure makes more effects due: undos, debts, other backends
    const FOLLOWING: usize = 6;
    for scenario in SCENARIOS {
        let effects = run(&mut opened(scenario).0, &[]);
        for effect in 0..effects {
            let first = FaultAt { effect, fault: Fault::After(FailureKind::Mismatch), for_good: true };
            for later in effect + 1..effect + FOLLOWING {
                for fault in FAULTS {
                    let second = FaultAt { effect: later, fault: *fault, for_good: true };
                    check_with_faults(scenario, scenario.case, &[first, second]);
                }
            }
        }
    }
}

#[test]
fn an_operator_may_give_up_the_volume_at_every_step() {
    for scenario in SCENARIOS {
        let effects = run(&mut opened(scenario).0, &[]);
        for performed in 0..effects {
            in_case(&format!("{} after {performed} effects", scenario.case), || {
                let (mut world, subject) = opened_and_performed(scenario, performed);
                let force = Command::DeleteVolume { volume: subject.volume, cascade: true, force: true };
                match world.when_admin(force) {
                    Ok(_)
                    | Err(
                        Rejection::VolumeNotFound { .. }
                        | Rejection::VolumeSnapshotsNotDeletable
                        | Rejection::VolumeHasAttachments,
                    ) => {}
                    Err(other) => panic!("{other}"),
                }
                world.check_invariants();
                world.settle();
                world.check_at_rest();
            });
        }
    }
}

#[test]
fn an_operator_may_reset_the_status_at_every_step() {
    for scenario in SCENARIOS {
        let effects = run(&mut opened(scenario).0, &[]);
        for performed in 0..effects {
            for to in [VolumeState::Available, VolumeState::Error, VolumeState::Maintenance] {
                in_case(&format!("{} after {performed} effects to {to:?}", scenario.case), || {
                    let (mut world, subject) = opened_and_performed(scenario, performed);
                    let is_filled =
                        world.ledger.volumes.get(&subject.volume).is_none_or(Volume::has_its_data);
                    let reset = Command::ResetVolumeStatus { volume: subject.volume, to };
                    match world.when_admin(reset) {
                        Ok(_) => assert!(is_filled || to != VolumeState::Available),
                        Err(Rejection::VolumeNotFound { .. }) => {}
                        Err(Rejection::VolumeNeverFilled { .. }) => {
                            assert!(!is_filled && to == VolumeState::Available);
                        }
                        Err(other) => panic!("{other}"),
                    }
                    world.check_invariants();
                    world.settle();
                    world.check_at_rest();
                });
            }
        }
    }
}
