//! What becomes of an order whose lease cannot be kept, on storage that other hosts reach and elsewhere.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Lab, create, eventually, order, snapshot, volume};
use tephra_domain::effect::{Effect, FailureKind, Outcome};
use tephra_executors::backend::faulty::{Fault, Rule, Strikes};
use tephra_executors::runner::limits::EffectLimits;
use tokio::sync::Notify;

const LEASE: Duration = Duration::from_secs(12);

/// A lab of leases, and what holds its first create at work.
fn lab_at(strikes: Strikes) -> (Lab, Arc<Notify>) {
    let lab = Lab::new();
    let gate = Arc::new(Notify::new());
    lab.faulty.inject(Rule::once("CreateVolume", strikes, Fault::Gate(Arc::clone(&gate))));
    *lab.queue.lease.lock().unwrap() = Some(LEASE);
    (lab, gate)
}

/// One whose storage other hosts reach.
fn shared_lab_at(strikes: Strikes) -> (Lab, Arc<Notify>) {
    let (lab, gate) = lab_at(strikes);
    lab.faulty.share();
    (lab, gate)
}

async fn given_back(lab: &Lab) {
    eventually("the order is let go", || lab.queue.given_back.lock().unwrap().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_order_may_be_somebody_elses_stops_before_its_next_step_and_reports_nothing() {
    let (lab, gate) = shared_lab_at(Strikes::Before);
    let runner = lab.start();
    let lost = order(1, 1, create(volume(1)));
    lab.queue.send(lost.clone());
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    *lab.queue.is_away.lock().unwrap() = true;
    given_back(&lab).await;
    gate.notify_one();
    tokio::time::sleep(LEASE * 10).await;
    assert!(lab.memory.object(volume(1)).is_none(), "it went on");
    assert!(lab.gateway.reports().is_empty());

    // it comes back to the same executor, whose locks are free again
    *lab.queue.is_away.lock().unwrap() = false;
    lab.queue.send(lost.clone());
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.reports(), [(lost.due.key, Outcome::Done)]);
    assert!(lab.memory.object(volume(1)).is_some());
    lab.queue.send(order(2, 1, Effect::CreateSnapshot { snapshot: snapshot(volume(1), 2) }));
    lab.acknowledged(2).await;
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn what_only_one_host_reaches_is_finished_and_reported_however_long_the_queue_is_away() {
    let (lab, gate) = lab_at(Strikes::Before);
    let runner = lab.start();
    let kept = order(1, 1, create(volume(1)));
    lab.queue.send(kept.clone());
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    *lab.queue.is_away.lock().unwrap() = true;
    tokio::time::sleep(LEASE * 4).await;
    assert!(lab.queue.given_back.lock().unwrap().is_empty());
    gate.notify_one();
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.reports(), [(kept.due.key, Outcome::Done)]);
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_lasts_as_long_as_the_work() {
    let (lab, gate) = shared_lab_at(Strikes::Before);
    let runner = lab.start();
    let kept = order(1, 1, create(volume(1)));
    lab.queue.send(kept.clone());
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    tokio::time::sleep(LEASE * 4).await;
    gate.notify_one();
    lab.acknowledged(1).await;
    assert!(lab.queue.given_back.lock().unwrap().is_empty());
    assert_eq!(lab.gateway.reports(), [(kept.due.key, Outcome::Done)]);
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_away_for_less_than_a_lease_stops_nothing() {
    let (lab, gate) = shared_lab_at(Strikes::Before);
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    for _ in 0..5 {
        *lab.queue.is_away.lock().unwrap() = true;
        tokio::time::sleep(LEASE / 2).await;
        *lab.queue.is_away.lock().unwrap() = false;
        tokio::time::sleep(LEASE / 2).await;
    }
    gate.notify_one();
    lab.acknowledged(1).await;
    assert!(lab.queue.given_back.lock().unwrap().is_empty());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_was_not_reported_in_time_is_not_reported_and_nothing_is_known_of_it() {
    let (lab, gate) = shared_lab_at(Strikes::After);
    let runner = lab.start();
    let lost = order(1, 1, create(volume(1)));
    lab.queue.send(lost.clone());
    eventually("it is at work", || lab.memory.object(volume(1)).is_some()).await;
    *lab.gateway.unavailable.lock().unwrap() = u32::MAX;
    *lab.queue.is_away.lock().unwrap() = true;
    gate.notify_one();
    given_back(&lab).await;
    *lab.gateway.unavailable.lock().unwrap() = 0;
    tokio::time::sleep(LEASE * 10).await;
    assert!(lab.gateway.reports().is_empty());

    // somebody else may have begun it anew meanwhile: only performing it says how it stands
    *lab.queue.is_away.lock().unwrap() = false;
    lab.queue.send(lost.clone());
    lab.acknowledged(1).await;
    assert_eq!(lab.faulty.calls().len(), 2);
    assert_eq!(lab.gateway.reports(), [(lost.due.key, Outcome::Done)]);
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn what_outlives_its_time_limit_is_stopped_before_another_host_may_try() {
    let (lab, gate) = shared_lab_at(Strikes::Before);
    let metadata = Duration::from_secs(60);
    lab.faulty.limit(EffectLimits { metadata, ..EffectLimits::default() });
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    lab.acknowledged(1).await;
    assert_eq!(lab.gateway.failures()[0].kind, FailureKind::TimedOut);
    gate.notify_one();
    // the volume is free at once, and the create does not come after its undo
    lab.queue.send(order(1, 2, Effect::DeleteVolume { volume: volume(1) }));
    lab.acknowledged(2).await;
    assert_eq!(lab.gateway.reports().last().unwrap().1, Outcome::Done);
    tokio::time::sleep(LEASE).await;
    assert!(lab.memory.object(volume(1)).is_none());
    lab.cancel.cancel();
    runner.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_finish_when_the_executor_stops_is_stopped_before_it_is_given_back() {
    let (lab, gate) = shared_lab_at(Strikes::Before);
    let runner = lab.start();
    lab.queue.send(order(1, 1, create(volume(1))));
    eventually("it is at work", || lab.faulty.calls().len() == 1).await;
    lab.cancel.cancel();
    runner.stopped().await;
    assert_eq!(lab.queue.given_back.lock().unwrap().len(), 1);
    gate.notify_one();
    tokio::time::sleep(LEASE).await;
    assert!(lab.memory.object(volume(1)).is_none(), "it went on");
}
