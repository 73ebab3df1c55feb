//! The example of permissions, as it stands, on a real server: each role can do its work, and no
//! other's, not even by having the server send something for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use nkeys::KeyPair;
use serde_json::json;
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_journal::event_stream::EventStream;
use tephra_journal::inventory::Inventory;
use tephra_journal::jetstream::{
    DurabilityClaim, DurabilityProof, JetStreamEvents, JetStreamLog, JetStreamQueue, Leadership,
    LeadershipConfig, NatsAuth, NatsConfig, NatsGateway, NatsInventory, QueueConfig, Speaker, USUAL_API,
    connect, serve_commands, serve_inventory,
};
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::subjects::Cell;
use tephra_journal::work_queue::WorkQueue;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Options};
use crate::queue::order;
use crate::soon;
use crate::support::{Running, create_volume};

/// How long it is waited for something that must not happen.
const SILENCE: Duration = Duration::from_millis(700);

pub const EXAMPLE: &str = include_str!("../../../deploy/nats/permissions.conf.example");

/// Under which name roles with an account of their own reach JetStream of the ledger's account.
const IMPORTED_API: &str = "TEPHRA.API";

pub struct Roles {
    cluster: Cluster,
    cell: Cell,
    seeds: tempfile::TempDir,
}

impl Roles {
    pub fn start() -> Self {
        Self::start_with(EXAMPLE.to_owned(), Cell::default())
    }

    /// The same, with the example changed as it says.
    pub fn start_with(example: String, cell: Cell) -> Self {
        let seeds = tempfile::tempdir().unwrap();
        let mut environment = BTreeMap::new();
        let all = ["system", "sequencer", "api", "executor_lvm", "events", "operator", "consumer_alpha"];
        for role in all.into_iter().chain(["executor_rbd"]) {
            let key = KeyPair::new_user();
            std::fs::write(seeds.path().join(role), key.seed().unwrap()).unwrap();
            environment.insert(format!("TEPHRA_{}_NKEY", role.to_uppercase()), key.public_key());
        }
        let options = Options { include: Some(example), environment, ..Options::default() };
        Self { cluster: Cluster::with(options), cell, seeds }
    }

    pub fn config(&self, role: &str) -> NatsConfig {
        let ledger_api = if role == "sequencer" { USUAL_API } else { IMPORTED_API };
        NatsConfig {
            auth: NatsAuth::NkeyFile(self.seed(role)),
            inbox_prefix: Some(format!("_INBOX_{role}")),
            ledger_api: ledger_api.to_owned(),
            durability: DurabilityClaim::Ask,
            cell: self.cell.clone(),
            ..self.cluster.config()
        }
    }

    fn seed(&self, role: &str) -> PathBuf {
        self.seeds.path().join(role)
    }

    pub const fn cell(&self) -> &Cell {
        &self.cell
    }

    pub async fn client(&self, role: &str) -> Client {
        connect(&self.config(role), role).await.unwrap()
    }

    async fn queue(&self, role: &str) -> JetStreamQueue {
        let (client, config) = (self.client(role).await, self.config(role));
        let stop = CancellationToken::new();
        if role == "sequencer" {
            JetStreamQueue::open(&client, &config, QueueConfig::default(), stop).await.unwrap()
        } else {
            JetStreamQueue::open_to_take(&client, &config, QueueConfig::default(), stop).await.unwrap()
        }
    }
}

/// More than fit into one message.
const MANY: usize = 2_500;

struct ManyObjects;

