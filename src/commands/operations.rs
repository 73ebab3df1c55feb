//! `tephra operations`: work that takes time, and where it stands.

use clap::Args;
use serde_json::Value;

use crate::client::LedgerArgs;
use crate::commands::event_table::{short_moment, text};
use crate::failure::CommandResult;
use crate::output::{Cell, Ink, Output, Table, properties};

/// Show operations: the work behind every transitional status, with its steps.
///
/// Without an id: those that are open, the newest first. A volume that is `creating` or `reverting`
/// has exactly one of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra operations                      # what is under way
  tephra operations --all -n 20          # ended ones too
  tephra operations 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10")]
pub struct OperationsArgs {
    /// One operation, with its steps.
    #[arg(value_name = "ID")]
    id: Option<uuid::Uuid>,

    /// Ended operations too.
    #[arg(long)]
    all: bool,

    /// Only this project's.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,

    /// Operations at most.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    limit: u32,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// What the ledger says.
pub async fn run(args: &OperationsArgs, output: Output) -> CommandResult {
    let ledger = args.ledger.open(output).await?;
    if let Some(id) = args.id {
        let operation = ledger.get(&format!("/ledger/v1/operations/{id}"), &[]).await?;
        let operation = operation.get("operation").filter(|inner| inner.is_object()).unwrap_or(&operation);
        return if output.is_json() { output.document(operation) } else { show(operation, output) };
    }
    let mut query = vec![("limit", args.limit.to_string())];
    if !args.all {
        query.push(("status", "open".to_owned()));
    }
    if let Some(project) = &args.project {
        query.push(("project", project.clone()));
    }
    let answer = ledger.get("/ledger/v1/operations", &query).await?;
    if output.is_json() {
        return output.document(&answer);
    }
    let operations = answer["operations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if operations.is_empty() {
        return output.line(if args.all {
            "no operations"
        } else {
            "no open operations: nothing is under way"
        });
    }
    output.table(&table(operations))
}

fn table(operations: &[Value]) -> Table {
    let mut table = Table::new(&["ID", "OPERATION", "STATUS", "STEPS", "RESOURCE", "SINCE", "FAILURE"]);
    for operation in operations {
        let steps = operation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let done = steps.iter().filter(|step| text(step, "outcome") == "completed").count();
        table.row(vec![
            Cell::plain(text(operation, "id")),
            Cell::plain(text(operation, "operation")),
            Cell::status(text(operation, "status")),
            Cell::plain(format!("{done}/{}{}", steps.len(), percent(operation))),
            Cell::plain(resource(operation)),
            Cell::new(Ink::Dim, short_moment(text(operation, "opened_at"))),
            Cell::new(Ink::Bad, text(&operation["failure"], "message")),
        ]);
    }
    table
}

/// How far the step at hand has come, where its executor says so.
fn percent(operation: &Value) -> String {
    let percent = operation["progress"]["percent"].as_u64();
    percent.map(|percent| format!(" {percent} %")).unwrap_or_default()
}

/// The same in full.
fn progress(operation: &Value) -> String {
    let said = &operation["progress"];
    match (said["percent"].as_u64(), said["done_bytes"].as_u64(), said["total_bytes"].as_u64()) {
        (Some(percent), Some(done), Some(total)) => {
            format!("{percent} %, {} of {} GiB", done >> 30, total >> 30)
        }
        _ => String::new(),
    }
}

fn resource(operation: &Value) -> String {
    let first = &operation["resources"][0];
    match (text(first, "kind"), text(first, "id")) {
        ("", "") => String::new(),
        (kind, id) => format!("{kind} {id}"),
    }
}

fn show(operation: &Value, output: Output) -> CommandResult {
    let mut pairs = vec![
        ("operation", text(operation, "operation").to_owned()),
        ("id", text(operation, "id").to_owned()),
        ("status", output.ink(Ink::of_status(text(operation, "status")), text(operation, "status"))),
        ("project", text(operation, "project").to_owned()),
        ("resource", resource(operation)),
        ("opened at", short_moment(text(operation, "opened_at"))),
        ("closed at", short_moment(text(operation, "closed_at"))),
        ("waits for", text(operation, "waits_for").to_owned()),
        ("progress", progress(operation)),
        ("failure", text(&operation["failure"], "message").to_owned()),
    ];
    pairs.retain(|(_, value)| !value.is_empty());
    output.text(&properties(output.paint(), &pairs))?;
    let steps = operation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    if steps.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["STEP", "NAME", "OUTCOME", "FAILED ATTEMPTS", "FAILURE"]);
    for (index, step) in steps.iter().enumerate() {
        let outcome = text(step, "outcome");
        let ink = match outcome {
            "completed" => Ink::Good,
            "failed" | "undo_waived" | "waived" => Ink::Bad,
            "undone" | "undoing" | "running" => Ink::Caution,
            _ => Ink::Dim,
        };
        table.row(vec![
            Cell::number(index),
            Cell::plain(text(step, "name")),
            Cell::new(ink, outcome),
            Cell::number(step["failed_attempts"].as_u64().unwrap_or_default()),
            Cell::plain(text(&step["failure"], "message")),
        ]);
    }
    output.line("")?;
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::{ColorChoice, Paint};

    #[test]
    fn the_list_counts_the_steps_that_are_done() {
        let operation = json!({
            "id": "x", "operation": "volume_revert", "status": "open", "opened_at": "2026-03-01T12:00:00.000000Z",
            "resources": [{ "kind": "volume", "id": "v" }],
            "steps": [{ "outcome": "completed" }, { "outcome": "running" }, { "outcome": "not_started" }],
        });
        let text = table(&[operation]).render(Paint::new(ColorChoice::Never, false), false);
        assert_eq!(text, "x   volume_revert  open    1/3    volume v  2026-03-01T12:00:00.000Z\n");
    }

    #[test]
    fn how_far_a_copy_is_shows_while_somebody_says_so() {
        let said = json!({ "done_bytes": 1_u64 << 30, "total_bytes": 3_u64 << 30, "percent": 33 });
        let operation = json!({ "id": "x", "steps": [{ "outcome": "pending" }], "progress": said });
        let text =
            table(std::slice::from_ref(&operation)).render(Paint::new(ColorChoice::Never, false), false);
        assert!(text.contains("0/1 33 %"), "{text}");
        assert_eq!(progress(&operation), "33 %, 1 of 3 GiB");
        assert_eq!((percent(&json!({})), progress(&json!({}))), (String::new(), String::new()));
    }
}
