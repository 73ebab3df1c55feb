//! `tephra debts`: what operations left behind on backends, and what becomes of it.

use clap::Args;
use serde_json::{Value, json};

use crate::client::LedgerArgs;
use crate::commands::event_table::{short_moment, text};
use crate::failure::CommandResult;
use crate::output::{Cell, Ink, Output, Table};

/// Show cleanup debts: objects on backends that should not be there and could not be removed yet.
///
/// They are retried until they are gone. A held one is kept on purpose, because it may be the only
/// copy of somebody's data: `tephra recover VOLUME` puts it back, `--release` has it removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra debts
  tephra debts --json | jq '.debts[] | select(.held)'
  tephra debts --release 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10.0")]
pub struct DebtsArgs {
    /// Have this debt paid now: a held one is given up and its object removed; another is tried
    /// again at once. Needs a running server and an administrator.
    #[arg(long, value_name = "ID")]
    release: Option<String>,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// What the ledger says.
pub async fn run(args: &DebtsArgs, output: Output) -> CommandResult {
    let ledger = args.ledger.open(output).await?;
    if let Some(id) = &args.release {
        let answer = ledger.post(&format!("/ledger/v1/debts/{id}/release"), &json!({})).await?;
        return if output.is_json() {
            output.document(&answer)
        } else {
            output.line(&format!("debt {id} is released; its object is being removed"))
        };
    }
    let answer = ledger.get("/ledger/v1/debts", &[]).await?;
    if output.is_json() {
        return output.document(&answer);
    }
    let debts = answer["debts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if debts.is_empty() {
        return output.line("no debts: nothing is left behind on any backend");
    }
    output.table(&table(debts))
}

fn table(debts: &[Value]) -> Table {
    let mut table = Table::new(&["ID", "OBJECT", "POOL", "STATE", "ATTEMPT", "SINCE", "WHY"]);
    for debt in debts {
        let held = debt["held"].as_bool() == Some(true);
        table.row(vec![
            Cell::plain(text(debt, "id")),
            Cell::plain(text(&debt["object"], "name")),
            Cell::plain(text(debt, "pool")),
            if held { Cell::status("held") } else { Cell::plain("retried") },
            Cell::number(&debt["attempt"]),
            Cell::new(Ink::Dim, short_moment(text(debt, "incurred_at"))),
            Cell::plain(text(&debt["reason"], "message")),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{ColorChoice, Paint};

    #[test]
    fn a_held_debt_is_told_from_one_that_is_retried() {
        let debt = |held| {
            json!({ "id": "a.0", "object": { "name": "safety-a" }, "pool": "b#b", "held": held, "attempt": 2,
                "incurred_at": "2026-03-01T12:00:00.000000Z", "reason": { "kind": "backend_error", "message": "no" } })
        };
        let text = table(&[debt(true), debt(false)]).render(Paint::new(ColorChoice::Never, false), false);
        let states: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        assert_eq!(states, ["held", "retried"]);
    }
}
