//! Commands that were committed lately, so that a repeated one is answered instead of decided.

use std::collections::{HashMap, VecDeque};

use tephra_domain::ids::CommandId;

use crate::log::Sequenced;

/// How many commands are remembered. Askers repeat a command within seconds; this is many times
/// the largest block, so that a block which landed without an answer is always in here.
pub(super) const RECENT_COMMANDS: usize = 16_384;

/// The latest commits by their command.
#[derive(Debug, Default)]
pub(super) struct RecentCommands {
    by_command: HashMap<CommandId, Sequenced>,
    oldest_first: VecDeque<CommandId>,
}

impl RecentCommands {
    pub(super) fn get(&self, command: CommandId) -> Option<&Sequenced> {
        self.by_command.get(&command)
    }

    pub(super) fn remember(&mut self, sequenced: &Sequenced) {
        let command = sequenced.commit.command;
        if self.by_command.insert(command, sequenced.clone()).is_none() {
            self.oldest_first.push_back(command);
        }
        if self.oldest_first.len() > RECENT_COMMANDS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_command.remove(&oldest);
        }
    }
}
