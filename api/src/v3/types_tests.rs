use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::ids::{ProjectId, RequestId, UserId, VolumeTypeId};
use tephra_domain::units::Timestamp;
use tephra_domain::volume_type::VolumeType;
use uuid::Uuid;

use super::{Sort, TypeBody, Wanted, parse_create, parse_update};
use crate::auth::Identity;
use crate::microversion::Microversion;
use crate::v3::params::Params;

fn identity(role: Role) -> Identity {
    let actor = Actor { user: UserId::new("u"), project: ProjectId::new("mine"), role, address: None };
    Identity { actor, request: RequestId::new("req-1") }
}

fn row(n: u128, name: &str, is_public: bool, access: &[&str]) -> VolumeType {
    VolumeType {
        id: VolumeTypeId::from_uuid(Uuid::from_u128(n)),
        name: name.into(),
        description: None,
        is_public,
        extra_specs: BTreeMap::from([
            ("volume_backend_name".to_owned(), "secret".to_owned()),
            ("multiattach".to_owned(), "<is> True".to_owned()),
        ]),
        access: access.iter().map(|project| ProjectId::new(*project)).collect::<BTreeSet<_>>(),
        created_at: Timestamp(i64::try_from(n).unwrap_or_default()),
        updated_at: None,
        users: 0,
    }
}

#[test]
fn a_type_shows_each_role_what_its_policy_allows() {
    let shown = |role| {
        serde_json::to_value(TypeBody::new(&row(1, "fast", true, &[]), &identity(role))).unwrap_or_default()
    };
    let id = "00000000-0000-0000-0000-000000000001";
    let harmless = json!({ "multiattach": "<is> True" });
    assert_eq!(
        shown(Role::Reader),
        json!({ "id": id, "name": "fast", "is_public": true, "description": null, "extra_specs": harmless })
    );
    assert_eq!(
        shown(Role::Member),
        json!({
            "id": id, "name": "fast", "is_public": true, "description": null, "extra_specs": harmless,
            "os-volume-type-access:is_public": true,
        })
    );
    assert_eq!(
        shown(Role::Admin),
        json!({
            "id": id, "name": "fast", "is_public": true, "description": null,
            "extra_specs": { "multiattach": "<is> True", "volume_backend_name": "secret" },
            "os-volume-type-access:is_public": true, "qos_specs_id": null,
        })
    );
}

fn listed(params: &[(&str, &str)], role: Role, minor: bool) -> Result<Vec<String>, String> {
    let rows =
        [row(1, "public", true, &[]), row(2, "ours", false, &["mine"]), row(3, "theirs", false, &["other"])];
    let (params, identity) = (Params::of(params), identity(role));
    let version = if minor { Microversion::MAX } else { Microversion::MIN };
    let wanted = Wanted::of(&params, &identity, version).map_err(|fault| fault.message().to_owned())?;
    let mut kept: Vec<VolumeType> = rows.into_iter().filter(|row| wanted.takes(row, &identity)).collect();
    let sort = Sort::of(&params).map_err(|fault| fault.message().to_owned())?;
    kept.sort_by(|a, b| sort.compare(a, b));
    Ok(kept.into_iter().map(|row| row.name.to_string()).collect())
}

