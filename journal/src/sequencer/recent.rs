//! Commands that were committed lately, so that a repeated one is answered instead of decided.
//!
//! The latest are remembered as a whole. Those before them only by their place in the log, which is all
//! that an answer needs ([`Receipt::Repeated`]), for as long as somebody may still repeat them: that is a
//! time and not a number, however many commands come in it.
//!
//! [`Receipt::Repeated`]: crate::gateway::Receipt::Repeated

use std::collections::{HashMap, VecDeque};

use tephra_domain::ids::{CommandId, Position};
use tephra_domain::units::Timestamp;

use crate::log::Sequenced;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentLimits {
    /// Commits that are remembered as a whole, however old they are.
    pub whole: usize,
    /// How long a command is remembered at least, by the times of commits. Askers repeat a command within
    /// seconds and give up after 15 s; this allows for clocks that jump and for askers that wait longer.
    pub span_ms: u64,
    /// Commands that are remembered at most, whatever the time: some 80 bytes each.
    pub most: usize,
}

impl Default for RecentLimits {
    fn default() -> Self {
        // The first is many times the largest block, so that a block which landed without an answer is in
        // it; the last is 60 s of 17,000 commits a second.
        Self { whole: 16_384, span_ms: 60_000, most: 1 << 20 }
    }
}

/// What is remembered of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered<'a> {
    /// All that happened.
    Whole(&'a Sequenced),
    /// Where it happened.
    At(Position),
}

/// The latest commits by their command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentCommands {
    limits: RecentLimits,
    whole: HashMap<CommandId, Sequenced>,
    whole_oldest_first: VecDeque<CommandId>,
    places: HashMap<CommandId, Position>,
    places_oldest_first: VecDeque<(Timestamp, CommandId)>,
}

impl RecentCommands {
    /// An empty memory with these limits.
    pub fn with_limits(limits: RecentLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How much is remembered.
    pub const fn limits(&self) -> RecentLimits {
        self.limits
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.places.is_empty()
    }

    /// What is remembered of a command.
    pub fn get(&self, command: CommandId) -> Option<Remembered<'_>> {
        let whole = self.whole.get(&command).map(Remembered::Whole);
        whole.or_else(|| self.places.get(&command).copied().map(Remembered::At))
    }

    /// Takes in a commit, the latest one, and forgets what need not be remembered any more.
    pub fn remember(&mut self, latest: &Sequenced) {
        let command = latest.commit.command;
        if self.whole.insert(command, latest.clone()).is_none() {
            self.whole_oldest_first.push_back(command);
        }
        if self.whole_oldest_first.len() > self.limits.whole
            && let Some(oldest) = self.whole_oldest_first.pop_front()
            && let Some(sequenced) = self.whole.remove(&oldest)
        {
            self.places.insert(oldest, sequenced.position);
            self.places_oldest_first.push_back((sequenced.commit.time, oldest));
        }
        let since = self.since(latest.commit.time);
        while let Some((time, oldest)) = self.places_oldest_first.front().copied() {
            let known = self.whole_oldest_first.len().saturating_add(self.places_oldest_first.len());
            if time >= since && known <= self.limits.most {
                return;
            }
            self.places_oldest_first.pop_front();
            self.places.remove(&oldest);
        }
    }

    /// From when on every command is remembered, once there is a commit of that time.
    pub(super) fn since(&self, latest: Timestamp) -> Timestamp {
        let span_us = i64::try_from(self.limits.span_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Timestamp(latest.0.saturating_sub(span_us))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tephra_domain::actor::Actor;
    use tephra_domain::event::Commit;
    use tephra_domain::ids::RequestId;
    use uuid::Uuid;

    use super::*;

    const FEW: RecentLimits = RecentLimits { whole: 2, span_ms: 60_000, most: 1_000 };

    fn command(n: u64) -> CommandId {
        CommandId::from_uuid(Uuid::from_u128(u128::from(n)))
    }

    fn commit(n: u64, second: i64) -> Sequenced {
        let commit = Commit {
            command: command(n),
            request: RequestId::new("req-1"),
            causation: None,
            actor: Actor::system(),
            time: Timestamp(second * 1_000_000),
            idempotency: None,
            events: Vec::new(),
        };
        Sequenced { position: Position(n), commit: Arc::new(commit) }
    }

    /// One command after the other, each at its second.
    fn after(limits: RecentLimits, seconds: &[i64]) -> RecentCommands {
        let mut recent = RecentCommands::with_limits(limits);
        for (n, second) in (1..).zip(seconds) {
            recent.remember(&commit(n, *second));
        }
        recent
    }

    #[test]
    fn more_commands_than_are_kept_whole_are_known_by_their_place() {
        let recent = after(FEW, &[10, 10, 10, 10]);
        assert_eq!(recent.get(command(1)), Some(Remembered::At(Position(1))));
        assert_eq!(recent.get(command(2)), Some(Remembered::At(Position(2))));
        assert_eq!(recent.get(command(3)), Some(Remembered::Whole(&commit(3, 10))));
        assert_eq!(recent.get(command(5)), None);
    }

    #[test]
    fn a_command_is_known_for_a_minute_and_longer_if_few_come_after_it() {
        let known = |seconds: &[i64]| after(FEW, seconds).get(command(1)).is_some();
        assert!(known(&[0, 1, 59, 60]));
        assert!(!known(&[0, 1, 59, 61]));
        assert!(known(&[0, 1_000]), "it is one of the latest");
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered_however_many_come_in_a_minute() {
        let recent = after(RecentLimits { most: 3, ..FEW }, &[10; 100]);
        assert_eq!(recent.get(command(97)), None);
        assert!((98..=100).all(|n| recent.get(command(n)).is_some()));
        assert_eq!((recent.whole.len(), recent.places.len()), (2, 1));
    }
}
