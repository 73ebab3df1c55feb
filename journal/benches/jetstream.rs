//! How fast the log on NATS is, beside plain publishes of the same bytes to the same server in the
//! same run: `cargo bench -p tephra-journal --bench jetstream`. It starts its own servers.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a measurement: it fails by panicking, and looks at the clock"
)]

#[path = "../tests/jetstream/cluster.rs"]
#[allow(dead_code, reason = "a measurement uses a part of it")]
mod cluster;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Config;
use cluster::Cluster;
use tephra_journal::jetstream::JetStreamLog;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log};

const EVENT_BYTES: usize = 300;
const EVENTS_A_BLOCK: [usize; 4] = [1, 10, 100, 1000];
/// Long enough to average over, short enough to run all of it.
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

fn block(events: usize) -> Arc<[u8]> {
    (0..events * EVENT_BYTES).map(|byte| u8::try_from(byte % 249).unwrap()).collect()
}

/// One append after the other, as the sequencer does.
async fn appends(log: &JetStreamLog, bytes: &Arc<[u8]>) -> (f64, Vec<Duration>) {
    let mut head = log.head().await.unwrap();
    let (began, mut taken) = (Instant::now(), Vec::new());
    while began.elapsed() < ROUND {
        let sent = Instant::now();
        let appended = log.append(head, Arc::clone(bytes)).await;
        let AppendOutcome::Appended(number) = appended else { panic!("{appended:?}") };
        head = number;
        taken.push(sent.elapsed());
    }
    (count(taken.len()) / began.elapsed().as_secs_f64(), taken)
}

/// The same without an expectation and without us.
async fn publishes(context: &async_nats::jetstream::Context, bytes: &Arc<[u8]>) -> f64 {
    let payload = bytes::Bytes::from_owner(Arc::clone(bytes));
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        context.publish("plain", payload.clone()).await.unwrap().await.unwrap();
        sent += 1;
    }
    count(sent) / began.elapsed().as_secs_f64()
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(sorted: &[Duration], per_mille: usize) -> f64 {
    sorted[(sorted.len() * per_mille / 1000).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

async fn replay(cluster: &Cluster, events: usize) -> (f64, f64) {
    let log = JetStreamLog::open(&cluster.client().await, &cluster.config()).await.unwrap();
    let head = log.head().await.unwrap();
    let (began, mut next) = (Instant::now(), 1);
    while next <= head.0 {
        let read = log.read(BlockNumber(next), 4096).await.unwrap();
        next = read.last().unwrap().0.0 + 1;
    }
    let blocks = count(usize::try_from(head.0).unwrap()) / began.elapsed().as_secs_f64();
    (blocks, blocks * count(events))
}

async fn measure(servers: usize) {
    println!("\nR{servers}, sync_interval: always");
    println!("events/block  plain/s  appends/s  ratio  events/s  p50 ms  p99 ms  replay blocks/s  events/s");
    for events in EVENTS_A_BLOCK {
        // Fresh servers each: nothing left over, and a log of blocks of one size to replay.
        let cluster = Cluster::start(servers);
        let client = cluster.client().await;
        let log = JetStreamLog::open(&client, &cluster.config()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let plain = Config {
            name: "PLAIN".into(),
            subjects: vec!["plain".into()],
            num_replicas: servers,
            ..Config::default()
        };
        context.create_stream(plain).await.unwrap();
        let bytes = block(events);
        let (mut ours, mut theirs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(publishes(&context, &bytes).await);
            let (rate, taken) = appends(&log, &bytes).await;
            ours.push(rate);
            latencies.extend(taken);
        }
        latencies.sort_unstable();
        let (ours, theirs) = (median(ours), median(theirs));
        let (blocks, replayed) = replay(&cluster, events).await;
        println!(
            "{events:>12}  {theirs:>7.0}  {ours:>9.0}  {:>5.2}  {:>8.0}  {:>6.2}  {:>6.2}  {blocks:>15.0}  {replayed:>8.0}",
            ours / theirs,
            ours * count(events),
            percentile(&latencies, 500),
            percentile(&latencies, 990),
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for servers in [1, 3] {
        runtime.block_on(measure(servers));
    }
}
