//! The stream of public events on real servers: what it takes, what it refuses, what it gets again.

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::stream::{Config, StorageType};
use futures::StreamExt;
use tephra_journal::event_stream::{EventMark, EventStream, EventStreamError, PublicEvent};
use tephra_journal::jetstream::{JetStreamEvents, JetStreamLog, Leadership, LeadershipConfig};
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::subjects::Cell;

use crate::cluster::Cluster;
use crate::permissions::{Roles, can_append, can_hear, can_read};
use crate::{soon, until};

const STREAM: &str = "TEPHRA_EVENTS";

/// An event like any other; the same one whenever it is asked for.
fn event(number: u64) -> PublicEvent {
    let project = ["alpha", "beta"][usize::from(number.is_multiple_of(3))];
    let hash = [u8::try_from(number % 251).unwrap(); 32];
    PublicEvent {
        number,
        mark: EventMark { id: format!("{number}.0"), block: BlockNumber(number), hash },
        subject: Cell::default().event_subject(Some(project), "volume", &number.to_string(), "VolumeCreated"),
        body: format!("{{\"id\":\"{number}.0\"}}").into(),
    }
}

fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<PublicEvent> {
    numbers.map(event).collect()
}

async fn open(cluster: &Cluster) -> JetStreamEvents {
    JetStreamEvents::new(&cluster.client().await, &cluster.config())
}

/// The last event that is there.
async fn last(stream: &JetStreamEvents) -> u64 {
    soon("the end of the stream", async {
        loop {
            match stream.end().await {
                Ok(end) => {
                    assert_eq!(end.mark, (end.last > 0).then(|| event(end.last).mark));
                    return end.last;
                }
                Err(EventStreamError::Unsure(_)) => tokio::task::yield_now().await,
                Err(EventStreamError::Refused(refused)) => panic!("{refused}"),
            }
        }
    })
    .await
}

/// As a publisher does: from where the stream ends, until all of it is there.
async fn publish_to(stream: &JetStreamEvents, to: u64) {
    loop {
        let from = last(stream).await + 1;
        if from > to {
            return;
        }
        drop(stream.publish(&events(from..=to.min(from + 511))).await);
    }
}

