//! Servers and streams that would lose blocks are refused, and told how to be.

use async_nats::jetstream::stream::{Config, StorageType};
use tephra_journal::jetstream::{DurabilityClaim, DurabilityProof, JetStreamLog, NatsAuth, NatsConfig};

use crate::cluster::{Cluster, Options};

async fn refusal(cluster: &Cluster, config: &NatsConfig) -> String {
    match JetStreamLog::open(&tephra_journal::jetstream::connect(config, "test").await.unwrap(), config).await
    {
        Ok(log) => panic!("{} servers were accepted: {:?}", cluster.replicas, log.health()),
        Err(error) => error.to_string(),
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
}

/// Two accounts: ours, and the system's, which lets ours ask how the servers are run.
fn accounts(exported: bool) -> String {
    let question = "$SYS.REQ.SERVER.PING.JSZ";
    let (export, import) = if exported {
        (
            format!("exports: [{{ service: \"{question}\", response: stream }}]"),
            format!("imports: [{{ service: {{ account: SYS, subject: \"{question}\" }} }}]"),
        )
    } else {
        (String::new(), String::new())
    };
    format!(
        "accounts {{
           SYS: {{ users: [{{ user: sys, password: s }}]
                   {export} }}
           TEPHRA: {{ jetstream: enabled, users: [{{ user: tephra, password: t }}]
                      {import} }}
         }}
         system_account: SYS"
    )
}

fn as_tephra(cluster: &Cluster, durability: DurabilityClaim) -> NatsConfig {
    let auth = NatsAuth::Password { user: "tephra".into(), password: "t".into() };
    NatsConfig { auth, durability, ..cluster.config() }
}

async fn open(config: &NatsConfig) -> JetStreamLog {
    let client = tephra_journal::jetstream::connect(config, "test").await.unwrap();
    JetStreamLog::open(&client, config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_sync_are_known_by_the_export_or_by_a_system_user() {
    let system = NatsAuth::Password { user: "sys".into(), password: "s".into() };
    for (servers, exported, claim) in [
        (3, true, DurabilityClaim::Ask),
        (1, true, DurabilityClaim::Stated),
        (1, false, DurabilityClaim::AskAs(system)),
    ] {
        let options = Options { servers, include: Some(accounts(exported)), ..Options::default() };
        let cluster = Cluster::with(options);
        let log = open(&as_tephra(&cluster, claim)).await;
        let expected = (1..=servers).map(|number| format!("n{number}")).collect();
        assert_eq!(log.health().durability, DurabilityProof::Verified { servers: expected });
        assert_eq!(log.health().warning(), None);
        assert_eq!(log.health().replicas, servers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_sync_are_refused_even_if_the_operator_says_they_do() {
    let include = Some(accounts(true));
    let cluster = Cluster::with(Options { servers: 3, unsynced: true, include, ..Options::default() });
    for claim in [DurabilityClaim::Ask, DurabilityClaim::Stated] {
        let message = refusal(&cluster, &as_tephra(&cluster, claim)).await;
        assert_says(&message, &["`n1` acknowledges before it syncs", "`n3`", "sync_interval: always"]);
    }
    let laptop = NatsConfig { allow_unsynced: true, ..as_tephra(&cluster, DurabilityClaim::Ask) };
    let log = open(&laptop).await;
    assert_says(&log.health().warning().unwrap(), &["n1, n2, n3", "may be lost on power loss"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_say_nothing_are_refused_unless_the_operator_answers_for_them() {
    let cluster = Cluster::start(1);
    let silent = NatsConfig { durability: DurabilityClaim::Ask, ..cluster.config() };
    let message = refusal(&cluster, &silent).await;
    assert_says(&message, &["no server says whether it syncs", "PING.JSZ", "--allow-unsynced"]);
    let laptop = open(&NatsConfig { allow_unsynced: true, ..silent }).await;
    assert_eq!(laptop.health().durability, DurabilityProof::Unknown { silent: vec!["n1".into()] });
    assert!(laptop.health().warning().is_some());
    let stated = open(&cluster.config()).await;
    assert_eq!(stated.health().durability, DurabilityProof::Stated);
    assert_eq!(stated.health().warning(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let cluster = Cluster::with(Options { old: true, ..Options::default() });
    let message = refusal(&cluster, &cluster.config()).await;
    assert_says(&message, &["version 2.14.6", "2.15.1 or newer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_messages_are_too_small_is_refused() {
    let include = Some("max_payload: 64KB".to_owned());
    let cluster = Cluster::with(Options { include, ..Options::default() });
    assert_says(&refusal(&cluster, &cluster.config()).await, &["max_payload is 65536", "1048576"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_would_lose_blocks_is_refused_with_what_is_wrong() {
    let cluster = Cluster::start(1);
    let context = async_nats::jetstream::new(cluster.client().await);
    let name = cluster.config().cell.ledger_stream();
    let subjects = vec![cluster.config().cell.ledger_subject()];
    let good = Config { name: name.clone(), subjects, num_replicas: 1, ..Config::default() };
    let cases: [(Config, &[&str]); 4] = [
        (Config { storage: StorageType::Memory, ..good.clone() }, &["is in memory"]),
        (good.clone(), &["deny_delete is off", "deny_purge is off", "discards old messages"]),
        (Config { max_age: std::time::Duration::from_secs(3600), ..good.clone() }, &["max_age"]),
        (Config { subjects: vec!["tephra.>".into()], ..good }, &["listens on"]),
    ];
    for (config, parts) in cases {
        context.create_stream(config).await.unwrap();
        let message = refusal(&cluster, &cluster.config()).await;
        assert_says(&message, parts);
        assert_says(&message, &["\"deny_delete\": true", "\"storage\": \"file\""]);
        context.delete_stream(&name).await.unwrap();
    }
    open(&cluster.config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_replicas_than_configured_are_refused() {
    let cluster = Cluster::start(3);
    open(&NatsConfig { replicas: 1, ..cluster.config() }).await;
    assert_says(&refusal(&cluster, &cluster.config()).await, &["is on 1 servers, not on 3"]);
}
