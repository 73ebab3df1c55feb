//! What the runner does with orders, whatever backend, queue and ledger do to it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Lab, create, eventually, gib, is_report, order, snapshot, volume};
use tephra_domain::command::Command;
use tephra_domain::effect::{Effect, Failure, FailureKind, Outcome};
use tephra_domain::ids::PoolName;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::faulty::{Fault, Rule, Strikes};
use tephra_executors::runner::limits::EffectLimits;
use tokio::sync::Notify;

#[tokio::test]
async fn a_runner_presents_its_backend_and_shows_its_pools() {
    let lab = Lab::new();
    let runner = lab.start();
    eventually("the backend is presented and shown", || {
        let presented = lab.gateway.submitted.lock().unwrap().iter().any(|submission| {
            matches!(&submission.command, Command::RegisterBackend { backend, .. } if backend.as_str() == "memory")
        });
        presented && lab.board.read(Timestamp(1_000_000)).iter().any(|pool| pool.is_up)
    })
    .await;
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_is_performed_and_reported_once_as_the_system_in_the_request_that_caused_it() {
    let lab = Lab::new();
    let runner = lab.start();
    let order = order(7, 1, create(volume(1)));
    lab.queue.send(order.clone());
    lab.acknowledged(1).await;
    lab.cancel.cancel();
    runner.stopped().await;

    assert!(lab.memory.object(volume(1)).is_some());
    assert_eq!(lab.gateway.reports(), [(order.due.key, Outcome::Done)]);
    let submitted = lab.gateway.submitted.lock().unwrap();
    let about: Vec<_> = submitted.iter().filter(|s| s.request == order.request).collect();
    assert_eq!(about.len(), 2, "one check, one report");
    assert!(about.iter().all(|s| s.actor.user.as_str() == "tephra"));
    assert_ne!(about[0].id, about[1].id);
}

#[tokio::test]
async fn a_failure_is_reported_as_the_backend_gave_it() {
    let lab = Lab::new();
    let runner = lab.start();
    lab.queue.send(order(1, 1, Effect::CreateSnapshot { snapshot: snapshot(volume(1), 2) }));
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.failures().first().map(|f| f.kind), Some(FailureKind::ObjectMissing));
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_report_is_sent_until_the_ledger_takes_it_and_always_under_the_same_id() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::After, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("the effect is done", || lab.memory.object(volume(1)).is_some()).await;
    *lab.gateway.unavailable.lock().unwrap() = 5;
    gate.notify_one();
    lab.acknowledged(1).await;
    assert_eq!(*lab.gateway.unavailable.lock().unwrap(), 0);
    assert_eq!(lab.gateway.reports().len(), 1);
    assert_eq!(lab.faulty.calls().len(), 1);
    {
        let attempted = lab.gateway.attempted.lock().unwrap();
        let ids: Vec<_> = attempted.iter().filter(|s| is_report(&s.command)).map(|s| s.id).collect();
        assert_eq!(ids, [ids[0]; 6]);
    }
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_whose_report_is_stale_is_done_with() {
    let lab = Lab::new();
    *lab.gateway.refuse_reports.lock().unwrap() = true;
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.reports().len(), 1);
    assert!(lab.queue.given_back.lock().unwrap().is_empty());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_late_order_is_not_performed() {
    let lab = Lab::new();
    let late = order(1, 1, create(volume(1)));
    lab.gateway.overtaken.lock().unwrap().push(late.due.key);
    let runner = lab.start();
    lab.queue.send(late);
    lab.acknowledged(1).await;
    assert!(lab.faulty.calls().is_empty() && lab.gateway.reports().is_empty());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_that_was_overtaken_while_it_waited_for_a_worker_is_not_performed() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start_with(|config| config.parallelism = 1);
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("the worker is busy", || lab.faulty.calls().len() == 1).await;
    let late = order(2, 1, create(volume(2)));
    lab.queue.send(late.clone());
    // long enough for whoever would ask too early
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    lab.gateway.overtaken.lock().unwrap().push(late.due.key);
    gate.notify_one();
    lab.acknowledged(2).await;
    assert_eq!(lab.faulty.calls(), [create(volume(1))]);
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_that_comes_twice_is_performed_once() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start();
    let twice = order(1, 1, create(volume(1)));
    lab.queue.send(twice.clone());
    lab.queue.send(twice.clone());
    eventually("the first is at work", || lab.faulty.calls().len() == 1).await;
    gate.notify_one();
    lab.acknowledged(2).await;
    lab.queue.send(twice);
    lab.acknowledged(3).await;
    assert_eq!(lab.faulty.calls().len(), 1);
    assert!(lab.gateway.reports().iter().all(|(_, outcome)| *outcome == Outcome::Done));
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn effects_on_one_volume_take_turns_and_others_go_on() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("the first is at work", || lab.faulty.calls().len() == 1).await;
    // the same volume as target, and as source
    lab.queue.send(order(2, 1, Effect::CreateSnapshot { snapshot: snapshot(volume(1), 9) }));
    lab.queue.send(order(3, 1, Effect::CloneVolume { volume: volume(3), size: gib(1), source: volume(1) }));
    lab.queue.send(order(4, 1, create(volume(4))));
    lab.acknowledged(1).await;
    assert_eq!(lab.faulty.calls(), [create(volume(1)), create(volume(4))]);

    gate.notify_one();
    lab.acknowledged(4).await;
    assert!(lab.gateway.failures().is_empty(), "{:?}", lab.gateway.failures());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_panic_is_a_failure_of_the_backend_and_its_text_stays_in_the_log() {
    let lab = Lab::new();
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Panic));
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    lab.acknowledged(1).await;
    let failures = lab.gateway.failures();
    assert_eq!(failures[0].kind, FailureKind::BackendError);
    assert!(!failures[0].message.contains("script"), "{}", failures[0].message);
    // the volume is free again
    lab.queue.send(order(1, 2, create(volume(1))));
    lab.acknowledged(2).await;
    assert!(lab.memory.object(volume(1)).is_some());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn what_outlives_its_time_limit_keeps_its_volume() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let metadata = Duration::from_millis(50);
    lab.faulty.limit(EffectLimits { metadata, ..EffectLimits::default() });
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.failures()[0].kind, FailureKind::TimedOut);

    // the undo must not overtake the create that is still going on
    lab.queue.send(order(1, 2, Effect::DeleteVolume { volume: volume(1) }));
    lab.queue.send(order(2, 1, create(volume(2))));
    lab.acknowledged(2).await;
    assert_eq!(lab.faulty.calls(), [create(volume(1)), create(volume(2))]);
    gate.notify_one();
    lab.acknowledged(3).await;
    assert!(lab.memory.object(volume(1)).is_none());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_effect_may_take_as_long_as_its_backend_says() {
    let lab = Lab::new();
    let (zeroed, compared) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    lab.faulty.inject(Rule::once("DeleteVolume", Strikes::Before, Fault::Gate(Arc::clone(&zeroed))));
    lab.faulty.inject(Rule::once("ShrinkVolume", Strikes::Before, Fault::Gate(Arc::clone(&compared))));
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Crash));
    lab.memory.perform(&PoolName::new("memory"), &create(volume(1))).await.unwrap();
    lab.memory.perform(&PoolName::new("memory"), &create(volume(2))).await.unwrap();
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(3600));
    lab.faulty.limit(EffectLimits { metadata: short, resize: long, remove: long, copy: short, lock: short });
    let runner = lab.start();
    lab.queue.send(order(1, 1, Effect::DeleteVolume { volume: volume(1) }));
    lab.queue.send(order(2, 1, Effect::ShrinkVolume { volume: volume(2), to: gib(1) }));
    eventually("both are at work", || lab.faulty.calls().len() == 2).await;
    // by the time that this one has outlived the short limit, they have long outlived it, too
    lab.queue.send(order(3, 1, create(volume(3))));
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.failures().len(), 1);
    zeroed.notify_one();
    compared.notify_one();
    lab.acknowledged(3).await;
    assert_eq!(lab.gateway.failures().len(), 1, "{:?}", lab.gateway.failures());
    assert!(lab.memory.object(volume(1)).is_none());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_whose_volume_stays_busy_times_out() {
    let lab = Lab::new();
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Crash));
    let short = Duration::from_millis(30);
    lab.faulty.limit(EffectLimits { metadata: short, lock: short, ..EffectLimits::default() });
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    lab.acknowledged(1).await;
    lab.queue.send(order(1, 2, create(volume(1))));
    lab.acknowledged(2).await;
    let kinds: Vec<FailureKind> = lab.gateway.failures().iter().map(|failure| failure.kind).collect();
    assert_eq!(kinds, [FailureKind::TimedOut, FailureKind::TimedOut]);
    assert_eq!(lab.faulty.calls().len(), 1);
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn no_more_effects_run_at_once_than_configured() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::always("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start_with(|config| config.parallelism = 2);
    for n in 1..=5 {
        lab.queue.send(order(n, 1, create(volume(n))));
    }
    for done in 0..5 {
        eventually("workers are busy", || lab.faulty.calls().len() == (done + 2).min(5)).await;
        gate.notify_one();
        lab.acknowledged(done + 1).await;
        assert!(lab.faulty.calls().len() <= done + 3);
    }
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_lease_is_kept_as_long_as_the_work_takes() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start_with(|config| config.keep_interval = Duration::from_millis(5));
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("the lease is kept", || *lab.queue.kept.lock().unwrap() >= 3).await;
    gate.notify_one();
    lab.acknowledged(1).await;
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn an_order_waits_until_it_is_due_without_taking_a_worker() {
    let lab = Lab::new();
    let runner = lab.start_with(|config| config.parallelism = 1);
    let mut later = order(1, 2, create(volume(1)));
    later.due.not_before = Timestamp(1_000_000).plus_ms(100);
    lab.queue.send(later.clone());
    lab.queue.send(order(2, 1, create(volume(2))));
    lab.acknowledged(1).await;
    assert_eq!(lab.faulty.calls(), [create(volume(2))]);
    lab.clock.advance_ms(100);
    lab.acknowledged(2).await;
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_stop_finishes_what_is_at_work_and_gives_back_what_waits() {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Gate(Arc::clone(&gate))));
    let runner = lab.start();
    let at_work = order(1, 1, create(volume(1)));
    let waiting = order(2, 1, Effect::DeleteVolume { volume: volume(1) });
    lab.queue.send(at_work.clone());
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    lab.queue.send(waiting.clone());
    lab.cancel.cancel();
    gate.notify_one();
    runner.stopped().await;
    assert_eq!(*lab.queue.acknowledged.lock().unwrap(), [at_work.due.key]);
    assert_eq!(lab.gateway.reports(), [(at_work.due.key, Outcome::Done)]);
    assert_eq!(lab.faulty.calls().len(), 1);
}

