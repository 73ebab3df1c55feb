//! Snapshots and metadata over HTTP, as Cinder's clients see them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use tephra_replay_tests::served::{Executor, Served};

const UNKNOWN: &str = "7e947a00-0000-4000-8000-00000000dead";

#[tokio::test]
async fn a_snapshot_is_taken_shown_renamed_and_deleted() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(2).await;
    let body =
        json!({"snapshot": {"volume_id": volume, "name": " s ", "description": "d", "metadata": {"k": "v"}}});
    let created = member.post("/snapshots", &body).await;
    assert_eq!(created.status, 202, "{}", created.json);
    let snapshot = &created.json["snapshot"];
    assert_eq!((&snapshot["status"], &snapshot["name"]), (&json!("creating"), &json!("s")));
    assert_eq!((&snapshot["size"], &snapshot["volume_id"]), (&json!(2), &json!(volume)));
    let id = created.id("snapshot");
    let path = format!("/snapshots/{id}");
    member.becomes("snapshot", &id, "available").await;
    let shown = member.get(&path).await.ok();
    assert_eq!(shown.json["snapshot"]["os-extended-snapshot-attributes:progress"], "100%");
    assert_eq!(shown.json["snapshot"]["os-extended-snapshot-attributes:project_id"], "demo");
    let updated = member.put(&path, &json!({"snapshot": {"display_name": "t"}})).await.ok();
    assert_eq!(
        (&updated.json["snapshot"]["name"], &updated.json["snapshot"]["description"]),
        (&json!("t"), &json!("d"))
    );
    assert_eq!(member.put(&path, &json!({"snapshot": {}})).await.status, 400);
    assert_eq!(member.put(&path, &json!({"snapshot": {"size": 1}})).await.status, 400);
    assert_eq!(member.delete(&path).await.status, 202);
    member.becomes("snapshot", &id, "gone").await;
    assert_eq!(member.get(&path).await.fault().1, format!("Snapshot {id} could not be found."));
}

#[tokio::test]
async fn each_microversion_shows_its_own_fields_of_a_snapshot() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.snapshot(&member.volume(1).await).await;
    let base =
        ["created_at", "description", "id", "metadata", "name", "size", "status", "updated_at", "volume_id"];
    let extended = ["os-extended-snapshot-attributes:progress", "os-extended-snapshot-attributes:project_id"];
    for (version, more) in [
        ("3.0", &[][..]),
        ("3.13", &[]),
        ("3.14", &["group_snapshot_id"]),
        ("3.41", &["group_snapshot_id", "user_id"]),
        ("3.65", &["consumes_quota", "group_snapshot_id", "user_id"]),
    ] {
        let client = member.clone().at(version);
        let mut expected: Vec<&str> = base.iter().chain(&extended).chain(more).copied().collect();
        expected.sort_unstable();
        assert_eq!(
            client.get(&format!("/snapshots/{id}")).await.ok().fields("snapshot"),
            expected,
            "{version}"
        );
        let list = client.get("/snapshots").await.ok();
        let brief: Vec<&String> = list.json["snapshots"][0].as_object().unwrap().keys().collect();
        assert_eq!(brief, base, "{version}");
    }
}

