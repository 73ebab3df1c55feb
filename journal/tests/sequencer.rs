//! The sequencer over logs that behave and logs that do not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use support::{
    DEADLINE, Running, all_at_once, create_volume, member, position, register_backend, replayed, submission,
};
use tephra_domain::command::Command;
use tephra_domain::effect::Outcome;
use tephra_domain::event::Idempotency;
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{BackendName, IdempotencyKey, Position};
use tephra_domain::ledger::Ledger;
use tephra_domain::rejection::Rejection;
use tephra_domain::volume::VolumeState;
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::faulty::{AppendFault, FaultyLog};
use tephra_journal::feed::Fed;
use tephra_journal::gateway::{Receipt, Submission, SubmitError};
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError};
use tephra_journal::memory::MemoryLog;
use tephra_journal::sequencer::{MAX_COMMIT_BYTES, RecentCommands, RecentLimits, bootstrap, catch_up};
use tephra_journal::wire::state::state_hash;
use tephra_journal::work_queue::WorkQueue;

/// Three blocks make a ledger ready; faults begin after them.
fn after_ready(faults: &[AppendFault]) -> Vec<AppendFault> {
    [AppendFault::None; 3].into_iter().chain(faults.iter().copied()).collect()
}

async fn ready_with(faults: &[AppendFault]) -> (Running, Arc<FaultyLog<MemoryLog>>) {
    let log = Arc::new(FaultyLog::scripted(MemoryLog::new(), after_ready(faults)));
    (Running::ready(log.clone()).await, log)
}

