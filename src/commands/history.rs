//! `tephra history ID`: everything that ever happened to one thing.

use clap::Args;
use serde_json::{Value, json};

use crate::client::{LedgerArgs, LedgerClient};
use crate::commands::event_table::{history_row, history_table, text};
use crate::failure::{CommandError, CommandResult, Exit};
use crate::output::{Ink, Output};

/// What an id may be the id of, in the order in which it is looked up.
const KINDS: [&str; 6] = ["volume", "snapshot", "operation", "type", "debt", "backend"];

/// Everything that ever happened to one thing, from its creation on, also if it is deleted.
///
/// ID is that of a volume, a snapshot, an operation, a volume type or a cleanup debt, or the name
/// of a backend; it is looked up among them in this order. `KIND:ID` says which.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra history 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10
  tephra history backend:directory
  tephra history 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10 --json | jq -r '.timeline[].what'

Exits with 3 if nothing of that id was ever there.")]
pub struct HistoryArgs {
    /// What to look up.
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// [`Exit::NotFound`] if nothing of that id was ever there, and what the ledger says.
pub async fn run(args: &HistoryArgs, output: Output) -> CommandResult {
    let ledger = args.ledger.open(output).await?;
    let (resource, timeline) = find(&ledger, &args.id).await?;
    if output.is_json() {
        return output.document(&json!({ "resource": resource, "timeline": timeline }));
    }
    let title = format!("{} {}", text(&resource, "kind"), text(&resource, "id"));
    output.line(&output.ink(Ink::Heading, &title))?;
    let mut table = history_table();
    for line in &timeline {
        table.row(history_row(line));
    }
    output.table(&table)
}

/// The first resource that has the id, and its history.
async fn find(ledger: &LedgerClient, text: &str) -> CommandResult<(Value, Vec<Value>)> {
    for (kind, id) in candidates(text) {
        match history(ledger, kind, id).await {
            Ok(found) => return Ok(found),
            Err(error) if error.exit == Exit::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::new(Exit::NotFound, format!("nothing in the ledger has the id {text}")))
}

fn candidates(text: &str) -> Vec<(&str, &str)> {
    match text.split_once(':') {
        Some((kind, id)) if KINDS.contains(&kind) => vec![(kind, id)],
        Some(_) | None => KINDS.iter().filter(|kind| can_be(kind, text)).map(|kind| (*kind, text)).collect(),
    }
}

/// Whether the text has the form of an id of this kind at all.
fn can_be(kind: &str, text: &str) -> bool {
    let is_uuid = uuid::Uuid::try_parse(text).is_ok();
    match kind {
        "debt" => text.split_once('.').is_some_and(|(operation, _)| uuid::Uuid::try_parse(operation).is_ok()),
        "backend" => !is_uuid,
        _ => is_uuid,
    }
}

/// The whole history of a resource, page after page.
async fn history(ledger: &LedgerClient, kind: &str, id: &str) -> CommandResult<(Value, Vec<Value>)> {
    let path = format!("/ledger/v1/history/{kind}/{}", escape(id));
    let mut timeline = Vec::new();
    let mut query = Vec::new();
    loop {
        let page = ledger.get(&path, &query).await?;
        timeline.extend(page["timeline"].as_array().cloned().unwrap_or_default());
        match page["next"].as_u64() {
            Some(next) => query = vec![("after", next.to_string())],
            None => return Ok((page["resource"].clone(), timeline)),
        }
    }
}

/// An id as one segment of a path: ids of backends are names.
fn escape(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10";

    #[test]
    fn names_stay_one_segment_of_a_path() {
        assert_eq!(escape("a/b?c"), "a%2Fb%3Fc");
        assert_eq!(escape(ID), ID);
    }

    #[test]
    fn an_id_is_looked_up_among_the_kinds_that_it_can_be_of() {
        let kinds =
            |text: &'static str| candidates(text).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(ID), ["volume", "snapshot", "operation", "type"]);
        assert_eq!(kinds("directory"), ["backend"]);
        let (debt, named) = (format!("{ID}.0"), format!("snapshot:{ID}"));
        assert_eq!(candidates(&debt).first(), Some(&("debt", debt.as_str())));
        assert_eq!(candidates(&named), [("snapshot", ID)]);
    }
}
