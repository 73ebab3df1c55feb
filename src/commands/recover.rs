//! `tephra recover VOLUME`: puts the data back that a failed revert left in its safety snapshot.

use clap::Args;
use serde_json::json;

use crate::client::LedgerArgs;
use crate::commands::event_table::text;
use crate::failure::CommandResult;
use crate::output::Output;

/// Put a volume's data back from the safety snapshot that a failed revert left.
///
/// A revert takes a safety snapshot first and restores it on failure. Where even that failed, the
/// volume is in `error` and the safety snapshot is held (see `tephra debts`). Once the backend
/// works again, this restores it. Needs a running server and an administrator.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra debts                                              # what is held, and why
  tephra recover 6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10

Exits with 3 if there is no such volume, with 8 if it has nothing to be recovered from.")]
pub struct RecoverArgs {
    /// The volume's id.
    #[arg(value_name = "VOLUME")]
    volume: uuid::Uuid,

    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// What the server says.
pub async fn run(args: &RecoverArgs, output: Output) -> CommandResult {
    let ledger = args.ledger.open(output).await?;
    let volume = args.volume;
    let answer = ledger.post(&format!("/ledger/v1/volumes/{volume}/recover"), &json!({})).await?;
    if output.is_json() {
        return output.document(&answer);
    }
    let follow = match text(&answer, "operation_id") {
        "" => format!("tephra history {volume}"),
        operation => format!("tephra operations {operation}"),
    };
    output.line(&format!("the recovery of volume {volume} has begun; see how it goes: {follow}"))
}
