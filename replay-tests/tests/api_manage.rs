//! Drift, taking over what a backend has already, giving it up, cleaning, freezing: over HTTP.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use tephra_domain::effect::BackendObject;
use tephra_domain::units::SizeGib;
use tephra_executors::backend::memory::MemoryObject;
use tephra_replay_tests::served::{Client, Executor, Served};

const HOST: &str = "memory@memory#memory";

fn stranger(served: &Served, name: &str, size_gib: u32) {
    served.backend.put_stranger(name, MemoryObject::blank(SizeGib::new(size_gib).unwrap()));
}

fn manage(name: &str) -> Value {
    json!({ "volume": { "host": HOST, "ref": { "source-name": name }, "name": "taken over", "bootable": true } })
}

async fn drift(root: &Client<'_>) -> Vec<(String, String)> {
    let report = root.get("/ledger/v1/drift").await.ok().json;
    let findings = report["pools"][0]["findings"].as_array().unwrap().clone();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    assert_eq!(report["drift"], findings.len(), "{report}");
    findings.iter().map(|finding| (text(finding, "finding"), text(finding, "name"))).collect()
}

fn found(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn what_a_backend_has_becomes_a_volume_and_is_given_up_again() {
    let served = Served::start(Executor::Works).await;
    let (admin, root) = (served.admin(), served.admin().at_root());
    assert_eq!(drift(&root).await, []);
    stranger(&served, "legacy", 3);
    assert_eq!(drift(&root).await, [found("unknown", "legacy")]);

    let list = admin.get(&format!("/manageable_volumes/detail?host={}", HOST.replace('#', "%23"))).await.ok();
    let entry = json!({
        "reference": { "source-name": "legacy" }, "size": 3, "safe_to_manage": true,
        "reason_not_safe": null, "cinder_id": null, "extra_info": null,
    });
    assert_eq!(list.json, json!({ "manageable-volumes": [entry] }));

    let taken = admin.post("/manageable_volumes", &manage("legacy")).await;
    assert_eq!(taken.status, 202, "{}", taken.json);
    let shown = &taken.json["volume"];
    assert_eq!(
        (&shown["status"], &shown["size"], &shown["bootable"]),
        (&json!("creating"), &json!(3), &json!("true"))
    );
    let id = taken.id("volume");
    admin.becomes("volume", &id, "available").await;
    assert_eq!(drift(&root).await, []);
    let list = admin.get("/os-volume-manage/detail?host=memory@memory").await.ok().json;
    let entry = &list["manageable-volumes"][0];
    assert_eq!(
        (&entry["reason_not_safe"], &entry["cinder_id"], &entry["safe_to_manage"]),
        (&json!("already managed"), &json!(id), &json!(false))
    );
    for name in [format!("volume-{id}"), "legacy".to_owned()] {
        let again = admin.post("/os-volume-manage", &manage(&name)).await;
        assert_eq!(again.status, 400, "{}", again.json);
    }

    let action = format!("/volumes/{id}/action");
    assert_eq!(served.member().post(&action, &json!({ "os-unmanage": null })).await.status, 403);
    assert_eq!(admin.post(&action, &json!({ "os-unmanage": {} })).await.status, 202);
    admin.becomes("volume", &id, "gone").await;
    let name = format!("unmanaged-volume-{id}");
    assert_eq!(drift(&root).await, [found("unknown", &name)]);
    let by_id = json!({ "volume": { "host": HOST, "ref": { "source-id": id } } });
    let again = admin.post("/os-volume-manage", &by_id).await.ok().id("volume");
    admin.becomes("volume", &again, "available").await;
    assert_eq!(drift(&root).await, []);
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_refused_in_cinder_s_words() {
    let served = Served::start(Executor::Works).await;
    let admin = served.admin();
    let id = admin.volume(1).await;
    stranger(&served, "busy", 1);
    served.backend.strangers().get_mut("busy").unwrap().in_use = true;
    let reference = |name: &str| format!("{{'source-name': '{name}'}}");
    let invalid = "Manage existing volume failed due to invalid backend reference";
    for (body, message) in [
        (
            manage(&format!("volume-{id}")),
            "Unable to manage existing volume. The volume is already managed".to_owned(),
        ),
        (manage("nothing"), format!("{invalid} {}: Specified volume does not exist.", reference("nothing"))),
        (manage("busy"), format!("{invalid} {}: volume in use", reference("busy"))),
        (
            json!({ "volume": { "host": HOST, "ref": { "name": "busy" } } }),
            format!("{invalid} {{'name': 'busy'}}: Reference must contain source-name element."),
        ),
        (
            json!({ "volume": { "host": "no@where", "ref": { "source-name": "x" } } }),
            "Host 'no@where' not found".to_owned(),
        ),
        (
            json!({ "volume": { "ref": { "source-name": "x" } } }),
            "Invalid input received: One and only one of cluster and host must be set.".to_owned(),
        ),
        (
            json!({ "volume": { "host": HOST, "ref": { "source-name": "x" }, "volume_type": "gold" } }),
            "Invalid volume type: Cannot find requested 'gold' volume type".to_owned(),
        ),
    ] {
        let refused = admin.post("/manageable_volumes", &body).await;
        assert_eq!(refused.fault(), ("badRequest".to_owned(), message), "{body}");
    }
    let missing = admin.post("/manageable_volumes", &json!({ "volume": { "host": HOST } })).await;
    assert_eq!(missing.status, 400);
    assert_eq!(served.member().post("/manageable_volumes", &manage("busy")).await.status, 403);
    assert_eq!(admin.at("3.7").post("/manageable_volumes", &manage("busy")).await.status, 404);
    let admin = served.admin();
    let disable = json!({ "host": "memory@memory", "binary": "cinder-volume" });
    assert!(admin.put("/os-services/disable", &disable).await.status.is_success());
    stranger(&served, "free", 1);
    let refused = admin.post("/os-volume-manage", &manage("free")).await;
    assert_eq!(refused.fault().1, "Service is unavailable at this time.");
}

#[tokio::test]
async fn a_snapshot_is_given_up_and_taken_over_again() {
    let served = Served::start(Executor::Works).await;
    let (admin, root) = (served.admin(), served.admin().at_root());
    let volume = admin.volume(2).await;
    let snapshot = admin.snapshot(&volume).await;
    let unmanage = json!({ "os-unmanage": null });
    assert_eq!(admin.post(&format!("/snapshots/{snapshot}/action"), &unmanage).await.status, 202);
    admin.becomes("snapshot", &snapshot, "gone").await;
    let name = format!("unmanaged-snapshot-{snapshot}");
    assert_eq!(drift(&root).await, [found("unknown", &name)]);
    let list = admin.get("/manageable_snapshots?host=memory@memory").await.ok().json;
    assert_eq!(list["manageable-snapshots"][0]["reference"]["source-name"], *name);

    let body = json!({ "snapshot": { "volume_id": volume, "ref": { "source-name": name }, "name": "back" } });
    let taken = admin.post("/os-snapshot-manage", &body).await.ok();
    assert_eq!(
        (&taken.json["snapshot"]["status"], &taken.json["snapshot"]["size"]),
        (&json!("creating"), &json!(2))
    );
    admin.becomes("snapshot", &taken.id("snapshot"), "available").await;
    assert_eq!(drift(&root).await, []);
    let of_nothing = json!({ "snapshot": { "volume_id": snapshot, "ref": { "source-name": name } } });
    assert_eq!(admin.post("/os-snapshot-manage", &of_nothing).await.status, 404);
}

#[tokio::test]
async fn drift_names_what_is_missing_and_cleaning_takes_what_nobody_knows() {
    let served = Served::start(Executor::Works).await;
    let (admin, root) = (served.admin(), served.admin().at_root());
    let id = admin.volume(1).await;
    served.backend.lose(BackendObject::Volume(id.parse().unwrap()));
    stranger(&served, "stray", 1);
    let missing = format!("volume-{id}");
    assert_eq!(drift(&root).await, [found("unknown", "stray"), found("missing", &missing)]);
    let member = served.member().at_root();
    assert_eq!(member.get("/ledger/v1/drift").await.status, 403);
    assert_eq!(root.get("/ledger/v1/drift?pool=nowhere%23x").await.status, 404);

    let clean = |name: &str| json!({ "name": name, "pool": "memory#memory" });
    assert_eq!(member.post("/ledger/v1/drift/cleanup", &clean("stray")).await.status, 403);
    for kept in [missing.as_str(), "nothing"] {
        assert_eq!(root.post("/ledger/v1/drift/cleanup", &clean(kept)).await.status, 404, "{kept}");
    }
    served.backend.strangers().get_mut("stray").unwrap().in_use = true;
    assert_eq!(root.post("/ledger/v1/drift/cleanup", &clean("stray")).await.status, 409);
    served.backend.strangers().get_mut("stray").unwrap().in_use = false;
    let taken = root.post("/ledger/v1/drift/cleanup", &clean("stray")).await;
    assert_eq!(taken.status, 202, "{}", taken.json);
    served.until("nothing is open", |views| views.open_operations().unwrap().is_empty()).await;
    assert!(served.backend.strangers().is_empty());
    assert_eq!(drift(&root).await, [found("missing", &missing)]);
    let operation = taken.json["operation_id"].as_str().unwrap();
    let shown = root.get(&format!("/ledger/v1/operations/{operation}")).await.ok().json;
    assert_eq!(shown["operation"]["operation"], "object_clean");
}

#[tokio::test]
async fn a_frozen_backend_refuses_changes_and_shows_it() {
    let served = Served::start(Executor::Works).await;
    let admin = served.admin();
    let id = admin.volume(1).await;
    let host = json!({ "host": "memory@memory" });
    assert_eq!(served.member().put("/os-services/freeze", &host).await.status, 403);
    assert_eq!(admin.put("/os-services/freeze", &host).await.status, 200);
    let again = admin.put("/os-services/freeze", &host).await;
    assert_eq!(
        again.fault().1,
        "Invalid input received: No service could be changed: frozen in ['memory@memory'] must be False to failover."
    );
    let services = admin.get("/os-services?binary=cinder-volume").await.ok().json;
    let row = &services["services"][0];
    assert_eq!(
        (&row["frozen"], &row["status"], &row["disabled_reason"]),
        (&json!(true), &json!("disabled"), &json!("frozen"))
    );
    let refused = admin.delete(&format!("/volumes/{id}")).await;
    assert_eq!(
        refused.fault().1,
        "Invalid input received: Modification operations are not allowed on frozen storage backends."
    );
    assert_eq!(admin.put("/os-services/thaw", &host).await.status, 200);
    assert_eq!(admin.delete(&format!("/volumes/{id}")).await.status, 202);
    admin.becomes("volume", &id, "gone").await;
}

#[tokio::test]
async fn a_backend_that_nobody_serves_is_shown_as_such() {
    let served = Served::start(Executor::Sleeps).await;
    let root = served.admin().at_root();
    let report = root.get("/ledger/v1/drift").await.ok().json;
    assert_eq!((&report["drift"], &report["unseen"]), (&json!(0), &json!(1)));
    assert_eq!(report["pools"][0]["state"], "down");
    let clean = root.post("/ledger/v1/drift/cleanup", &json!({ "name": "stray" })).await;
    assert_eq!(clean.status, 503, "{}", clean.json);
}
