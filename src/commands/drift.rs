//! `tephra drift`: where the ledger and the backends differ, and the removal of what nobody knows.

use clap::Args;
use serde_json::{Value, json};

use crate::client::{LedgerArgs, LedgerClient};
use crate::commands::event_table::text;
use crate::failure::{CommandError, CommandResult, Exit};
use crate::output::{Cell, Ink, Output, Table};

/// Compare the ledger with what the backends show: missing, unknown, wrong size.
///
/// Only looks. What an open operation is just changing is left out; what is owed as a cleanup debt
/// is shown and is no drift. Exits with 9 if there is drift, and with 1 if there is none but a
/// backend could not be looked at.
///
/// What is unknown can be taken over (`cinder manage`, `openstack volume create --remote-source`) or
/// removed with --clean.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra drift
  tephra drift --backend lvm-fast --json | jq '.pools[].findings[] | select(.finding == \"unknown\")'
  tephra drift --clean old-data --pool lvm-fast#vg0")]
pub struct DriftArgs {
    /// Only this backend's pools.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Only this pool.
    #[arg(long, value_name = "BACKEND#POOL")]
    pool: Option<String>,

    /// Have this unknown object removed. It is claimed first and then owed until it is gone; what
    /// somebody uses is left alone. Needs a running server and an administrator.
    #[arg(long, value_name = "NAME", conflicts_with = "backend")]
    clean: Option<String>,

    /// With --clean: what the object is a snapshot of, if several have its name.
    #[arg(long, value_name = "NAME", requires = "clean")]
    snapshot_of: Option<String>,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// [`Exit::Drift`] if there is any, and what the ledger says.
pub async fn run(args: &DriftArgs, output: Output) -> CommandResult {
    let ledger = args.ledger.open(output).await?;
    if !ledger.is_remote() {
        let message = "no server runs on this ledger, so no backend can be looked at";
        return Err(CommandError::new(Exit::Unreachable, message).hint("start it with `tephra serve`"));
    }
    match &args.clean {
        Some(name) => clean(args, name, &ledger, output).await,
        None => compare(args, &ledger, output).await,
    }
}

async fn clean(args: &DriftArgs, name: &str, ledger: &LedgerClient, output: Output) -> CommandResult {
    let mut body = json!({ "name": name });
    for (key, value) in [("pool", &args.pool), ("snapshot_of", &args.snapshot_of)] {
        if let (Some(value), Some(fields)) = (value, body.as_object_mut()) {
            fields.insert(key.to_owned(), value.as_str().into());
        }
    }
    let answer = ledger.post("/ledger/v1/drift/cleanup", &body).await?;
    if output.is_json() {
        return output.document(&answer);
    }
    let operation = text(&answer, "operation_id");
    output.line(&format!("{name} is being removed by operation {operation}"))
}

async fn compare(args: &DriftArgs, ledger: &LedgerClient, output: Output) -> CommandResult {
    let named = [("backend", &args.backend), ("pool", &args.pool)];
    let query: Vec<(&str, String)> =
        named.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
    let report = ledger.get("/ledger/v1/drift", &query).await?;
    if output.is_json() {
        output.document(&report)?;
    } else {
        show(&report, output)?;
    }
    match (report["drift"].as_u64(), report["unseen"].as_u64()) {
        (Some(0), Some(0)) => Ok(()),
        (Some(0), unseen) => {
            let count = unseen.unwrap_or_default();
            Err(CommandError::new(Exit::Error, format!("{count} pools could not be looked at")))
        }
        (drift, _) => {
            let count = drift.unwrap_or_default();
            Err(CommandError::new(Exit::Drift, format!("ledger and backends differ in {count} objects")))
        }
    }
}

fn show(report: &Value, output: Output) -> CommandResult {
    let pools = report["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
    if pools.is_empty() {
        return output.line("no backend has presented itself yet");
    }
    for pool in pools.iter().filter(|pool| text(pool, "state") != "compared") {
        let why = text(&pool["failure"], "message");
        output.line(&format!("{} could not be looked at: {why}", text(pool, "pool")))?;
    }
    if pools.iter().all(|pool| pool["findings"].as_array().is_none_or(Vec::is_empty)) {
        return output.line("no drift: what could be looked at is as the ledger says");
    }
    output.table(&table(pools))
}

fn table(pools: &[Value]) -> Table {
    let mut table = Table::new(&["POOL", "FINDING", "NAME", "LEDGER", "BACKEND", "NOTE"]);
    for pool in pools {
        for finding in pool["findings"].as_array().into_iter().flatten() {
            let kind = text(finding, "finding");
            let size = finding["size_gib"].as_u64().map(|gib| format!("{gib} GiB")).unwrap_or_default();
            let bytes = finding["bytes"].as_u64().map(|bytes| format!("{bytes} bytes")).unwrap_or_default();
            let ink = if kind == "owed" { Ink::Caution } else { Ink::Bad };
            table.row(vec![
                Cell::plain(text(pool, "pool")),
                Cell::new(ink, kind),
                Cell::plain(text(finding, "name")),
                Cell::plain(size),
                Cell::plain(bytes),
                Cell::plain(note(finding)),
            ]);
        }
    }
    table
}

fn note(finding: &Value) -> String {
    let mut notes = Vec::new();
    if let Some(of) = finding["snapshot_of"].as_str() {
        notes.push(format!("snapshot of {of}"));
    }
    if finding["in_use"].as_bool() == Some(true) {
        notes.push("in use".to_owned());
    }
    if let Some(debt) = finding["debt_id"].as_str() {
        let held = if finding["held"].as_bool() == Some(true) { ", held" } else { "" };
        notes.push(format!("debt {debt}{held}"));
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{ColorChoice, Paint};

    #[test]
    fn each_finding_is_a_row_with_both_sides_of_the_story() {
        let pools = [json!({ "pool": "b#p", "state": "compared", "findings": [
            { "finding": "missing", "name": "volume-a", "size_gib": 3 },
            { "finding": "unknown", "name": "stray", "bytes": 5, "in_use": true, "snapshot_of": "vol" },
            { "finding": "owed", "name": "safety-a", "debt_id": "x.0", "held": true },
        ] })];
        let text = table(&pools).render(Paint::new(ColorChoice::Never, false), false);
        for words in [
            vec!["b#p", "missing", "volume-a", "3", "GiB"],
            vec!["b#p", "unknown", "stray", "5", "bytes", "snapshot", "of", "vol,", "in", "use"],
            vec!["b#p", "owed", "safety-a", "debt", "x.0,", "held"],
        ] {
            let found = text.lines().any(|line| line.split_whitespace().eq(words.iter().copied()));
            assert!(found, "{words:?} in\n{text}");
        }
    }
}
