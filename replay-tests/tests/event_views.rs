//! Every event as `/ledger/v1` and the streams show it. Published fields keep their names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the golden bytes, which use all of it")]
mod golden_samples;

use std::collections::BTreeSet;

use golden_samples::samples;
use serde_json::{Value, json};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{CommandId, OperationId, Position, ProjectId, RequestId, UserId};
use tephra_domain::units::Timestamp;
use tephra_journal::wire::Kind;
use tephra_projector::render::sentence::sentence;
use tephra_projector::render::{EventView, parse_moment, parse_sequence};
use uuid::Uuid;

fn view(event: &Event) -> EventView {
    let commit = Commit {
        command: CommandId::from_uuid(Uuid::from_u128(1)),
        request: RequestId::new("req-1"),
        causation: Some(OperationId::from_uuid(Uuid::from_u128(2))),
        actor: Actor {
            user: UserId::new("mia"),
            project: ProjectId::new("shop"),
            role: Role::Member,
            address: Some("192.0.2.7".into()),
        },
        time: Timestamp(1_790_000_000_000_001),
        idempotency: None,
        events: vec![event.clone()],
    };
    EventView::new(Position(42), 0, &commit, event, None)
}

#[test]
fn every_event_has_its_words() {
    let shown: Vec<Value> = samples()
        .iter()
        .map(|(name, event)| {
            let view = view(event);
            json!({
                "sample": name,
                "kind": view.kind,
                "resource": view.resource,
                "project": view.project,
                "data": view.data,
                "sentence": sentence(event),
            })
        })
        .collect();
    let kinds: BTreeSet<&str> = shown.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, Kind::ALL.iter().map(|kind| kind.name()).collect(), "a kind without a sample");
    insta::assert_json_snapshot!(shown);
}

#[test]
fn an_event_says_when_where_and_who() {
    let (_, event) = samples().into_iter().next().unwrap();
    let shown = serde_json::to_value(view(&event)).unwrap();
    assert_eq!(shown["sequence"], "42.0");
    assert_eq!(shown["position"], 42);
    assert_eq!(shown["time"], "2026-09-21T14:13:20.000001Z");
    assert_eq!(shown["request_id"], "req-1");
    assert_eq!(shown["causation"], "00000000-0000-0000-0000-000000000002");
    assert_eq!(
        shown["actor"],
        json!({ "user": "mia", "project": "shop", "role": "member", "address": "192.0.2.7" })
    );
    assert_eq!(parse_sequence("42.0"), Some((Position(42), 0)));
    assert_eq!(parse_moment("2026-09-21T14:13:20.000001Z"), Some(Timestamp(1_790_000_000_000_001)));
}
