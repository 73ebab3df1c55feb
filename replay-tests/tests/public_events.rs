//! Every event of a drawn history is published once, in order and in the right words, whatever goes
//! wrong between the publisher and the stream, and however many publishers there are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{ProjectId, RequestId, UserId};
use tephra_journal::event_stream::{EventStream, MAX_EVENT_BYTES, PublicEvent, RefusedStream};
use tephra_journal::fake_event_stream::{FakeEventStream, PublishFault};
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::memory::MemoryLog;
use tephra_journal::subjects::Cell;
use tephra_projector::reactors::public_events::{PublicEvents, PublishError};
use tephra_projector::render::{moment, sequence};
use tephra_replay_tests::drawn::{blocks, example, log_of, replay};
use tokio_util::sync::CancellationToken;

/// Enough for several batches.
const MOVES: usize = 900;
const SIZES: &[usize] = &[1, 3, 40, 2, 200];

fn publisher(log: &Arc<MemoryLog>, stream: &Arc<FakeEventStream>) -> PublicEvents {
    PublicEvents::new(Arc::<MemoryLog>::clone(log), Arc::<FakeEventStream>::clone(stream), Cell::default())
}

fn ledger(history: &[Commit]) -> Arc<MemoryLog> {
    Arc::new(log_of(history, SIZES))
}

/// What is published when nothing goes wrong.
async fn published(history: &[Commit]) -> Vec<PublicEvent> {
    let (log, stream) = (ledger(history), Arc::new(FakeEventStream::new()));
    publisher(&log, &stream).catch_up().await.unwrap();
    stream.messages()
}

fn body(event: &PublicEvent) -> Value {
    serde_json::from_slice(&event.body).unwrap()
}

/// Runs until a publisher has come to an end of the log, or is dropped after so many milliseconds.
async fn follow_for(publisher: &mut PublicEvents, time: Duration) {
    let stop = CancellationToken::new();
    drop(tokio::time::timeout(time, publisher.follow(&stop)).await);
}

#[tokio::test(start_paused = true)]
async fn every_event_is_published_once_and_in_order() {
    let history = example(MOVES);
    let messages = published(&history).await;
    let events: Vec<(String, &Commit, &Event)> = history
        .iter()
        .zip(1..)
        .flat_map(|(commit, position)| {
            let position = tephra_domain::ids::Position(position);
            let events = commit.events.iter().enumerate();
            events.map(move |(index, event)| (sequence(position, index), commit, event))
        })
        .collect();
    assert!(events.len() > 2 * 512, "{} events are more than two batches", events.len());
    assert_eq!(messages.len(), events.len());
    for ((message, (id, commit, event)), number) in messages.iter().zip(events).zip(1_u64..) {
        let shown = body(message);
        assert_eq!((message.number, &message.mark.id), (number, &id));
        assert_eq!(shown["id"], id);
        assert_eq!(shown["sequence"], format!("{number:020}"));
        assert_eq!(shown["type"], format!("tephra.{}", event.name()));
        assert_eq!(shown["time"], moment(commit.time));
        assert_eq!(shown["correlationid"], commit.request.as_str());
        let causation = commit.causation.map(|id| id.to_string());
        assert_eq!(shown.get("causationid").and_then(Value::as_str), causation.as_deref());
        assert_eq!(shown["data"]["sequence"], id);
        assert!(!message.body.contains(&b'\n'), "one event is one line");
    }
}

