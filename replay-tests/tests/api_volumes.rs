//! Volumes over HTTP, as Cinder's clients see them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use tephra_replay_tests::served::{Executor, Served};

/// What every volume has at 3.0, in the order of the alphabet.
const FIELDS_30: &[&str] = &[
    "attachments",
    "availability_zone",
    "bootable",
    "consistencygroup_id",
    "created_at",
    "description",
    "encrypted",
    "id",
    "links",
    "metadata",
    "multiattach",
    "name",
    "replication_status",
    "size",
    "snapshot_id",
    "source_volid",
    "status",
    "updated_at",
    "user_id",
    "volume_type",
];

fn sorted(base: &[&str], more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = base.iter().chain(more).map(|name| (*name).to_owned()).collect();
    all.sort();
    all
}

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

#[tokio::test]
async fn each_microversion_shows_its_own_fields() {
    let served = Served::start(Executor::Works).await;
    let id = served.member().volume(1).await;
    let path = format!("/volumes/{id}");
    let tenant = "os-vol-tenant-attr:tenant_id";
    let from = |minor: u16, names: &'static [&'static str], at: u16| if at >= minor { names } else { &[] };
    for at in [0, 12, 13, 20, 21, 47, 48, 60, 61, 62, 63, 64, 65, 69, 71] {
        let version = format!("3.{at}");
        let mut member = vec![tenant];
        for (minor, names) in [
            (13, &["group_id"][..]),
            (48, &["service_uuid", "shared_targets"]),
            (63, &["volume_type_id"]),
            (65, &["consumes_quota"]),
        ] {
            member.extend(from(minor, names, at));
        }
        let mut admin = member.clone();
        admin.extend([
            "migration_status",
            "os-vol-host-attr:host",
            "os-vol-mig-status-attr:migstat",
            "os-vol-mig-status-attr:name_id",
        ]);
        admin.extend(from(21, &["provider_id"], at));
        admin.extend(from(61, &["cluster_name"], at));
        let shown = served.member().at(&version).get(&path).await.ok();
        assert_eq!(shown.fields("volume"), sorted(FIELDS_30, &member), "a member at {version}");
        let shown = served.admin().at(&version).get(&path).await.ok();
        assert_eq!(shown.fields("volume"), sorted(FIELDS_30, &admin), "an administrator at {version}");
        assert_eq!(shown.json["volume"]["os-vol-host-attr:host"], "memory@memory#memory");
        assert_eq!(shown.headers["openstack-api-version"], format!("volume {version}"));
    }
    let created = served.member().at("3.0").post("/volumes", &json!({"volume": {"size": 1}})).await.ok();
    assert_eq!(created.fields("volume"), FIELDS_30, "create shows no os-… fields");
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
async fn what_cannot_be_a_volume_is_refused_in_cinders_words() {
    let served = Served::start(Executor::Works).await;
    let long = "x".repeat(256);
    let id = "7e947a00-0000-4000-8000-00000000dead";
    let field = |name: &str, value: Value| json!({"volume": {"size": 1, name: value}});
    let invalid = |name: &str, shown: &str, reason: &str| {
        format!("Invalid input for field/attribute {name}. Value: {shown}. {reason}")
    };
    let cases: Vec<(Value, u16, String)> = vec![
        (json!({}), 400, "'volume' is a required property".into()),
        (json!([]), 400, "[] is not of type 'object'".into()),
        (json!({"volume": null}), 400, invalid("volume", "None", "None is not of type 'object'")),
        (
            json!({"volume": {"size": 1}, "extra": 1}),
            400,
            "Additional properties are not allowed ('extra' was unexpected)".into(),
        ),
        (
            json!({"volume": {}}),
            400,
            "Invalid input received: Volume size 'None' must be an integer and greater than 0".into(),
        ),
        (field("size", json!(0)), 400, invalid("size", "0", "0 is less than the minimum of 1")),
        (field("size", json!(-5)), 400, invalid("size", "-5", "-5 is less than the minimum of 1")),
        (
            field("size", json!(1.5)),
            400,
            invalid("size", "1.5", "1.5 is not of type 'integer', 'string', 'null'"),
        ),
        (
            field("size", json!(4_294_967_296_u64)),
            400,
            invalid("size", "4294967296", "4294967296 is greater than the maximum of 2147483647"),
        ),
        (field("size", json!("big")), 400, invalid("size", "big", "'big' does not match '^[0-9]+$'")),
        (
            field("name", json!(long)),
            400,
            "Invalid input received: name has 256 characters, more than 255.".into(),
        ),
        (
            field("description", json!(long)),
            400,
            "Invalid input received: description has 256 characters, more than 255.".into(),
        ),
        (field("metadata", json!({"k": 1})), 400, invalid("k", "1", "1 is not of type 'string'")),
        (
            field("snapshot_id", json!("s")),
            400,
            invalid("snapshot_id", "s", "'s' is not valid under any of the given schemas"),
        ),
        (field("snapshot_id", json!(id)), 404, format!("Snapshot {id} could not be found.")),
        (field("source_volid", json!(id)), 404, format!("Volume {id} could not be found.")),
        (field("volume_type", json!("gold")), 404, "Volume type with name gold could not be found.".into()),
        (field("volume_type", json!(id)), 404, format!("Volume type {id} could not be found.")),
        (field("availability_zone", json!("mars")), 400, "Availability zone 'mars' is invalid.".into()),
        (field("availability_zone", json!("")), 400, invalid("availability_zone", "", "'' is too short")),
        (field("imageRef", json!(id)), 400, "Creating a volume from an image needs an image store.".into()),
        (field("image_id", json!(id)), 400, "Creating a volume from an image needs an image store.".into()),
        (field("backup_id", json!(id)), 400, "Creating a volume from a backup is not supported yet.".into()),
        (field("group_id", json!(id)), 400, "Creating a volume in a group is not supported yet.".into()),
        (
            json!({"volume": {"snapshot_id": id, "source_volid": id}}),
            400,
            "Invalid input received: May specify only one of snapshot, imageRef or source volume".into(),
        ),
        (
            json!({"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": "near"}),
            400,
            invalid("OS-SCH-HNT:scheduler_hints", "near", "'near' is not of type 'object'"),
        ),
        (
            json!({"volume": {"size": 1, "colour": "red"}}),
            400,
            invalid(
                "volume",
                "{'colour': 'red', 'size': 1}",
                "Additional properties are not allowed ('colour' was unexpected)",
            ),
        ),
        (
            json!({"volume": {"size": 2000}}),
            413,
            "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. \
             Requested 2000G, quota is 1000G and 0G has been consumed."
                .into(),
        ),
    ];
    for (body, status, message) in cases {
        let reply = served.member().post("/volumes", &body).await;
        assert_eq!((reply.status.as_u16(), reply.fault().1), (status, message), "{body}");
    }
    let multiattach = served.member().post("/volumes", &field("multiattach", json!(true))).await;
    assert_eq!(multiattach.status, 400);
    assert!(multiattach.fault().1.starts_with("multiattach parameter has been removed."));
    let listed = served.member().get("/volumes").await.ok();
    assert_eq!(listed.json["volumes"], json!([]), "nothing that was refused left anything behind");
}

