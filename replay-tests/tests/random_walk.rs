//! Random histories with late, repeated, failing and dying executors and meddling operators: the
//! invariants hold all along, everything ends, nothing is orphaned, and the data is right.
//!
//! `TEPHRA_SEED=N` runs one seed; `TEPHRA_SEEDS=N` runs that many.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use tephra_replay_tests::walk::Walk;

const SEEDS: u64 = 400;
const STEPS: usize = 300;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_seed_is_the_whole_truth() {
    let history = |seed| {
        let mut walk = Walk::new(seed);
        walk.run(STEPS);
        walk.world.history
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

#[test]
fn nothing_is_stuck_lost_or_orphaned_on_any_walk() {
    let seeds = match from_environment("TEPHRA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("TEPHRA_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Walk::new(seed).run(STEPS));
        if let Err(panic) = outcome {
            eprintln!("the walk of seed {seed}: run again with TEPHRA_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// What the walks must reach, or they prove little: every event of volumes, attachments, snapshots,
/// operations and debts.
#[test]
fn the_walks_reach_every_event() {
    let mut reached = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        let mut walk = Walk::new(seed);
        walk.run(STEPS);
        reached.extend(walk.world.history.iter().flat_map(|commit| &commit.events).map(|event| event.name()));
    }
    let wanted = [
        "AttachmentReserved",
        "AttachmentConnectAccepted",
        "AttachmentConnected",
        "AttachmentConnectFailed",
        "AttachmentAttached",
        "AttachmentCompleted",
        "AttachmentDisconnectAccepted",
        "AttachmentDisconnected",
        "AttachmentDisconnectFailed",
        "AttachmentDeleted",
        "VolumeUseChanged",
        "VolumeCreateAccepted",
        "VolumeRescheduled",
        "VolumeCreated",
        "VolumeCreateFailed",
        "VolumeDeleteAccepted",
        "VolumeDeleted",
        "VolumeDeleteFailed",
        "VolumeExtendAccepted",
        "VolumeExtended",
        "VolumeExtendFailed",
        "VolumeRevertAccepted",
        "VolumeReverted",
        "VolumeRevertFailed",
        "VolumeResetAccepted",
        "VolumeStatusReset",
        "VolumeResetFailed",
        "SnapshotCreateAccepted",
        "SnapshotCreated",
        "SnapshotCreateFailed",
        "SnapshotDeleteAccepted",
        "SnapshotDeleted",
        "SnapshotDeleteFailed",
        "SnapshotRestoreAccepted",
        "SnapshotRestoreEnded",
        "SnapshotResetAccepted",
        "SnapshotStatusReset",
        "SnapshotResetFailed",
        "OperationOpened",
        "StepCompleted",
        "StepAttemptFailed",
        "StepWaived",
        "UndoStarted",
        "StepUndone",
        "UndoWaived",
        "OperationRescheduled",
        "OperationClosed",
        "CleanupDebtIncurred",
        "CleanupAttemptFailed",
        "CleanupDebtReleased",
        "CleanupDebtPaid",
    ];
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !reached.contains(name)).collect();
    assert!(missing.is_empty(), "no walk reaches {missing:?}");
}