#[tokio::test(start_paused = true)]
async fn each_event_is_its_owner_s_also_long_after_the_owner_was_named() {
    let history = example(MOVES / 3);
    let messages = published(&history).await;
    let mut messages = messages.iter();
    let (mut owned, mut of_deployment) = (0, 0);
    for (count, commit) in history.iter().enumerate() {
        let (before, after) = (replay(&history, count), replay(&history, count + 1));
        for event in &commit.events {
            let message = messages.next().unwrap();
            let owner = [&after, &before].into_iter().find_map(|ledger| match event {
                Event::Volume(id, _) => ledger.volumes.get(id).map(|row| row.project.clone()),
                Event::Snapshot(id, _) => ledger.snapshots.get(id).map(|row| row.project.clone()),
                Event::Operation(id, _) => ledger.operations.get(id).map(|row| row.project.clone()),
                Event::Debt(id, _) => ledger.debts.get(id).map(|row| row.project.clone()),
                Event::Quota(_) | Event::VolumeType(..) | Event::Backend(..) | Event::TurnBegan { .. } => {
                    None
                }
            });
            let Some(owner) = owner else { continue };
            assert_eq!(body(message)["project"], owner.as_str());
            assert!(message.subject.starts_with(&format!("tephra.event.{owner}.")), "{}", message.subject);
            owned += 1;
        }
    }
    for message in published(&history).await {
        if message.subject.starts_with("tephra.event.@deployment.") {
            assert_eq!(body(&message).get("project"), None);
            of_deployment += 1;
        }
    }
    assert!(owned > 300 && of_deployment > 2, "{owned} events with an owner, {of_deployment} without");
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_batch_the_stream_is_the_same() {
    let history = example(MOVES);
    let expected = published(&history).await;
    for seed in 0..30 {
        let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::seeded(seed)));
        publisher(&log, &stream).catch_up().await.unwrap();
        assert!(stream.messages() == expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_after_any_number_of_events_is_found_out() {
    let history = example(40);
    let expected = published(&history).await;
    for stored in 0..=expected.len() {
        for fault in [PublishFault::UnknownAfter(stored), PublishFault::Late] {
            let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::scripted([fault, fault])));
            publisher(&log, &stream).catch_up().await.unwrap();
            assert!(stream.messages() == expected, "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_killed_at_any_point_is_gone_on_from_by_the_next() {
    let history = example(MOVES / 3);
    let expected = published(&history).await;
    for seed in 0..6 {
        let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::seeded(seed)));
        // The first is killed where it first waits for anything, the next where it does so for the
        // second time, and so on, until one comes to the end.
        let mut lives = 0;
        while stream.messages().len() < expected.len() {
            lives += 1;
            // Nothing but the stream outlives it.
            let mut publisher = publisher(&log, &stream);
            let stop = CancellationToken::new();
            killed_after(lives, publisher.follow(&stop)).await;
        }
        assert!(stream.messages() == expected, "seed {seed}");
        assert!(lives > 3, "seed {seed}: {lives} lives");
    }
}

/// Drops a future where it waits for the so-manieth time.
async fn killed_after<T>(waits: u32, future: impl Future<Output = T>) {
    let mut future = pin!(future);
    let mut left = waits;
    poll_fn(|context| {
        let ended = future.as_mut().poll(context).is_ready();
        left -= 1;
        if ended || left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn publishers_that_take_turns_or_publish_at_once_do_not_double_anything() {
    let history = example(MOVES);
    let expected = published(&history).await;
    for seed in 0..10 {
        let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::seeded(seed)));
        let (mut one, mut two) = (publisher(&log, &stream), publisher(&log, &stream));
        // By turns, each with what it remembers of its last one.
        for _ in 0..4 {
            follow_for(&mut one, Duration::from_millis(30)).await;
            follow_for(&mut two, Duration::from_millis(30)).await;
        }
        let (one, two) = tokio::join!(one.catch_up(), two.catch_up());
        one.unwrap();
        two.unwrap();
        assert!(stream.messages() == expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_follows_and_sends_nothing() {
    let history = example(MOVES);
    let expected = published(&history).await;
    let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::new()));
    let half = expected.len() / 2;
    stream.replace(expected[..half].to_vec());
    let mut standby = publisher(&log, &stream);
    let progress = standby.progress();
    drop(tokio::time::timeout(Duration::from_secs(5), standby.stand_by()).await);
    assert_eq!(progress.borrow().events, u64::try_from(half).unwrap());
    assert_eq!(stream.sent(), 0);
    standby.catch_up().await.unwrap();
    assert!(stream.messages() == expected);
    assert_eq!(stream.sent(), u64::try_from(expected.len() - half).unwrap(), "nothing is sent twice");
    assert_eq!(progress.borrow().block, log.head().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_comes_later_is_published_as_it_comes() {
    let history = example(60);
    let expected = published(&history).await;
    let (_, bytes) = blocks(&history, SIZES);
    let (log, stream) = (Arc::new(MemoryLog::new()), Arc::new(FakeEventStream::new()));
    let mut publisher = publisher(&log, &stream);
    let mut progress = publisher.progress();
    let stop = CancellationToken::new();
    let following = tokio::spawn({
        let stop = stop.clone();
        async move { publisher.follow(&stop).await }
    });
    for (block, number) in bytes.into_iter().zip(0..) {
        log.append(BlockNumber(number), block).await;
        progress.wait_for(|progress| progress.block == BlockNumber(number + 1)).await.unwrap();
    }
    stop.cancel();
    following.await.unwrap().unwrap();
    assert!(stream.messages() == expected);
}

#[tokio::test(start_paused = true)]
async fn old_news_of_the_stream_s_end_is_not_believed_at_once_and_a_stream_that_lost_its_end_gets_it_again() {
    let history = example(MOVES);
    let expected = published(&history).await;
    let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::new()));
    let mut publisher = publisher(&log, &stream);
    publisher.catch_up().await.unwrap();
    let sent = stream.sent();
    stream.give_old_news(3);
    publisher.catch_up().await.unwrap();
    assert_eq!(stream.sent(), sent, "old news");
    for left in [expected.len() - 1, 7, 0] {
        stream.truncate(left);
        publisher.catch_up().await.unwrap();
        assert!(stream.messages() == expected, "{left} were left");
    }
}

async fn refused(log: &Arc<MemoryLog>, stream: &Arc<FakeEventStream>) -> String {
    match publisher(log, stream).catch_up().await {
        Err(PublishError::Refused(refused)) => refused.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_another_ledger_or_of_another_past_is_refused_and_left_alone() {
    let (short, long) = (example(30), example(60));
    // The same genesis, then different commits; and one that has more than the ledger.
    let mut other = long.clone();
    let last = other.len() - 1;
    other[last].request = RequestId::new("req-of-another-past");
    let (short_log, long_log) = (ledger(&short), ledger(&long));
    for (log, events) in [(&long_log, published(&other).await), (&short_log, published(&long).await)] {
        let stream = Arc::new(FakeEventStream::new());
        stream.replace(events.clone());
        let reason = refused(log, &stream).await;
        assert!(reason.contains("tephra events rebuild") && reason.contains("FAKE_EVENTS"), "{reason}");
        assert!(stream.messages() == events, "nothing is added");
        assert_eq!(stream.sent(), 0);
        // Made anew, it is taken.
        stream.replace(Vec::new());
        publisher(log, &stream).catch_up().await.unwrap();
        assert!(refused(&Arc::new(MemoryLog::new()), &stream).await.contains("the ledger has 0"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_of_somebody_else_s_is_found_also_when_events_have_come_after_it() {
    let history = example(60);
    let expected = published(&history).await;
    let before = expected.len() / 2;
    // Nothing after it; the events after the one whose place it took; and all that a batch can hold.
    for after in [0, 3, expected.len() - before - 1] {
        let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::new()));
        let mut publisher = publisher(&log, &stream);
        stream.replace(expected[..before].to_vec());
        stream.intrude();
        drop(stream.publish(&expected[before + 1..][..after]).await);
        let intruder = format!("message {} was not published by Tephra", before + 1);
        for _ in 0..2 {
            match publisher.catch_up().await {
                Err(PublishError::Refused(refused)) => assert!(refused.to_string().contains(&intruder)),
                other => panic!("{after} after it: {other:?}"),
            }
            assert_eq!(stream.messages().len(), before + 1 + after, "nothing is added");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_of_somebody_else_s_that_comes_while_events_are_published_ends_it() {
    let (_, bytes) = blocks(&example(60), SIZES);
    let (log, stream) = (Arc::new(MemoryLog::new()), Arc::new(FakeEventStream::new()));
    let mut publisher = publisher(&log, &stream);
    let half = bytes.len() / 2;
    for (number, block) in bytes.into_iter().enumerate() {
        if number == half {
            publisher.catch_up().await.unwrap();
            stream.intrude();
        }
        log.append(BlockNumber(u64::try_from(number).unwrap()), block).await;
    }
    match publisher.catch_up().await {
        Err(PublishError::Refused(refused)) => assert!(refused.to_string().contains("was not published")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_refused_is_gone_on_with_once_it_is_right() {
    let history = example(60);
    let (log, stream) = (ledger(&history), Arc::new(FakeEventStream::new()));
    let mut publisher = publisher(&log, &stream);
    stream.refuse(Some(RefusedStream::because("FAKE_EVENTS", "it lacks messages")));
    assert!(matches!(publisher.catch_up().await, Err(PublishError::Refused(_))));
    stream.refuse(None);
    publisher.catch_up().await.unwrap();
    assert!(stream.messages() == published(&history).await);
}

/// A history of one commit by this author, about things of project `shop`.
async fn first_event_by(project: &str, role: Role) -> Value {
    let mut history = example(60);
    let created =
        |commit: &Commit| commit.events.first().is_some_and(|event| event.name() == "VolumeCreateAccepted");
    let commit = history.iter_mut().find(|commit| created(commit)).unwrap();
    let owner = match commit.events.first() {
        Some(Event::Volume(_, tephra_domain::volume::VolumeEvent::CreateAccepted(accepted))) => {
            accepted.project.clone()
        }
        other => panic!("{other:?}"),
    };
    commit.actor = Actor {
        user: UserId::new("mia"),
        project: if project.is_empty() { owner } else { ProjectId::new(project) },
        role,
        address: Some("192.0.2.7".into()),
    };
    let messages = published(&history).await;
    messages.iter().map(body).find(|shown| shown["data"]["actor"]["user"] == "mia").unwrap()
}

#[tokio::test(start_paused = true)]
async fn where_others_work_from_is_nobody_s_business() {
    let shown = async |project, role| first_event_by(project, role).await["data"]["actor"]["address"].clone();
    assert_eq!(shown("", Role::Member).await, json!("192.0.2.7"), "their own colleague's");
    assert_eq!(shown("", Role::Admin).await, Value::Null, "an administrator's");
    assert_eq!(shown("elsewhere", Role::Member).await, Value::Null, "another project's");
}

#[tokio::test(start_paused = true)]
async fn an_event_too_large_for_a_message_says_where_it_is() {
    let mut history = example(60);
    let mut position = 0;
    for commit in &mut history {
        position += 1;
        if let Some(Event::Volume(_, tephra_domain::volume::VolumeEvent::CreateAccepted(accepted))) =
            commit.events.first_mut()
        {
            accepted.metadata = BTreeMap::from([("k".to_owned(), "x".repeat(MAX_EVENT_BYTES))]);
            break;
        }
    }
    let messages = published(&history).await;
    let shown = messages.iter().map(body).find(|shown| shown.get("data").is_none()).unwrap();
    assert_eq!(shown["dataref"], format!("/ledger/v1/events?after={}&limit=1", position - 1));
    assert_eq!(shown["type"], "tephra.VolumeCreateAccepted");
    assert!(messages.iter().all(|message| message.body.len() <= MAX_EVENT_BYTES));
}

#[tokio::test(start_paused = true)]
async fn a_cloud_event_looks_like_this() {
    let messages = published(&example(60)).await;
    let shown = messages.iter().find(|message| message.mark.id.ends_with(".1")).unwrap();
    insta::assert_json_snapshot!(json!({ "subject": shown.subject, "event": body(shown) }));
}

#[test]
fn the_documents_quote_the_examples_as_they_are_tested() {
    let documents = include_str!("../../docs/public-events.md");
    let examples = [
        include_str!("../../docs/examples/follow-events.sh"),
        include_str!("../../docs/examples/follow_events.py"),
    ];
    for example in examples {
        assert!(documents.contains(example), "quote this in docs/public-events.md:\n{example}");
    }
}
