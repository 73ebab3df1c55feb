//! `POST …/action`, of volumes and of snapshots.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use tephra_replay_tests::served::{Executor, Served};

const UNKNOWN: &str = "7e947a00-0000-4000-8000-00000000dead";

fn invalid(name: &str, shown: &str, reason: &str) -> String {
    format!("Invalid input for field/attribute {name}. Value: {shown}. {reason}")
}

#[tokio::test]
async fn a_volume_is_extended_and_its_flags_are_set() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    let (path, action) = (format!("/volumes/{id}"), format!("/volumes/{id}/action"));
    for (body, status) in [
        (json!({"os-extend": {"new_size": 3}}), 202),
        (json!({"os-set_bootable": {"bootable": "True"}}), 200),
        (json!({"os-update_readonly_flag": {"readonly": true}}), 202),
    ] {
        let reply = member.post(&action, &body).await;
        assert_eq!((reply.status.as_u16(), &reply.json), (status, &Value::Null), "{body}");
        member.becomes("volume", &id, "available").await;
    }
    let shown = member.get(&path).await.ok();
    let volume = &shown.json["volume"];
    assert_eq!((&volume["size"], &volume["bootable"]), (&json!(3), &json!("true")));
    assert_eq!(volume["metadata"], json!({"readonly": "True"}), "shown among the user's own metadata");
    let own = member.get(&format!("{path}/metadata")).await.ok();
    assert_eq!(own.json["metadata"], json!({}), "but not one of them");
}

#[tokio::test]
async fn image_metadata_are_set_shown_and_unset_key_by_key() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    let action = format!("/volumes/{id}/action");
    let show = json!({"os-show_image_metadata": null});
    let set = |metadata: Value| json!({"os-set_image_metadata": {"metadata": metadata}});
    let unset = |key: &str| json!({"os-unset_image_metadata": {"key": key}});
    assert_eq!(member.post(&action, &show).await.ok().json, json!({"metadata": {}}));

    let long = "x".repeat(300);
    for (body, metadata) in [
        (set(json!({"image_name": "a", "os_distro": long})), json!({"image_name": "a", "os_distro": long})),
        (set(json!({"image_name": "b"})), json!({"image_name": "b", "os_distro": long})),
        (unset("os_distro"), Value::Null),
        (show.clone(), json!({"metadata": {"image_name": "b"}})["metadata"].clone()),
    ] {
        let reply = member.post(&action, &body).await;
        assert_eq!((reply.status.as_u16(), &reply.json["metadata"]), (200, &metadata), "{body}");
    }
    let shown = member.get(&format!("/volumes/{id}")).await.ok();
    assert_eq!(shown.json["volume"]["volume_image_metadata"], json!({"image_name": "b"}));
    assert_eq!(shown.json["volume"]["metadata"], json!({}), "the user's own are others");

    for (body, status) in [
        (unset("os_distro"), 404),
        (unset(""), 400),
        (json!({"os-unset_image_metadata": {"key": "image_name", "more": 1}}), 400),
        (set(json!({"k": 1})), 400),
        (set(json!({"no?key": "v"})), 400),
        (json!({"os-set_image_metadata": {}}), 400),
        (set(json!({"k": "v".repeat(65_535)})), 413),
    ] {
        assert_eq!(member.post(&action, &body).await.status, status, "{body}");
    }
    let reply = member.post(&action, &unset("gone")).await;
    assert_eq!(reply.fault().1, format!("Glance metadata for volume/snapshot {id} cannot be found."));
    let stranger = served.client("sam:elsewhere");
    for body in [show, set(json!({"k": "v"})), unset("image_name")] {
        assert_eq!(stranger.post(&action, &body).await.status, 404, "{body}");
    }
    let shown = member.get(&format!("/volumes/{id}")).await.ok();
    assert_eq!(shown.json["volume"]["volume_image_metadata"], json!({"image_name": "b"}));
}