fn rejection(result: Result<Receipt, SubmitError>) -> Rejection {
    match result {
        Err(SubmitError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn commands_that_arrive_during_an_append_share_the_next_block() {
    let (running, log) = ready_with(&[AppendFault::Delay(Duration::from_millis(200))]).await;
    let before = log.head().await.unwrap().0;
    let answers = all_at_once(&running, (0..100).map(|_| create_volume(1)).collect()).await;
    let positions: BTreeSet<Position> = answers.into_iter().map(position).collect();
    assert_eq!(positions.len(), 100, "each command has a commit of its own");
    let blocks = log.head().await.unwrap().0 - before;
    assert!(blocks <= 10, "100 commands took {blocks} blocks");
    running.stop().await;
    assert_eq!(replayed(&*log).await.ledger.volumes.len(), 100);
}

#[tokio::test]
async fn an_idle_sequencer_appends_each_command_at_once() {
    let (running, log) = ready_with(&[]).await;
    for expected in 4..=6 {
        position(running.submit(create_volume(1)).await);
        assert_eq!(log.head().await.unwrap(), BlockNumber(expected));
    }
}

#[tokio::test]
async fn an_append_without_an_answer_is_settled_and_never_decided_twice() {
    for fault in [AppendFault::UnknownWithEffect, AppendFault::UnknownWithoutEffect, AppendFault::Conflict] {
        let (running, log) = ready_with(&[fault, fault, fault]).await;
        let at = position(running.submit(create_volume(1)).await);
        assert_eq!(at, Position(4), "{fault:?}");
        position(running.submit(create_volume(1)).await);
        running.stop().await;
        let state = replayed(&*log).await;
        assert_eq!(state.ledger.volumes.len(), 2, "{fault:?}");
        assert_eq!(state.head.position, Position(5), "{fault:?}");
    }
}

#[tokio::test]
async fn reads_that_fail_while_an_append_is_being_settled_are_tried_again() {
    let (running, log) = ready_with(&[AppendFault::UnknownWithEffect]).await;
    log.fail_reads(5);
    assert_eq!(position(running.submit(create_volume(1)).await), Position(4));
    assert_eq!(log.head().await.unwrap(), BlockNumber(4));
}

#[tokio::test]
async fn a_hundred_seeds_of_faults_lose_nothing_and_repeat_nothing() {
    for seed in 0..100 {
        let log = Arc::new(FaultyLog::seeded(MemoryLog::new(), seed));
        let running = Running::ready(log.clone()).await;
        let answers = all_at_once(&running, (0..20).map(|_| create_volume(1)).collect()).await;
        let positions: BTreeSet<Position> = answers.into_iter().map(position).collect();
        running.stop().await;
        let state = replayed(&*log).await;
        assert_eq!(positions.len(), 20, "seed {seed}");
        assert_eq!(state.ledger.volumes.len(), 20, "seed {seed}");
        assert_eq!(state.head.position, Position(23), "seed {seed}");
    }
}

#[tokio::test]
async fn answers_wait_for_the_block_that_they_rest_on() {
    let (running, log) = ready_with(&[AppendFault::Delay(Duration::from_millis(100))]).await;
    let create = create_volume(1);
    let Command::CreateVolume(content) = &create.command else { panic!("it creates a volume") };
    // Both are refused because of the first, which is decided with or before them.
    let again = submission(member(), Command::CreateVolume(content.clone()));
    let extend = submission(
        member(),
        Command::ExtendVolume {
            volume: content.volume,
            to: tephra_domain::units::SizeGib::new(2).unwrap(),
            online: false,
        },
    );
    let mut answers = all_at_once(&running, vec![create, again, extend]).await.into_iter();
    position(answers.next().unwrap());
    assert!(log.head().await.unwrap() >= BlockNumber(4), "answered before it was durable");
    assert_eq!(rejection(answers.next().unwrap()).code(), "VolumeExists");
    assert_eq!(rejection(answers.next().unwrap()).code(), "VolumeNotExtendable");
}

#[tokio::test]
async fn a_rejected_command_changes_nothing() {
    let (running, log) = ready_with(&[]).await;
    let before = state_hash(&replayed(&*log).await.ledger);
    let reset = Command::ResetVolumeStatus {
        volume: tephra_domain::ids::VolumeId::from_uuid(support::uuid(1)),
        to: VolumeState::Error,
    };
    rejection(running.submit(submission(member(), reset)).await);
    let disable = Command::DisableBackend { backend: BackendName::new(support::BACKEND), reason: None };
    rejection(running.submit(submission(member(), disable)).await);
    running.stop().await;
    assert_eq!(log.head().await.unwrap(), BlockNumber(3));
    assert_eq!(state_hash(&replayed(&*log).await.ledger), before);
}

#[tokio::test]
async fn a_command_that_no_block_can_hold_is_refused_and_those_beside_it_are_not() {
    let (running, _) = ready_with(&[]).await;
    let mut huge = create_volume(1);
    let Command::CreateVolume(create) = &mut huge.command else { panic!("{huge:?}") };
    create.metadata.insert("k".into(), "v".repeat(MAX_COMMIT_BYTES));
    let answers = all_at_once(&running, vec![create_volume(1), huge, create_volume(1)]).await;
    let [first, huge, last] = <[_; 3]>::try_from(answers).unwrap();
    assert!(matches!(&huge, Err(SubmitError::TooLarge { .. })), "{huge:?}");
    let mut positions = [position(first), position(last)];
    positions.sort_unstable();
    assert_eq!(positions[1].0, positions[0].0 + 1, "nothing was decided for the one between");
    running.stop().await;
}

#[tokio::test]
async fn what_is_so_already_is_answered_without_a_commit() {
    let (running, log) = ready_with(&[]).await;
    match running.submit(register_backend()).await {
        Ok(Receipt::NothingToDo { position }) => assert_eq!(position, Position(3)),
        other => panic!("{other:?}"),
    }
    bootstrap(&running.handle).await.unwrap();
    assert_eq!(log.head().await.unwrap(), BlockNumber(3));
}

#[tokio::test]
async fn an_idempotency_key_answers_again_and_refuses_another_request() {
    let (running, _log) = ready_with(&[]).await;
    let keyed = |fingerprint: u8| Submission {
        idempotency: Some(Idempotency { key: IdempotencyKey::new("key"), fingerprint: [fingerprint; 32] }),
        ..create_volume(1)
    };
    let at = position(running.submit(keyed(1)).await);
    match running.submit(keyed(1)).await {
        Ok(Receipt::Repeated { position }) => assert_eq!(position, at),
        other => panic!("{other:?}"),
    }
    assert_eq!(rejection(running.submit(keyed(2)).await), Rejection::IdempotencyKeyReused);
    running.stop().await;
}

#[tokio::test]
async fn a_command_that_is_sent_again_has_the_same_answer_also_after_a_restart() {
    let (running, log) = ready_with(&[]).await;
    let create = create_volume(1);
    let at = position(running.submit(create.clone()).await);
    assert_eq!(position(running.submit(create.clone()).await), at);
    let answers = all_at_once(&running, vec![create.clone(), create.clone()]).await;
    assert!(answers.into_iter().all(|answer| position(answer) == at));
    running.stop().await;
    let restarted = Running::over(log).await;
    assert_eq!(position(restarted.submit(create).await), at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_disk_gives_the_state_that_was_live() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&path).unwrap());
    let running = Running::over(Arc::clone(&log)).await;
    let mut fed = running.feed.subscribe();
    running.make_ready().await;
    let answers = all_at_once(&running, (0..200).map(|_| create_volume(1)).collect()).await;
    let last = answers.into_iter().map(position).max().unwrap();
    running.stop().await;
    // The feed carries what was decided, and has never been bytes.
    let mut live = Ledger::default();
    let mut last_fed = None;
    while let Some(Fed::Block(block)) = fed.try_next() {
        for sequenced in &block.commits {
            apply_commit(&mut live, sequenced.position, &sequenced.commit).unwrap();
        }
        last_fed = Some(block);
    }
    drop((running, log));

    let log = EmbeddedLog::open(&path).unwrap();
    let state = replayed(&log).await;
    assert_eq!(state.head.position, last);
    assert_eq!(state.head.hash, last_fed.unwrap().hash);
    assert_eq!(state_hash(&state.ledger), state_hash(&live));
}

#[tokio::test]
async fn effects_are_dispatched_and_reports_lead_on() {
    let (running, log) = ready_with(&[]).await;
    let create = create_volume(1);
    position(running.submit(create.clone()).await);
    let backend = BackendName::new(support::BACKEND);
    let delivery = tokio::time::timeout(DEADLINE, running.queue.next(&backend)).await.unwrap().unwrap();
    assert_eq!(delivery.order().due.effect.name(), "CreateVolume");
    assert_eq!(delivery.order().request, create.request);

    let report = |key| {
        let actor = tephra_domain::actor::Actor::system();
        submission(actor, Command::ReportOutcome { key, outcome: Outcome::Done })
    };
    let key = delivery.order().due.key;
    position(running.submit(report(key)).await);
    delivery.acknowledge().await;
    assert_eq!(rejection(running.submit(report(key)).await), Rejection::StaleReport);
    running.stop().await;
    let state = replayed(&*log).await.ledger;
    assert_eq!(state.volumes.sorted()[0].1.status.state(), VolumeState::Available);
    assert!(running.queue.is_empty());
}

#[tokio::test]
async fn what_was_due_before_a_restart_is_dispatched_again() {
    let (running, log) = ready_with(&[]).await;
    position(running.submit(create_volume(1)).await);
    running.stop().await;
    let restarted = Running::over(log).await;
    let backend = BackendName::new(support::BACKEND);
    let delivery = tokio::time::timeout(DEADLINE, restarted.queue.next(&backend)).await.unwrap().unwrap();
    assert_eq!(delivery.order().due.effect.name(), "CreateVolume");
}

#[tokio::test]
async fn a_stopped_sequencer_answers_what_it_has_and_takes_no_more() {
    let (running, log) = ready_with(&[AppendFault::Delay(Duration::from_millis(100))]).await;
    let handle = running.handle.clone();
    let in_flight = tokio::spawn(async move {
        use tephra_journal::gateway::CommandGateway;
        handle.submit(create_volume(1)).await
    });
    tokio::task::yield_now().await;
    running.stop().await;
    let answer = in_flight.await.unwrap();
    let landed = log.head().await.unwrap() == BlockNumber(4);
    assert_eq!(answer.is_ok(), landed, "{answer:?}");
    match running.submit(create_volume(1)).await {
        Err(SubmitError::Unavailable { reason }) => assert!(reason.contains("stopped"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_that_never_answers_does_not_hold_up_the_stop() {
    let (running, _log) = ready_with(&[AppendFault::UnknownWithoutEffect; 2000]).await;
    let handle = running.handle.clone();
    let asked = tokio::spawn(async move {
        use tephra_journal::gateway::CommandGateway;
        handle.submit(create_volume(1)).await
    });
    tokio::task::yield_now().await;
    running.cancel.cancel();
    let ended = tokio::time::timeout(DEADLINE, running.handle.drained()).await.unwrap();
    let answer = asked.await.unwrap();
    assert!(ended.is_err() || answer.is_err(), "{ended:?} {answer:?}");
}

#[tokio::test]
async fn a_state_that_was_saved_late_remembers_what_was_decided_before() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
    let running = Running::ready(Arc::clone(&log)).await;
    running.submit(create_volume(1)).await.unwrap();
    running.stop().await;
    let whole = replayed(&*log).await;
    let mut late = catch_up(replayed(&*log).await.ledger, whole.head.block, &*log).await.unwrap();
    assert!(late.recent.is_empty());
    late.remember(&*log).await.unwrap();
    assert_eq!(late.recent, whole.recent);
    assert!(!late.recent.is_empty());
}

#[tokio::test]
async fn a_command_that_many_others_followed_is_answered_and_does_not_happen_again_also_after_a_restart() {
    const FEW: RecentLimits = RecentLimits { whole: 2, span_ms: 60_000, most: 1_000 };
    let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
    Running::ready(Arc::clone(&log)).await.stop().await;
    let mut state = replayed(&*log).await;
    state.recent = RecentCommands::with_limits(FEW);
    let running = Running::from(Arc::clone(&log), state);
    let create = create_volume(1);
    let at = position(running.submit(create.clone()).await);
    for _ in 0..20 {
        position(running.submit(create_volume(1)).await);
    }
    let is_told_again = |answer| matches!(answer, Ok(Receipt::Repeated { position }) if position == at);
    assert!(is_told_again(running.submit(create.clone()).await));
    running.stop().await;

    // From a state that was saved at the end, with what it remembers of the log.
    let whole = replayed(&*log).await;
    let mut saved = catch_up(whole.ledger, whole.head.block, &*log).await.unwrap();
    saved.recent = RecentCommands::with_limits(FEW);
    saved.remember(&*log).await.unwrap();
    let running = Running::from(Arc::clone(&log), saved);
    assert!(is_told_again(running.submit(create).await));
    running.stop().await;
    assert_eq!(replayed(&*log).await.ledger.volumes.len(), 21);
}

#[tokio::test]
async fn orders_say_which_request_they_came_from_also_after_a_restart() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
    let running = Running::ready(Arc::clone(&log)).await;
    let creates: Vec<_> = (0..5).map(|_| create_volume(1)).collect();
    for create in &creates {
        running.submit(create.clone()).await.unwrap();
        // Blocks after it, so that there is something to search.
        running.submit(support::raise_quota()).await.ok();
    }
    running.stop().await;
    let head = replayed(&*log).await.head;
    // From a state that was saved at the end: nothing of the log is read to reach it.
    let mut saved = catch_up(replayed(&*log).await.ledger, head.block, &*log).await.unwrap();
    assert_eq!(saved.requests, tephra_journal::sequencer::Requests::default());
    saved.find_requests(&*log).await.unwrap();
    let again = Running::from(Arc::clone(&log), saved);
    let backend = BackendName::new(support::BACKEND);
    let mut taken = Vec::new();
    while taken.len() < creates.len() {
        taken.push(tokio::time::timeout(DEADLINE, again.queue.next(&backend)).await.unwrap().unwrap());
    }
    let mut asked: Vec<_> = taken.iter().map(|delivery| &delivery.order().request).collect();
    let mut expected: Vec<_> = creates.iter().map(|create| &create.request).collect();
    asked.sort_unstable();
    expected.sort_unstable();
    assert_eq!(asked, expected);
    again.stop().await;
}

/// A log that never says where it ends.
struct Headless(MemoryLog);

#[async_trait::async_trait]
impl Log for Headless {
    async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
        self.0.append(expected, bytes).await
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
        self.0.read(from, limit).await
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        std::future::pending().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        self.0.wait_beyond(known).await;
    }
}

#[tokio::test]
async fn an_answer_without_a_commit_is_given_as_soon_as_the_next_block_shows_that_the_state_is_true() {
    let log: Arc<dyn Log> = Arc::new(Headless(MemoryLog::default()));
    let running = Running::ready(Arc::clone(&log)).await;
    let handle = running.handle.clone();
    let unproven = tokio::spawn(async move {
        use tephra_journal::gateway::CommandGateway;
        let reset = Command::ResetVolumeStatus {
            volume: tephra_domain::ids::VolumeId::from_uuid(support::uuid(1)),
            to: VolumeState::Error,
        };
        handle.submit(submission(tephra_domain::actor::Actor::system(), reset)).await
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!unproven.is_finished(), "nothing has shown that the state is the log's");
    position(running.submit(create_volume(1)).await);
    let refused = tokio::time::timeout(DEADLINE, unproven).await.unwrap().unwrap();
    rejection(refused);
    running.stop().await;
}
