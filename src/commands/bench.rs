//! `tephra bench`: how fast this machine is at it.

use clap::Args;

use crate::bench::{self, BenchPlan, Figure, Journal};
use crate::failure::CommandResult;
use crate::output::Output;

/// Measure this machine: creates, shows, pages, replay, start and memory; failover on NATS.
///
/// Starts servers of its own on free ports, with data directories that are removed afterwards, and
/// drives them from this process: what is measured is server and client together on these cores. On
/// NATS, its servers sync before they acknowledge (`sync_interval: always`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra bench
  tephra bench --seconds 2 --volumes 10000
  tephra bench --journal embedded,r1,r3
  tephra --json bench > figures.json")]
pub struct BenchArgs {
    /// Seconds for each figure of a load.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,

    /// Volumes in the large project.
    #[arg(long, default_value_t = 1_000_000)]
    pub volumes: usize,

    /// Where to put the data directories.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<std::path::PathBuf>,

    /// Where the journal is: several are measured one after the other, and shown side by side.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "embedded")]
    pub journal: Vec<Journal>,

    /// The nats-server to start, 2.15.1 or newer.
    #[arg(long, env = "TEPHRA_NATS_SERVER", value_name = "FILE", default_value = "nats-server")]
    pub nats_server: std::path::PathBuf,

    /// How often each failover is measured; 0 for not at all.
    #[arg(long, default_value_t = 3)]
    pub failovers: usize,
}

/// Runs it.
///
/// # Errors
/// If a server cannot be started or answers wrongly.
pub async fn run(args: &BenchArgs, output: Output) -> CommandResult {
    let plan = BenchPlan {
        seconds: args.seconds,
        volumes: args.volumes,
        directory: args.directory.clone().unwrap_or_else(std::env::temp_dir),
        journals: args.journal.clone(),
        nats_server: args.nats_server.clone(),
        failovers: args.failovers,
    };
    let show = |figure: &Figure| {
        if !output.is_json() {
            // a reader who has gone does not end the measurement
            drop(output.line(&format!(
                "{:<10} {:<72} {:>12} {}",
                figure.journal.as_str(),
                figure.name,
                rounded(figure.value),
                figure.unit
            )));
        }
    };
    let figures = bench::run(&plan, show).await?;
    if output.is_json() {
        output.document(&figures)?;
    } else if plan.journals.len() > 1 {
        output.text(&side_by_side(&figures, &plan.journals))?;
    }
    Ok(())
}

/// A table with a column for each journal, as the documents have it.
fn side_by_side(figures: &[Figure], journals: &[Journal]) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for figure in figures {
        if !names.contains(&(&figure.name, figure.unit)) {
            names.push((&figure.name, figure.unit));
        }
    }
    let titles: Vec<&str> = journals.iter().map(|journal| journal.as_str()).collect();
    let mut text = format!("\n| figure | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    for (name, unit) in names {
        let cell = |journal: &Journal| {
            let found = figures.iter().find(|figure| figure.journal == *journal && figure.name == name);
            found.map_or_else(|| "–".to_owned(), |figure| format!("{} {unit}", rounded(figure.value)))
        };
        let cells: Vec<String> = journals.iter().map(cell).collect();
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    text
}

fn rounded(value: f64) -> String {
    match value {
        large if large >= 100.0 => format!("{large:.0}"),
        medium if medium >= 10.0 => format!("{medium:.1}"),
        small => format!("{small:.2}"),
    }
}
