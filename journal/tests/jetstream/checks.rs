//! Servers and streams that would lose blocks are refused, and told how to be.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, RetentionPolicy, Source, StorageType,
};
use async_nats::jetstream::{Context, ErrorCode};
use tephra_journal::jetstream::{
    DurabilityClaim, DurabilityProof, JetStreamLog, JetStreamQueue, Leadership, LeadershipConfig, NatsAuth,
    NatsConfig, NatsError, QueueConfig,
};
use tephra_journal::log::{BlockNumber, Log};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Options};
use crate::until;

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
        let verified = DurabilityProof::Verified { servers: expected, silent: Vec::new() };
        assert_eq!(log.health().durability, verified);
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
async fn a_server_that_is_down_at_the_start_is_a_warning_and_is_asked_when_it_comes() {
    let cluster = Cluster::with(Options { servers: 3, include: Some(accounts(true)), ..Options::default() });
    let config = as_tephra(&cluster, DurabilityClaim::Ask);
    drop(open(&config).await);
    cluster.kill(3);
    let client = tephra_journal::jetstream::connect(&config, "test").await.unwrap();
    let mut opened = None;
    until("the others have elected whom they need", async || {
        opened = JetStreamLog::open(&client, &config).await.ok();
        opened.is_some()
    })
    .await;
    let log = opened.unwrap();
    let [servers, silent] =
        [vec!["n1", "n2"], vec!["n3"]].map(|names| names.into_iter().map(str::to_owned).collect());
    assert_eq!(log.health().durability, DurabilityProof::Verified { servers, silent });
    assert_says(&log.health().warning().unwrap(), &["n3", "not known yet"]);
    // It comes back without the setting: that is said, and nothing ends; then with it.
    let synced = cluster.change(3, |text| text.replace("sync_interval: always", ""));
    cluster.resume(3);
    until("it is known", async || matches!(log.health().durability, DurabilityProof::Unsynced { .. })).await;
    assert_says(&log.health().warning().unwrap(), &["n3 acknowledge before they sync"]);
    cluster.kill(3);
    cluster.change(3, |_| synced);
    cluster.resume(3);
    until("there is nothing to warn of", async || log.health().warning().is_none()).await;
    let all = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
    assert_eq!(log.health().durability, DurabilityProof::Verified { servers: all, silent: Vec::new() });
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

/// A change of a good stream, and what is said about it.
type Spoiling = (fn(&mut Config), &'static [&'static str]);

