//! What is kept: views against replay, crashes, damage.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tephra_domain::ids::Position;
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::wire::state::state_hash;
use tephra_projector::runner::rebuild;
use tephra_projector::{Views, ViewsError};
use tephra_replay_tests::drawn::{PROJECTS, blocks, example, log_of, moves, play, replay};

fn fresh() -> (tempfile::TempDir, Views) {
    let folder = tempfile::tempdir().unwrap();
    let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
    (folder, views)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn views_equal_replay_at_every_position(moves in moves(60)) {
        let history = play(&moves).history;
        let (_folder, views) = fresh();
        for (n, block) in blocks(&history, &[1]).0.into_iter().enumerate() {
            views.take(&[block], false).unwrap();
            let expected = state_hash(&replay(&history, n + 1));
            prop_assert_eq!(views.state_hash().unwrap(), expected, "after commit {}", n + 1);
        }
        views.verify().unwrap();
    }

    #[test]
    fn batches_and_blocks_of_any_size_give_the_same_views(
        moves in moves(200),
        block_sizes in proptest::collection::vec(1..9_usize, 1..5),
        batch_size in 1..7_usize,
        reopened_after in 0..9_usize,
    ) {
        let history = play(&moves).history;
        let (folder, mut views) = fresh();
        for (n, batch) in blocks(&history, &block_sizes).0.chunks(batch_size).enumerate() {
            views.take(batch, n % 2 == 0).unwrap();
            if n == reopened_after {
                drop(views);
                views = Views::open(&folder.path().join("views.redb")).unwrap();
            }
        }
        let expected = replay(&history, history.len());
        prop_assert_eq!(views.state_hash().unwrap(), state_hash(&expected));
        let loaded = views.load_ledger().unwrap();
        prop_assert_eq!(loaded.claims.sorted(), expected.claims.sorted());
        prop_assert_eq!(loaded.position(), expected.position());
        for project in PROJECTS {
            let project = tephra_domain::ids::ProjectId::new(*project);
            let usage = expected.usage.get(&project).cloned().unwrap_or_default();
            prop_assert_eq!(views.usage(&project).unwrap(), usage);
        }
        views.verify().unwrap();
    }

    #[test]
    fn a_crash_between_batches_loses_whole_batches_that_are_taken_in_again(
        moves in moves(120),
        durable_until in 0..10_usize,
    ) {
        let history = play(&moves).history;
        let blocks = blocks(&history, &[3]).0;
        let (folder, views) = fresh();
        let durable_until = durable_until.min(blocks.len());
        for (n, block) in blocks.iter().enumerate() {
            views.take(std::slice::from_ref(block), n + 1 == durable_until).unwrap();
        }
        // What a killed process leaves is the file as it is at that moment.
        let left = folder.path().join("left.redb");
        std::fs::copy(folder.path().join("views.redb"), &left).unwrap();
        let views = Views::open(&left).unwrap();
        let at = views.checkpoint();
        let position = blocks[..durable_until].iter().map(|block| block.commits.len()).sum::<usize>();
        prop_assert_eq!(at.block.0, durable_until as u64, "whole batches, the durable ones");
        prop_assert_eq!(at.position.0, position as u64);
        prop_assert_eq!(views.state_hash().unwrap(), state_hash(&replay(&history, position)));
        views.take(&blocks[durable_until..], true).unwrap();
        prop_assert_eq!(views.state_hash().unwrap(), state_hash(&replay(&history, history.len())));
        views.verify().unwrap();
    }
}

