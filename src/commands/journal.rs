//! `tephra journal copy`: moves a ledger between a file of one machine and NATS.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::hash_chain::ChainHead;
use tephra_journal::jetstream::{JetStreamLog, connect};
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, NumberedBytes};

use crate::config::Config;
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::files::{journal_error, journal_file, open_journal_to_read};
use crate::lock::DataDirLock;
use crate::output::{Ink, Output};

/// Blocks that are read at once.
const READ_BLOCKS: usize = 256;

/// How often an append that gets no answer is tried.
const APPEND_ATTEMPTS: u32 = 20;

/// Work on the journal as a whole.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    Copy(CopyArgs),
}

/// Copy a journal, block by block and byte for byte, so that its hash chain stays what it is.
///
/// Every block is verified where it is read and again where it was written. The target must be
/// empty or the beginning of the same journal: so a copy that was interrupted goes on where it
/// stopped, and one that was made before is brought up to date. Stop the servers of both first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra journal copy --from embedded:/srv/tephra --to nats://127.0.0.1:4222
  tephra journal copy --from tls://n1:4222,tls://n2:4222 --to embedded:/srv/tephra --config tephra.toml

Exits with 4 if a journal is damaged, or if the target is another journal than the source.")]
pub struct CopyArgs {
    /// `embedded:DIR` (a data directory) or `nats://HOST:PORT[,…]`.
    #[arg(long, value_name = "JOURNAL")]
    from: Place,

    /// The same; what is missing there is made.
    #[arg(long, value_name = "JOURNAL")]
    to: Place,

    /// A configuration whose `[nats]` says how NATS is reached; its servers give way to those named.
    #[arg(long, env = "TEPHRA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Write to NATS servers that may lose what they acknowledged.
    #[arg(long)]
    allow_unsynced: bool,
}

/// Where a journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Embedded(PathBuf),
    Nats(Vec<String>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(directory) = text.strip_prefix("embedded:").filter(|directory| !directory.is_empty()) {
            return Ok(Self::Embedded(directory.into()));
        }
        let is_address = |text: &str| text.starts_with("nats://") || text.starts_with("tls://");
        let servers = if is_address(text) { text } else { text.strip_prefix("nats:").unwrap_or_default() };
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        if servers.iter().all(|server| is_address(server)) {
            Ok(Self::Nats(servers))
        } else {
            Err("a journal is embedded:DIR or nats://HOST:PORT".to_owned())
        }
    }
}

/// An open journal, with what keeps others away from it.
struct Journal {
    log: Arc<dyn Log>,
    _lock: Option<DataDirLock>,
}

/// Runs one of them.
///
/// # Errors
/// What is wrong with a journal, or between the two.
pub async fn run(command: &JournalCommand, output: Output) -> CommandResult {
    let JournalCommand::Copy(args) = command;
    if args.from == args.to {
        return Err(CommandError::new(Exit::Usage, "--from and --to are the same journal"));
    }
    let source = open_source(args).await?;
    let target = open_target(args).await?;
    let (source, target) = (source.log.as_ref(), target.log.as_ref());
    let before = common_beginning(source, target, output).await?;
    let after = copy(source, target, before, output).await?;
    let copied = after.block.0.saturating_sub(before.block.0);
    if output.is_json() {
        return output.document(&json!({
            "copied_blocks": copied,
            "blocks": after.block.0,
            "position": after.position.0,
            "hash": hex::encode(after.hash),
        }));
    }
    let sentence = format!(
        "{copied} blocks copied and verified: {} blocks, {} commits, head hash {}",
        after.block.0,
        after.position,
        hex::encode(after.hash)
    );
    output.line(&output.ink(Ink::Good, &sentence))
}

async fn open_source(args: &CopyArgs) -> CommandResult<Journal> {
    match &args.from {
        Place::Embedded(directory) => {
            let file = journal_file(directory);
            if !file.is_file() {
                let message = format!("there is no ledger in {}", directory.display());
                return Err(CommandError::new(Exit::NotFound, message));
            }
            let lock = DataDirLock::acquire(directory)?;
            Ok(Journal { log: Arc::new(open_journal_to_read(&file)?), _lock: Some(lock) })
        }
        Place::Nats(servers) => open_nats(args, servers, false).await,
    }
}

async fn open_target(args: &CopyArgs) -> CommandResult<Journal> {
    match &args.to {
        Place::Embedded(directory) => {
            crate::serve::make_data_dir(directory)?;
            let lock = DataDirLock::acquire(directory)?;
            let log = EmbeddedLog::open(&journal_file(directory)).map_err(journal_error)?;
            Ok(Journal { log: Arc::new(log), _lock: Some(lock) })
        }
        Place::Nats(servers) => open_nats(args, servers, true).await,
    }
}

