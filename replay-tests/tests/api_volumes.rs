//! Volumes over HTTP, as Cinder's clients see them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::json;
use tephra_replay_tests::served::{Executor, Served};

#[tokio::test]
async fn a_volume_is_created_shown_and_deleted() {
    let served = Served::start(Executor::Works).await;
    let member = served.member().under("demo");
    let body = json!({"volume": {"size": 1, "name": " first ", "metadata": {"a": "b"}}});
    let created = member.post("/volumes", &body).await;
    assert_eq!(created.status, 202, "{}", created.json);
    let volume = &created.json["volume"];
    assert_eq!(volume["status"], "creating");
    assert_eq!(volume["name"], "first");
    assert_eq!(volume["volume_type"], "__DEFAULT__");
    let id = created.id("volume");
    assert_eq!(volume["links"][0]["href"], format!("http://tephra.example:8776/v3/demo/volumes/{id}"));
    assert_eq!(volume["links"][1]["href"], format!("http://tephra.example:8776/demo/volumes/{id}"));

    member.becomes("volume", &id, "available").await;
    let shown = member.get(&format!("/volumes/{id}")).await.ok();
    assert_eq!(shown.json["volume"]["status"], "available");
    assert_eq!(shown.json["volume"]["metadata"], json!({"a": "b"}));

    assert_eq!(member.delete(&format!("/volumes/{id}")).await.status, 202);
    member.becomes("volume", &id, "gone").await;
    let gone = member.get(&format!("/volumes/{id}")).await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.fault(), ("itemNotFound".to_owned(), format!("Volume {id} could not be found.")));
}