/// Each setting alone: all else is as Tephra itself makes the stream.
const SPOILINGS: [Spoiling; 16] = [
    (|stream| stream.storage = StorageType::Memory, &["is in memory"]),
    (|stream| stream.deny_delete = false, &["deny_delete is off"]),
    (|stream| stream.deny_purge = false, &["deny_purge is off"]),
    (|stream| stream.max_age = std::time::Duration::from_secs(3600), &["max_age"]),
    (|stream| stream.discard = DiscardPolicy::Old, &["discards old messages"]),
    (|stream| stream.max_messages_per_subject = 9, &["keeps a limited number of messages"]),
    (|stream| stream.max_messages = 1_000_000, &["takes 1000000 messages and no more (max_msgs)"]),
    (|stream| stream.max_bytes = 1 << 30, &["takes 1073741824 bytes and no more (max_bytes)"]),
    (|stream| stream.retention = RetentionPolicy::WorkQueue, &["forgets what was read"]),
    (|stream| stream.retention = RetentionPolicy::Interest, &["forgets what was read"]),
    (|stream| stream.allow_message_ttl = true, &["allow_msg_ttl"]),
    (|stream| stream.no_ack = true, &["does not acknowledge"]),
    (|stream| stream.persist_mode = Some(PersistenceMode::Async), &["persist_mode: async"]),
    (|stream| stream.max_message_size = 4096, &["takes messages of 4096 bytes at most"]),
    (
        |stream| stream.sources = Some(vec![Source { name: "OTHER".to_owned(), ..Source::default() }]),
        &["gets messages from other streams"],
    ),
    // The servers do not let a stream be rolled up that cannot be purged.
    (
        |stream| (stream.allow_rollup, stream.deny_purge) = (true, false),
        &["allow_rollup_hdrs", "deny_purge is off"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_that_would_lose_blocks_is_refused_by_itself() {
    let cluster = Cluster::start(1);
    let context = async_nats::jetstream::new(cluster.client().await);
    let name = cluster.config().cell.ledger_stream();
    drop(open(&cluster.config()).await);
    let good = context.get_stream(&name).await.unwrap().cached_info().config.clone();
    for (spoil, parts) in SPOILINGS {
        let mut config = good.clone();
        spoil(&mut config);
        replace_stream(&context, &name, config).await;
        refused_for(&cluster, parts).await;
    }
    let other = Source { name: "OTHER".to_owned(), ..Source::default() };
    let mirror = Config { mirror: Some(other), subjects: Vec::new(), ..good.clone() };
    replace_stream(&context, &name, mirror).await;
    refused_for(&cluster, &["gets messages from other streams", "listens on []"]).await;
    // Only a stream that is there can be sealed, and that is for good.
    replace_stream(&context, &name, good.clone()).await;
    context.update_stream(Config { sealed: true, ..good }).await.unwrap();
    refused_for(&cluster, &["is sealed"]).await;
}

/// A server is still taking the old stream's files away after it has said that it is gone.
async fn replace_stream(context: &Context, name: &str, config: Config) {
    context.delete_stream(name).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = context.create_stream(config.clone()).await {
        let CreateStreamErrorKind::JetStream(refusal) = error.kind() else { panic!("{error}") };
        assert_eq!(refusal.error_code(), ErrorCode::STREAM_CREATE, "{error}");
        assert!(Instant::now() < deadline, "{error}");
    }
}

/// Refused for these reasons, and for no others.
async fn refused_for(cluster: &Cluster, reasons: &[&str]) {
    let message = refusal(cluster, &cluster.config()).await;
    assert_says(&message, reasons);
    assert_eq!(message.lines().filter(|line| line.starts_with("  - ")).count(), reasons.len(), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_delete_or_purge_what_is_in_the_ledger() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let log = open(&cluster.config()).await;
        for block in 0..3 {
            log.append(BlockNumber(block), crate::support::small_block(block + 1, [0; 32]).bytes).await;
        }
        let before = log.read(BlockNumber(1), 9).await.unwrap();
        assert_eq!(before.len(), 3);
        let context = async_nats::jetstream::new(cluster.client().await);
        let name = cluster.config().cell.ledger_stream();
        let stream = context.get_stream(&name).await.unwrap();
        stream.delete_message(2).await.unwrap_err();
        stream.purge().await.unwrap_err();
        stream.purge().sequence(3).await.unwrap_err();
        stream.purge().keep(1).await.unwrap_err();
        stream.purge().filter(cluster.config().cell.ledger_subject()).await.unwrap_err();
        // Nor can the two settings be taken back.
        let good = stream.cached_info().config.clone();
        context.update_stream(Config { deny_delete: false, ..good.clone() }).await.unwrap_err();
        context.update_stream(Config { deny_purge: false, ..good }).await.unwrap_err();
        assert_eq!(log.read(BlockNumber(1), 9).await.unwrap(), before);
        drop(open(&cluster.config()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_replicas_than_configured_are_refused() {
    let cluster = Cluster::start(3);
    open(&NatsConfig { replicas: 1, ..cluster.config() }).await;
    let message = refusal(&cluster, &cluster.config()).await;
    assert_says(&message, &["is on 1 servers, not on 3", "nats stream edit --replicas 3 TEPHRA_LEDGER_main"]);
    assert!(!message.contains("make the stream again"), "{message}");
    // What the message says is what helps.
    on_three_servers(&cluster, "TEPHRA_LEDGER_main").await;
    open(&cluster.config()).await;
}

async fn on_three_servers(cluster: &Cluster, stream: &str) {
    let context = async_nats::jetstream::new(cluster.client().await);
    let found = context.get_stream(stream).await.unwrap().cached_info().config.clone();
    context.update_stream(Config { num_replicas: 3, ..found }).await.unwrap();
}

/// Opens what a sequencer works with besides the ledger: the stream of work orders or the bucket of leases.
async fn open_beside(cluster: &Cluster, replicas: usize, stream: &str) -> Result<(), NatsError> {
    let (client, config) = (cluster.client().await, NatsConfig { replicas, ..cluster.config() });
    if stream.starts_with("KV_") {
        Leadership::open(&client, &config, LeadershipConfig::named("test")).await.map(drop)
    } else {
        let stop = CancellationToken::new();
        JetStreamQueue::open(&client, &config, QueueConfig::default(), stop).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_orders_and_leases_on_too_few_servers_or_in_memory_are_refused_with_what_helps() {
    let cluster = Cluster::start(3);
    let context = async_nats::jetstream::new(cluster.client().await);
    for stream in ["TEPHRA_WORK_main", "KV_TEPHRA_LEASE_main"] {
        open_beside(&cluster, 1, stream).await.unwrap();
        let message = open_beside(&cluster, 3, stream).await.unwrap_err().to_string();
        // Work orders do not wait for the disk of one server, and the servers let no such stream have more.
        let is_bucket = stream.starts_with("KV_");
        let command = if is_bucket { "nats stream edit --replicas 3" } else { "nats stream rm" };
        assert_says(&message, &["is on 1 servers, not on 3", &format!("{command} {stream}")]);
        if is_bucket {
            on_three_servers(&cluster, stream).await;
        } else {
            context.delete_stream(stream).await.unwrap();
        }
        open_beside(&cluster, 3, stream).await.unwrap();

        let made = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        context.delete_stream(stream).await.unwrap();
        let forgetful = Config { storage: StorageType::Memory, persist_mode: None, ..made };
        context.create_stream(forgetful).await.unwrap();
        let message = open_beside(&cluster, 3, stream).await.unwrap_err().to_string();
        assert_says(&message, &["is in memory", &format!("nats stream rm {stream}")]);
        context.delete_stream(stream).await.unwrap();
        open_beside(&cluster, 3, stream).await.unwrap();
    }
}
