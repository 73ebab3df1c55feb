//! `tephra bench`: how fast this machine is at it.

use clap::Args;

use crate::bench::{self, BenchPlan, Figure};
use crate::failure::CommandResult;
use crate::output::Output;

/// Measure this machine: creates, shows, pages, replay, start and memory.
///
/// Starts servers of its own on free ports, with data directories that are removed afterwards, and
/// drives them from this process: what is measured is server and client together on these cores.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra bench
  tephra bench --seconds 2 --volumes 10000
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
    };
    let show = |figure: &Figure| {
        if !output.is_json() {
            // a reader who has gone does not end the measurement
            drop(output.line(&format!("{:<52} {:>12} {}", figure.name, rounded(figure.value), figure.unit)));
        }
    };
    let figures = bench::run(&plan, show).await?;
    if output.is_json() {
        output.document(&figures)?;
    }
    Ok(())
}

fn rounded(value: f64) -> String {
    match value {
        large if large >= 100.0 => format!("{large:.0}"),
        medium if medium >= 10.0 => format!("{medium:.1}"),
        small => format!("{small:.2}"),
    }
}