async fn open_nats(args: &CopyArgs, servers: &[String], to_append: bool) -> CommandResult<Journal> {
    let mut section = Config::load(args.config.as_deref())?.nats;
    section.servers = servers.to_vec();
    section.allow_unsynced |= args.allow_unsynced;
    let nats = section.adapter()?;
    let client = connect(&nats, "tephra journal copy").await?;
    let opened = if to_append {
        JetStreamLog::open(&client, &nats).await
    } else {
        JetStreamLog::open_to_read(&client, &nats).await
    };
    Ok(Journal { log: Arc::new(opened.exit(Exit::Usage)?), _lock: None })
}

/// What a journal has, not what this process has just written.
async fn read(log: &dyn Log, after: ChainHead) -> CommandResult<Vec<NumberedBytes>> {
    let next = BlockNumber(after.block.0.saturating_add(1));
    log.read_stored(next, READ_BLOCKS).await.map_err(journal_error)
}

/// Goes through all of the target, block by block beside the source.
async fn common_beginning(source: &dyn Log, target: &dyn Log, output: Output) -> CommandResult<ChainHead> {
    let end = target.head().await.map_err(journal_error)?;
    let bar = output.progress("comparing what is there", end.0);
    let mut head = ChainHead::default();
    while head.block < end {
        let theirs = read(target, head).await?;
        if theirs.is_empty() {
            break;
        }
        let mut ours = Vec::new();
        let mut beside = head;
        while ours.len() < theirs.len() {
            let more = read(source, beside).await?;
            if more.is_empty() {
                break;
            }
            for (number, bytes) in more {
                beside.follow(number, &bytes).map_err(journal_error)?;
                ours.push((number, bytes));
            }
        }
        for (index, (number, bytes)) in theirs.iter().enumerate() {
            match ours.get(index) {
                Some((_, same)) if same == bytes => {
                    head.follow(*number, bytes).map_err(journal_error)?;
                }
                Some(_) => return Err(differs(*number, "another block")),
                None => return Err(differs(*number, "a block more")),
            }
        }
        bar.set_position(head.block.0);
    }
    bar.finish_and_clear();
    Ok(head)
}

fn differs(number: BlockNumber, what: &str) -> CommandError {
    let message = format!("the target is not a beginning of the source: at {} it has {what}", number.0);
    CommandError::new(Exit::VerificationFailed, message)
        .hint("nothing was changed; copy to an empty journal, or the other way round")
}

/// Appends what the target lacks, and reads it back.
async fn copy(
    source: &dyn Log,
    target: &dyn Log,
    before: ChainHead,
    output: Output,
) -> CommandResult<ChainHead> {
    let end = source.head().await.map_err(journal_error)?;
    let bar = output.progress("copying the journal", end.0);
    let (mut written, mut verified) = (before, before);
    while written.block < end {
        let blocks = read(source, written).await?;
        if blocks.is_empty() {
            break;
        }
        for (number, bytes) in blocks {
            let expected = written.block;
            written.follow(number, &bytes).map_err(journal_error)?;
            append(target, expected, bytes).await?;
            bar.set_position(number.0);
        }
        while verified.block < written.block {
            for (number, bytes) in read(target, verified).await? {
                verified.follow(number, &bytes).map_err(journal_error)?;
            }
        }
        if verified != written {
            return Err(differs(verified.block, "what somebody else wrote"));
        }
    }
    bar.finish_and_clear();
    Ok(written)
}

/// Appends one block, and knows at the end that it is there.
async fn append(target: &dyn Log, expected: BlockNumber, bytes: Arc<[u8]>) -> CommandResult {
    let next = BlockNumber(expected.0.saturating_add(1));
    let mut reason = String::new();
    for _ in 0..APPEND_ATTEMPTS {
        match target.append(expected, Arc::clone(&bytes)).await {
            AppendOutcome::Appended(number) if number == next => return Ok(()),
            AppendOutcome::Appended(number) => return Err(differs(number, "a gap")),
            AppendOutcome::Conflict { .. } => {}
            AppendOutcome::Unknown { reason: why } => reason = why,
        }
        // Whether it is there says the target itself.
        match target.stored(next).await.map_err(journal_error)? {
            Some(found) if found == bytes => return Ok(()),
            Some(_) => return Err(differs(next, "what somebody else wrote")),
            None => {}
        }
    }
    Err(anyhow::Error::msg(reason)).context(format!("block {} cannot be written", next.0)).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_a_directory_or_servers() {
        let nats = |servers: &[&str]| Place::Nats(servers.iter().map(|&server| server.to_owned()).collect());
        for (text, expected) in [
            ("embedded:/srv/tephra", Ok(Place::Embedded("/srv/tephra".into()))),
            ("nats://a:1,tls://b:2", Ok(nats(&["nats://a:1", "tls://b:2"]))),
            ("nats:nats://a:1", Ok(nats(&["nats://a:1"]))),
            ("embedded:", Err(())),
            ("/srv/tephra", Err(())),
            ("nats:a:1", Err(())),
        ] {
            assert_eq!(text.parse::<Place>().map_err(drop), expected, "{text}");
        }
    }
}
