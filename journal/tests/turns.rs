//! Turns as the sequencer: they begin in the log, and end at the first block of another.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use support::{DEADLINE, Running, all_at_once, create_volume, position, register_backend, replayed};
use tephra_domain::event::Event;
use tephra_domain::ids::Position;
use tephra_journal::faulty::FaultyLog;
use tephra_journal::gateway::{Receipt, SubmitError};
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError};
use tephra_journal::memory::MemoryLog;
use tephra_journal::sequencer::{SequencerError, catch_up_from};
use tephra_journal::wire::decode_block;

/// Ends because another has gone on.
async fn is_overtaken(running: &Running) -> bool {
    let ended = tokio::time::timeout(DEADLINE, running.handle.drained()).await.unwrap();
    ended.is_err_and(|error| matches!(*error, SequencerError::Overtaken(_)))
}

async fn copy_of(log: &dyn Log) -> MemoryLog {
    let blocks = log.read(BlockNumber(1), usize::MAX).await.unwrap();
    MemoryLog::holding(blocks.into_iter().map(|(_, bytes)| bytes).collect())
}

#[tokio::test]
async fn two_sequencers_on_one_log_end_with_one_of_them_and_with_every_answer_kept() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let one = Running::ready(Arc::clone(&log)).await;
    let two = Running::over(Arc::clone(&log)).await;
    let (a, b) = tokio::join!(
        all_at_once(&one, (0..50).map(|_| create_volume(1)).collect()),
        all_at_once(&two, (0..50).map(|_| create_volume(1)).collect()),
    );
    let accepted = a.into_iter().chain(b).filter_map(|answer| match answer {
        Ok(receipt) => Some(position(Ok(receipt))),
        Err(SubmitError::Unavailable { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    let accepted: BTreeSet<Position> = accepted.collect();
    tokio::select! {
        overtaken = is_overtaken(&one) => assert!(overtaken),
        overtaken = is_overtaken(&two) => assert!(overtaken),
    }
    assert_eq!(replayed(&*log).await.ledger.volumes.len(), accepted.len());
}

#[tokio::test]
async fn a_sequencer_ends_at_the_first_block_of_another_and_leaves_what_it_was_asked_undecided() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let one = Running::ready(Arc::clone(&log)).await;
    let two = Running::in_turn(Arc::clone(&log), "two").await;
    assert!(is_overtaken(&one).await);
    let asked = create_volume(1);
    let refused = one.submit(asked.clone()).await;
    assert!(matches!(refused, Err(SubmitError::Unavailable { .. })), "{refused:?}");
    position(two.submit(asked).await);
    two.stop().await;
    assert_eq!(replayed(&*log).await.ledger.volumes.len(), 1);
}

#[tokio::test]
async fn a_turn_begins_in_the_log_before_anything_is_decided_in_it() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let before = log.head().await.unwrap();
    // What the last one has still under way lands before the turn begins, and is known in it.
    let late = {
        let state = replayed(&*log).await;
        let earlier = Running::from(Arc::new(copy_of(&*log).await), state);
        let asked = create_volume(1);
        position(earlier.submit(asked.clone()).await);
        let block = earlier.log.read(BlockNumber(before.0 + 1), 1).await.unwrap().remove(0).1;
        earlier.stop().await;
        (asked, block)
    };
    let (asked, block) = late;
    let next = Running::begin(Arc::clone(&log), replayed(&*log).await, Some("next"));
    // It has not run yet: nothing has waited since it was started.
    assert_eq!(log.append(before, block).await, AppendOutcome::Appended(BlockNumber(before.0 + 1)));
    assert_eq!(position(next.submit(asked).await), Position(before.0 + 1), "it happened before the turn");
    next.stop().await;
    let turn = log.read(BlockNumber(before.0 + 2), 1).await.unwrap().remove(0);
    let events = decode_block(turn.0, &turn.1).unwrap().commits.remove(0).commit.events.clone();
    assert_eq!(events, [Event::TurnBegan { sequencer: "next".into() }]);
}

#[tokio::test]
async fn a_turn_that_is_over_before_it_has_begun_decides_nothing() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let before = log.head().await.unwrap();
    let late = Running::begin(Arc::clone(&log), replayed(&*log).await, Some("late"));
    late.cancel.cancel();
    let refused = late.submit(create_volume(1)).await;
    assert!(matches!(refused, Err(SubmitError::Unavailable { .. })), "{refused:?}");
    late.stop().await;
    assert_eq!(log.head().await.unwrap(), before);
}

#[tokio::test]
async fn a_beginner_that_was_held_still_does_not_end_the_turn_of_who_came_before_it() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let held_still = replayed(&*log).await;
    let rightful = Running::in_turn(Arc::clone(&log), "rightful").await;
    position(rightful.submit(create_volume(1)).await);
    let late = Running::begin(Arc::clone(&log), held_still, Some("late"));
    assert!(is_overtaken(&late).await);
    position(rightful.submit(create_volume(1)).await);
    rightful.stop().await;
}