#[test]
fn a_list_holds_what_the_asker_may_use_newest_first() {
    let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let hidden_spec = [("extra_specs", "{'volume_backend_name': 'secret'}")];
    let shown_spec = [("extra_specs", "{'multiattach': '<is> True'}")];
    for (params, role, minor, expected) in [
        (&[][..], Role::Member, true, names(&["ours", "public"])),
        (&[("is_public", "none")], Role::Member, true, names(&["ours", "public"])),
        (&[], Role::Admin, true, names(&["ours", "public"])),
        (&[("is_public", "None")], Role::Admin, true, names(&["theirs", "ours", "public"])),
        (&[("is_public", "false")], Role::Admin, true, names(&["theirs", "ours"])),
        (&[("sort", "name:asc")], Role::Admin, true, names(&["ours", "public"])),
        (
            &[("is_public", "none"), ("sort_key", "created_at"), ("sort_dir", "asc")],
            Role::Admin,
            true,
            names(&["public", "ours", "theirs"]),
        ),
        (&hidden_spec, Role::Admin, true, names(&["ours", "public"])),
        (&hidden_spec, Role::Member, true, names(&[])),
        (&shown_spec, Role::Member, true, names(&["ours", "public"])),
        (&[("extra_specs", "{'multiattach': 'no'}")], Role::Member, true, names(&[])),
        // before 3.52 members could not filter by extra specs, and were not told so
        (&[("extra_specs", "{'multiattach': 'no'}")], Role::Member, false, names(&["ours", "public"])),
        (&[("colour", "red")], Role::Member, false, names(&["ours", "public"])),
        (
            &[("colour", "red")],
            Role::Member,
            true,
            Err("Invalid filters colour are found in query options.".to_owned()),
        ),
        (
            &[("is_public", "perhaps")],
            Role::Admin,
            true,
            Err("Invalid is_public filter [perhaps]".to_owned()),
        ),
        (
            &[("sort", "colour")],
            Role::Admin,
            true,
            Err("Invalid input received: Sort key supplied is invalid.".to_owned()),
        ),
    ] {
        assert_eq!(listed(params, role, minor), expected, "{params:?} as {role:?}");
    }
}

fn refused<T>(result: Result<T, crate::error::Fault>) -> Option<String> {
    result.err().map(|fault| fault.message().to_owned())
}

#[test]
fn a_new_type_is_read_as_strictly_as_cinder_reads_it() {
    let id = VolumeTypeId::from_uuid(Uuid::nil());
    let parse = |fields: Value| parse_create(&json!({ "volume_type": fields }), id);
    let parsed = parse(json!({
        "name": " fast ", "description": null, "extra_specs": { "a b/c": "1" },
        "os-volume-type-access:is_public": "no",
    }));
    assert!(parsed.is_ok_and(|create| *create.name == *"fast"
        && !create.is_public
        && create.extra_specs.get("a b/c").is_some_and(|value| value == "1")));
    for (fields, words) in [
        (json!({}), "'name' is a required property"),
        (json!({ "name": "" }), "too short"),
        (json!({ "name": "   " }), "The 'name' can not be empty."),
        (json!({ "name": "x".repeat(256) }), "too long"),
        (json!({ "name": 7 }), "7 is not of type 'string'"),
        (json!({ "name": "x", "is_public": true }), "'is_public' was unexpected"),
        (json!({ "name": "x", "extra_specs": { "a?": "1" } }), "does not match any of the regexes"),
        (json!({ "name": "x", "extra_specs": [] }), "[] is not of type 'object'"),
        (json!({ "name": "x", "os-volume-type-access:is_public": "maybe" }), "'maybe' is not one of"),
    ] {
        let refusal = refused(parse(fields.clone())).unwrap_or_default();
        assert!(refusal.contains(words), "{fields}: {refusal}");
    }
}

#[test]
fn a_change_of_a_type_names_something_to_change() {
    let id = VolumeTypeId::from_uuid(Uuid::nil());
    let parse = |fields: Value| refused(parse_update(&json!({ "volume_type": fields }), id));
    assert_eq!(parse(json!({ "name": "x" })), None);
    assert_eq!(parse(json!({ "description": "" })), None);
    assert_eq!(parse(json!({ "is_public": false })), None);
    for nothing in [json!({}), json!({ "name": null, "description": null })] {
        assert_eq!(
            parse(nothing).as_deref(),
            Some("Specify volume type name, description, is_public or a combination thereof.")
        );
    }
    assert_eq!(parse(json!({ "name": "  " })).as_deref(), Some("Volume type name can not be empty."));
}