/// Every message, as it is on the stream.
async fn assert_holds(cluster: &Cluster, count: u64) {
    let stream = jetstream::new(cluster.client().await).get_stream(STREAM).await.unwrap();
    for number in (1..=count).step_by(97).chain([count]) {
        let message = stream.get_raw_message(number).await.unwrap();
        let expected = event(number);
        assert_eq!((message.subject.as_str(), &message.payload), (expected.subject.as_str(), &expected.body));
        assert_eq!(message.headers.get("Content-Type").unwrap().as_str(), "application/cloudevents+json");
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), expected.mark.id);
    }
    assert_eq!(stream.cached_info().state.messages, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_taken_in_its_place_and_once_on_one_server_and_on_three() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let (one, two) = (open(&cluster).await, open(&cluster).await);
        assert_eq!(one.look().await.unwrap(), None);
        assert_eq!(last(&one).await, 0);
        publish_to(&one, 2000).await;
        assert_eq!(last(&two).await, 2000);
        for again in [events(1..=10), events(1991..=2000), events(1999..=2003), events(2002..=2004)] {
            // What is there is not taken again, and what has no place is not taken at all.
            drop(two.publish(&again).await);
        }
        publish_to(&two, 2010).await;
        // Two at once.
        tokio::join!(publish_to(&one, 4000), publish_to(&two, 4000));
        assert_holds(&cluster, 4000).await;
        assert_eq!(one.look().await.unwrap().map(|end| end.last), Some(4000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_has_lost_is_published_again_and_nothing_twice() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let stream = open(&cluster).await;
        publish_to(&stream, 1000).await;
        for number in 1..=servers {
            let publishing = tokio::spawn({
                let stream = stream.clone();
                let to = 1000 * (u64::try_from(number).unwrap() + 1);
                async move { publish_to(&stream, to).await }
            });
            cluster.kill(number);
            cluster.resume(number);
            soon("all events", publishing).await.unwrap();
        }
        let count = 1000 * (u64::try_from(servers).unwrap() + 1);
        until("the servers agree", async || stream.end().await.is_ok_and(|end| end.last == count)).await;
        assert_holds(&cluster, count).await;
    }
}

async fn refused(stream: &JetStreamEvents) -> String {
    match stream.end().await {
        Err(EventStreamError::Refused(refused)) => refused.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_whole_or_not_ours_is_refused_with_what_to_do_about_it() {
    let cluster = Cluster::start(1);
    let context = jetstream::new(cluster.client().await);
    let config =
        Config { name: STREAM.to_owned(), subjects: vec!["tephra.event.>".to_owned()], ..Config::default() };
    let stream = open(&cluster).await;

    let memory = Config { storage: StorageType::Memory, ..config.clone() };
    context.create_stream(memory).await.unwrap();
    let reason = refused(&stream).await;
    for expected in ["is in memory", "deny_delete", "deny_purge", "tephra events rebuild", "nats stream rm"] {
        assert!(reason.contains(expected), "{expected} is not in: {reason}");
    }
    stream.delete().await.unwrap();

    // Emptied by somebody who could.
    let made = context.create_stream(config.clone()).await.unwrap();
    publish_by_hand(&cluster, 3).await;
    made.purge().await.unwrap();
    let lasting = Config { deny_delete: true, deny_purge: true, ..config };
    let lasting = Config { discard: jetstream::stream::DiscardPolicy::New, ..lasting };
    context.update_stream(lasting).await.unwrap();
    let reason = refused(&stream).await;
    assert!(reason.contains("lacks messages: it has 0 of 3"), "{reason}");
    stream.delete().await.unwrap();

    // Ours, with a message that is not.
    publish_to(&stream, 5).await;
    publish_by_hand(&cluster, 1).await;
    let reason = refused(&stream).await;
    assert!(reason.contains("message 6 was not published by Tephra"), "{reason}");

    // Made anew, all is well.
    stream.delete().await.unwrap();
    publish_to(&stream, 5).await;
    assert_holds(&cluster, 5).await;
}

async fn publish_by_hand(cluster: &Cluster, count: usize) {
    let context = jetstream::new(cluster.client().await);
    for _ in 0..count {
        context.publish("tephra.event.x.y.z.W", "{}".into()).await.unwrap().await.unwrap();
    }
}

/// Whether the log took anything while somebody did something.
async fn appends_to(log: &JetStreamLog, act: impl AsyncFnOnce()) -> bool {
    let before = log.head().await.unwrap();
    act().await;
    log.head().await.unwrap() != before
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_events_can_do_that_and_nothing_else() {
    let roles = Roles::start();
    let config = roles.config("events");
    let sequencer = roles.client("sequencer").await;
    let ledger = JetStreamLog::open(&sequencer, &roles.config("sequencer")).await.unwrap();
    let block = crate::support::small_block(1, [0; 32]);
    ledger.append(BlockNumber(0), block.bytes.clone()).await;
    let named = LeadershipConfig::named;
    let sequencing =
        Leadership::open(&sequencer, &roles.config("sequencer"), named("sequencer")).await.unwrap();

    let client = roles.client("events").await;
    let leadership = Leadership::open_for_events(&client, &config, named("events")).await.unwrap();
    let term = soon("the turn", leadership.campaign()).await;
    let log = JetStreamLog::open_to_read(&client, &config).await.unwrap();
    assert_eq!(log.read(BlockNumber(1), 9).await.unwrap(), [(BlockNumber(1), block.bytes)]);
    let stream = JetStreamEvents::new(&client, &config);
    publish_to(&stream, 700).await;
    term.resign().await;

    for subject in ["tephra.ledger.main", "tephra.work.main.lvm.x", "$KV.TEPHRA_LEASE_main.sequencer"] {
        assert!(!can_append(&client, subject).await, "{subject}");
    }
    assert!(stream.delete().await.is_err(), "the publisher does not delete events");
    assert!(stream.make_consumer("mine", None, 0).await.is_err(), "nor does it make consumers");
    for role in ["sequencer", "api", "executor_lvm"] {
        let client = roles.client(role).await;
        assert!(!can_append(&client, &event(701).subject).await, "{role} publishes events");
        assert!(!can_read(&client, STREAM, PullConfig::default()).await, "{role} reads events");
    }
    // One lease is not the other's.
    assert!(!can_append(&sequencer, "$KV.TEPHRA_LEASE_main.events").await);
    soon("the sequencer's turn", sequencing.campaign()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_s_consumer_gets_that_project_s_events_and_can_do_nothing_else() {
    let roles = Roles::start();
    let sequencer = roles.client("sequencer").await;
    let ledger = JetStreamLog::open(&sequencer, &roles.config("sequencer")).await.unwrap();
    let publisher = JetStreamEvents::new(&roles.client("events").await, &roles.config("events"));
    publish_to(&publisher, 300).await;
    let operator = JetStreamEvents::new(&roles.client("operator").await, &roles.config("operator"));
    for project in ["alpha", "beta"] {
        operator.make_consumer(project, Some(project), 0).await.unwrap();
        operator.make_consumer(project, Some(project), 0).await.unwrap();
    }
    assert!(operator.make_consumer("alpha", Some("beta"), 0).await.is_err(), "a name is not used twice");
    publish_to(&publisher, 600).await;

    let client = roles.client("consumer_alpha").await;
    let next = |consumer: &str| format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}");
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    // As many as there are, and no more.
    client.publish_with_reply(next("alpha"), inbox, "{\"batch\":400}".into()).await.unwrap();
    let expected: Vec<PublicEvent> =
        events(1..=600).into_iter().filter(|event| !event.number.is_multiple_of(3)).collect();
    for event in &expected {
        let message = soon("an event", answers.next()).await.unwrap();
        assert_eq!(message.payload, event.body);
        client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
    }
    assert_eq!(expected.len(), 400);

    // Its own account has nothing of ours, but for these two subjects.
    for request in [next("beta"), format!("$JS.API.STREAM.MSG.GET.{STREAM}")] {
        let asked = client.request(request.clone(), "{\"batch\":1,\"seq\":3}".into()).await;
        let got = asked.map(|message| message.payload).unwrap_or_default();
        assert!(!got.starts_with(b"{\"id\""), "{request} is answered {got:?}");
    }
    let speak = async || publish_to(&publisher, 610).await;
    assert!(!can_hear(&client, "tephra.event.>", speak).await, "it hears events go past");
    for subject in ["tephra.ledger.main", "tephra.event.alpha.volume.1.VolumeCreated"] {
        assert!(!can_append(&client, subject).await, "{subject}");
    }
    // An answer goes where the asker says, but in the asker's own account: not into the ledger.
    let mut sent_there = client.subscribe("tephra.ledger.main").await.unwrap();
    let ask = async || {
        client.publish_with_reply(next("alpha"), "tephra.ledger.main", "".into()).await.unwrap();
        soon("the answer", sent_there.next()).await.unwrap();
    };
    assert!(!appends_to(&ledger, ask).await, "an event was sent into the ledger");

    // Deleted and published again, the events are the same.
    operator.delete().await.unwrap();
    publish_to(&publisher, 600).await;
    assert_eq!(operator.look().await.unwrap().and_then(|end| end.mark), Some(event(600).mark));
}