#[async_trait::async_trait]
impl Inventory for ManyObjects {
    async fn list(&self, _: &PoolId) -> Result<Vec<FoundObject>, Failure> {
        let object = |n| FoundObject {
            name: format!("object-{n}").into(),
            kind: FoundKind::Volume,
            bytes: 1,
            in_use: false,
        };
        Ok((0..MANY).map(object).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_can_do_its_work() {
    let roles = Roles::start();
    let sequencer = roles.client("sequencer").await;
    let config = roles.config("sequencer");
    let log = JetStreamLog::open(&sequencer, &config).await.unwrap();
    assert!(matches!(log.health().durability, DurabilityProof::Verified { silent, .. } if silent.is_empty()));
    let leadership =
        Leadership::open(&sequencer, &config, LeadershipConfig::named("sequencer")).await.unwrap();
    let term = Arc::new(soon("the turn", leadership.campaign()).await);
    let running = Running::ready(Arc::new(log)).await;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (cell, term, stop) = (config.cell.clone(), Arc::clone(&term), stop.clone());
        let handle = Arc::new(running.handle.clone());
        async move { serve_commands(&sequencer, &cell, handle, term, Arc::new(|| None), stop).await.unwrap() }
    });

    let api = roles.client("api").await;
    let gateway = NatsGateway::new(
        api.clone(),
        &config.cell,
        &Speaker::Api,
        tephra_journal::jetstream::GatewayConfig::default(),
    );
    let receipt =
        soon("an answer", tephra_journal::gateway::CommandGateway::submit(&gateway, create_volume(1))).await;
    let position = receipt.unwrap().position();
    let read = JetStreamLog::open_to_read(&api, &roles.config("api")).await.unwrap();
    soon("the blocks", async {
        let head = read.head().await.unwrap();
        let blocks = read.read(BlockNumber(1), 100).await.unwrap();
        assert_eq!(blocks.last().unwrap().0, head);
        assert_eq!(crate::support::replayed(&read).await.head.position, position);
    })
    .await;

    let lvm = BackendName::new("lvm");
    let listened = roles.client("executor_lvm").await;
    let telling = tokio::spawn({
        let (cell, stop, lvm) = (config.cell.clone(), stop.clone(), lvm.clone());
        let inventory: Arc<dyn Inventory> = Arc::new(ManyObjects);
        async move { serve_inventory(&listened, &cell, &lvm, &inventory, stop).await.unwrap() }
    });
    let asked = NatsInventory::new(roles.client("api").await, config.cell.clone());
    let pool = PoolId { backend: lvm.clone(), pool: PoolName::new("vg") };
    soon("what is on the pool", async {
        // the executor may not be listening yet
        let found = loop {
            match asked.list(&pool).await {
                Ok(found) => break found,
                Err(failure) => assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{failure}"),
            }
        };
        assert_eq!(found.len(), MANY);
    })
    .await;
    let nobody = PoolId { backend: BackendName::new("rbd"), pool: PoolName::new("p") };
    let refused = soon("a refusal", asked.list(&nobody)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::BackendUnavailable);
    let published = roles.queue("sequencer").await;
    let executor = roles.queue("executor_lvm").await;
    published.publish(order("lvm", 1)).await;
    let delivery = soon("an order", executor.next(&lvm)).await.unwrap();
    delivery.keep().await;
    delivery.acknowledge().await;
    let executor = roles.client("executor_lvm").await;
    let reports = NatsGateway::new(
        executor,
        &config.cell,
        &Speaker::Executor(lvm.clone()),
        tephra_journal::jetstream::GatewayConfig::default(),
    );
    let key = order("lvm", 1).due.key;
    let check = crate::support::submission(
        tephra_domain::actor::Actor::system(),
        tephra_domain::command::Command::CheckAttempt { key },
    );
    let answer = soon("an answer", tephra_journal::gateway::CommandGateway::submit(&reports, check)).await;
    assert!(matches!(answer, Err(tephra_journal::gateway::SubmitError::Rejected(_))), "{answer:?}");
    stop.cancel();
    soon("the end", serving).await.unwrap();
    soon("the end", telling).await.unwrap();
    running.stop().await;
    term.resign().await;
}

/// The example for an executor with two backends, as it says how.
fn with_two_backends() -> String {
    let twice = |line: &str| {
        // Comments need not be copied.
        let is_copied = line.contains("lvm") && !line.trim_start().starts_with('#');
        if is_copied { format!("{line}\n{}\n", line.replace("lvm", "rbd")) } else { format!("{line}\n") }
    };
    EXAMPLE.lines().map(twice).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_with_two_backends_works_for_both_over_one_connection() {
    let roles = Roles::start_with(with_two_backends(), Cell::default());
    let (client, config) = (roles.client("executor_lvm").await, roles.config("executor_lvm"));
    let published = roles.queue("sequencer").await;
    let taken =
        JetStreamQueue::open_to_take(&client, &config, QueueConfig::default(), CancellationToken::new());
    let taken = taken.await.unwrap();
    let asked = NatsInventory::new(roles.client("api").await, config.cell.clone());
    for name in ["lvm", "rbd"] {
        let backend = BackendName::new(name);
        published.publish(order(name, 1)).await;
        let delivery = soon("an order", taken.next(&backend)).await.unwrap();
        assert_eq!(delivery.order().due.pool.backend, backend);
        delivery.acknowledge().await;
        let stop = CancellationToken::new();
        let telling = tokio::spawn({
            let (client, cell, stop) = (client.clone(), config.cell.clone(), stop.clone());
            let (inventory, backend): (Arc<dyn Inventory>, _) = (Arc::new(ManyObjects), backend.clone());
            async move { serve_inventory(&client, &cell, &backend, &inventory, stop).await.unwrap() }
        });
        let pool = PoolId { backend: backend.clone(), pool: PoolName::new("p") };
        soon("what is on the pool", async { while asked.list(&pool).await.is_err() {} }).await;
        for (subject, listener) in [
            (config.cell.report_subject(&backend), "sequencer"),
            (config.cell.pools_subject(&backend), "sequencer"),
            (config.cell.pools_subject(&backend), "api"),
            (config.cell.progress_subject(&backend), "api"),
        ] {
            let listener = roles.client(listener).await;
            let mut heard = listener.subscribe(subject.clone()).await.unwrap();
            listener.flush().await.unwrap();
            // One account hears of another's interest a little later.
            soon(&subject, async {
                while tokio::time::timeout(SILENCE, heard.next()).await.is_err() {
                    client.publish(subject.clone(), "x".into()).await.unwrap();
                }
            })
            .await;
        }
        stop.cancel();
        soon("the end", telling).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_is_right_for_another_cell_too_with_the_names_replaced_as_it_says() {
    let streams = EXAMPLE.replace("$TEPHRA_EVENTS_NKEY", "$PUBLISHER");
    let example = streams
        .replace("main", "eu")
        .replace("TEPHRA_EVENTS", "TEPHRA_EVENTS_eu")
        .replace("tephra.event.", "tephra.cell.eu.event.")
        .replace("$PUBLISHER", "$TEPHRA_EVENTS_NKEY");
    let roles = Roles::start_with(example, "eu".parse().unwrap());
    let (sequencer, config) = (roles.client("sequencer").await, roles.config("sequencer"));
    let log = JetStreamLog::open(&sequencer, &config).await.unwrap();
    log.append(BlockNumber(0), crate::support::small_block(1, [0; 32]).bytes).await;
    roles.queue("sequencer").await.publish(order("lvm", 1)).await;
    let lvm = BackendName::new("lvm");
    drop(soon("an order", roles.queue("executor_lvm").await.next(&lvm)).await.unwrap());
    let (events, config) = (roles.client("events").await, roles.config("events"));
    JetStreamEvents::new(&events, &config).end().await.unwrap();
    let subject = config.cell.event_subject(None, "type", "1", "VolumeTypeDeleted");
    assert!(can_append(&events, &subject).await, "{subject} cannot be published");
    let read = JetStreamLog::open_to_read(&events, &config).await.unwrap();
    assert_eq!(read.read(BlockNumber(1), 9).await.unwrap().len(), 1);
}

/// Whether the server stores what is published.
pub async fn can_append(client: &Client, subject: &str) -> bool {
    let context = jetstream::context::ContextBuilder::new().timeout(SILENCE).build(client.clone());
    match context.publish(subject.to_owned(), "x".into()).await {
        Ok(acknowledgement) => acknowledgement.await.is_ok(),
        Err(_) => false,
    }
}

/// Whether a consumer can be made that reads what it should not.
pub async fn can_read(client: &Client, stream: &str, config: PullConfig) -> bool {
    for api in [USUAL_API, IMPORTED_API] {
        let context = jetstream::context::ContextBuilder::new().timeout(SILENCE);
        let context = context.api_prefix(api).build(client.clone());
        if context.create_consumer_on_stream(config.clone(), stream).await.is_ok() {
            return true;
        }
    }
    false
}

/// Whether anything arrives on a subject while somebody else speaks.
pub async fn can_hear(client: &Client, subject: &str, speak: impl AsyncFnOnce()) -> bool {
    let mut heard = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    speak().await;
    matches!(tokio::time::timeout(SILENCE, heard.next()).await, Ok(Some(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_can_do_another_s_work() {
    let roles = Roles::start();
    let sequencer = roles.client("sequencer").await;
    let config = roles.config("sequencer");
    let _log = JetStreamLog::open(&sequencer, &config).await.unwrap();
    let queue = roles.queue("sequencer").await;
    queue.publish(order("rbd", 1)).await;
    let (ledger, work) = (config.cell.ledger_stream(), config.cell.work_stream());
    let orders = |backend: &str| PullConfig {
        durable_name: Some(backend.to_owned()),
        name: Some(backend.to_owned()),
        filter_subject: config.cell.backend_work_subjects(&BackendName::new(backend)),
        ..PullConfig::default()
    };

    for role in ["api", "executor_lvm"] {
        let client = roles.client(role).await;
        assert!(!can_append(&client, "tephra.ledger.main").await, "{role} appends to the ledger");
        assert!(!can_append(&client, "tephra.work.main.lvm.x").await, "{role} gives orders");
        assert!(!can_append(&client, "$KV.TEPHRA_LEASE_main.sequencer").await, "{role} takes the lease");
        assert!(!can_read(&client, &work, orders("rbd")).await, "{role} reads another's orders");
        assert!(!can_read(&client, &work, PullConfig::default()).await, "{role} reads all orders");
        let context = jetstream::context::ContextBuilder::new().timeout(SILENCE).build(client.clone());
        assert!(context.delete_stream(&ledger).await.is_err(), "{role} deletes the ledger");
        // Work orders and answers go past everybody on the wire.
        let other = if role == "api" { "sequencer" } else { "api" };
        let answered = roles.client(other).await;
        let ask = async || {
            let api = roles.config(other).ledger_api;
            let context = jetstream::context::ContextBuilder::new().api_prefix(api);
            drop(context.build(answered.clone()).get_stream(&ledger).await.unwrap());
        };
        let inboxes = format!("_INBOX_{other}.>");
        assert!(can_hear(&answered, &inboxes, ask).await, "{other} hears its own answers");
        assert!(!can_hear(&client, &inboxes, ask).await, "{role} hears the answers of {other}");
        let give_order = async || queue.publish(order("rbd", 2)).await;
        for subject in [">", "tephra.work.>", "tephra.work.main.rbd.>"] {
            assert!(!can_hear(&client, subject, give_order).await, "{role} hears {subject}");
        }
    }

    let executor = roles.client("executor_lvm").await;
    assert!(!can_read(&executor, &ledger, PullConfig::default()).await, "an executor reads the ledger");
    // Its own consumer's name with another's orders.
    let disguised = PullConfig { filter_subject: "tephra.work.main.rbd.>".into(), ..orders("lvm") };
    assert!(!can_read(&executor, &work, disguised).await, "an executor widens its own consumer");
    // Nor its own consumer: who makes one says where the server sends its messages.
    assert!(!can_read(&executor, &work, orders("lvm")).await, "an executor makes a consumer");

    // The other way round: the sequencer's credentials do not delete the ledger either.
    let context = jetstream::context::ContextBuilder::new().timeout(SILENCE).build(sequencer);
    assert!(context.delete_stream(&ledger).await.is_err());
}

/// Has the server send something to the ledger's subject in every way that there is: the answer to
/// whatever may be asked, the messages of a consumer, a stream's, and the trace of a message.
async fn try_everything(client: &Client, subjects: &[String]) {
    const LEDGER: &str = "tephra.ledger.main";
    let bodies = ["", "x", "{}", "{\"seq\":1}", "{\"seq\":1,\"batch\":2}", "{\"batch\":1}", "+NXT", "+ACK"];
    let mut traced = HeaderMap::new();
    traced.insert("Nats-Trace-Dest", LEDGER);
    for subject in subjects {
        for body in bodies {
            let (to, body) = (subject.clone(), bytes::Bytes::from_static(body.as_bytes()));
            client.publish_with_reply(to.clone(), LEDGER, body.clone()).await.unwrap();
            client.publish_with_headers(to.clone(), traced.clone(), body.clone()).await.unwrap();
            client.publish_with_reply_and_headers(to, LEDGER, traced.clone(), body).await.unwrap();
        }
    }
    for api in [USUAL_API, IMPORTED_API] {
        for stream in ["TEPHRA_LEDGER_main", "TEPHRA_WORK_main", "TEPHRA_EVENTS", "KV_TEPHRA_LEASE_main"] {
            let config = json!({"deliver_subject": LEDGER, "ack_policy": "none", "name": "stolen"});
            let consumer = json!({"stream_name": stream, "config": config}).to_string();
            let filtered = ["", ".stolen", ".lvm.tephra.work.main.lvm.>", ".stolen.tephra.event.>"];
            for name in filtered {
                let to = format!("{api}.CONSUMER.CREATE.{stream}{name}");
                client.publish_with_reply(to, LEDGER, consumer.clone().into()).await.unwrap();
            }
            let republish = json!({"src": ">", "dest": LEDGER});
            let subjects = ["tephra.event.>"];
            let made = json!({"name": stream, "subjects": subjects, "republish": republish}).to_string();
            for action in ["CREATE", "UPDATE"] {
                let to = format!("{api}.STREAM.{action}.{stream}");
                client.publish_with_reply(to, LEDGER, made.clone().into()).await.unwrap();
            }
        }
    }
    // What a republishing stream has to republish.
    client.publish("tephra.event.a.b.c.d", "x".into()).await.unwrap();
    client.flush().await.unwrap();
}

/// What the example lets a role publish, with something in the place of each wildcard.
fn may_publish(role: &str) -> Vec<String> {
    let key = format!("$TEPHRA_{}_NKEY", role.to_uppercase());
    let own = EXAMPLE.split(&key).nth(1).unwrap().split("nkey:").next().unwrap();
    let Some(list) = own.split("publish: { allow: [").nth(1) else { return Vec::new() };
    let quoted = list.split(']').next().unwrap().split('"').skip(1).step_by(2);
    let concrete = |subject: &str| subject.replace('*', "lvm").replace('>', "1.1.1.1.0");
    quoted.map(concrete).collect()
}

async fn messages_in(client: &Client, stream: &str) -> u64 {
    let stream = jetstream::new(client.clone()).get_stream(stream).await.unwrap();
    stream.cached_info().state.last_sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_into_the_ledger_with_anybody_s_key_but_the_sequencer_s() {
    let roles = Roles::start();
    let sequencer = roles.client("sequencer").await;
    let config = roles.config("sequencer");
    let log = JetStreamLog::open(&sequencer, &config).await.unwrap();
    log.append(BlockNumber(0), crate::support::small_block(1, [0; 32]).bytes).await;
    let queue = roles.queue("sequencer").await;
    for operation in 1..=3 {
        queue.publish(order("lvm", operation)).await;
    }
    drop(soon("an order", roles.queue("executor_lvm").await.next(&BackendName::new("lvm"))).await.unwrap());
    let publisher = JetStreamEvents::new(&roles.client("events").await, &roles.config("events"));
    publisher.end().await.unwrap();
    let named = LeadershipConfig::named("events");
    let (events, events_config) = (roles.client("events").await, roles.config("events"));
    let leadership = Leadership::open_for_events(&events, &events_config, named).await.unwrap();
    let _term = soon("the turn", leadership.campaign()).await;

    for role in ["api", "executor_lvm", "events", "operator", "consumer_alpha"] {
        let client = roles.client(role).await;
        let mut subjects = may_publish(role);
        subjects.extend(["tephra.ledger.main", "tephra.block.main"].map(str::to_owned));
        subjects.extend(
            ["NEXT.TEPHRA_EVENTS.alpha", "NEXT.TEPHRA_WORK_main.lvm"]
                .iter()
                .flat_map(|next| [USUAL_API, IMPORTED_API].map(|api| format!("{api}.CONSUMER.MSG.{next}"))),
        );
        try_everything(&client, &subjects).await;
    }
    tokio::time::sleep(SILENCE).await;
    let ledger = config.cell.ledger_stream();
    assert_eq!(messages_in(&sequencer, &ledger).await, 1, "something was sent into the ledger");
    // Readers are not told of what is not there either.
    let reader = JetStreamLog::open_to_read(&roles.client("api").await, &roles.config("api")).await.unwrap();
    assert_eq!(reader.read(BlockNumber(1), 9).await.unwrap().len(), 1);
}

/// The same attempts where a list of subjects is all that holds them back: so they are worth trying.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_ledger_s_own_account_a_list_of_subjects_does_not_hold_that_back() {
    let include = r#"
        accounts { TEPHRA: { jetstream: enabled, users: [
            { user: sequencer, password: s }
            { user: api, password: a, permissions: {
                publish: { allow: ["$JS.API.STREAM.INFO.TEPHRA_LEDGER_main", "tephra.command.main"] }
                subscribe: { allow: ["_INBOX.>"] }
            } }
        ] } }
    "#;
    let cluster = Cluster::with(Options { include: Some(include.to_owned()), ..Options::default() });
    let config = |user: &str| NatsConfig {
        auth: NatsAuth::Password { user: user.to_owned(), password: user[..1].to_owned() },
        ..cluster.config()
    };
    let sequencer = connect(&config("sequencer"), "sequencer").await.unwrap();
    let log = JetStreamLog::open(&sequencer, &config("sequencer")).await.unwrap();
    let api = connect(&config("api"), "api").await.unwrap();
    assert!(!can_append(&api, "tephra.ledger.main").await, "the list holds back what it can");
    try_everything(&api, &["$JS.API.STREAM.INFO.TEPHRA_LEDGER_main".to_owned()]).await;
    crate::until("junk in the ledger", async || log.head().await.unwrap() > BlockNumber(0)).await;
}
