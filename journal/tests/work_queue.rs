//! The work queue in the process: order, patience, and giving back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::effect::{BackendObject, Direction, DueEffect, Effect, EffectKey};
use tephra_domain::ids::{BackendName, OperationId, PoolId, PoolName, RequestId, VolumeId};
use tephra_domain::units::Timestamp;
use tephra_journal::clock::ManualClock;
use tephra_journal::in_process_queue::InProcessQueue;
use tephra_journal::work_queue::{Delivery, WorkOrder, WorkQueue};

const DEADLINE: Duration = Duration::from_secs(20);

fn order(backend: &str, operation: u128, not_before: Timestamp) -> WorkOrder {
    let operation = OperationId::from_uuid(support::uuid(operation));
    WorkOrder {
        due: DueEffect {
            key: EffectKey::Step { operation, direction: Direction::Forward, step: 0, attempt: 1 },
            pool: PoolId { backend: BackendName::new(backend), pool: PoolName::new("p") },
            effect: Effect::DeleteVolume {
                volume: BackendObject::Volume(VolumeId::from_uuid(support::uuid(1))),
            },
            not_before,
        },
        operation,
        request: RequestId::new("req"),
    }
}

fn queue() -> (InProcessQueue, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    (InProcessQueue::new(clock.clone()), clock)
}

async fn next(queue: &InProcessQueue, backend: &str) -> Option<Box<dyn Delivery>> {
    tokio::time::timeout(DEADLINE, queue.next(&BackendName::new(backend))).await.unwrap()
}

async fn next_operation(queue: &InProcessQueue, backend: &str) -> u128 {
    let delivery = next(queue, backend).await.unwrap();
    let operation = delivery.order().operation.as_uuid().as_u128();
    delivery.acknowledge().await;
    operation
}

#[tokio::test]
async fn orders_come_first_in_first_out_and_to_their_backend_only() {
    let (queue, _clock) = queue();
    for (backend, operation) in [("a", 3), ("b", 9), ("a", 1), ("a", 2)] {
        queue.publish(order(backend, operation, Timestamp(0))).await;
    }
    assert_eq!(next_operation(&queue, "b").await, 9);
    for expected in [3, 1, 2] {
        assert_eq!(next_operation(&queue, "a").await, expected);
    }
    assert!(queue.is_empty());
}

#[tokio::test]
async fn the_same_attempt_twice_is_one_order_until_it_is_done() {
    let (queue, _clock) = queue();
    queue.publish(order("a", 1, Timestamp(0))).await;
    queue.publish(order("a", 1, Timestamp(0))).await;
    let delivery = next(&queue, "a").await.unwrap();
    queue.publish(order("a", 1, Timestamp(0))).await;
    assert_eq!(queue.len(), 1);
    delivery.acknowledge().await;
    assert!(queue.is_empty());
    queue.publish(order("a", 1, Timestamp(0))).await;
    assert_eq!(queue.len(), 1);
}

#[tokio::test]
async fn a_dropped_delivery_is_delivered_again_before_the_others() {
    let (queue, _clock) = queue();
    queue.publish(order("a", 1, Timestamp(0))).await;
    queue.publish(order("a", 2, Timestamp(0))).await;
    drop(next(&queue, "a").await.unwrap());
    assert_eq!(next_operation(&queue, "a").await, 1);
    assert_eq!(next_operation(&queue, "a").await, 2);
}

#[tokio::test]
async fn an_order_waits_until_it_is_due_and_lets_others_pass() {
    let (queue, clock) = queue();
    queue.publish(order("a", 1, Timestamp(1_000_000).plus_ms(5))).await;
    queue.publish(order("a", 2, Timestamp(0))).await;
    assert_eq!(next_operation(&queue, "a").await, 2);
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { next_operation(&queue, "a").await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    clock.advance_ms(5);
    assert_eq!(waiting.await.unwrap(), 1);
}

#[tokio::test]
async fn an_executor_that_waits_is_woken() {
    let (queue, _clock) = queue();
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { next_operation(&queue, "a").await })
    };
    tokio::task::yield_now().await;
    queue.publish(order("a", 7, Timestamp(0))).await;
    assert_eq!(waiting.await.unwrap(), 7);
}

#[tokio::test]
async fn a_closed_queue_lets_everybody_go() {
    let (queue, _clock) = queue();
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { next(&queue, "a").await.is_none() })
    };
    tokio::task::yield_now().await;
    queue.close();
    assert!(waiting.await.unwrap());
    assert!(next(&queue, "b").await.is_none());
}
