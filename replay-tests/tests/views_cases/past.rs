//! The past against a fresh replay that stops there.

use proptest::prelude::*;
use tephra_domain::ids::{Position, SnapshotId, VolumeId};
use tephra_domain::units::Timestamp;
use tephra_journal::wire::state::state_hash;
use tephra_projector::as_of::{AsOf, ledger_as_of};
use tephra_projector::{QueryError, Views};
use tephra_replay_tests::drawn::{blocks, log_of, moves, play, replay};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_was_is_what_a_replay_up_to_then_gives(
        moves in moves(120),
        sizes in proptest::collection::vec(1..6_usize, 1..4),
    ) {
        let history = play(&moves).history;
        let folder = tempfile::tempdir().unwrap();
        let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
        views.take(&blocks(&history, &sizes).0, false).unwrap();
        let log = log_of(&history, &sizes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut volumes: Vec<VolumeId> = Vec::new();
        let mut snapshots: Vec<SnapshotId> = Vec::new();
        for commits in 0..=history.len() {
            let then = replay(&history, commits);
            volumes.extend(then.volumes.sorted().into_iter().map(|(id, _)| *id));
            snapshots.extend(then.snapshots.sorted().into_iter().map(|(id, _)| *id));
            volumes.sort_unstable();
            volumes.dedup();
            snapshots.sort_unstable();
            snapshots.dedup();
            let as_of = AsOf::Position(Position(commits as u64));
            for id in &volumes {
                let past = runtime.block_on(views.volume_as_of(&log, *id, as_of)).unwrap();
                prop_assert_eq!(past.as_ref(), then.volumes.get(id), "volume {} at {}", id, commits);
            }
            for id in &snapshots {
                let past = runtime.block_on(views.snapshot_as_of(&log, *id, as_of)).unwrap();
                prop_assert_eq!(past.as_ref(), then.snapshots.get(id), "snapshot {} at {}", id, commits);
            }
            let past = runtime.block_on(ledger_as_of(&log, as_of)).unwrap();
            prop_assert_eq!(state_hash(&past), state_hash(&then));
        }
    }

    #[test]
    fn a_time_means_the_last_commit_up_to_and_at_it(
        moves in moves(120),
        sizes in proptest::collection::vec(1..6_usize, 1..4),
    ) {
        let history = play(&moves).history;
        let folder = tempfile::tempdir().unwrap();
        let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
        views.take(&blocks(&history, &sizes).0, false).unwrap();
        let log = log_of(&history, &sizes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut times: Vec<i64> = history.iter().flat_map(|commit| [-1, 0, 1].map(|d| commit.time.0 + d)).collect();
        times.push(0);
        times.sort_unstable();
        times.dedup();
        for time in times.into_iter().map(Timestamp) {
            let commits = history.iter().take_while(|commit| commit.time <= time).count();
            let position = runtime.block_on(views.position_at(&log, time)).unwrap();
            prop_assert_eq!(position, Position(commits as u64), "at {:?}", time);
            let past = runtime.block_on(ledger_as_of(&log, AsOf::Time(time))).unwrap();
            prop_assert_eq!(past.position(), position);
        }
        for (n, _) in history.iter().enumerate() {
            let block = views.locate(Position(n as u64 + 1)).unwrap().unwrap();
            let held = &blocks(&history, &sizes).0[block.0 as usize - 1];
            prop_assert!(held.commits.iter().any(|one| one.position.0 == n as u64 + 1));
        }
        prop_assert_eq!(views.locate(Position(0)).unwrap(), None);
        prop_assert_eq!(views.locate(Position(history.len() as u64 + 1)).unwrap(), None);
    }
}

#[tokio::test]
async fn the_future_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
    let log = log_of(&[], &[1]);
    let asked = AsOf::Position(Position(1));
    let volume = VolumeId::from_uuid(uuid::Uuid::nil());
    for error in [
        views.volume_as_of(&log, volume, asked).await.map(drop).unwrap_err(),
        ledger_as_of(&log, asked).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, QueryError::BeyondHead { .. }), "{error}");
    }
    let now = AsOf::Time(Timestamp(i64::MAX));
    assert_eq!(views.volume_as_of(&log, volume, now).await.unwrap(), None);
}
