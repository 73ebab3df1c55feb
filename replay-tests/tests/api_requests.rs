//! What all requests have in common: versions, ids, identities, repeats, and paths to nowhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::json;
use tephra_api::auth::{Authenticator, TokenFile};
use tephra_replay_tests::served::{Executor, Served};

#[tokio::test]
async fn versions_are_told_to_anybody() {
    let tokens = "[[token]]\ntoken='0123456789abcdef'\nuser='u'\nproject='p'\nrole='member'";
    let auth = Authenticator::TokenFile(TokenFile::parse(tokens).unwrap());
    let served = Served::with_auth(Executor::Sleeps, auth).await;
    let stranger = served.client("unknown");
    for (path, status) in [("/", 300), ("/v3", 200), ("/v3/", 200)] {
        let reply = stranger.clone().at_root().get(path).await;
        assert_eq!(reply.status, status, "{path}");
        let version = &reply.json["versions"][0];
        assert_eq!((&version["id"], &version["status"]), (&json!("v3.0"), &json!("CURRENT")));
        assert_eq!((&version["min_version"], &version["version"]), (&json!("3.0"), &json!("3.71")));
        assert_eq!(version["links"][1]["href"], "http://tephra.example:8776/v3/");
    }
    for path in ["/v3/volumes", "/v3/p/volumes/detail", "/v3/snapshots"] {
        let reply = stranger.clone().at_root().get(path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.json["error"]["title"], "Unauthorized");
        assert_eq!(reply.json["error"]["code"], 401);
    }
    assert_eq!(served.client("0123456789abcdef").under("p").get("/volumes").await.status, 200);
    assert_eq!(served.client("0123456789abcdef").under("q").get("/volumes").await.status, 400);
}

#[tokio::test]
async fn readers_look_and_do_not_touch() {
    let tokens = "[[token]]\ntoken='the-readers-token'\nuser='r'\nproject='demo'\nrole='reader'\n\
                  [[token]]\ntoken='the-members-token'\nuser='m'\nproject='demo'\nrole='member'";
    let auth = Authenticator::TokenFile(TokenFile::parse(tokens).unwrap());
    let served = Served::with_auth(Executor::Works, auth).await;
    let (reader, member) = (served.client("the-readers-token"), served.client("the-members-token"));
    let path = format!("/volumes/{}", member.volume(1).await);
    assert_eq!(reader.get(&path).await.status, 200);
    assert_eq!(reader.get("/volumes/detail").await.status, 200);
    for reply in [
        reader.post("/volumes", &json!({"volume": {"size": 1}})).await,
        reader.delete(&path).await,
        reader.put(&path, &json!({"volume": {"name": "x"}})).await,
        reader.post(&format!("{path}/metadata"), &json!({"metadata": {"k": "v"}})).await,
        reader.post(&format!("{path}/action"), &json!({"os-extend": {"new_size": 2}})).await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.fault().0.as_str()), (403, "forbidden"), "{}", reply.json);
    }
}

#[tokio::test]
async fn every_answer_has_an_id_and_says_its_version() {
    let served = Served::start(Executor::Sleeps).await;
    let member = served.member();
    for (version, path, status) in
        [("3.0", "/volumes", 200), ("3.71", "/volumes/none", 404), ("3.7", "/nothing/here", 404)]
    {
        let reply = member.clone().at(version).get(path).await;
        assert_eq!(reply.status, status, "{path}");
        let id = reply.headers["x-compute-request-id"].to_str().unwrap();
        assert!(id.strip_prefix("req-").is_some_and(|uuid| uuid.parse::<uuid::Uuid>().is_ok()), "{id}");
        assert_eq!(reply.headers["openstack-api-version"], format!("volume {version}"));
        assert_eq!(reply.headers["vary"], "OpenStack-API-Version");
    }
    let reply = member.clone().at("3.72").get("/volumes").await;
    assert_eq!((reply.status.as_u16(), reply.fault().0.as_str()), (406, "computeFault"));
    assert!(reply.headers.contains_key("x-compute-request-id"));
    assert_eq!(member.clone().at("three").get("/volumes").await.status, 400);
}

