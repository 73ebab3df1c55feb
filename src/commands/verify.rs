//! `tephra verify`: is the journal what was written, and do the views follow from it?

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tephra_journal::log::{BlockNumber, Log};
use tephra_journal::wire::state::state_hash;
use tephra_projector::as_of::{AsOf, ledger_as_of};

use crate::client::{LedgerArgs, Remote};
use crate::commands::event_table::text;
use crate::failure::{CommandError, CommandResult, Exit};
use crate::files::{
    SoundViews, journal_file, open_journal_to_read, open_sound_views, verify_journal, views_file,
};
use crate::lock::{Acquired, DataDirLock, announced, in_use};
use crate::output::{Ink, Output, properties};

/// Check that nobody edited the journal, and that replaying it gives what the views show.
///
/// Walks every block: its hash, that it follows the one before, that positions have no gaps, and
/// that every event is known and could happen. Where no server runs, the views are compared with a
/// replay too. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra verify
  tephra verify --data-dir /backup/tephra-data && echo intact

Exits with 4 if verification fails, naming the block and the position.")]
pub struct VerifyArgs {
    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Runs it.
///
/// # Errors
/// [`Exit::VerificationFailed`], naming the block and the position.
pub async fn run(args: &VerifyArgs, output: Output) -> CommandResult {
    let report = match &args.ledger.url {
        Some(url) => ask(&Remote::new(url, args.ledger.token.as_deref())?).await?,
        None => verify_directory(&args.ledger, output).await?,
    };
    if output.is_json() {
        output.document(&report)?;
        return check(&report);
    }
    check(&report)?;
    output.line(&output.ink(Ink::Good, &sentence(&report)))?;
    let shown = [
        ("blocks", report["blocks"].to_string()),
        ("last position", report["position"].to_string()),
        ("head hash", text(&report, "hash").to_owned()),
        ("views", text(&report, "views").to_owned()),
    ];
    let shown: Vec<_> = shown.into_iter().filter(|(_, value)| !value.is_empty() && value != "null").collect();
    output.text(&properties(output.paint(), &shown))
}

/// Has a server verify its journal.
///
/// # Errors
/// What the server says.
pub async fn ask(remote: &Remote) -> CommandResult<Value> {
    remote.send_json(reqwest::Method::GET, "/ledger/v1/verify", None).await
}

/// Fails if a report says that something is wrong.
///
/// # Errors
/// [`Exit::VerificationFailed`], saying what.
pub fn check(report: &Value) -> CommandResult {
    match report["intact"].as_bool() {
        Some(true) => Ok(()),
        Some(false) => Err(CommandError::new(
            Exit::VerificationFailed,
            format!("the ledger is not intact: {}", text(report, "reason")),
        )),
        None => Err(CommandError::new(
            Exit::Unreachable,
            format!("nobody knows whether the ledger is intact: {}", text(report, "reason")),
        )),
    }
}

/// An intact journal in a sentence.
pub fn sentence(report: &Value) -> String {
    format!(
        "intact: {} blocks, {} commits, one unbroken chain of hashes",
        report["blocks"], report["position"]
    )
}

async fn verify_directory(ledger: &LedgerArgs, output: Output) -> CommandResult<Value> {
    ledger.require_ledger()?;
    let directory = &ledger.data_dir;
    let _lock = match DataDirLock::try_acquire(directory)? {
        Acquired::Locked(lock) => lock,
        Acquired::HeldBy(pid) => {
            let server = announced(directory).ok_or_else(|| in_use(directory, pid))?;
            return ask(&Remote::new(&server.url, ledger.token.as_deref())?).await;
        }
    };
    let log: Arc<dyn Log> = Arc::new(open_journal_to_read(&journal_file(directory))?);
    let head = verify_journal(&log, output).await?;
    let views = compare_views(log.as_ref(), directory).await?;
    Ok(json!({
        "intact": true,
        "blocks": head.block.0,
        "position": head.position.0,
        "hash": hex::encode(head.hash),
        "time": jiff::Timestamp::from_microsecond(head.time.micros()).ok().map(|time| time.to_string()),
        "views": views,
    }))
}

/// Whether the views are what replaying the journal up to where they stand gives.
async fn compare_views(log: &dyn Log, directory: &std::path::Path) -> CommandResult<&'static str> {
    let path = views_file(directory);
    if !path.is_file() {
        return Ok("none yet; a server makes them");
    }
    let SoundViews { views, ledger } = open_sound_views(&path)?;
    let checkpoint = views.checkpoint();
    if checkpoint.block == BlockNumber::default() {
        return Ok("empty; a server fills them");
    }
    let replayed = ledger_as_of(log, AsOf::Position(checkpoint.position)).await?;
    if state_hash(&replayed) == state_hash(&ledger) {
        return Ok("equal to a replay of the journal");
    }
    Err(CommandError::new(
        Exit::VerificationFailed,
        format!("the views differ from a replay of the journal at position {}", checkpoint.position),
    )
    .hint("the journal is intact; make the views again from it: `tephra rebuild`"))
}
