//! `tephra config check`: is a configuration right, and what does it come to?

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::Config;
use crate::failure::CommandResult;
use crate::output::{Ink, Output};

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file and print what it comes to, defaults filled in.
    ///
    /// Exits with 2 if it is not right, naming the key and its line.
    #[command(after_help = "\
Examples:
  tephra config check tephra.toml
  tephra config check                    # the defaults
  tephra config check tephra.toml --json | jq .backends")]
    Check {
        /// The file; without it, the defaults.
        #[arg(env = "TEPHRA_CONFIG", value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Runs it.
///
/// # Errors
/// What is wrong with the configuration.
pub fn run(command: &ConfigCommand, output: Output) -> CommandResult {
    let ConfigCommand::Check { file } = command;
    let config = Config::load(file.as_deref())?;
    if output.is_json() {
        return output.document(&config);
    }
    let name = file.as_ref().map_or_else(|| "the default".to_owned(), |file| file.display().to_string());
    output.line(&output.ink(Ink::Dim, &format!("# {name} is right, and comes to:")))?;
    output.text(&toml::to_string(&config)?)
}
