//! `tephra`: one binary for the server, for looking at the ledger, and for a first tour.
//!
//! Here is the command line; `serve` wires the server's roles together, `commands` has one file
//! per subcommand. What they share: `config`, `output`, `failure` (exit codes), `moment`, `lock`.

mod bench;
mod client;
mod commands;
mod config;
mod demo;
mod failure;
mod files;
mod lock;
mod moment;
mod output;
mod roles;
mod secrets;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{CommandError, CommandResult, EXIT_CODES};
use crate::output::{ColorChoice, Ink, Output};

/// Block storage that remembers: Cinder's API on a ledger where every change is an event.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    /// JSON instead of text and tables.
    #[arg(long, global = true)]
    json: bool,

    /// When to colour; NO_COLOR is honoured.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: ColorChoice,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(commands::serve::ServeArgs),
    Executor(commands::serve::ExecutorArgs),
    Demo(demo::DemoArgs),
    Log(commands::log::LogArgs),
    History(commands::history::HistoryArgs),
    State(commands::state::StateArgs),
    Operations(commands::operations::OperationsArgs),
    Debts(commands::debts::DebtsArgs),
    Drift(commands::drift::DriftArgs),
    Recover(commands::recover::RecoverArgs),
    Verify(commands::verify::VerifyArgs),
    Rebuild(commands::rebuild::RebuildArgs),
    Bench(commands::bench::BenchArgs),
    /// Look after the public events: every event of the ledger, on a stream for other programs.
    #[command(subcommand)]
    Events(commands::events::EventsCommand),
    /// Copy a journal between a file of one machine and NATS.
    #[command(subcommand)]
    Journal(commands::journal::JournalCommand),
    /// Check a configuration.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.color, cli.json);
    let ended = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(cli.command, output)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, output),
    }
}

async fn run(command: Command, output: Output) -> CommandResult {
    match command {
        Command::Serve(args) => commands::serve::run(&args, output).await,
        Command::Executor(args) => commands::serve::run(&args.into_serve(), output).await,
        Command::Demo(args) => demo::run(&args, output).await,
        Command::Log(args) => commands::log::run(&args, output).await,
        Command::History(args) => commands::history::run(&args, output).await,
        Command::State(args) => commands::state::run(&args, output).await,
        Command::Operations(args) => commands::operations::run(&args, output).await,
        Command::Debts(args) => commands::debts::run(&args, output).await,
        Command::Drift(args) => commands::drift::run(&args, output).await,
        Command::Recover(args) => commands::recover::run(&args, output).await,
        Command::Verify(args) => commands::verify::run(&args, output).await,
        Command::Rebuild(args) => commands::rebuild::run(&args, output).await,
        Command::Bench(args) => commands::bench::run(&args, output).await,
        Command::Events(command) => commands::events::run(&command, output).await,
        Command::Journal(command) => commands::journal::run(&command, output).await,
        Command::Config(command) => commands::config::run(&command, output),
    }
}

fn report(error: &CommandError, output: Output) -> ExitCode {
    if error.is_closed_pipe() {
        // whoever read has seen enough: that is their way of saying so
        return ExitCode::SUCCESS;
    }
    let paint = output.error_paint();
    eprintln!("{} {}", paint.ink(Ink::Bad, "error:"), output::harmless_lines(&format!("{:#}", error.cause)));
    if let Some(hint) = &error.hint {
        eprintln!("{} {}", paint.ink(Ink::Accent, "hint:"), output::harmless_lines(hint));
    }
    error.exit_code()
}