#[tokio::test]
async fn what_cinder_overlooks_is_overlooked() {
    let served = Served::start(Executor::Sleeps).await;
    for (version, fields) in [
        ("3.52", json!({"size": "1", "colour": "red"})),
        ("3.0", json!({"size": 1, "multiattach": false, "imageRef": null, "source_volid": null})),
        ("3.71", json!({"size": 1, "volume_type": "", "metadata": null, "name": null})),
        ("3.71", json!({"size": 1, "consistencygroup_id": null, "backup_id": null, "group_id": null})),
    ] {
        let body = json!({"volume": fields, "OS-SCH-HNT:scheduler_hints": {"same_host": []}});
        let reply = served.member().at(version).post("/volumes", &body).await;
        assert_eq!(reply.status, 202, "{body}: {}", reply.json);
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let served = Served::start(Executor::Sleeps).await;
    let member = served.member();
    let post = async |client: &tephra_replay_tests::served::Client<'_>, bytes: &[u8]| {
        let reply = client.send("POST", "/volumes", Some(bytes.to_vec())).await;
        (reply.status.as_u16(), reply.fault())
    };
    let fault = |name: &str, message: &str| (name.to_owned(), message.to_owned());
    for bytes in [&b"{"[..], b"nonsense", b"\xff\xfe", b"{\"volume\": {\"size\": 1}} trailing"] {
        assert_eq!(post(&member, bytes).await, (400, fault("badRequest", "Malformed request body")));
    }
    assert_eq!(post(&member, b"").await.0, 400);
    let deep = "[".repeat(100_000);
    assert_eq!(post(&member, deep.as_bytes()).await, (400, fault("badRequest", "Malformed request body")));
    let xml = member.clone().with("content-type", "application/xml");
    assert_eq!(post(&xml, b"<volume/>").await, (415, fault("badMediaType", "Unsupported Content-Type")));
    let large = format!("{{\"volume\": {{\"description\": \"{}\"}}}}", "x".repeat(114_688));
    assert_eq!(post(&member, large.as_bytes()).await, (413, fault("overLimit", "Request is too large.")));
}

