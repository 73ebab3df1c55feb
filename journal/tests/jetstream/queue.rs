//! The work queue on real servers: one order an attempt, leases, giving back, coming again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;
use tephra_domain::effect::{BackendObject, Direction, DueEffect, Effect, EffectKey};
use tephra_domain::ids::{BackendName, OperationId, PoolId, PoolName, RequestId, VolumeId};
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_journal::jetstream::{JetStreamQueue, QueueConfig};
use tephra_journal::work_queue::{Delivery, WorkOrder, WorkQueue};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::support::uuid;
use crate::{soon, until};

pub fn order(backend: &str, operation: u128) -> WorkOrder {
    let operation = OperationId::from_uuid(uuid(operation));
    WorkOrder {
        due: DueEffect {
            key: EffectKey::Step { operation, direction: Direction::Forward, step: 3, attempt: 2 },
            pool: PoolId { backend: BackendName::new(backend), pool: PoolName::new("p") },
            effect: Effect::ExtendVolume {
                volume: BackendObject::Volume(VolumeId::from_uuid(uuid(1))),
                to: SizeGib::new(7).unwrap(),
            },
            not_before: Timestamp(5),
        },
        operation,
        request: RequestId::new("req-of-somebody"),
    }
}

const SHORT_LEASE: Duration = Duration::from_secs(1);

/// It does not end before the test.
const LONG_LEASE: Duration = Duration::from_secs(600);

fn config() -> QueueConfig {
    QueueConfig { lease: SHORT_LEASE, give_back_min: Duration::from_millis(50), ..QueueConfig::default() }
}

async fn open(cluster: &Cluster, client: &Client) -> JetStreamQueue {
    JetStreamQueue::open(client, &cluster.config(), config(), CancellationToken::new()).await.unwrap()
}

async fn next(queue: &JetStreamQueue, backend: &str) -> Box<dyn Delivery> {
    soon("an order", queue.next(&BackendName::new(backend))).await.unwrap()
}

/// Messages in the stream.
async fn count(cluster: &Cluster, client: &Client) -> u64 {
    let context = async_nats::jetstream::new(client.clone());
    let stream = context.get_stream(cluster.config().cell.work_stream()).await.unwrap();
    stream.cached_info().state.messages
}

