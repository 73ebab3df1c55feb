//! `tephra log`: what happened, in order.

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::client::{LedgerArgs, LedgerClient};
use crate::commands::event_table::{event_row, events_table, text};
use crate::failure::{CommandResult, Exit, WithExit as _};
use crate::moment::parse_moment;
use crate::output::{Ink, Output};

/// Events asked for at a time.
const PAGE: u64 = 500;

/// How long to wait before following again after the connection was lost, and how often to try.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
const RECONNECT_TRIES: u32 = 60;

/// What happened, in order: every event of the ledger, or those that are asked for.
///
/// Reads from the running server, or from the files where none runs. With --json, one event a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra log                                   # everything, oldest first
  tephra log --since '5m ago'
  tephra log --since now --follow              # what happens from here on
  tephra log --resource volume:6a1f… --json | jq .data
  tephra log --kind VolumeRevertFailed --project demo
  tephra log --after 1200 --limit 50           # a page; go on after the last position

Times are UTC: `now`, `5m ago`, `2026-03-01 14:03`, or RFC 3339.")]
pub struct LogArgs {
    #[command(flatten)]
    ledger: LedgerArgs,

    /// Then wait for what happens next (until Ctrl-C). Needs a running server.
    #[arg(long, short)]
    follow: bool,

    /// Only what belongs to this project.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,

    /// Only what happened to this: volume:ID, snapshot:ID, type:ID, operation:ID, debt:ID, backend:NAME.
    #[arg(long, value_name = "KIND:ID")]
    resource: Option<String>,

    /// Only events of this name, such as VolumeCreated.
    #[arg(long, value_name = "EVENT")]
    kind: Option<String>,

    /// Only what happened at this moment or later.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only what comes after this position.
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: u64,

    /// Events at most.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

/// Runs it.
///
/// # Errors
/// What the ledger says; [`Exit::Usage`] for a moment that is none.
pub async fn run(args: &LogArgs, output: Output) -> CommandResult {
    let filters = filters(args)?;
    let ledger = args.ledger.open(output).await?;
    let mut printer = Printer { output, headings: true, left: args.limit, last: args.after.to_string() };
    printer.pages(&ledger, &filters, args.after).await?;
    if args.follow && printer.left != Some(0) {
        printer.follow(&ledger, &filters).await?;
    }
    Ok(())
}

fn filters(args: &LogArgs) -> CommandResult<Vec<(&'static str, String)>> {
    let mut filters = Vec::new();
    if let Some(project) = &args.project {
        filters.push(("project", project.clone()));
    }
    if let Some(resource) = &args.resource {
        filters.push(("resource", resource.clone()));
    }
    if let Some(kind) = &args.kind {
        filters.push(("kind", kind.clone()));
    }
    if let Some(since) = &args.since {
        let moment = parse_moment(since, Timestamp::now()).map_err(anyhow::Error::msg).exit(Exit::Usage)?;
        filters.push(("since", moment.to_string()));
    }
    Ok(filters)
}

/// The events of a whole listing, page after page, each handed on as it comes.
///
/// # Errors
/// What the ledger says, or `each`.
pub async fn each_event(
    ledger: &LedgerClient,
    filters: &[(&'static str, String)],
    after: u64,
    limit: Option<u64>,
    mut each: impl FnMut(&[Value]) -> CommandResult,
) -> CommandResult {
    let mut after = after;
    let mut left = limit;
    while left != Some(0) {
        let mut query = filters.to_vec();
        query.push(("after", after.to_string()));
        query.push(("limit", left.unwrap_or(PAGE).min(PAGE).to_string()));
        let page = ledger.get("/ledger/v1/events", &query).await?;
        let mut events = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(left) = &mut left {
            // a commit is never split by the API, so a page may hold more than was asked for
            let most = usize::try_from(*left).unwrap_or(usize::MAX);
            events = events.get(..most).unwrap_or(events);
            *left = left.saturating_sub(u64::try_from(events.len()).unwrap_or(u64::MAX));
        }
        each(events)?;
        match page["next"].as_u64() {
            Some(next) if next > after => after = next,
            Some(_) | None => break,
        }
    }
    Ok(())
}

struct Printer {
    output: Output,
    headings: bool,
    left: Option<u64>,
    /// The sequence of the last event shown: where following goes on.
    last: String,
}

impl Printer {
    async fn pages(
        &mut self,
        ledger: &LedgerClient,
        filters: &[(&'static str, String)],
        after: u64,
    ) -> CommandResult {
        each_event(ledger, filters, after, self.left, |events| self.print(events)).await
    }

    fn print(&mut self, events: &[Value]) -> CommandResult {
        if let Some(last) = events.last() {
            text(last, "sequence").clone_into(&mut self.last);
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(u64::try_from(events.len()).unwrap_or(u64::MAX));
        }
        if self.output.is_json() {
            for event in events {
                self.output.json_line(event)?;
            }
            return Ok(());
        }
        let mut table = events_table();
        for event in events {
            table.row(event_row(event));
        }
        let with_headings = std::mem::take(&mut self.headings);
        self.output.text(&table.render(self.output.paint(), with_headings))
    }

    async fn follow(&mut self, ledger: &LedgerClient, filters: &[(&'static str, String)]) -> CommandResult {
        let mut tries = 0;
        loop {
            let lost = match ledger.events("/ledger/v1/events/live", filters, &self.last).await {
                Ok(events) => {
                    let mut events = std::pin::pin!(events);
                    let mut lost = None;
                    while let Some(event) = events.next().await {
                        match event {
                            Ok(event) => {
                                tries = 0;
                                self.print(std::slice::from_ref(&event))?;
                                if self.left == Some(0) {
                                    return Ok(());
                                }
                            }
                            Err(error) => {
                                lost = Some(error);
                                break;
                            }
                        }
                    }
                    lost
                }
                Err(error) if error.exit == Exit::Unreachable && ledger.is_remote() => Some(error),
                Err(error) => return Err(error),
            };
            tries += 1;
            if tries == 1 {
                let note = "the connection is lost; trying to go on where it broke";
                eprintln!("{}", self.output.error_paint().ink(Ink::Caution, note));
            }
            if tries > RECONNECT_TRIES {
                let gone =
                    || crate::failure::CommandError::new(Exit::Unreachable, "the server does not come back");
                return Err(lost.unwrap_or_else(gone));
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }
}