#[tokio::test]
async fn volumes_are_renamed_and_redescribed() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let path = format!("/volumes/{}", member.volume(1).await);
    let body = json!({"volume": {"name": "new", "display_description": "told", "metadata": {"k": "v"}}});
    let updated = member.put(&path, &body).await.ok();
    assert_eq!(updated.json["volume"]["name"], "new");
    assert_eq!(updated.json["volume"]["description"], "told");
    assert_eq!(updated.json["volume"]["metadata"], json!({"k": "v"}));
    let cleared = member.put(&path, &json!({"volume": {"description": null}})).await.ok();
    assert_eq!(cleared.json["volume"]["name"], "new");
    assert_eq!(cleared.json["volume"]["description"], Value::Null);
    assert_eq!(member.put(&path, &json!({"volume": {}})).await.status, 400);
    assert_eq!(member.clone().at("3.52").put(&path, &json!({"volume": {}})).await.status, 200);
    assert_eq!(member.put(&path, &json!({"volume": {"size": 2}})).await.status, 400);
    assert_eq!(member.put("/volumes/none", &json!({"volume": {"name": "x"}})).await.status, 404);
}

#[tokio::test]
async fn lists_have_pages_filters_and_an_order() {
    let served = Served::start(Executor::Sleeps).await;
    let member = served.member().under("demo");
    let mut ids = Vec::new();
    for (name, size) in [("a", 3), ("b", 1), ("c", 2)] {
        let body = json!({"volume": {"name": name, "size": size, "metadata": {"name": name}}});
        ids.push(member.post("/volumes", &body).await.ok().id("volume"));
    }
    let names = |json: &Value| -> String {
        let rows = json["volumes"].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
    };
    for (query, expected) in [
        ("", "cba"),
        ("?sort=name:asc", "abc"),
        ("?sort_key=size&sort_dir=asc", "bca"),
        ("?limit=2", "cb"),
        ("?limit=0", ""),
        ("?offset=1", "ba"),
        ("?name=b", "b"),
        ("?name~=b", "b"),
        ("?status=creating", "cba"),
        ("?status=available", ""),
        ("?metadata=%7B%27name%27%3A%20%27c%27%7D", "c"),
        ("?size=3", "a"),
        ("?bootable=true", ""),
        ("?created_at=gt:2000-01-01T00:00:00", "cba"),
        ("?created_at=lt:2000-01-01T00:00:00", ""),
    ] {
        for list in ["/volumes", "/volumes/detail"] {
            let reply = member.get(&format!("{list}{query}")).await.ok();
            assert_eq!(names(&reply.json), expected, "{list}{query}");
        }
    }

    let page = member.get("/volumes/detail?limit=2&with_count=true").await.ok();
    assert_eq!(page.json["count"], 3);
    let next = page.json["volumes_links"][0]["href"].as_str().unwrap();
    let expected = format!("/v3/demo/volumes/detail?limit=2&with_count=true&marker={}", ids[1]);
    assert_eq!(next, format!("http://tephra.example:8776{expected}"));
    let rest = next.split("/v3/demo").nth(1).unwrap();
    let last = member.get(rest).await.ok();
    assert_eq!(names(&last.json), "a");
    assert!(last.json.get("volumes_links").is_none(), "the last page has no next one");

    let brief = member.get("/volumes?limit=1").await.ok();
    let fields: Vec<&String> = brief.json["volumes"][0].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["id", "links", "name"]);
    for (query, status) in [("limit=-1", 400), ("sort=colour", 400), ("colour=red", 400), ("marker=x", 404)] {
        assert_eq!(member.get(&format!("/volumes?{query}")).await.status, status, "{query}");
    }
    let unknown = "7e947a00-0000-4000-8000-00000000dead";
    let reply = member.get(&format!("/volumes?marker={unknown}")).await;
    assert_eq!(
        (reply.status.as_u16(), reply.fault().1),
        (404, format!("Volume {unknown} could not be found."))
    );
}