async fn until_count(cluster: &Cluster, client: &Client, expected: u64) {
    until("the stream's count", async || count(cluster, client).await == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_come_whole_in_order_and_to_their_backend_only() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let client = cluster.client().await;
        let queue = open(&cluster, &client).await;
        for (backend, operation) in [("a", 3), ("a.b", 9), ("a", 1), ("a", 2)] {
            queue.publish(order(backend, operation)).await;
            until("the order", async || count(&cluster, &client).await > 0).await;
        }
        until_count(&cluster, &client, 4).await;
        let elsewhere =
            JetStreamQueue::open_to_take(&client, &cluster.config(), config(), CancellationToken::new())
                .await
                .unwrap();
        for (backend, operation) in [("a.b", 9), ("a", 3), ("a", 1), ("a", 2)] {
            let delivery = next(&elsewhere, backend).await;
            assert_eq!(*delivery.order(), order(backend, operation));
            delivery.acknowledge().await;
        }
        until_count(&cluster, &client, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_twice_is_one_order_until_it_is_done() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let client = cluster.client().await;
        let queue = open(&cluster, &client).await;
        queue.publish(order("a", 1)).await;
        until_count(&cluster, &client, 1).await;
        let other = open(&cluster, &client).await;
        other.publish(order("a", 1)).await;
        other.publish(order("a", 2)).await;
        until_count(&cluster, &client, 2).await;
        let delivery = next(&queue, "a").await;
        queue.publish(order("a", 1)).await;
        queue.publish(order("a", 3)).await;
        until_count(&cluster, &client, 3).await;
        assert_eq!(*delivery.order(), order("a", 1));
        delivery.acknowledge().await;
        for expected in [2, 3] {
            let delivery = next(&queue, "a").await;
            assert_eq!(*delivery.order(), order("a", expected));
            delivery.acknowledge().await;
        }
        // Once it is done, it may be asked for again.
        queue.publish(order("a", 1)).await;
        assert_eq!(*next(&queue, "a").await.order(), order("a", 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_comes_again_to_whoever_asks() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let (one, other) = (open(&cluster, &client).await, open(&cluster, &client).await);
    one.publish(order("a", 1)).await;
    for _ in 0..3 {
        drop(next(&one, "a").await);
        drop(next(&other, "a").await);
    }
    next(&one, "a").await.acknowledge().await;
    until_count(&cluster, &client, 0).await;
}

// On one thread, whose recorder counts.
#[tokio::test]
async fn an_order_that_keeps_coming_back_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let counted = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let config = QueueConfig { lease: LONG_LEASE, troubled_after: 2, ..config() };
    let queue =
        JetStreamQueue::open(&client, &cluster.config(), config, CancellationToken::new()).await.unwrap();
    for operation in [1, 2] {
        queue.publish(order("a", operation)).await;
        drop(next(&queue, "a").await);
        let again = next(&queue, "a").await;
        again.acknowledge().await;
    }
    queue.publish(order("a", 3)).await;
    next(&queue, "a").await.acknowledge().await;
    let expected = format!("{}{{backend=\"a\"}} 2", tephra_journal::metrics::ORDERS_TROUBLED_TOTAL);
    assert!(counted.render().contains(&expected), "{}", counted.render());
}

/// Lines of a log, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, words: &str) -> Vec<String> {
        let said = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        said.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}

// On one thread, whose log is kept.
#[tokio::test]
async fn from_its_tenth_delivery_on_the_log_names_an_order_that_keeps_coming_back() {
    let lines = Lines::default();
    let writer = lines.clone();
    let keeping = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _keeping = tracing::subscriber::set_default(keeping);
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    // As it is usually, but for the waits.
    let (lease, give_back_min) = (LONG_LEASE, Duration::from_millis(1));
    let config = QueueConfig { lease, give_back_min, ..QueueConfig::default() };
    let queue =
        JetStreamQueue::open(&client, &cluster.config(), config, CancellationToken::new()).await.unwrap();
    queue.publish(order("a", 1)).await;
    for delivery in 1..=12 {
        let delivered = next(&queue, "a").await;
        let said = lines.with("an order keeps coming back");
        assert_eq!(said.len(), usize::saturating_sub(delivery, 9), "at delivery {delivery}: {said:?}");
        if let Some(line) = said.last() {
            let named = [
                "ERROR".to_owned(),
                format!("order={}", delivered.order().due.key),
                "backend=a".to_owned(),
                format!("deliveries={delivery}"),
            ];
            assert!(named.iter().all(|part| line.contains(part)), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_given_back_comes_again_no_sooner_than_after_its_delay_which_doubles() {
    const FIRST: Duration = Duration::from_millis(300);
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let config = QueueConfig { lease: LONG_LEASE, give_back_min: FIRST, ..config() };
    let queue =
        JetStreamQueue::open(&client, &cluster.config(), config, CancellationToken::new()).await.unwrap();
    queue.publish(order("a", 1)).await;
    let mut delivery = next(&queue, "a").await;
    for delay in [FIRST, FIRST * 2, FIRST * 4] {
        let given_back = Instant::now();
        drop(delivery);
        delivery = next(&queue, "a").await;
        let after = given_back.elapsed();
        assert!(after >= delay, "it came after {after:?}, not {delay:?}");
    }
    delivery.acknowledge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_a_sign_of_life_ends_and_one_with_does_not() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let (one, other) = (open(&cluster, &client).await, open(&cluster, &client).await);
    one.publish(order("a", 1)).await;
    let kept = next(&one, "a").await;
    let elsewhere = tokio::spawn(async move { next(&other, "a").await });
    let began = Instant::now();
    while began.elapsed() < SHORT_LEASE * 3 {
        kept.keep().await;
        tokio::time::sleep(SHORT_LEASE / 5).await;
        assert!(!elsewhere.is_finished(), "the order is leased to somebody");
    }
    // The executor hangs: no sign of life, and no giving back either.
    let again = soon("the order, again", elsewhere).await.unwrap();
    assert_eq!(*again.order(), *kept.order());
    again.acknowledge().await;
    // A late acknowledgement does no harm.
    kept.acknowledge().await;
    until_count(&cluster, &client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_an_order_knows_how_long_and_learns_nothing_from_answers_after_that() {
    const LEASE: Duration = Duration::from_secs(4);
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let client = cluster.client().await;
        let config = QueueConfig { lease: LEASE, ..config() };
        let queue =
            JetStreamQueue::open(&client, &cluster.config(), config, CancellationToken::new()).await.unwrap();
        queue.publish(order("a", 1)).await;
        let kept = next(&queue, "a").await;
        let lease = kept.lease();
        let began = Instant::now();
        while began.elapsed() < LEASE * 2 {
            tokio::time::sleep(LEASE / 8).await;
            kept.keep().await;
            assert!(lease.left().is_some(), "it was kept all the while");
        }
        // held still: somebody else gets it, no sooner than its holder knows
        let again = next(&queue, "a").await;
        assert_eq!(lease.left(), None);
        // the server answers, and keeps the order with whoever has it
        kept.keep().await;
        assert_eq!(lease.left(), None);
        drop(kept);
        assert!(again.lease().left().is_some());
        again.acknowledge().await;
        until_count(&cluster, &client, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asker_that_goes_away_loses_no_order() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let queue = open(&cluster, &client).await;
    for _ in 0..5 {
        let backend = BackendName::new("a");
        let asked = tokio::time::timeout(Duration::from_millis(50), queue.next(&backend)).await;
        assert!(asked.is_err(), "there is no order yet");
    }
    for operation in 1..=5 {
        queue.publish(order("a", operation)).await;
    }
    // Those that went away get the orders first, and give them back at once.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 5 {
        let delivery = next(&queue, "a").await;
        seen.insert(delivery.order().operation);
        delivery.acknowledge().await;
    }
    until_count(&cluster, &client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_published_while_the_server_is_away_arrive_when_it_is_back() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let queue = open(&cluster, &client).await;
    cluster.kill(1);
    let taking = {
        let queue = queue.clone();
        tokio::spawn(async move { next(&queue, "a").await })
    };
    queue.publish(order("a", 1)).await;
    cluster.resume(1);
    let delivery = soon("the order", taking).await.unwrap();
    assert_eq!(*delivery.order(), order("a", 1));
    delivery.acknowledge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_can_read_holds_up_no_other() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let queue = open(&cluster, &client).await;
    let cell = cluster.config().cell;
    let key = order("a", 1).due.key;
    let context = async_nats::jetstream::new(client.clone());
    let subject = cell.work_subject(&BackendName::new("a"), key);
    context.publish(subject, "from the future".into()).await.unwrap().await.unwrap();
    queue.publish(order("a", 2)).await;
    let delivery = next(&queue, "a").await;
    assert_eq!(*delivery.order(), order("a", 2));
    delivery.acknowledge().await;
    assert_eq!(count(&cluster, &client).await, 1, "it is left for who can read it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_stopped_has_no_more_orders() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let stop = CancellationToken::new();
    let queue = JetStreamQueue::open(&client, &cluster.config(), config(), stop.clone()).await.unwrap();
    let queue = Arc::new(queue);
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.next(&BackendName::new("a")).await.is_none() }
    });
    stop.cancel();
    assert!(soon("the end", waiting).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_lost_is_made_again_and_orders_come_to_those_who_waited_all_along() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let client = cluster.client().await;
        let queue = open(&cluster, &client).await;
        let executor = cluster.client().await;
        let taking =
            JetStreamQueue::open_to_take(&executor, &cluster.config(), config(), CancellationToken::new())
                .await
                .unwrap();
        queue.publish(order("a", 1)).await;
        next(&taking, "a").await.acknowledge().await;
        let context = async_nats::jetstream::new(client.clone());
        for operation in 2..5 {
            let waiting = tokio::spawn({
                let taking = taking.clone();
                async move { next(&taking, "a").await }
            });
            context.delete_stream(cluster.config().cell.work_stream()).await.unwrap();
            queue.publish(order("a", operation)).await;
            let delivery = soon("the order", waiting).await.unwrap();
            assert_eq!(*delivery.order(), order("a", operation));
            delivery.acknowledge().await;
        }
    }
}
