//! The ledger's own API: events, streams, histories, past states, operations, verification, health.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tephra_domain::command::Command;
use tephra_domain::effect::{DueEffect, EffectKey, Outcome};
use tephra_domain::ids::BackendName;
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::gateway::CommandGateway;
use tephra_journal::progress_board::Progress;
use tephra_replay_tests::served::{Client, Executor, PATIENCE, Served, by_system};
use tower::ServiceExt as _;

fn ledger<'a>(served: &'a Served, token: &str) -> Client<'a> {
    served.client(token).at_root()
}

fn kinds(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().unwrap();
    events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// The next event of the ledger: its id and its data.
async fn next_event(body: &mut Body, pending: &mut String) -> (String, Value) {
    loop {
        if let (Some(id), _, data) = next_message(body, pending).await {
            return (id, data);
        }
    }
}

/// The next server-sent event that is not a comment: its id, its type and its data.
async fn next_message(body: &mut Body, pending: &mut String) -> (Option<String>, String, Value) {
    let read = async {
        loop {
            if let Some(end) = pending.find("\n\n") {
                let block: String = pending.drain(..end + 2).collect();
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).map(ToOwned::to_owned)
                };
                if let (Some(kind), Some(data)) = (field("event: "), field("data: ")) {
                    return (field("id: "), kind, serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let frame = body.frame().await.expect("the stream goes on").unwrap();
            pending.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an event in time")
}

async fn stream(served: &Served, token: &str, query: &str, last: Option<&str>) -> Body {
    let mut request = Request::get(format!("/ledger/v1/events/live{query}")).header("x-auth-token", token);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = served.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body()
}

#[tokio::test]
async fn events_of_a_volume_are_exactly_its_own_and_strangers_see_none() {
    let served = Served::start(Executor::Works).await;
    let id = served.member().volume(1).await;
    let path = format!("/ledger/v1/events?resource=volume:{id}");
    let page = ledger(&served, "alice:demo").get(&path).await.ok().json;
    assert_eq!(kinds(&page), ["VolumeCreateAccepted", "VolumeCreated"]);
    assert_eq!(page["next"], Value::Null);
    let first = &page["events"][0];
    assert_eq!(first["actor"]["user"], "alice");
    assert_eq!(first["project"], "demo");
    assert_eq!(page["events"][1]["actor"]["user"], "tephra");
    assert_eq!(page["events"][1]["project"], "demo");
    assert_eq!(page["events"][1]["request_id"], first["request_id"], "one chain of causes");

    let stranger = ledger(&served, "bob:other").get(&path).await.ok().json;
    assert_eq!(stranger["events"], json!([]));
    let all_of_other = ledger(&served, "bob:other").get("/ledger/v1/events?project=demo").await.ok().json;
    assert_eq!(all_of_other["events"], json!([]));
}

#[tokio::test]
async fn pages_of_events_join_without_gap_or_repetition() {
    let served = Served::start(Executor::Works).await;
    for _ in 0..3 {
        served.member().volume(1).await;
    }
    let admin = ledger(&served, "admin:demo");
    let whole = admin.get("/ledger/v1/events?limit=1000").await.ok().json;
    let mut joined = Vec::new();
    let mut after = 0;
    loop {
        let page = admin.get(&format!("/ledger/v1/events?limit=2&after={after}")).await.ok().json;
        joined.extend(page["events"].as_array().unwrap().clone());
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(Value::from(joined), whole["events"]);
    let of_kind = admin.get("/ledger/v1/events?kind=VolumeCreated").await.ok().json;
    assert_eq!(kinds(&of_kind), ["VolumeCreated"; 3]);
    for wrong in
        ["after=x", "limit=0", "limit=-1", "since=yesterday", "resource=planet:1", "resource=volume:1"]
    {
        assert_eq!(admin.get(&format!("/ledger/v1/events?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_was_seen() {
    let served = Served::start(Executor::Works).await;
    let id = served.member().volume(1).await;
    let listed = ledger(&served, "alice:demo").get("/ledger/v1/events").await.ok().json;
    let listed = listed["events"].as_array().unwrap().clone();

    let (mut body, mut pending) = (stream(&served, "alice:demo", "?after=0", None).await, String::new());
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(next_event(&mut body, &mut pending).await);
    }
    drop(body);

    let last = seen.last().unwrap().0.clone();
    let mut body = stream(&served, "alice:demo", "", Some(&last)).await;
    let mut pending = String::new();
    while seen.len() < listed.len() {
        seen.push(next_event(&mut body, &mut pending).await);
    }
    assert_eq!(seen.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>(), listed);

    // and it goes on with what happens now
    let renamed =
        served.member().put(&format!("/volumes/{id}"), &json!({ "volume": { "name": "new" } })).await;
    assert_eq!(renamed.status, 200);
    let (sequence, event) = next_event(&mut body, &mut pending).await;
    assert_eq!(event["kind"], "VolumeDetailsUpdated");
    assert_eq!(event["sequence"], Value::from(sequence));
}

#[tokio::test]
async fn a_stream_shows_nothing_of_other_projects() {
    let served = Served::start(Executor::Works).await;
    let (mut body, mut pending) = (stream(&served, "bob:other", "?after=0", None).await, String::new());
    served.member().volume(1).await;
    let own = served.client("bob:other").volume(2).await;
    let (_, event) = next_event(&mut body, &mut pending).await;
    assert_eq!(event["project"], "other", "{event}");
    assert!(event.to_string().contains(&own), "{event}");
    let request = Request::get("/ledger/v1/events/live").header("x-auth-token", "bob:other");
    let request = request.header("last-event-id", "nonsense").body(Body::empty()).unwrap();
    assert_eq!(served.router.clone().oneshot(request).await.unwrap().status(), 400);
}

#[tokio::test]
async fn what_is_gone_keeps_its_history_and_its_past() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    let before = served.views.checkpoint().position;
    assert_eq!(member.delete(&format!("/volumes/{id}")).await.status, 202);
    member.becomes("volume", &id, "gone").await;

    let own = ledger(&served, "alice:demo");
    let history = own.get(&format!("/ledger/v1/history/volume/{id}")).await.ok().json;
    let told: Vec<&str> =
        history["timeline"].as_array().unwrap().iter().filter_map(|line| line["kind"].as_str()).collect();
    for kind in ["VolumeCreateAccepted", "OperationOpened", "VolumeCreated", "VolumeDeleted"] {
        assert!(told.contains(&kind), "{told:?}");
    }
    let past = own.get(&format!("/ledger/v1/volumes/{id}/state?at={before}")).await.ok().json;
    assert_eq!((&past["volume"]["status"], &past["volume"]["size_gib"]), (&json!("available"), &json!(1)));
    assert_eq!(own.get(&format!("/ledger/v1/volumes/{id}/state")).await.status, 404);
    assert_eq!(own.get(&format!("/ledger/v1/volumes/{id}/state?at=999999")).await.status, 400);

    let stranger = ledger(&served, "bob:other");
    for path in [format!("history/volume/{id}"), format!("volumes/{id}/state?at={before}")] {
        assert_eq!(stranger.get(&format!("/ledger/v1/{path}")).await.status, 404, "{path}");
    }

    let admin = ledger(&served, "admin:demo");
    let whole = admin.get(&format!("/ledger/v1/state?at={before}")).await.ok().json;
    assert_eq!(whole["counts"]["volumes"], 1);
    assert_eq!(whole["usage"][0]["gigabytes"], 1);
    assert_eq!(whole["volumes"][0]["id"], Value::from(id));
    assert_eq!(own.get("/ledger/v1/state").await.status, 403);
}

#[tokio::test]
async fn an_operation_shows_its_steps_and_whom_it_waits_for() {
    let served = Served::start(Executor::Sleeps).await;
    let created = served.member().post("/volumes", &json!({ "volume": { "size": 1 } })).await.ok();
    let volume = created.id("volume");
    let own = ledger(&served, "alice:demo");
    let page = own.get("/ledger/v1/operations?status=open").await.ok().json;
    let operation = &page["operations"][0];
    assert_eq!(operation["operation"], "volume_create");
    assert_eq!(operation["status"], "open");
    assert_eq!(operation["waits_for"], Value::Null);
    assert_eq!(operation["parameters"]["volume_id"], Value::from(volume));
    assert_eq!(operation["steps"][0]["outcome"], "pending");
    assert_eq!(operation["due"]["effect"]["name"], "CreateVolume");
    let id = operation["id"].as_str().unwrap();
    let shown = own.get(&format!("/ledger/v1/operations/{id}")).await.ok().json;
    assert_eq!(shown["operation"], *operation);
    assert_eq!(ledger(&served, "bob:other").get(&format!("/ledger/v1/operations/{id}")).await.status, 404);
    assert_eq!(own.get("/ledger/v1/operations?status=ended").await.ok().json["operations"], json!([]));
    assert_eq!(own.get("/ledger/v1/operations?status=half").await.status, 400);
}

#[tokio::test]
async fn an_ended_operation_still_knows_what_it_did() {
    let served = Served::start(Executor::Works).await;
    let volume = served.member().volume(1).await;
    let own = ledger(&served, "alice:demo");
    let page = own.get(&format!("/ledger/v1/operations?resource=volume:{volume}")).await.ok().json;
    let id = page["operations"][0]["id"].as_str().unwrap().to_owned();
    let shown = own.get(&format!("/ledger/v1/operations/{id}")).await.ok().json;
    let operation = &shown["operation"];
    assert_eq!(operation["status"], "completed");
    assert_eq!(operation["parameters"]["size_gib"], 1);
    assert_eq!(operation["steps"][0]["outcome"], "completed");
    assert_eq!(own.get("/ledger/v1/debts").await.ok().json, json!({ "debts": [] }));
    for (path, status) in [
        (format!("debts/{id}.0/release"), 404),
        ("debts/nonsense/release".to_owned(), 404),
        (format!("volumes/{volume}/recover"), 400),
    ] {
        let admin = ledger(&served, "admin:demo");
        assert_eq!(admin.post(&format!("/ledger/v1/{path}"), &json!({})).await.status, status, "{path}");
    }
    assert_eq!(own.post(&format!("/ledger/v1/debts/{id}.0/release"), &json!({})).await.status, 403);
}

#[tokio::test]
async fn a_whole_ledger_verifies_for_administrators() {
    let served = Served::start(Executor::Works).await;
    served.member().volume(1).await;
    let report = ledger(&served, "admin:demo").get("/ledger/v1/verify").await.ok().json;
    assert_eq!(report["intact"], true, "{report}");
    assert_eq!(report["views"], "equal to a replay of the journal");
    assert!(report["hash"].as_str().is_some_and(|hash| hash.len() == 64), "{report}");
    assert_eq!(ledger(&served, "alice:demo").get("/ledger/v1/verify").await.status, 403);
}

#[tokio::test]
async fn health_metrics_and_the_document_need_no_token_and_say_what_they_see() {
    let served = Served::start(Executor::Works).await;
    served.member().volume(1).await;
    let nobody = ledger(&served, "");
    assert_eq!(nobody.get("/healthz").await.ok().json, json!({ "status": "ok" }));
    let ready = nobody.get("/readyz").await.ok().json;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert_eq!(nobody.get("/openapi.json").await.ok().json["info"]["title"], "Tephra");

    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = served.router.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&bytes).unwrap();
    for wanted in [
        "tephra_http_requests_total{method=\"POST\",route=\"/v3/volumes\",status=\"202\"}",
        "tephra_http_request_duration_seconds_bucket",
        "tephra_open_operations 0",
        "tephra_views_lag_blocks",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_server_whose_sequencer_is_gone_is_not_ready() {
    let served = Served::start(Executor::Works).await;
    let (router, sequencer) = (served.router.clone(), served.gateway.clone());
    served.stop();
    tokio::time::timeout(PATIENCE, sequencer.drained()).await.unwrap().unwrap();
    let request = Request::get("/readyz").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&body["status"], &body["checks"]["sequencer"]["ok"]), (&json!("not ready"), &json!(false)));
}

/// What is due first of an open operation.
fn due(served: &Served, operation: &Value) -> DueEffect {
    let id = operation["id"].as_str().unwrap().parse().unwrap();
    served.views.open_operation(id).unwrap().unwrap().due().unwrap()
}

fn said(key: EffectKey, done_gib: u64) -> Progress {
    Progress { key, done_bytes: done_gib << 30, total_bytes: 3 << 30 }
}

async fn only_operation(client: &Client<'_>) -> Value {
    client.get("/ledger/v1/operations").await.ok().json["operations"][0].clone()
}

#[tokio::test]
async fn how_far_work_has_come_shows_to_its_owner_while_it_goes_on_and_as_its_own_backend_says() {
    let served = Served::start(Executor::Sleeps).await;
    let volume = served.member().post("/volumes", &json!({ "volume": { "size": 3 } })).await.ok();
    let volume = volume.id("volume");
    let (own, clock) = (ledger(&served, "alice:demo"), SystemClock::default());
    let operation = only_operation(&own).await;
    assert_eq!(operation["progress"], Value::Null);
    assert!(!operation.as_object().unwrap().contains_key("progress"));
    let DueEffect { key, pool, .. } = due(&served, &operation);

    served.progress.report(&BackendName::new("another"), said(key, 3), clock.now());
    assert_eq!(only_operation(&own).await["progress"], Value::Null, "it is not for them to say");
    served.progress.report(&pool.backend, said(key, 1), clock.now());
    let shown = json!({ "done_bytes": 1_u64 << 30, "total_bytes": 3_u64 << 30, "percent": 33 });
    assert_eq!(only_operation(&own).await["progress"], shown);
    let id = operation["id"].as_str().unwrap().to_owned();
    let path = format!("/ledger/v1/operations/{id}");
    assert_eq!(own.get(&path).await.ok().json["operation"]["progress"], shown);
    assert_eq!(ledger(&served, "bob:other").get(&path).await.status, 404);

    let report = Command::ReportOutcome { key, outcome: Outcome::Done };
    let done = served.gateway.submit(by_system(report)).await.unwrap();
    tokio::time::timeout(PATIENCE, served.views.wait_for(done.position())).await.unwrap();
    let ended = own.get(&path).await.ok().json["operation"].clone();
    assert_eq!((&ended["status"], &ended["progress"]), (&json!("completed"), &Value::Null), "{volume}");
}

#[tokio::test]
async fn a_stream_tells_how_far_work_has_come_to_whoever_may_see_it_and_goes_on_after_the_last_event() {
    let served = Served::start(Executor::Sleeps).await;
    let volume = served.member().post("/volumes", &json!({ "volume": { "size": 3 } })).await.ok();
    let volume = volume.id("volume");
    let stranger = served.client("bob:other");
    let of_theirs = stranger.post("/volumes", &json!({ "volume": { "size": 3 } })).await;
    assert_eq!(of_theirs.status, 202);
    let clock = SystemClock::default();
    let operation = only_operation(&ledger(&served, "alice:demo")).await;
    let DueEffect { key, pool, .. } = due(&served, &operation);
    let theirs = due(&served, &only_operation(&ledger(&served, "bob:other")).await);
    let report = |key, done| served.progress.report(&pool.backend, said(key, done), clock.now());

    report(key, 1);
    let mut owner = (stream(&served, "alice:demo", "", None).await, String::new());
    let told = next_message(&mut owner.0, &mut owner.1).await;
    let progress = |done: u64, percent| json!({ "done_bytes": done << 30, "total_bytes": 3_u64 << 30, "percent": percent });
    let expected = json!({
        "operation_id": operation["id"], "operation": "volume_create", "project": "demo",
        "resource": { "kind": "volume", "id": volume }, "progress": progress(1, 33),
    });
    assert_eq!(told, (None, "progress".to_owned(), expected));
    report(theirs.key, 1);
    report(key, 2);
    let (id, kind, data) = next_message(&mut owner.0, &mut owner.1).await;
    assert_eq!((id, kind.as_str(), &data["progress"]), (None, "progress", &progress(2, 66)));
    // what is not said twice leaves room for what happens: events go on as ever
    let rename = async |name: &str| {
        let path = format!("/volumes/{volume}");
        let renamed = served.member().put(&path, &json!({ "volume": { "name": name } })).await;
        assert_eq!(renamed.status, 200);
    };
    rename("new").await;
    let (id, kind, data) = next_message(&mut owner.0, &mut owner.1).await;
    assert_eq!((id.as_deref(), kind.as_str()), (data["sequence"].as_str(), "VolumeDetailsUpdated"));

    for (query, expected) in [
        (String::new(), theirs.key.operation().to_string()),
        (
            format!("?resource=operation:{}&kind=progress", theirs.key.operation()),
            theirs.key.operation().to_string(),
        ),
    ] {
        let mut other = (stream(&served, "bob:other", &query, None).await, String::new());
        let (_, kind, data) = next_message(&mut other.0, &mut other.1).await;
        assert_eq!((kind.as_str(), &data["operation_id"]), ("progress", &json!(expected)), "{query}");
    }
    // nothing of it where only events of one kind are wanted
    let mut events = (stream(&served, "alice:demo", "?kind=VolumeDetailsUpdated", None).await, String::new());
    report(key, 3);
    rename("newer").await;
    let (_, kind, _) = next_message(&mut events.0, &mut events.1).await;
    assert_eq!(kind, "VolumeDetailsUpdated");
}