#[tokio::test]
async fn a_volume_is_reverted_to_its_latest_snapshot_only() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    let action = format!("/volumes/{id}/action");
    let revert = |snapshot: &Value| json!({"revert": {"snapshot_id": snapshot}});
    let reply = member.post(&action, &revert(&json!(UNKNOWN))).await;
    assert_eq!(
        (reply.status.as_u16(), reply.fault().1),
        (400, format!("Volume {id} doesn't have any snapshots."))
    );

    let (older, latest) = (member.snapshot(&id).await, member.snapshot(&id).await);
    for named in [json!(older), json!("no-uuid"), json!(UNKNOWN)] {
        let reply = member.post(&action, &revert(&named)).await;
        let named = named.as_str().unwrap();
        let message = format!("Specified snapshot {named} is None or not the latest one of volume {id}.");
        assert_eq!((reply.status.as_u16(), reply.fault().1), (400, message));
    }
    for body in [json!({"revert": {}}), json!({"revert": {"snapshot_id": null}})] {
        assert_eq!(member.post(&action, &body).await.status, 400, "{body}");
    }
    assert_eq!(member.clone().at("3.39").post(&action, &revert(&json!(latest))).await.status, 404);
    assert_eq!(member.post(&action, &revert(&json!(latest))).await.status, 202);
    member.becomes("volume", &id, "available").await;
    member.becomes("snapshot", &latest, "available").await;

    let extend = json!({"os-extend": {"new_size": 2}});
    assert_eq!(member.post(&action, &extend).await.status, 202);
    member.becomes("volume", &id, "available").await;
    let reply = member.post(&action, &revert(&json!(latest))).await;
    assert_eq!(reply.status, 400);
    assert!(reply.fault().1.ends_with("The volume size must be equal to the snapshot size."));
}

#[tokio::test]
async fn a_wrong_state_is_a_bad_request_and_for_a_revert_a_conflict() {
    let served = Served::start(Executor::Works).await;
    let admin = served.admin();
    let id = admin.volume(1).await;
    let snapshot = admin.snapshot(&id).await;
    let action = format!("/volumes/{id}/action");
    let reset = json!({"os-reset_status": {"status": "error_extending"}});
    assert_eq!(admin.post(&action, &reset).await.status, 202);
    for (body, status, name) in [
        (json!({"os-extend": {"new_size": 2}}), 400, "badRequest"),
        (json!({"revert": {"snapshot_id": snapshot}}), 409, "conflictingRequest"),
    ] {
        let reply = admin.post(&action, &body).await;
        assert_eq!((reply.status.as_u16(), reply.fault().0.as_str()), (status, name), "{}", reply.json);
    }
    let reply = admin.post("/snapshots", &json!({"snapshot": {"volume_id": id}})).await;
    assert_eq!(reply.status, 400, "{}", reply.json);
}

#[tokio::test]
async fn actions_on_volumes_are_refused_in_cinders_words() {
    let served = Served::start(Executor::Works).await;
    let admin = served.admin();
    let id = admin.volume(2).await;
    let no_action = |name: &str| {
        format!(
            "There is no such action: {name}. Verify the request body and Content-Type header and try again."
        )
    };
    let by_operations = |status: &str| {
        format!("Invalid input received: Status '{status}' cannot be set by hand: it belongs to operations.")
    };
    let malformed = "Malformed request body".to_owned();
    let cases: Vec<(Value, String)> = vec![
        (json!({}), malformed.clone()),
        (json!([]), malformed.clone()),
        (json!("os-extend"), malformed.clone()),
        (json!({"os-extend": {"new_size": 3}, "revert": {}}), malformed),
        (
            json!({"os-attach": {"mountpoint": "/dev/vdb"}}),
            invalid(
                "os-attach",
                "{'mountpoint': '/dev/vdb'}",
                "'instance_uuid' or 'host_name' is a required property",
            ),
        ),
        (json!({"os-retype": {"new_type": "gold"}}), no_action("os-retype")),
        (json!({"explode": null}), no_action("explode")),
        (json!({"os-extend": null}), invalid("os-extend", "None", "None is not of type 'object'")),
        (json!({"os-extend": {}}), invalid("os-extend", "{}", "'new_size' is a required property")),
        (json!({"os-extend": {"new_size": 0}}), invalid("new_size", "0", "0 is less than the minimum of 1")),
        (json!({"os-extend": {"new_size": null}}), invalid("new_size", "None", "None is not of type 'integer', 'string'")),
        (
            json!({"os-extend": {"new_size": 2}}),
            "Invalid input received: New size for extend must be greater than current size. (current: 2, extended: 2)."
                .into(),
        ),
        (
            json!({"os-extend": {"new_size": 3, "now": true}}),
            invalid("os-extend", "{'new_size': 3, 'now': True}", "Additional properties are not allowed ('now' was unexpected)"),
        ),
        (json!({"os-set_bootable": {}}), invalid("os-set_bootable", "{}", "'bootable' is a required property")),
        (json!({"os-set_bootable": {"bootable": 1}}), invalid("bootable", "1", "1 is not of type 'boolean', 'string'")),
        (json!({"os-update_readonly_flag": {"readonly": null}}), invalid("readonly", "None", "None is not of type 'boolean', 'string'")),
        (
            json!({"os-reset_status": {}}),
            "Must specify 'status', 'attach_status' or 'migration_status' for update.".into(),
        ),
        (json!({"os-reset_status": {"status": "extending"}}), by_operations("extending")),
        (json!({"os-reset_status": {"status": "attaching"}}), by_operations("attaching")),
        (json!({"os-reset_status": {"status": "deleting"}}), "Cannot reset-state to deleting".into()),
        (
            json!({"os-reset_status": {"status": "in-use"}}),
            "Cannot reset-state to in-use because volume does not have any attachments.".into(),
        ),
        (
            json!({"os-reset_status": {"attach_status": "loose"}}),
            "Volume attach status: loose is invalid, valid statuses are: ('attached', 'detached').".into(),
        ),
        (json!({"os-reset_status": {"attach_status": "attached"}}), "Invalid input received: attach_status 'attached' cannot be set by hand: it belongs to attachments.".into()),
    ];
    let action = format!("/volumes/{id}/action");
    for (body, message) in cases {
        let reply = admin.post(&action, &body).await;
        assert_eq!((reply.status.as_u16(), reply.fault().1), (400, message), "{body}");
    }
    let made_up = admin.post(&action, &json!({"os-reset_status": {"status": "Broken"}})).await;
    assert!(
        made_up.fault().1.starts_with("Volume status: Broken is invalid, valid statuses are: ('creating', ")
    );
    let nothing = admin.send("POST", &action, None).await;
    assert_eq!((nothing.status.as_u16(), nothing.fault().1), (400, no_action("None")));
    let elsewhere =
        admin.post(&format!("/volumes/{UNKNOWN}/action"), &json!({"os-extend": {"new_size": 9}})).await;
    assert_eq!(elsewhere.status, 404);
    let quota = admin.post(&action, &json!({"os-extend": {"new_size": 5000}})).await;
    assert_eq!((quota.status.as_u16(), quota.fault().0.as_str()), (413, "overLimit"), "{}", quota.json);
    assert_eq!(
        (&quota.headers["retry-after"], &quota.json["overLimit"]["retryAfter"]),
        (&"0".parse().unwrap(), &json!("0"))
    );
}

