//! `tephra state --at WHEN`: what was there then.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::client::LedgerArgs;
use crate::commands::event_table::{short_moment, text};
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::moment::{PointInHistory, parse_point};
use crate::output::{Cell, Ink, Output, Table, properties};

/// Show what was there at a moment, or after a position.
///
/// All volumes and snapshots as they were, or one volume with everything that is known of it.
/// Replays the journal: the further back, the quicker.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra state --at '2026-03-01 14:03'
  tephra state --at 1200                 # after the commit at position 1200
  tephra state --at '5m ago' --volume 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10
  tephra state --at now --json | jq '.volumes | length'

Times are UTC: `now`, `5m ago`, `2026-03-01 14:03`, or RFC 3339.
Exits with 3 if the volume, or the position, was not there yet.")]
pub struct StateArgs {
    /// When: a moment, or a position in the ledger.
    #[arg(long, value_name = "TIME|POSITION")]
    at: String,

    /// Only this volume.
    #[arg(long, value_name = "ID")]
    volume: Option<uuid::Uuid>,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// What the ledger says; [`Exit::Usage`] for what is neither a moment nor a position.
pub async fn run(args: &StateArgs, output: Output) -> CommandResult {
    let point = parse_point(&args.at, Timestamp::now()).map_err(anyhow::Error::msg).exit(Exit::Usage)?;
    let at = match point {
        PointInHistory::Position(position) => position.to_string(),
        PointInHistory::Moment(moment) => moment.to_string(),
    };
    let ledger = args.ledger.open(output).await?;
    let path = args
        .volume
        .map_or_else(|| "/ledger/v1/state".to_owned(), |volume| format!("/ledger/v1/volumes/{volume}/state"));
    let state = ledger.get(&path, &[("at", at)]).await.map_err(|error| match point {
        // the number was read here, so the server can only mean that the ledger is not there yet
        PointInHistory::Position(_) if error.exit == Exit::Usage => {
            CommandError { exit: Exit::NotFound, ..error }
        }
        PointInHistory::Position(_) | PointInHistory::Moment(_) => error,
    })?;
    if output.is_json() {
        output.document(&state)
    } else if args.volume.is_some() {
        show_volume(&state["volume"], output)
    } else {
        show_all(&state, output)
    }
}

fn show_all(state: &Value, output: Output) -> CommandResult {
    let volumes = state["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let snapshots = state["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (position, counts) = (&state["position"], &state["counts"]);
    let title = format!(
        "after position {position}: {} volumes, {} snapshots",
        counts["volumes"], counts["snapshots"]
    );
    output.line(&output.ink(Ink::Heading, &title))?;
    if !volumes.is_empty() {
        output.line("")?;
        output.table(&volumes_table(volumes))?;
    }
    if !snapshots.is_empty() {
        output.line("")?;
        output.table(&snapshots_table(snapshots))?;
    }
    let shown = |rows: &[Value], count: &Value| count.as_u64() == u64::try_from(rows.len()).ok();
    if !shown(volumes, &counts["volumes"]) || !shown(snapshots, &counts["snapshots"]) {
        output.line(&output.ink(Ink::Dim, "… only the first are shown; ask for one volume with --volume"))?;
    }
    Ok(())
}

fn volumes_table(volumes: &[Value]) -> Table {
    let mut table = Table::new(&["VOLUME", "NAME", "STATUS", "GIB", "PROJECT", "POOL", "CREATED"]);
    for volume in volumes {
        table.row(vec![
            Cell::plain(text(volume, "id")),
            Cell::new(Ink::Accent, text(volume, "name")),
            Cell::status(text(volume, "status")),
            Cell::number(&volume["size_gib"]),
            Cell::plain(text(volume, "project")),
            Cell::plain(text(volume, "pool")),
            Cell::new(Ink::Dim, short_moment(text(volume, "created_at"))),
        ]);
    }
    table
}

fn snapshots_table(snapshots: &[Value]) -> Table {
    let mut table = Table::new(&["SNAPSHOT", "NAME", "STATUS", "GIB", "PROJECT", "OF VOLUME", "CREATED"]);
    for snapshot in snapshots {
        table.row(vec![
            Cell::plain(text(snapshot, "id")),
            Cell::new(Ink::Accent, text(snapshot, "name")),
            Cell::status(text(snapshot, "status")),
            Cell::number(&snapshot["size_gib"]),
            Cell::plain(text(snapshot, "project")),
            Cell::plain(text(snapshot, "volume_id")),
            Cell::new(Ink::Dim, short_moment(text(snapshot, "created_at"))),
        ]);
    }
    table
}

fn show_volume(volume: &Value, output: Output) -> CommandResult {
    let Some(fields) = volume.as_object() else { return output.document(volume) };
    let pairs: Vec<(&str, String)> =
        fields.iter().filter_map(|(key, value)| Some((key.as_str(), shown(key, value, output)?))).collect();
    output.text(&properties(output.paint(), &pairs))
}

fn shown(key: &str, value: &Value, output: Output) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(status) if key == "status" => Some(output.ink(Ink::of_status(status), status)),
        Value::String(text) => Some(crate::output::harmless(text)),
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) if fields.is_empty() => None,
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}
