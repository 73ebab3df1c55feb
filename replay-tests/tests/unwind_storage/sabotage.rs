//! A launcher that fails at a chosen command.

use std::ffi::OsString;
use std::io;
use std::sync::Mutex;

use async_trait::async_trait;
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};

/// What happens at a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not run, and fails.
    Fails,
    /// It runs, and whoever waits for it hears of a failure.
    AnswerLost,
    /// It runs, and is the last one of its executor.
    Dies,
}

/// Which command of an attempt, and what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Counted from 0; commands that only look do not count.
    pub command: usize,
    pub fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    planned: Option<At>,
    seen: usize,
    struck: bool,
}

/// Runs programs as they are, but for the one that is planned to go wrong.
pub struct Saboteur {
    /// Whether a command changes anything.
    changes: fn(&[OsString]) -> bool,
    state: Mutex<State>,
}

impl Saboteur {
    pub fn new(changes: fn(&[OsString]) -> bool) -> Self {
        Self { changes, state: Mutex::default() }
    }

    /// From now on this goes wrong, and nothing else.
    pub fn plan(&self, at: Option<At>) {
        *self.state.lock().unwrap() = State { planned: at, ..State::default() };
    }

    /// Whether what was planned has happened.
    pub fn has_struck(&self) -> bool {
        self.state.lock().unwrap().struck
    }

    /// What happens to the command that is about to run.
    fn fault_of(&self, argv: &[OsString]) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let at = state.planned?;
        if state.struck && at.fault == Fault::Dies {
            return Some(Fault::Fails);
        }
        if !(self.changes)(argv) {
            return None;
        }
        state.seen += 1;
        let strikes = state.seen == at.command + 1;
        state.struck |= strikes;
        strikes.then_some(at.fault)
    }
}

#[async_trait]
impl Launcher for Saboteur {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let argv = program.argv().to_vec();
        let fault = self.fault_of(&argv);
        let output = if fault == Some(Fault::Fails) { None } else { Some(Spawner.launch(program).await) };
        match (fault, output) {
            (None, Some(output)) => output,
            (Some(_), _) | (None, None) => Err(ProcessError::Broken {
                program: argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
                source: io::Error::other("the test says so"),
            }),
        }
    }
}
