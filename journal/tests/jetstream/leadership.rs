//! One sequencer at a time, and another soon after it fell silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tephra_journal::jetstream::{Leadership, LeadershipConfig};
use tephra_journal::subjects::SEQUENCER_LEASE;

use crate::cluster::Cluster;
use crate::{soon, until};

/// A busy machine must renew within it, and a test waits for its end.
const LEASE: Duration = Duration::from_secs(3);

/// Its parts are long even on a busy machine.
const PATIENT_LEASE: Duration = Duration::from_secs(10);

/// A lease that is held is renewed so often in its length.
const RENEWALS_A_LEASE: u64 = 3;

/// Nobody waits for its end: candidates look every tenth second.
const LONG_LEASE: Duration = Duration::from_secs(60);

async fn candidate(cluster: &Cluster, name: &str, lease: Duration) -> Arc<Leadership> {
    // Each with its own connection, as each in its own process.
    let config = LeadershipConfig { candidate: name.to_owned(), lease };
    Arc::new(Leadership::open(&cluster.client().await, &cluster.config(), config).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_candidates_has_the_turn_until_it_resigns() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let mut campaigns = tokio::task::JoinSet::new();
        for name in ["a", "b", "c"] {
            let candidate = candidate(&cluster, name, LONG_LEASE).await;
            campaigns.spawn(async move { candidate.campaign().await });
        }
        let mut before = 0;
        while !campaigns.is_empty() {
            // Within a lease, so that a turn that was resigned is not waited out.
            let next = tokio::time::timeout(LONG_LEASE, campaigns.join_next()).await;
            let term = next.unwrap().unwrap().unwrap();
            assert!(term.is_certain() && !term.over().is_cancelled());
            assert!(term.number() > before, "{} does not come after {before}", term.number());
            before = term.number();
            assert!(campaigns.try_join_next().is_none(), "two have the turn at once");
            term.resign().await;
            assert!(!term.is_certain());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_is_renewed_for_as_long_as_it_is_held() {
    let cluster = Cluster::start(1);
    let term = candidate(&cluster, "first", LEASE).await.campaign().await;
    let second = candidate(&cluster, "second", LEASE).await;
    let campaign = tokio::spawn(async move { second.campaign().await });
    tokio::time::sleep(LEASE * 3).await;
    until("certainty", async || term.is_certain()).await;
    assert!(!term.over().is_cancelled() && !campaign.is_finished());
    term.resign().await;
    soon("the next turn", campaign).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_takes_over_from_one_that_fell_silent() {
    let cluster = Cluster::start(1);
    let first = candidate(&cluster, "first", LEASE).await.campaign().await;
    let second = candidate(&cluster, "second", LEASE).await;
    let campaign = tokio::spawn(async move { second.campaign().await });
    tokio::time::sleep(LEASE * 2).await;
    assert!(!campaign.is_finished());
    let number = first.number();
    // As if killed: nobody renews, and nobody resigns.
    drop(first);
    let silent_since = Instant::now();
    let second = soon("the turn", campaign).await.unwrap();
    assert!(second.number() > number);
    eprintln!("handed over after {:?}, lease {LEASE:?}", silent_since.elapsed());
}

/// By the bucket's own numbers: between two writes of one lease it counts the renewals of the other,
/// which is of the same length. So a machine that is slow is slow for both.
#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_within_two_leases_of_the_last_renewal() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let config = LeadershipConfig { candidate: "metronome".to_owned(), lease: PATIENT_LEASE };
    let metronome = Leadership::open_for_events(&client, &cluster.config(), config).await.unwrap();
    let metronome = metronome.campaign().await;
    let first = candidate(&cluster, "first", PATIENT_LEASE).await.campaign().await;
    let second = candidate(&cluster, "second", PATIENT_LEASE).await;
    let campaign = tokio::spawn(async move { second.campaign().await });
    let bucket = cluster.config().cell.lease_bucket();
    let bucket = async_nats::jetstream::new(client).get_key_value(bucket).await.unwrap();
    let last_write = async || bucket.entry(SEQUENCER_LEASE).await.unwrap().unwrap().revision;
    until("a renewal", async || last_write().await > first.number()).await;
    // As if killed.
    drop(first);
    let renewed_last = last_write().await;
    let second = soon("the turn", campaign).await.unwrap();
    let meanwhile = second.number() - renewed_last - 1;
    assert!(metronome.is_certain() && !metronome.over().is_cancelled(), "nothing was counted");
    assert!(meanwhile > 0, "it was taken over at once");
    assert!(meanwhile <= 2 * RENEWALS_A_LEASE, "taken over after {meanwhile} renewals of another lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_lasts_through_an_absence_of_the_server_but_is_not_certain_meanwhile() {
    let cluster = Cluster::start(1);
    let only = candidate(&cluster, "only", LEASE).await;
    let term = only.campaign().await;
    cluster.kill(1);
    until("doubt", async || !term.is_certain()).await;
    assert!(!term.over().is_cancelled());
    cluster.resume(1);
    until("certainty", async || term.is_certain()).await;
    assert!(!term.over().is_cancelled());
}

/// Two processes in one: the first has its own runtime, which can be held still.
#[test]
fn a_leader_that_was_held_still_finds_its_turn_over_and_answers_nobody_meanwhile() {
    let held = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let free = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::start(1);
    let stale = held.block_on(async { candidate(&cluster, "stale", LEASE).await.campaign().await });
    // The first runtime is not polled from here on.
    let term = free.block_on(async {
        let candidate = candidate(&cluster, "fresh", LEASE).await;
        soon("the turn", candidate.campaign()).await
    });
    assert!(!stale.is_certain());
    assert!(!stale.over().is_cancelled(), "it cannot know yet");
    held.block_on(async { soon("the end of the turn", stale.over().cancelled()).await });
    assert!(free.block_on(async { term.is_certain() }));
}

async fn lose_bucket(cluster: &Cluster) {
    let context = async_nats::jetstream::new(cluster.client().await);
    context.delete_key_value(cluster.config().cell.lease_bucket()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_lasts_through_the_loss_of_the_bucket_and_is_handed_over_in_the_next() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let term = candidate(&cluster, "only", LEASE).await.campaign().await;
        for _ in 0..2 {
            let before = Instant::now();
            lose_bucket(&cluster).await;
            // Renewed after that, in a bucket that somebody has made.
            until("certainty", async || before.elapsed() > LEASE && term.is_certain()).await;
            assert!(!term.over().is_cancelled());
        }
        term.resign().await;
        let second = candidate(&cluster, "second", LONG_LEASE).await;
        assert!(soon("the turn", second.campaign()).await.is_certain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_waits_while_the_bucket_is_lost_gets_its_turn() {
    let cluster = Cluster::start(1);
    let first = candidate(&cluster, "first", LEASE).await.campaign().await;
    let second = candidate(&cluster, "second", LEASE).await;
    let campaign = tokio::spawn(async move { second.campaign().await });
    // As if killed, and what it had is gone too.
    drop(first);
    lose_bucket(&cluster).await;
    assert!(soon("the turn", campaign).await.unwrap().is_certain());
}
