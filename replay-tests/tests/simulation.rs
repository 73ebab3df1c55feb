//! The simulator itself: the same seed is the same run, byte for byte; every command has its
//! operation; what was once broken stays mended.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use tephra_domain::ledger::Ledger;
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log as _};
use tephra_journal::sequencer::catch_up;
use tephra_journal::wire::state::state_hash;
use tephra_replay_tests::sim::operations;
use tephra_replay_tests::sim::run::run;
use tephra_replay_tests::sim::trace::{Keep, digest};
use tephra_replay_tests::sim::{Plan, Report};

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        operations: 150,
        skip: BTreeSet::new(),
        without: BTreeSet::new(),
        unsynced: false,
        keep: Keep::Lines,
    }
}

fn essence(report: &Report) -> (String, [u8; 32], u64, std::time::Duration) {
    (digest(&report.trace), report.head.hash, report.head.position.0, report.simulated)
}

#[test]
fn a_seed_is_the_whole_truth() {
    for seed in 1..6 {
        let (first, second) = (run(&plan(seed)), run(&plan(seed)));
        let differs = first.trace.iter().zip(&second.trace).position(|(a, b)| a != b);
        if let Some(line) = differs {
            panic!("seed {seed}, line {line}:\n{}\n{}", first.trace[line], second.trace[line]);
        }
        assert_eq!(essence(&first), essence(&second), "seed {seed}");
        assert!(first.trace.len() > 300, "something happens: {} lines", first.trace.len());
    }
    assert_ne!(essence(&run(&plan(1))), essence(&run(&plan(2))));
}

/// Seeds that found something, with what they found. What they draw changes when operations are
/// added; the sentences in `given_when_then` stay.
const FOUND_SOMETHING: &[(u64, &str)] = &[
    (1, "a taken id of an attachment ended the sequencer"),
    (290, "a volume that grew while its export was removed was exported again"),
    (306, "and so was given up with an export"),
    (5_330, "an export that was told of too late stayed lost"),
];

#[test]
fn seeds_that_found_something_find_nothing_any_more() {
    for (seed, what) in FOUND_SOMETHING {
        let report = run(&Plan { operations: 300, keep: Keep::Nothing, ..plan(*seed) });
        assert_eq!(report.violation, None, "seed {seed}: {what}");
    }
}

/// A log that acknowledges before it has synced, and loses its end: nobody goes on from what it had said.
/// Seed 120 found a sequencer that did.
#[test]
fn a_log_that_lost_its_end_is_not_continued_from_views_that_know_more() {
    let (mut lost_blocks, mut rebuilt_views) = (0, 0);
    for seed in (1..12).chain([120]) {
        let plan = Plan { operations: 300, unsynced: true, keep: Keep::Nothing, ..plan(seed) };
        let report = run(&plan);
        assert_eq!(report.violation, None, "seed {seed}");
        lost_blocks += report.lost_blocks;
        rebuilt_views += report.rebuilt_views;
    }
    assert!(lost_blocks > 10 && rebuilt_views > 10, "{lost_blocks} blocks, {rebuilt_views} views");
}

/// What the simulated log holds, a real one holds too: the same blocks, the same chain, and the
/// replay of either comes to the same state.
#[test]
fn the_embedded_journal_comes_to_the_same_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    for seed in 1..4 {
        let report = run(&plan(seed));
        let path = folder.path().join(format!("{seed}.redb"));
        runtime.block_on(async {
            let log = EmbeddedLog::open(&path).unwrap();
            for (number, block) in (0..).zip(&report.blocks) {
                let appended = log.append(BlockNumber(number), Arc::clone(block)).await;
                assert_eq!(appended, AppendOutcome::Appended(BlockNumber(number + 1)), "seed {seed}");
            }
            drop(log);
            let log = EmbeddedLog::open(&path).unwrap();
            let replayed = catch_up(Ledger::default(), BlockNumber::default(), &log).await.unwrap();
            assert_eq!(replayed.head, report.head, "seed {seed}");
            assert_eq!(state_hash(&replayed.ledger), report.state, "seed {seed}");
        });
    }
}

#[test]
fn every_operation_has_its_own_name_and_is_drawn() {
    let names: BTreeSet<&str> = operations::ALL.iter().map(|operation| operation.name).collect();
    assert_eq!(names.len(), operations::ALL.len());
    assert!(operations::ALL.iter().all(|operation| operation.weight > 0));
}

/// The compiler asks for a name for every command; this asks for the file, or for the reason.
#[test]
fn every_command_is_asked_for_or_it_is_said_why_not() {
    let sources = include_str!("../src/sim/operations/mod.rs");
    let mapping = sources.split("pub const fn operation_of").nth(1).unwrap();
    let names: BTreeSet<&str> =
        mapping.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 30, "the walk finds the names");
    let asked: BTreeSet<&str> = operations::ALL.iter().map(|operation| operation.name).collect();
    let excused: BTreeSet<&str> = operations::NOT_ASKED.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&&str> =
        names.iter().filter(|name| !asked.contains(**name) && !excused.contains(**name)).collect();
    assert!(missing.is_empty(), "nothing asks for {missing:?}");
    assert!(asked.is_disjoint(&excused));
}
