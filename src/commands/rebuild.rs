//! `tephra rebuild`: makes the views again from the journal.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tephra_journal::log::Log;

use crate::config::DEFAULT_DATA_DIR;
use crate::failure::{CommandError, CommandResult, Exit};
use crate::files::{journal_file, open_journal_to_read, rebuild_views, verify_journal, views_file};
use crate::lock::DataDirLock;
use crate::output::{Ink, Output};

/// Make the views again from the journal.
///
/// Views only speed reading up: everything in them follows from the journal. The journal is
/// verified first and not changed. The server must not be running.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra rebuild
  tephra rebuild --data-dir /srv/tephra

Exits with 6 while a server runs on the data directory, with 4 if the journal is damaged.")]
pub struct RebuildArgs {
    /// The data directory.
    #[arg(long, env = "TEPHRA_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

/// Runs it.
///
/// # Errors
/// What is wrong with the journal, or with the file.
pub async fn run(args: &RebuildArgs, output: Output) -> CommandResult {
    let journal = journal_file(&args.data_dir);
    if !journal.is_file() {
        let message = format!("there is no ledger in {}", args.data_dir.display());
        return Err(CommandError::new(Exit::NotFound, message));
    }
    let _lock = DataDirLock::acquire(&args.data_dir)?;
    let log: Arc<dyn Log> = Arc::new(open_journal_to_read(&journal)?);
    let head = verify_journal(&log, output).await?;
    let checkpoint = rebuild_views(&log, &views_file(&args.data_dir), output).await?;
    if output.is_json() {
        return output.document(&json!({
            "blocks": checkpoint.block.0,
            "position": checkpoint.position.0,
            "hash": hex::encode(head.hash),
        }));
    }
    let sentence =
        format!("the views are made again: {} blocks, {} commits", checkpoint.block.0, checkpoint.position);
    output.line(&output.ink(Ink::Good, &sentence))
}