#[tokio::test]
async fn no_project_sees_anothers_volumes() {
    let served = Served::start(Executor::Works).await;
    let alice = served.member();
    let bob = served.client("bob:other");
    let id = alice.volume(1).await;
    let path = format!("/volumes/{id}");
    let absent = format!("Volume {id} could not be found.");
    for reply in [
        bob.get(&path).await,
        bob.delete(&path).await,
        bob.put(&path, &json!({"volume": {"name": "mine"}})).await,
        bob.get(&format!("{path}/metadata")).await,
        bob.post(&format!("{path}/metadata"), &json!({"metadata": {"k": "v"}})).await,
        bob.delete(&format!("{path}/metadata/k")).await,
        bob.post(&format!("{path}/action"), &json!({"os-extend": {"new_size": 2}})).await,
        bob.post("/snapshots", &json!({"snapshot": {"volume_id": id}})).await,
        bob.post("/volumes", &json!({"volume": {"source_volid": id}})).await,
        bob.get(&format!("/volumes?marker={id}")).await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.fault().1.as_str()), (404, absent.as_str()));
    }
    assert_eq!(bob.get("/volumes?all_tenants=1").await.ok().json["volumes"], json!([]));
    let listed = |reply: tephra_replay_tests::served::Reply| reply.ok().json["volumes"][0]["id"].clone();
    assert_eq!(listed(served.client("admin:ops").get("/volumes?all_tenants=1").await), id);
    assert_eq!(served.client("admin:ops").get("/volumes").await.ok().json["volumes"], json!([]));
    assert_eq!(listed(served.client("admin:ops").under("demo").get("/volumes").await), id);
    let mismatch = served.client("bob:other").under("demo").get("/volumes").await;
    assert_eq!(mismatch.fault(), ("badRequest".to_owned(), "Malformed request url".to_owned()));
}

#[tokio::test]
async fn a_volume_is_made_from_another_and_deleted_with_its_snapshots() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let source = member.volume(2).await;
    let snapshot = member.snapshot(&source).await;
    let clone = member.post("/volumes", &json!({"volume": {"source_volid": source}})).await.ok();
    assert_eq!(clone.json["volume"]["size"], 2);
    assert_eq!(clone.json["volume"]["source_volid"], json!(source));
    member.becomes("volume", &clone.id("volume"), "available").await;
    let small = json!({"volume": {"snapshot_id": snapshot, "size": 1}});
    let refused = member.post("/volumes", &small).await;
    assert_eq!(refused.status, 400);
    assert!(refused.fault().1.contains("cannot be smaller than the snapshot size"), "{}", refused.json);

    let path = format!("/volumes/{source}");
    assert_eq!(member.delete(&path).await.status, 400, "it has a snapshot");
    assert_eq!(member.delete(&format!("{path}?cascade=maybe")).await.status, 400);
    assert_eq!(member.delete(&format!("{path}?force=true")).await.status, 403);
    assert_eq!(member.delete(&format!("{path}?cascade=true")).await.status, 202);
    member.becomes("volume", &source, "gone").await;
    assert_eq!(member.get(&format!("/snapshots/{snapshot}")).await.status, 404);
}