#[tokio::test]
async fn rebuilt_views_equal_live_ones() {
    let history = example(300);
    let (folder, live) = fresh();
    for block in blocks(&history, &[5]).0 {
        live.take(&[block], false).unwrap();
    }
    let log: Arc<dyn Log> = Arc::new(log_of(&history, &[5]));
    let path = folder.path().join("rebuilt.redb");
    let mut last = None;
    let rebuilt = rebuild(log, &path, |progress| last = Some(progress)).await.unwrap();
    assert_eq!(rebuilt.state_hash().unwrap(), live.state_hash().unwrap());
    assert_eq!(rebuilt.checkpoint(), live.checkpoint());
    let last = last.unwrap();
    assert_eq!((last.block, last.position), (last.head, Position(history.len() as u64)));
    rebuilt.verify().unwrap();
}

#[test]
fn blocks_that_do_not_follow_are_refused_and_change_nothing() {
    let history = example(60);
    let chain = blocks(&history, &[1]).0;
    let (_folder, views) = fresh();
    views.take(&chain[..2], false).unwrap();
    let before = (views.checkpoint(), views.state_hash().unwrap());
    let mut forged = (*chain[2]).clone();
    forged.previous_hash = [9; 32];
    for wrong in [&chain[3], &chain[1], &Arc::new(forged)] {
        let error = views.take(std::slice::from_ref(wrong), false).unwrap_err();
        assert!(matches!(error, ViewsError::Diverged { .. }), "{error}");
    }
    let mut illegal = (*chain[2]).clone();
    illegal.commits[0].position = Position(77);
    let error = views.take(&[Arc::new(illegal)], false).unwrap_err();
    assert!(matches!(error, ViewsError::IllegalHistory { block: BlockNumber(3), .. }), "{error}");
    assert_eq!((views.checkpoint(), views.state_hash().unwrap()), before);
    views.take(&chain[2..], false).unwrap();
    assert_eq!(views.state_hash().unwrap(), state_hash(&replay(&history, history.len())));
}

fn filled(path: &Path) {
    let history = example(200);
    let views = Views::create_fresh(path).unwrap();
    views.take(&blocks(&history, &[7]).0, true).unwrap();
}

#[test]
fn damage_to_any_byte_of_a_row_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.redb");
    filled(&path);
    let whole = std::fs::read(&path).unwrap();
    let needle = b"req-drawn"; // in no view
    assert!(!whole.windows(needle.len()).any(|window| window == needle));
    // The owner's name is in every volume's and snapshot's row.
    let owner = b"somebody";
    let places: Vec<usize> =
        (0..whole.len() - owner.len()).filter(|at| &whole[*at..*at + owner.len()] == owner).collect();
    assert!(!places.is_empty());
    let mut found = 0;
    for place in places {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let views = Views::open(&path).unwrap();
        // Pages that are no longer in use hold old rows: damage to them does not matter.
        if let Err(error) = views.verify() {
            found += 1;
            let ViewsError::MustRebuild { reason } = &error else { panic!("{error}") };
            assert!(reason.contains("checksum"), "{reason}");
            assert!(reason.contains("volumes") || reason.contains("snapshots"), "{reason}");
            assert!(matches!(views.load_ledger(), Err(ViewsError::MustRebuild { .. })));
        }
    }
    assert!(found > 0);
}

#[test]
fn a_file_that_is_no_views_is_refused_with_the_advice_to_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.redb");
    filled(&path);
    let whole = std::fs::read(&path).unwrap();
    for (what, bytes) in [
        ("text", b"this is not a redb file, whatever its name says".repeat(400)),
        ("the first half", whole[..whole.len() / 2].to_vec()),
        ("zeroes at the start", [vec![0; 4096], whole[4096..].to_vec()].concat()),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Views::open(&path).map(drop).unwrap_err();
        assert!(matches!(error, ViewsError::MustRebuild { .. }), "{what}: {error}");
    }
    Views::create_fresh(&path).unwrap();
}

#[test]
fn views_in_use_are_not_opened_twice() {
    let (folder, _views) = fresh();
    let error = Views::open(&folder.path().join("views.redb")).map(drop).unwrap_err();
    assert!(matches!(error, ViewsError::InUse { .. }), "{error}");
}
