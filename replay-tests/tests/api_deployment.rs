//! Types, quotas, limits, services, pools and what else clients ask about a deployment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use tephra_replay_tests::served::{Executor, Served};

#[tokio::test]
async fn a_type_lives_from_creation_to_removal() {
    let served = Served::start(Executor::Works).await;
    let (admin, member) = (served.admin(), served.member());
    let body =
        json!({ "volume_type": { "name": "fast", "description": "quick", "extra_specs": { "a": "1" } } });
    let created = admin.post("/types", &body).await;
    assert_eq!(created.status, 200, "{}", created.json);
    assert_eq!(created.json["volume_type"]["os-volume-type-access:is_public"], true);
    let id = created.id("volume_type");
    assert_eq!(admin.post("/types", &body).await.status, 409);
    assert_eq!(member.post("/types", &body).await.status, 403);
    assert_eq!(member.get(&format!("/types/{id}")).await.ok().json["volume_type"]["extra_specs"], json!({}));
    assert_eq!(member.get("/types/default").await.ok().json["volume_type"]["name"], "__DEFAULT__");

    let renamed = admin.put(&format!("/types/{id}"), &json!({ "volume_type": { "name": "faster" } })).await;
    assert_eq!((renamed.status.as_u16(), &renamed.json["volume_type"]["name"]), (200, &json!("faster")));
    let names = |list: &Value| -> Vec<String> {
        let types = list["volume_types"].as_array().unwrap();
        types.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = admin.get("/types?limit=1").await.ok().json;
    assert_eq!(names(&page), ["faster"]);
    let next = page["volume_type_links"][0]["href"].as_str().unwrap();
    let next = next.strip_prefix("http://tephra.example:8776/v3").unwrap();
    assert_eq!(names(&admin.get(next).await.ok().json), ["__DEFAULT__"]);

    let volume = json!({ "volume": { "size": 1, "volume_type": "faster" } });
    let volume = member.post("/volumes", &volume).await.ok().id("volume");
    let in_use = admin.delete(&format!("/types/{id}")).await;
    assert_eq!(in_use.status, 400, "{}", in_use.json);
    assert_eq!(in_use.json["badRequest"]["message"], "Target volume type is still in use.");
    let frozen =
        admin.post(&format!("/types/{id}/extra_specs"), &json!({ "extra_specs": { "b": "2" } })).await;
    assert_eq!(frozen.json["badRequest"]["message"], "Volume Type is currently in use.");
    member.delete(&format!("/volumes/{volume}")).await;
    member.becomes("volume", &volume, "gone").await;
    assert_eq!(admin.delete(&format!("/types/{id}")).await.status, 202);
    assert_eq!(admin.get(&format!("/types/{id}")).await.status, 404);
}

#[tokio::test]
async fn extra_specs_are_set_shown_and_taken_away_one_by_one() {
    let served = Served::start(Executor::Works).await;
    let admin = served.admin();
    let id = admin.post("/types", &json!({ "volume_type": { "name": "t" } })).await.ok().id("volume_type");
    let specs = format!("/types/{id}/extra_specs");
    let body = json!({ "extra_specs": { "a": "1", "multiattach": "<is> True" } });
    assert_eq!(admin.post(&specs, &body).await.ok().json, body);
    assert_eq!(admin.put(&format!("{specs}/a"), &json!({ "a": "2" })).await.ok().json, json!({ "a": "2" }));
    assert_eq!(admin.get(&format!("{specs}/a")).await.ok().json, json!({ "a": "2" }));
    let seen = served.member().get(&specs).await.ok().json;
    assert_eq!(seen, json!({ "extra_specs": { "multiattach": "<is> True" } }));
    assert_eq!(served.member().get(&format!("{specs}/a")).await.status, 404);
    assert_eq!(admin.delete(&format!("{specs}/a")).await.status, 202);
    assert_eq!(admin.delete(&format!("{specs}/a")).await.status, 404);
    assert_eq!(served.member().delete(&format!("{specs}/multiattach")).await.status, 403);
}

#[tokio::test]
async fn a_private_type_is_there_for_those_with_access_only() {
    let served = Served::start(Executor::Works).await;
    let (admin, member) = (served.admin(), served.member());
    let body = json!({ "volume_type": { "name": "ours", "os-volume-type-access:is_public": false } });
    let id = admin.post("/types", &body).await.ok().id("volume_type");
    let path = format!("/types/{id}");
    assert_eq!(member.get(&path).await.status, 404);
    let grant = json!({ "addProjectAccess": { "project": "demo" } });
    assert_eq!(member.post(&format!("{path}/action"), &grant).await.status, 403);
    assert_eq!(admin.post(&format!("{path}/action"), &grant).await.status, 202);
    assert_eq!(admin.post(&format!("{path}/action"), &grant).await.status, 409);
    assert_eq!(member.get(&path).await.status, 200);
    let listed = admin.get(&format!("{path}/os-volume-type-access")).await.ok().json;
    assert_eq!(listed["volume_type_access"], json!([{ "volume_type_id": id, "project_id": "demo" }]));
    let revoke = json!({ "removeProjectAccess": { "project": "demo" } });
    assert_eq!(admin.post(&format!("{path}/action"), &revoke).await.status, 202);
    assert_eq!(admin.post(&format!("{path}/action"), &revoke).await.status, 404);
    assert_eq!(member.get(&path).await.status, 404);
    assert_eq!(admin.post(&format!("{path}/action"), &json!({ "paint": {} })).await.status, 400);
    assert_eq!(admin.get(&format!("/types/{}/os-volume-type-access", "default")).await.status, 404);
}

#[tokio::test]
async fn quotas_are_set_used_and_cleared() {
    let served = Served::start(Executor::Works).await;
    let (admin, member) = (served.admin(), served.member());
    let path = "/os-quota-sets/demo";
    assert_eq!(member.get(path).await.ok().json["quota_set"]["volumes"], 10);
    assert_eq!(member.get("/os-quota-sets/other").await.status, 403);
    assert_eq!(admin.get("/os-quota-sets/other").await.status, 200);
    member.volume(2).await;
    let usage = member.get(&format!("{path}?usage=true")).await.ok().json;
    assert_eq!(usage["quota_set"]["gigabytes"], json!({ "limit": 1000, "in_use": 2, "reserved": 0 }));
    assert_eq!(usage["quota_set"]["volumes___DEFAULT__"]["in_use"], 1);
    assert_eq!(member.get(&format!("{path}?usage=perhaps")).await.status, 400);

    let set = json!({ "quota_set": { "volumes": 1, "gigabytes___DEFAULT__": 7 } });
    assert_eq!(member.put(path, &set).await.status, 403);
    let answer = admin.put(path, &set).await.ok().json;
    assert_eq!((&answer["quota_set"]["volumes"], answer["quota_set"].get("id")), (&json!(1), None));
    let refused = member.post("/volumes", &json!({ "volume": { "size": 1 } })).await;
    assert_eq!(refused.status, 413, "{}", refused.json);
    assert_eq!(admin.put(path, &json!({ "quota_set": { "volumes": 0 } })).await.status, 400);
    assert_eq!(admin.put(path, &json!({ "quota_set": { "rockets": 0 } })).await.status, 400);

    assert_eq!(admin.delete(path).await.status, 200);
    assert_eq!(member.get(path).await.ok().json["quota_set"]["volumes"], 10);
    let class = json!({ "quota_class_set": { "volumes": 12 } });
    assert_eq!(member.put("/os-quota-class-sets/default", &class).await.status, 403);
    assert_eq!(admin.put("/os-quota-class-sets/default", &class).await.status, 200);
    assert_eq!(member.get(&format!("{path}/defaults")).await.ok().json["quota_set"]["volumes"], 12);
    assert_eq!(admin.put("/os-quota-class-sets/gold", &class).await.status, 400);
    let limits = member.get("/limits").await.ok().json;
    let absolute = &limits["limits"]["absolute"];
    assert_eq!((&absolute["maxTotalVolumes"], &absolute["totalGigabytesUsed"]), (&json!(12), &json!(2)));
    assert_eq!(
        admin.get("/limits?project_id=void").await.ok().json["limits"]["absolute"]["totalVolumesUsed"],
        0
    );
    let old = admin.at("3.38").get("/limits?project_id=void").await.ok().json;
    assert_eq!(old["limits"]["absolute"]["totalVolumesUsed"], 1);
}

#[tokio::test]
async fn a_backend_is_shown_as_a_service_and_can_be_disabled() {
    let served = Served::start(Executor::Works).await;
    let (admin, member) = (served.admin(), served.member());
    assert_eq!(member.get("/os-services").await.status, 403);
    let services = admin.get("/os-services?binary=cinder-volume").await.ok().json;
    let row = &services["services"][0];
    assert_eq!((&row["status"], &row["state"]), (&json!("enabled"), &json!("up")), "{services}");
    let host = row["host"].as_str().unwrap().to_owned();
    let change = json!({ "host": host, "binary": "cinder-volume", "disabled_reason": "moving" });
    assert_eq!(member.put("/os-services/disable-log-reason", &change).await.status, 403);
    let answer = admin.put("/os-services/disable-log-reason", &change).await.ok().json;
    assert_eq!((&answer["disabled"], &answer["disabled_reason"]), (&json!(true), &json!("moving")));
    let services = admin.get(&format!("/os-services?host={host}")).await.ok().json;
    assert_eq!(services["services"][0]["disabled_reason"], "moving");
    let zones = member.get("/os-availability-zone").await.ok().json;
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneState"]["available"], false);
    let enable = json!({ "host": host, "binary": "cinder-volume" });
    assert_eq!(admin.put("/os-services/enable", &enable).await.ok().json["status"], "enabled");
    for (path, body, status) in [
        ("enable", json!({ "host": "nowhere", "binary": "cinder-volume" }), 404),
        ("enable", json!({ "host": host, "binary": "cinder-scheduler" }), 400),
        ("enable", json!({ "binary": "cinder-volume" }), 400),
        ("thaw", json!({ "host": host }), 400),
        ("freeze", json!({ "host": host }), 200),
        ("freeze", json!({ "host": host }), 400),
        ("thaw", json!({ "host": host }), 200),
        ("failover_host", json!({ "host": host }), 400),
        ("paint", json!({ "host": host }), 404),
    ] {
        assert_eq!(admin.put(&format!("/os-services/{path}"), &body).await.status, status, "{path} {body}");
    }
    let pools = admin.get("/scheduler-stats/get_pools?detail=true").await.ok().json;
    let pool = &pools["pools"][0];
    assert!(pool["name"].as_str().unwrap().starts_with(&format!("{host}#")), "{pools}");
    assert!(pool["capabilities"]["total_capacity_gb"].is_number(), "{pools}");
    let names = admin.get("/scheduler-stats/get_pools").await.ok().json;
    assert_eq!(names["pools"][0].as_object().unwrap().len(), 1);
    assert_eq!(member.get("/scheduler-stats/get_pools").await.status, 403);
}

#[tokio::test]
async fn microversions_decide_what_is_there() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    member.volume(3).await;
    for (path, minor) in [("/volumes/summary", 12), ("/resource_filters", 33), ("/messages", 3)] {
        assert_eq!(member.clone().at(&format!("3.{minor}")).get(path).await.status, 200, "{path}");
        assert_eq!(member.clone().at(&format!("3.{}", minor - 1)).get(path).await.status, 404, "{path}");
    }
    let summary = member.clone().at("3.35").get("/volumes/summary").await.ok().json;
    assert_eq!(summary, json!({ "volume-summary": { "total_count": 1, "total_size": 3 } }));
    let summary = member.get("/volumes/summary").await.ok().json;
    assert_eq!(summary["volume-summary"]["metadata"], json!({}));
    let none = member.get("/volumes/summary?status=error").await.ok().json;
    assert_eq!(none["volume-summary"]["total_count"], 0);
    let unknown = member.get("/volumes/summary?colour=red").await.ok().json;
    assert_eq!(unknown["volume-summary"]["total_count"], 1, "as Cinder, a summary drops what is no filter");
    assert_eq!(member.get("/messages").await.ok().json, json!({ "messages": [] }));
    assert_eq!(member.get("/messages/7").await.status, 404);
    let filters = member.get("/resource_filters?resource=pool").await.ok().json;
    assert_eq!(
        filters["resource_filters"],
        json!([{ "resource": "pool", "filters": ["name", "volume_type"] }])
    );
    let extensions = member.get("/extensions").await.ok().json;
    assert!(extensions["extensions"].as_array().unwrap().len() > 10);
    assert_eq!(member.get("/extensions/os-services").await.ok().json["extension"]["name"], "Services");
    assert_eq!(member.get("/extensions/nope").await.status, 404);
}
