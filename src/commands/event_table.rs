//! Events as people read them.

use serde_json::Value;

use crate::output::{Cell, Ink, Table};

/// The headings of a list of events.
const HEADINGS: [&str; 6] = ["SEQUENCE", "TIME", "EVENT", "RESOURCE", "BY", "WHAT"];

/// Widths that most events fit in, so that the pages of one list line up.
const WIDTHS: [usize; 6] = [8, 24, 21, 46, 12, 0];

/// How much of what an event says is shown, in characters; `--json` shows all.
const MAX_DETAILS: usize = 120;

/// An empty table of events.
pub fn events_table() -> Table {
    Table::new(&HEADINGS).at_least(&WIDTHS)
}

/// A row for an event.
pub fn event_row(event: &Value) -> Vec<Cell> {
    let name = text(event, "kind");
    vec![
        Cell::new(Ink::Dim, text(event, "sequence")),
        Cell::new(Ink::Dim, short_moment(text(event, "time"))),
        Cell::new(Ink::of_event(name), name),
        Cell::plain(format!("{} {}", text(&event["resource"], "kind"), text(&event["resource"], "id"))),
        Cell::plain(author(&event["actor"])),
        Cell::plain(details(&event["data"])),
    ]
}

/// An empty table of a history.
pub fn history_table() -> Table {
    Table::new(&["SEQUENCE", "TIME", "WHAT HAPPENED", "BY"])
}

/// A row for a line of a history: what happened, in a sentence.
pub fn history_row(line: &Value) -> Vec<Cell> {
    vec![
        Cell::new(Ink::Dim, text(line, "sequence")),
        Cell::new(Ink::Dim, short_moment(text(line, "time"))),
        Cell::new(Ink::of_event(text(line, "kind")), text(line, "what")),
        Cell::plain(author(&line["by"])),
    ]
}

/// A field that is text; nothing where it is not.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A moment of the API to the millisecond.
pub fn short_moment(moment: &str) -> String {
    match moment.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{}Z", fraction.get(..3).unwrap_or(fraction)),
        None => moment.to_owned(),
    }
}

fn author(actor: &Value) -> String {
    match (text(actor, "user"), text(actor, "project")) {
        ("tephra", "tephra") => "tephra".to_owned(),
        (user, project) => format!("{user}:{project}"),
    }
}

/// What an event says, in one line: what is not there and what the other columns say is left out.
fn details(data: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(fields) = data.as_object() {
        for (key, value) in fields {
            if let Some(part) = detail(key, value) {
                parts.push(part);
            }
        }
    }
    let line = parts.join(" ");
    if line.chars().count() > MAX_DETAILS {
        let cut: String = line.chars().take(MAX_DETAILS).collect();
        format!("{cut}…")
    } else {
        line
    }
}

fn detail(key: &str, value: &Value) -> Option<String> {
    match (key, value) {
        ("operation_id" | "project" | "user" | "volume_type_id" | "multiattach" | "parameters", _)
        | (_, Value::Null) => None,
        ("failure" | "reason", Value::Object(_)) => Some(format!("{key}: {}", text(value, "message"))),
        ("placement", Value::Object(_)) => Some(match text(value, "chosen") {
            "" => "no pool fits".to_owned(),
            pool => format!("on {pool}"),
        }),
        ("source", Value::Object(_)) => source(value),
        ("object", Value::Object(_)) => Some(text(value, "name").to_owned()),
        ("size_gib", size) => Some(format!("{size} GiB")),
        ("new_size_gib", size) => Some(format!("to {size} GiB")),
        (_, Value::String(text)) => Some(format!("{key}={text}")),
        (_, Value::Bool(_) | Value::Number(_)) => Some(format!("{key}={value}")),
        (_, Value::Array(items)) if items.is_empty() => None,
        (_, Value::Object(fields)) if fields.is_empty() => None,
        (_, Value::Array(_) | Value::Object(_)) => Some(format!("{key}={value}")),
    }
}

fn source(source: &Value) -> Option<String> {
    match text(source, "kind") {
        "snapshot" => Some(format!("from snapshot {}", text(source, "snapshot_id"))),
        "volume" => Some(format!("from volume {}", text(source, "volume_id"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(data: &Value, expected: &str) {
        assert_eq!(details(data), expected, "{data}");
    }

    #[test]
    fn details_are_what_a_person_wants_to_know() {
        check(&json!({"operation_id": "x", "new_size_gib": 2}), "to 2 GiB");
        check(
            &json!({"failure": {"kind": "no_space", "message": "disk full"}, "restored": true}),
            "failure: disk full restored=true",
        );
        check(
            &json!({"placement": {"chosen": "a#b", "candidates": []}, "metadata": {}, "name": null}),
            "on a#b",
        );
        check(&json!({"source": {"kind": "snapshot", "snapshot_id": "s"}}), "from snapshot s");
        check(&json!({"source": {"kind": "blank"}}), "");
        check(&json!({}), "");
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        let cut = details(&json!({"name": "é".repeat(500)}));
        assert_eq!(cut.chars().count(), MAX_DETAILS + 1);
    }

    #[test]
    fn moments_are_cut_to_the_millisecond() {
        assert_eq!(short_moment("2026-03-01T12:00:00.123456Z"), "2026-03-01T12:00:00.123Z");
        assert_eq!(short_moment("2026-03-01T12:00:00Z"), "2026-03-01T12:00:00Z");
    }
}
