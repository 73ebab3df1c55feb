//! What a command ends with: exit codes that scripts can rely on, and messages for people.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of `tephra`. They are part of its interface: a number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something went wrong that has no number of its own.
    Error,
    /// The command line or the configuration is not right (the same number that clap uses).
    Usage,
    /// There is no such resource, operation, position or moment in the ledger.
    NotFound,
    /// The journal is damaged or was edited.
    VerificationFailed,
    /// No server answers.
    Unreachable,
    /// Another process works on the data directory.
    InUse,
    /// A part of the server died, so the rest stopped too.
    RoleDied,
    /// The ledger, or the server's policy, says no.
    Refused,
    /// The ledger and the backends differ.
    Drift,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::VerificationFailed => 4,
            Self::Unreachable => 5,
            Self::InUse => 6,
            Self::RoleDied => 7,
            Self::Refused => 8,
            Self::Drift => 9,
        }
    }
}

/// The table of exit codes, as the help shows it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something went wrong
  2  the command line or the configuration is not right
  3  no such resource, position or moment
  4  verification failed: the journal is damaged or was edited
  5  no server answers
  6  another process works on the data directory
  7  a part of the server died
  8  the ledger, or the server's policy, says no
  9  the ledger and the backends differ";

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct CommandError {
    /// What the process exits with.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub cause: anyhow::Error,
    /// What the person may do about it.
    pub hint: Option<String>,
}

/// What commands return.
pub type CommandResult<T = ()> = Result<T, CommandError>;

impl CommandError {
    /// A failure with its number.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, cause: anyhow::anyhow!("{message}"), hint: None }
    }

    /// Adds what the person may do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether whoever read our output has stopped reading: `tephra log | head`.
    pub fn is_closed_pipe(&self) -> bool {
        let mut io_errors = self.cause.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        io_errors.any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// The number as the process returns it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit.code())
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self { exit: Exit::Error, cause: error.into(), hint: None }
    }
}

/// Gives an error its number.
pub trait WithExit<T> {
    /// Fails with this number where it fails.
    ///
    /// # Errors
    /// The same error, numbered.
    fn exit(self, exit: Exit) -> CommandResult<T>;
}

impl<T, E: Into<anyhow::Error>> WithExit<T> for Result<T, E> {
    fn exit(self, exit: Exit) -> CommandResult<T> {
        self.map_err(|error| CommandError { exit, cause: error.into(), hint: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_exit_code() {
        let all = [
            Exit::Error,
            Exit::Usage,
            Exit::NotFound,
            Exit::VerificationFailed,
            Exit::Unreachable,
            Exit::InUse,
            Exit::RoleDied,
            Exit::Refused,
            Exit::Drift,
        ];
        for exit in all {
            let line = format!("\n  {}  ", exit.code());
            assert!(EXIT_CODES.contains(&line), "{exit:?} is not in the help");
        }
    }

    #[test]
    fn a_closed_pipe_is_recognised_under_its_context() {
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = CommandError::from(anyhow::Error::from(pipe).context("cannot write"));
        assert!(error.is_closed_pipe());
    }
}
