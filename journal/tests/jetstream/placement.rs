//! Streams are kept on servers with the configured tags, or nowhere.

use async_nats::jetstream;
use tephra_journal::event_stream::{EventStream, EventStreamError};
use tephra_journal::jetstream::{
    JetStreamEvents, JetStreamLog, JetStreamQueue, Leadership, LeadershipConfig, NatsConfig, NatsError,
    QueueConfig,
};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// That of one server of the lab. `lab` is on all of them.
fn tag_of(server: usize) -> String {
    format!("server:n{server}")
}

fn placed(cluster: &Cluster, cell: &str, replicas: usize, tags: &[&str]) -> NatsConfig {
    let placement_tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    NatsConfig { cell: cell.parse().unwrap(), replicas, placement_tags, ..cluster.config() }
}

fn candidate() -> LeadershipConfig {
    LeadershipConfig { candidate: "somebody".into(), lease: std::time::Duration::from_secs(60) }
}

/// Everything that a cell keeps on the servers, made as its roles make it.
async fn make_all(cluster: &Cluster, config: &NatsConfig) -> [String; 4] {
    let client = cluster.client().await;
    JetStreamLog::open(&client, config).await.unwrap();
    JetStreamQueue::open(&client, config, QueueConfig::default(), CancellationToken::new()).await.unwrap();
    Leadership::open(&client, config, candidate()).await.unwrap();
    let events = JetStreamEvents::new(&client, config);
    events.end().await.unwrap();
    let cell = &config.cell;
    [cell.ledger_stream(), cell.work_stream(), format!("KV_{}", cell.lease_bucket()), events.name()]
}

/// The servers that a stream is on.
async fn servers_of(cluster: &Cluster, stream: &str) -> Vec<String> {
    let stream = jetstream::new(cluster.client().await).get_stream(stream).await.unwrap();
    let on = stream.cached_info().cluster.clone().unwrap();
    let mut servers: Vec<String> =
        on.leader.into_iter().chain(on.replicas.into_iter().map(|r| r.name)).collect();
    servers.sort();
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_kept_on_the_servers_that_have_all_the_tags() {
    let cluster = Cluster::start(3);
    // One server each, so that the servers' own choice would be another one for some of these twelve.
    for server in 1..=3 {
        let tag = tag_of(server);
        let config = placed(&cluster, &format!("only{server}"), 1, &["lab", &tag]);
        for stream in make_all(&cluster, &config).await {
            assert_eq!(servers_of(&cluster, &stream).await, [format!("n{server}")], "{stream}");
        }
    }
    let everywhere = placed(&cluster, "main", 3, &["lab"]);
    for stream in make_all(&cluster, &everywhere).await {
        assert_eq!(servers_of(&cluster, &stream).await, ["n1", "n2", "n3"], "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_and_made_again_has_its_place() {
    let cluster = Cluster::start(3);
    let tag = tag_of(3);
    let config = placed(&cluster, "main", 1, &[&tag]);
    let context = jetstream::new(cluster.client().await);
    for round in 0..3 {
        let streams = make_all(&cluster, &config).await;
        for stream in &streams {
            assert_eq!(servers_of(&cluster, stream).await, ["n3"], "{stream}, round {round}");
            context.delete_stream(stream).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_too_few_servers_have_are_refused_by_name_and_nothing_is_made_elsewhere() {
    let cluster = Cluster::start(3);
    let client = cluster.client().await;
    let (first, second) = (tag_of(1), tag_of(2));
    for (replicas, tags, missing) in [
        (1, vec!["nowhere"], "nowhere"),
        (1, vec!["lab", "nowhere"], "nowhere"),
        // Each is somewhere, both are nowhere.
        (1, vec![&*first, &*second], "server:n"),
        // One server is not three.
        (3, vec![&*first], "server:n1"),
    ] {
        let config = placed(&cluster, "main", replicas, &tags);
        let Err(refused) = JetStreamLog::open(&client, &config).await else {
            panic!("{tags:?} with {replicas} replicas were accepted");
        };
        assert!(matches!(refused, NatsError::Placement { .. }), "{refused}");
        let said = refused.to_string();
        for part in ["TEPHRA_LEDGER_main", "placement", "server_tags", "tags not matched", missing] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
    let nowhere = placed(&cluster, "main", 1, &["nowhere"]);
    match JetStreamEvents::new(&client, &nowhere).end().await {
        Err(EventStreamError::Refused(refused)) => {
            assert!(refused.to_string().contains("nowhere"), "{refused}")
        }
        other => panic!("{other:?}"),
    }
    assert!(Leadership::open(&client, &nowhere, candidate()).await.is_err());
    let never = CancellationToken::new();
    assert!(JetStreamQueue::open(&client, &nowhere, QueueConfig::default(), never).await.is_err());
    let mut names = jetstream::new(client).stream_names();
    assert!(futures::StreamExt::next(&mut names).await.is_none(), "something was made");
}