#[tokio::test]
async fn what_was_under_way_when_another_s_turn_began_never_happens() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let before = log.head().await.unwrap();
    let earlier = Running::from(Arc::new(copy_of(&*log).await), replayed(&*log).await);
    let (first, dependent) = (create_volume(1), create_volume(1));
    position(earlier.submit(first).await);
    let block = earlier.log.read(BlockNumber(before.0 + 1), 1).await.unwrap().remove(0).1;
    let next = Running::in_turn(Arc::clone(&log), "next").await;
    // An answer without a commit: nothing but the turn's beginning keeps the late block out.
    assert!(matches!(next.submit(register_backend()).await, Ok(Receipt::NothingToDo { .. })));
    let late = log.append(before, block).await;
    assert!(matches!(late, AppendOutcome::Conflict { .. }), "{late:?}");
    position(next.submit(dependent).await);
    next.stop().await;
    earlier.stop().await;
}

#[tokio::test]
async fn no_turn_begins_where_the_log_has_another_block_than_the_state() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let fork: Arc<dyn Log> = Arc::new(copy_of(&*log).await);
    for one in [&log, &fork] {
        let running = Running::over(Arc::clone(one)).await;
        position(running.submit(create_volume(1)).await);
        running.stop().await;
    }
    let before = fork.head().await.unwrap();
    let misled = Running::begin(Arc::clone(&fork), replayed(&*log).await, Some("misled"));
    let ended = tokio::time::timeout(DEADLINE, misled.handle.drained()).await.unwrap();
    assert!(ended.is_err_and(|error| matches!(*error, SequencerError::Log(LogError::Corrupt { .. }))));
    assert_eq!(fork.head().await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_turn_on_a_log_that_has_lost_its_end_is_over_after_a_while() {
    let whole: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&whole)).await.stop().await;
    let mut kept = whole.read(BlockNumber(1), usize::MAX).await.unwrap();
    kept.pop();
    let kept = MemoryLog::holding(kept.into_iter().map(|(_, bytes)| bytes).collect());
    let log: Arc<dyn Log> = Arc::new(kept);
    for turn_of in [Some("candidate"), None] {
        let running = Running::begin(Arc::clone(&log), replayed(&*whole).await, turn_of);
        let refused = running.submit(create_volume(1)).await;
        assert!(matches!(refused, Err(SubmitError::Unavailable { .. })), "{refused:?}");
        let ended = running.handle.drained().await;
        assert!(ended.is_err_and(|error| matches!(*error, SequencerError::Log(LogError::Corrupt { .. }))));
    }
}

#[tokio::test]
async fn a_saved_state_is_not_continued_by_a_log_that_has_another_block_in_its_place() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
    let before = Running::ready(Arc::clone(&log)).await;
    before.stop().await;
    let fork: Arc<dyn Log> = Arc::new(copy_of(&*log).await);
    for one in [&log, &fork] {
        let running = Running::over(Arc::clone(one)).await;
        position(running.submit(create_volume(1)).await);
        running.stop().await;
    }
    // Both stand at the same block and the same commit.
    let saved = replayed(&*log).await;
    let (ledger, head) = (saved.ledger, saved.head);
    assert_eq!(fork.head().await.unwrap(), head.block);
    match catch_up_from(ledger, head, &*fork).await {
        Err(LogError::Corrupt { number, .. }) => assert_eq!(number, head.block),
        other => panic!("{:?}", other.map(|state| state.head)),
    }
    assert_eq!(catch_up_from(replayed(&*log).await.ledger, head, &*log).await.unwrap().head, head);
}

#[tokio::test(start_paused = true)]
async fn a_saved_state_waits_for_its_block_as_long_as_the_log_may_lag_and_no_longer() {
    const LONGEST: Duration = Duration::from_secs(30);
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let head = replayed(&*log).await.head;
    let lagging = FaultyLog::scripted(copy_of(&*log).await, []);
    for (reads, longest, is_found) in [
        (5, LONGEST, true),
        (u32::MAX, LONGEST, false),
        // A log in one place knows at once.
        (1, Duration::ZERO, false),
    ] {
        lagging.lag_for(reads, longest);
        match catch_up_from(replayed(&*log).await.ledger, head, &lagging).await {
            Ok(state) => assert!(is_found && state.head == head, "{:?} after {reads}", state.head),
            Err(LogError::Corrupt { number, .. }) => assert!(!is_found && number == head.block, "{number:?}"),
            Err(error @ LogError::Unavailable(_)) => panic!("{error}"),
        }
    }
}