#[tokio::test]
async fn what_cannot_finish_in_time_is_given_back_and_done_by_the_next_runner() {
    let lab = Lab::new();
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::After, Fault::Crash));
    let runner = lab.start_with(|config| config.drain_limit = Duration::from_millis(20));
    let stuck = order(1, 1, create(volume(1)));
    lab.queue.send(stuck.clone());
    eventually("it is done but not said", || lab.memory.object(volume(1)).is_some()).await;
    lab.cancel.cancel();
    runner.stopped().await;
    assert_eq!(*lab.queue.given_back.lock().unwrap(), [stuck.due.key]);
    assert!(lab.gateway.reports().is_empty());

    let next = Lab { cancel: tokio_util::sync::CancellationToken::new(), ..lab };
    let runner = next.start();
    next.queue.send(stuck.clone());
    next.acknowledged(1).await;
    assert_eq!(next.gateway.reports(), [(stuck.due.key, Outcome::Done)]);
    next.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_shown_down_and_up_again() {
    let lab = Lab::new();
    let is_up = |lab: &Lab| lab.board.read(Timestamp(1_000_000)).first().map(|pool| pool.is_up);
    let down = Failure::new(FailureKind::BackendUnavailable, "not mounted");
    lab.faulty.fail_stats(Some(down.clone()));
    let runner = lab.start();
    eventually("it was presented", || !lab.gateway.submitted.lock().unwrap().is_empty()).await;
    assert_eq!(is_up(&lab), None, "nothing is known of it");
    lab.faulty.heal();
    eventually("it is up", || is_up(&lab) == Some(true)).await;
    lab.faulty.fail_stats(Some(down));
    eventually("it is down", || is_up(&lab) == Some(false)).await;
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test]
async fn the_in_process_queue_gets_its_orders_back_from_a_stopped_runner() {
    use tephra_journal::in_process_queue::InProcessQueue;
    use tephra_journal::work_queue::WorkQueue;

    let lab = Lab::new();
    let queue = InProcessQueue::new(Arc::clone(&lab.clock) as Arc<dyn tephra_journal::clock::Clock>);
    let start = |cancel: tokio_util::sync::CancellationToken| {
        tephra_executors::runner::Runner::start(
            tephra_executors::runner::RunnerConfig {
                drain_limit: Duration::from_millis(20),
                ..Default::default()
            },
            Arc::clone(&lab.faulty) as Arc<dyn tephra_executors::backend::Backend>,
            Arc::new(queue.clone()),
            Arc::clone(&lab.gateway) as Arc<dyn tephra_journal::gateway::CommandGateway>,
            lab.board.clone(),
            Arc::clone(&lab.clock) as Arc<dyn tephra_journal::clock::Clock>,
            cancel,
        )
    };
    lab.faulty.inject(Rule::once("CreateVolume", Strikes::Before, Fault::Crash));
    let first = start(lab.cancel.clone());
    queue.publish(order(1, 1, create(volume(1)))).await;
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    lab.cancel.cancel();
    first.stopped().await;
    assert_eq!(queue.len(), 1);

    let cancel = tokio_util::sync::CancellationToken::new();
    let second = start(cancel.clone());
    eventually("the order is done", || queue.is_empty()).await;
    assert!(lab.memory.object(volume(1)).is_some());
    cancel.cancel();
    second.stopped().await;
}
