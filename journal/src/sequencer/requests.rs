//! The requests that open operations and debts began with, for the orders that follow from them.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::debt::DebtEvent;
use tephra_domain::effect::EffectKey;
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{DebtId, OperationId, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::OperationEvent;
use tephra_domain::units::Timestamp;

use crate::log::{Block, BlockNumber, Log, LogError};
use crate::wire::decode_block;

/// Moments that are looked up in the log at a start, the latest first. Each takes a search through it;
/// what began at others goes by the operation's id.
const LOOKED_UP: usize = 100;

/// Which request each open operation and each debt began with, as far as it is known. It is no part of
/// the state: nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    operations: BTreeMap<OperationId, RequestId>,
    debts: BTreeMap<DebtId, RequestId>,
}

impl Requests {
    /// Takes in what a commit opened and closed.
    pub(crate) fn note(&mut self, commit: &Commit) {
        for event in &commit.events {
            match event {
                Event::Operation(id, OperationEvent::Opened { .. }) => {
                    self.operations.insert(*id, commit.request.clone());
                }
                Event::Operation(id, OperationEvent::Closed { .. }) => {
                    self.operations.remove(id);
                }
                Event::Debt(id, DebtEvent::Incurred { .. }) => {
                    self.debts.insert(*id, commit.request.clone());
                }
                Event::Debt(id, DebtEvent::Paid) => {
                    self.debts.remove(id);
                }
                Event::Operation(..)
                | Event::Debt(..)
                | Event::Volume(..)
                | Event::Snapshot(..)
                | Event::VolumeType(..)
                | Event::Quota(_)
                | Event::Backend(..)
                | Event::TurnBegan { .. } => {}
            }
        }
    }

    /// The request that an effect began with; where nobody knows it, its operation stands for it.
    pub(crate) fn of(&self, key: EffectKey) -> RequestId {
        let known = match key {
            EffectKey::Step { operation, .. } => self.operations.get(&operation),
            EffectKey::Debt { debt, .. } => self.debts.get(&debt),
        };
        known.cloned().unwrap_or_else(|| RequestId::new(key.operation().to_string()))
    }

    /// Finds in the log what a state has open and nobody has noted.
    pub(crate) async fn look_up(
        &mut self,
        ledger: &Ledger,
        log: &dyn Log,
        last: BlockNumber,
    ) -> Result<(), LogError> {
        let operations = ledger.operations.sorted().into_iter();
        let operations = operations.filter(|(id, _)| !self.operations.contains_key(id));
        let debts = ledger.debts.sorted().into_iter().filter(|(id, _)| !self.debts.contains_key(id));
        let moments: BTreeSet<Timestamp> = operations
            .map(|(_, open)| open.opened_at)
            .chain(debts.map(|(_, owed)| owed.incurred_at))
            .collect();
        for moment in moments.into_iter().rev().take(LOOKED_UP) {
            let mut next = first_at(log, moment, last).await?;
            while let Some(block) = block_at(log, next, last).await? {
                let commits = block.commits.iter().map(|sequenced| &sequenced.commit);
                commits.filter(|commit| commit.time == moment).for_each(|commit| self.note(commit));
                if block.commits.last().is_some_and(|last| last.commit.time > moment) {
                    break;
                }
                next = BlockNumber(next.0.saturating_add(1));
            }
        }
        // What was closed after it was opened is not open.
        self.operations.retain(|id, _| ledger.operations.get(id).is_some());
        self.debts.retain(|id, _| ledger.debts.get(id).is_some());
        Ok(())
    }
}

async fn block_at(log: &dyn Log, number: BlockNumber, last: BlockNumber) -> Result<Option<Block>, LogError> {
    if number > last {
        return Ok(None);
    }
    let read = log.read(number, 1).await?;
    let found = read.first().filter(|(found, _)| *found == number);
    found.map(|(number, bytes)| decode_block(*number, bytes)).transpose()
}

/// The first block with a commit at that moment or later: times in the log never go back.
pub(super) async fn first_at(
    log: &dyn Log,
    moment: Timestamp,
    last: BlockNumber,
) -> Result<BlockNumber, LogError> {
    let (mut low, mut high) = (1, last.0.saturating_add(1));
    while low < high {
        let middle = low.midpoint(high);
        let block = block_at(log, BlockNumber(middle), last).await?;
        let is_before = block.and_then(|block| block.commits.last().map(|last| last.commit.time < moment));
        if is_before == Some(true) {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(BlockNumber(low))
}
