//! `tephra`: one binary for the server, for looking at the ledger, and for a first tour.
//!
//! Here is the command line; `serve` wires the server's roles together, `commands` has one file
//! per subcommand. What they share: `config`, `output`, `failure` (exit codes), `moment`, `lock`.

mod commands;
mod config;
mod failure;
mod lock;
mod moment;
mod output;

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
    /// Check a configuration.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.color, cli.json);
    match run(cli.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, output),
    }
}

fn run(command: Command, output: Output) -> CommandResult {
    match command {
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