#[tokio::test]
async fn the_callers_own_request_id_is_recorded() {
    let served = Served::start(Executor::Sleeps).await;
    let own = "req-0b2c3d4e-0000-4000-8000-000000000001";
    let body = json!({"volume": {"size": 1}});
    let member = served.member();
    let reply = member.clone().with("x-openstack-request-id", own).post("/volumes", &body).await.ok();
    assert_ne!(reply.headers["x-compute-request-id"], own);
    let events = served.admin().at_root().get("/ledger/v1/events").await;
    if events.status == 200 {
        assert!(events.json.to_string().contains(own), "{}", events.json);
    }
}

#[tokio::test]
async fn paths_to_nowhere_are_faults_too() {
    let served = Served::start(Executor::Sleeps).await;
    let root = served.member().at_root();
    for (method, path, status, name) in [
        ("GET", "/nowhere", 404, "itemNotFound"),
        ("GET", "/v2/volumes", 404, "itemNotFound"),
        ("GET", "/v3/volumes/a/b/c/d", 404, "itemNotFound"),
        ("PATCH", "/v3/volumes", 405, "badMethod"),
        ("DELETE", "/v3/demo/volumes", 405, "badMethod"),
        ("GET", "/v3/volumes/%ff%fe", 404, "itemNotFound"),
        ("GET", "/v3/volumes/..%2f..%2fetc", 404, "itemNotFound"),
    ] {
        let reply = root.send(method, path, None).await;
        assert_eq!((reply.status.as_u16(), reply.fault().0.as_str()), (status, name), "{method} {path}");
    }
}

#[tokio::test]
async fn every_route_is_there_with_and_without_a_project() {
    let served = Served::start(Executor::Works).await;
    let plain = served.member();
    let id = plain.volume(1).await;
    for client in [plain.clone(), plain.clone().under("demo")] {
        for path in [
            "/volumes".to_owned(),
            "/volumes/detail".to_owned(),
            format!("/volumes/{id}"),
            format!("/volumes/{id}/metadata"),
            "/snapshots".to_owned(),
            "/snapshots/detail".to_owned(),
        ] {
            assert_eq!(client.get(&path).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn a_repeated_post_happens_once_and_is_answered_alike() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let keyed = member.clone().with("idempotency-key", "order 66");
    let body = json!({"volume": {"size": 1, "name": "once"}});
    let first = keyed.post("/volumes", &body).await;
    assert_eq!(first.status, 202, "{}", first.json);
    let id = first.id("volume");
    member.becomes("volume", &id, "available").await;
    let again = keyed.post("/volumes", &body).await;
    assert_eq!((again.status, &again.json), (first.status, &first.json));

    assert_eq!(member.delete(&format!("/volumes/{id}")).await.status, 202);
    member.becomes("volume", &id, "gone").await;
    let late = keyed.post("/volumes", &body).await;
    assert_eq!((late.status, &late.json), (first.status, &first.json), "as it was, although it is gone");
    assert_eq!(member.get("/volumes").await.ok().json["volumes"], json!([]));

    let other = keyed.post("/volumes", &json!({"volume": {"size": 2}})).await;
    assert_eq!(other.status, 422, "{}", other.json);
    assert_eq!(other.fault().1, "The Idempotency-Key was used before with a different request.");
    let stranger = served.client("bob:other").with("idempotency-key", "order 66");
    let theirs = stranger.post("/volumes", &body).await.ok();
    assert_ne!(theirs.id("volume"), id, "keys are a project's own");
    for wrong in ["", &"k".repeat(256)] {
        let reply = member.clone().with("idempotency-key", wrong).post("/volumes", &body).await;
        assert_eq!(reply.status, 400, "{wrong:?}");
    }
}

#[tokio::test]
async fn actions_snapshots_and_metadata_are_safe_to_repeat() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    for (path, body) in [
        (format!("/volumes/{id}/action"), json!({"os-extend": {"new_size": 2}})),
        ("/snapshots".to_owned(), json!({"snapshot": {"volume_id": id}})),
        (format!("/volumes/{id}/metadata"), json!({"metadata": {"k": "v"}})),
    ] {
        let keyed = member.clone().with("idempotency-key", &format!("for {path}"));
        let first = keyed.post(&path, &body).await.ok();
        member.becomes("volume", &id, "available").await;
        if let Some(snapshot) = first.json["snapshot"]["id"].as_str() {
            member.becomes("snapshot", snapshot, "available").await;
        }
        let again = keyed.post(&path, &body).await;
        assert_eq!((again.status, &again.json), (first.status, &first.json), "{path}");
    }
    assert_eq!(member.get("/snapshots?with_count=1").await.ok().json["count"], 1);
}