#[tokio::test]
async fn only_administrators_reset_and_force() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let id = member.volume(1).await;
    let snapshot = member.snapshot(&id).await;
    let (volumes, snapshots) = (format!("/volumes/{id}/action"), format!("/snapshots/{snapshot}/action"));
    let reset = json!({"os-reset_status": {"status": "error"}});
    let force = json!({"os-force_delete": null});
    for (path, body) in [(&volumes, &reset), (&volumes, &force), (&snapshots, &reset), (&snapshots, &force)] {
        let reply = member.post(path, body).await;
        assert_eq!((reply.status.as_u16(), reply.fault().0.as_str()), (403, "forbidden"), "{path} {body}");
        assert!(reply.fault().1.starts_with("Policy doesn't allow "), "{}", reply.json);
    }
    let admin = served.admin();
    assert_eq!(admin.post(&snapshots, &reset).await.status, 202);
    member.becomes("snapshot", &snapshot, "error").await;
    assert_eq!(admin.post(&snapshots, &force).await.status, 202);
    member.becomes("snapshot", &snapshot, "gone").await;
    assert_eq!(admin.post(&volumes, &reset).await.status, 202);
    member.becomes("volume", &id, "error").await;
    let again = json!({"os-reset_status": {"status": "Available", "attach_status": "detached", "migration_status": "none"}});
    assert_eq!(admin.post(&volumes, &again).await.status, 202);
    member.becomes("volume", &id, "available").await;
    assert_eq!(
        admin.post(&volumes, &json!({"os-reset_status": {"attach_status": "detached"}})).await.status,
        202
    );
    assert_eq!(admin.post(&volumes, &force).await.status, 202);
    member.becomes("volume", &id, "gone").await;
}

#[tokio::test]
async fn a_snapshots_status_belongs_to_its_operation() {
    let served = Served::start(Executor::Works).await;
    let member = served.member();
    let volume = member.volume(1).await;
    let snapshot = member.snapshot(&volume).await;
    let update = |status: &str| json!({"os-update_snapshot_status": {"status": status, "progress": "50%"}});
    let action = format!("/snapshots/{snapshot}/action");
    let reply = member.post(&action, &update("error")).await;
    let message = "Snapshot status available not allowed for update_snapshot_status".to_owned();
    assert_eq!((reply.status.as_u16(), reply.fault().1), (400, message));
    assert_eq!(member.post(&action, &json!({"os-update_snapshot_status": {}})).await.status, 400);
}