#[tokio::test]
async fn force_is_needed_no_more_and_may_not_be_refused() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(1).await;
    let body = |force: Value| json!({"snapshot": {"volume_id": volume, "force": force}});
    for (version, force, status) in [
        ("3.65", json!(false), 202),
        ("3.65", json!("on"), 202),
        ("3.66", json!(true), 202),
        ("3.66", json!("no"), 400),
    ] {
        let reply = member.clone().at(version).post("/snapshots", &body(force.clone())).await;
        assert_eq!(reply.status, status, "{force} at {version}: {}", reply.json);
        if status == 400 {
            assert!(reply.fault().1.starts_with("Since microversion 3.66 the 'force' flag is invalid"));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_snapshot_is_refused_in_cinders_words() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(1).await;
    let invalid = |name: &str, shown: &str, reason: &str| {
        format!("Invalid input for field/attribute {name}. Value: {shown}. {reason}")
    };
    for (body, status, message) in [
        (json!({"snapshot": {}}), 400, invalid("snapshot", "{}", "'volume_id' is a required property")),
        (json!({"snapshot": {"volume_id": null}}), 404, "Volume None could not be found.".into()),
        (json!({"snapshot": {"volume_id": UNKNOWN}}), 404, format!("Volume {UNKNOWN} could not be found.")),
        (
            json!({"snapshot": {"volume_id": "v"}}),
            400,
            invalid("volume_id", "v", "'v' is not valid under any of the given schemas"),
        ),
        (
            json!({"snapshot": {"volume_id": volume, "name": 1}}),
            400,
            invalid("name", "1", "1 is not of type 'string', 'null'"),
        ),
        (
            json!({"snapshot": {"volume_id": volume, "force": 1}}),
            400,
            invalid("force", "1", "1 is not of type 'boolean', 'string'"),
        ),
        (json!({"volume_id": volume}), 400, "'snapshot' is a required property".into()),
    ] {
        let reply = member.post("/snapshots", &body).await;
        assert_eq!((reply.status.as_u16(), reply.fault().1), (status, message), "{body}");
    }
    let long = "x".repeat(256);
    for body in [
        json!({"volume_id": volume, "name": long}),
        json!({"volume_id": volume, "description": "a\nb"}),
        json!({"volume_id": volume, "size": 1}),
    ] {
        assert_eq!(member.post("/snapshots", &json!({"snapshot": body})).await.status, 400, "{body}");
    }
    assert_eq!(member.get("/snapshots").await.ok().json["snapshots"], json!([]));
}

#[tokio::test]
async fn snapshots_are_listed_by_page_and_filter() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(1).await;
    let (first, second) = (member.snapshot(&volume).await, member.snapshot(&volume).await);
    let ids = |json: &Value| -> Vec<String> {
        let rows = json["snapshots"].as_array().unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    for (query, expected) in [
        (String::new(), vec![second.clone(), first.clone()]),
        ("?sort=created_at:asc".into(), vec![first.clone(), second.clone()]),
        (format!("?volume_id={volume}&status=available"), vec![second.clone(), first.clone()]),
        (format!("?volume_id={UNKNOWN}"), vec![]),
        (format!("?marker={second}"), vec![first.clone()]),
    ] {
        assert_eq!(
            ids(&member.get(&format!("/snapshots/detail{query}")).await.ok().json),
            expected,
            "{query}"
        );
    }
    let page = member.get("/snapshots?limit=1&with_count=1").await.ok();
    assert_eq!(page.json["count"], 2);
    let next = format!("http://tephra.example:8776/v3/snapshots?limit=1&with_count=1&marker={second}");
    assert_eq!(page.json["snapshots_links"][0]["href"], next);
    let stranger = served.client("bob:other");
    assert_eq!(stranger.get(&format!("/snapshots/{first}")).await.status, 404);
    assert_eq!(stranger.delete(&format!("/snapshots/{first}")).await.status, 404);
    assert_eq!(ids(&stranger.get("/snapshots?all_tenants=1").await.ok().json), Vec::<String>::new());
}

#[tokio::test]
async fn metadata_are_merged_replaced_and_taken_out() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(1).await;
    let snapshot = member.snapshot(&volume).await;
    for (kind, path) in
        [("Volume", format!("/volumes/{volume}")), ("Snapshot", format!("/snapshots/{snapshot}"))]
    {
        let all = format!("{path}/metadata");
        let (one, none) = (format!("{all}/b"), format!("{all}/none"));
        assert_eq!(member.get(&all).await.ok().json, json!({"metadata": {}}));
        let merged = member.post(&all, &json!({"metadata": {"a": "1", "b": "2"}})).await.ok();
        assert_eq!(merged.json, json!({"metadata": {"a": "1", "b": "2"}}));
        let merged = member.post(&all, &json!({"metadata": {"b": "3"}})).await.ok();
        assert_eq!(merged.json, json!({"metadata": {"a": "1", "b": "3"}}));
        assert_eq!(
            member.put(&one, &json!({"meta": {"b": "4"}})).await.ok().json,
            json!({"meta": {"b": "4"}})
        );
        assert_eq!(member.get(&one).await.ok().json, json!({"meta": {"b": "4"}}));
        assert_eq!(member.delete(&one).await.status, 200);
        let id = path.rsplit('/').next().unwrap();
        for reply in [member.get(&none).await, member.delete(&none).await] {
            let message = format!("{kind} {id} has no metadata with key none.");
            assert_eq!((reply.status.as_u16(), reply.fault().1), (404, message));
        }
        let replaced = member.put(&all, &json!({"metadata": {"c": "5"}})).await.ok();
        assert_eq!(replaced.json, json!({"metadata": {"c": "5"}}));
        assert_eq!(member.get(&all).await.ok().json, json!({"metadata": {"c": "5"}}));
        for (path, body) in [
            (&all, json!({})),
            (&all, json!({"metadata": null})),
            (&all, json!({"metadata": {"k": null}})),
            (&all, json!({"metadata": {"k": "v".repeat(256)}})),
            (&all, json!({"metadata": {"k!": "v"}})),
        ] {
            assert_eq!(member.post(path, &body).await.status, 400, "{body}");
        }
        for body in [json!({"meta": {}}), json!({"meta": {"b": "1", "c": "2"}}), json!({"meta": {"c": "1"}})]
        {
            assert_eq!(member.put(&one, &body).await.status, 400, "{body}");
        }
        let mismatch = member.put(&one, &json!({"meta": {"c": "1"}})).await;
        assert_eq!(mismatch.fault().1, "Request body and URI mismatch");
    }
}

#[tokio::test]
async fn a_change_of_metadata_can_depend_on_what_they_were() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let all = format!("/volumes/{}/metadata", member.volume(1).await);
    let body = json!({"metadata": {"k": "v"}});
    let before = member.get(&all).await.ok().headers["etag"].to_str().unwrap().to_owned();
    let knowing = member.clone().with("if-match", &before);
    assert_eq!(knowing.put(&all, &body).await.status, 200);
    assert_eq!(knowing.put(&all, &body).await.status, 412, "they have changed since");
    assert_eq!(knowing.put(&format!("{all}/k"), &json!({"meta": {"k": "w"}})).await.status, 412);
    assert_eq!(knowing.clone().at("3.14").put(&all, &body).await.status, 200, "before 3.15 nobody looks");
    assert!(member.clone().at("3.14").get(&all).await.headers.get("etag").is_none());
    let bare = member.get(&all).await.ok().headers["etag"].to_str().unwrap().trim_matches('"').to_owned();
    assert_eq!(
        member.clone().with("if-match", &bare).put(&all, &body).await.status,
        200,
        "unquoted, as Cinder's"
    );
}
