//! `tephra events`: looks after the public events on NATS.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::Client;
use clap::{Args, Subcommand};
use serde_json::json;
use tephra_journal::event_stream::{EventStream, EventStreamError, StreamEnd};
use tephra_journal::jetstream::{JetStreamEvents, JetStreamLog, NatsConfig, connect};
use tephra_journal::log::{BlockNumber, Log};
use tephra_projector::reactors::public_events::PublicEvents;

use crate::config::Config;
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::files::journal_error;
use crate::output::{Ink, Output, properties};

/// Look after the public events: every event of the ledger, on a stream for other programs.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    Status(StatusArgs),
    Consumer(ConsumerArgs),
    Rebuild(RebuildArgs),
}

/// Where the ledger is.
#[derive(Debug, Args)]
struct Place {
    /// NATS servers that carry the journal; they go before those of the configuration.
    #[arg(long, env = "TEPHRA_NATS", value_name = "URL", value_delimiter = ',')]
    nats: Option<Vec<String>>,

    /// A configuration whose `[nats]` says how NATS is reached, and as whom.
    #[arg(long, env = "TEPHRA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Say how far the events are published.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra events status --nats nats://127.0.0.1:4222

Exits with 4 if the stream must be made anew, and says why.")]
pub struct StatusArgs {
    #[command(flatten)]
    place: Place,
}

/// Make a durable consumer: it remembers how far its reader has come.
///
/// Who reads needs no permission but to ask this consumer for events and to acknowledge them
/// (docs/public-events.md). One that is there already stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra events consumer billing
  tephra events consumer shop-inventory --project shop
  tephra events consumer billing --after 4711        # made again, after the event that it had last")]
pub struct ConsumerArgs {
    /// What it is called: letters, digits, `-` and `_`.
    name: String,

    /// Only what is this project's.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,

    /// Begin after this event (its `sequence`).
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,

    #[command(flatten)]
    place: Place,
}

/// Delete the stream and publish all events again, the same ones under the same numbers.
///
/// Events follow from the ledger, so nothing is lost, but consumers go with the stream: make them
/// again with `tephra events consumer NAME --after NUMBER`. A server that publishes may go on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra events rebuild --config /etc/tephra/operator.toml")]
pub struct RebuildArgs {
    #[command(flatten)]
    place: Place,
}

/// Runs one of them.
///
/// # Errors
/// What is wrong with the stream, or what NATS does not let us do.
pub async fn run(command: &EventsCommand, output: Output) -> CommandResult {
    match command {
        EventsCommand::Status(args) => status(&Connection::open(&args.place).await?, output).await,
        EventsCommand::Consumer(args) => consumer(args, output).await,
        EventsCommand::Rebuild(args) => rebuild(&Connection::open(&args.place).await?, output).await,
    }
}

struct Connection {
    client: Client,
    nats: NatsConfig,
    stream: JetStreamEvents,
}

impl Connection {
    async fn open(place: &Place) -> CommandResult<Self> {
        let mut section = Config::load(place.config.as_deref())?.nats;
        if let Some(servers) = &place.nats {
            section.servers.clone_from(servers);
        }
        if !section.is_used() {
            let error = CommandError::new(Exit::Usage, "public events are on NATS, and no server is named");
            return Err(error.hint("name servers with --nats, or a configuration with --config"));
        }
        let nats = section.adapter()?;
        let client = connect(&nats, "tephra events").await.exit(Exit::Unreachable)?;
        let stream = JetStreamEvents::new(&client, &nats);
        Ok(Self { client, nats, stream })
    }

    async fn log(&self) -> CommandResult<Arc<dyn Log>> {
        let log = JetStreamLog::open_to_read(&self.client, &self.nats).await.exit(Exit::Usage)?;
        Ok(Arc::new(log))
    }

    async fn look(&self) -> CommandResult<Option<StreamEnd>> {
        self.stream.look().await.map_err(|error| match error {
            EventStreamError::Refused(refused) => CommandError::new(Exit::VerificationFailed, refused),
            EventStreamError::Unsure(reason) => CommandError::new(Exit::Unreachable, reason),
        })
    }
}

async fn status(connection: &Connection, output: Output) -> CommandResult {
    let name = connection.stream.name();
    let Some(end) = connection.look().await? else {
        let error = CommandError::new(Exit::NotFound, format!("there is no stream {name}"));
        return Err(error.hint("a server with the role `events` makes it"));
    };
    let head = connection.log().await?.head().await.map_err(journal_error)?;
    let (id, block) = end.mark.map_or_else(|| (None, BlockNumber(0)), |mark| (Some(mark.id), mark.block));
    let behind = head.0.saturating_sub(block.0);
    if output.is_json() {
        return output.document(&json!({
            "stream": name,
            "events": end.last,
            "last": id,
            "block": block.0,
            "head_block": head.0,
        }));
    }
    output.text(&properties(
        output.paint(),
        &[
            ("stream", name),
            ("events", end.last.to_string()),
            ("last", id.unwrap_or_default()),
            ("behind", format!("{behind} blocks")),
        ],
    ))
}

async fn consumer(args: &ConsumerArgs, output: Output) -> CommandResult {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if args.name.is_empty() || !args.name.chars().all(is_plain) {
        return Err(CommandError::new(Exit::Usage, "a consumer's name has letters, digits, `-` and `_`"));
    }
    let connection = Connection::open(&args.place).await?;
    let made = connection.stream.make_consumer(&args.name, args.project.as_deref(), args.after);
    made.await.exit(Exit::Refused)?;
    let what =
        args.project.as_ref().map_or("all events".to_owned(), |project| format!("events of {project}"));
    let sentence = format!("consumer {} of {} gets {what}", args.name, connection.stream.name());
    output.line(&output.ink(Ink::Good, &sentence))
}

async fn rebuild(connection: &Connection, output: Output) -> CommandResult {
    let log = connection.log().await?;
    let is_there = match connection.stream.look().await {
        Ok(found) => found.is_some(),
        Err(EventStreamError::Refused(_)) => true,
        Err(EventStreamError::Unsure(reason)) => return Err(CommandError::new(Exit::Unreachable, reason)),
    };
    if is_there {
        connection.stream.delete().await.exit(Exit::Refused)?;
    }
    let cell = connection.nats.cell.clone();
    let mut events = PublicEvents::new(log, Arc::new(connection.stream.clone()), cell);
    let progress = events.progress();
    events.catch_up().await.exit(Exit::Error)?;
    let published = progress.borrow().events;
    if output.is_json() {
        return output.document(&json!({ "stream": connection.stream.name(), "events": published }));
    }
    let sentence = format!("{published} events are published again on {}", connection.stream.name());
    output.line(&output.ink(Ink::Good, &sentence))
}
