//! Which effects are due, as the ledger goes on.
//!
//! Due effects follow from the state, so nothing here has to be remembered: after a restart, or
//! after orders were lost, [`Dispatcher::everyone`] names all who may have something due, and the queue
//! takes the same attempt only once. After each block it is enough to look at the operations and debts that
//! the block moved, and at those that waited for an operation which it closed.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::debt::{CleanupDebt, DebtEvent};
use tephra_domain::effect::{DueEffect, EffectKey};
use tephra_domain::event::Event;
use tephra_domain::ids::{DebtId, OperationId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;

use crate::log::Block;
use crate::sequencer::Requests;
use crate::work_queue::WorkOrder;

struct Open {
    resources: Vec<ResourceKey>,
    dispatched: Option<EffectKey>,
}

/// Who has effects due, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claimant {
    /// An operation, for its current step.
    Operation(OperationId),
    /// A debt, for its next attempt.
    Debt(DebtId),
}

impl Claimant {
    /// Whose effect it is.
    pub const fn of(key: EffectKey) -> Self {
        match key {
            EffectKey::Step { operation, .. } => Self::Operation(operation),
            EffectKey::Debt { debt, .. } => Self::Debt(debt),
        }
    }
}

/// Follows the ledger and says what is due.
#[derive(Default)]
pub struct Dispatcher {
    open: BTreeMap<OperationId, Open>,
    requests: Requests,
}

impl Dispatcher {
    /// Begins at a state, whose operations and debts came from these requests.
    pub fn at(ledger: &Ledger, requests: Requests) -> Self {
        let mut dispatcher = Self { requests, ..Self::default() };
        for (id, operation) in ledger.operations.sorted() {
            dispatcher.opened(*id, &operation.kind);
        }
        dispatcher
    }

    /// Everyone who may have an effect due, in a row that follows from the state: for the start, and now
    /// and then in case orders were lost.
    pub fn everyone(ledger: &Ledger) -> impl Iterator<Item = Claimant> {
        let operations = ledger.operations.sorted().into_iter().map(|(id, _)| Claimant::Operation(*id));
        let debts = ledger.debts.sorted().into_iter().map(|(id, _)| Claimant::Debt(*id));
        operations.chain(debts)
    }

    /// What is due now for somebody, if anything is.
    pub fn due_for(&self, ledger: &Ledger, claimant: Claimant) -> Option<WorkOrder> {
        let due = match claimant {
            Claimant::Operation(id) => ledger.due_effect(id),
            Claimant::Debt(id) => ledger.debts.get(&id).and_then(CleanupDebt::due),
        };
        due.map(|due| self.order(due))
    }

    /// The orders that became due with a block. `ledger` stands right after it.
    pub fn after(&mut self, ledger: &Ledger, block: &Block) -> Vec<WorkOrder> {
        let mut moved = BTreeSet::new();
        let mut debts = BTreeSet::new();
        for sequenced in &block.commits {
            self.requests.note(&sequenced.commit);
            for event in &sequenced.commit.events {
                match event {
                    Event::Operation(id, event) => {
                        self.note_operation(ledger, *id, event, &mut moved);
                    }
                    Event::Debt(id, event) => match event {
                        DebtEvent::Incurred { .. }
                        | DebtEvent::AttemptFailed { .. }
                        | DebtEvent::Released => {
                            debts.insert(*id);
                        }
                        DebtEvent::Paid => {}
                    },
                    Event::Volume(..)
                    | Event::Snapshot(..)
                    | Event::VolumeType(..)
                    | Event::Quota(_)
                    | Event::Backend(..)
                    | Event::TurnBegan { .. } => {}
                }
            }
        }
        let mut orders = Vec::new();
        for id in moved {
            let Some(due) = ledger.due_effect(id) else { continue };
            if let Some(open) = self.open.get_mut(&id) {
                if open.dispatched == Some(due.key) {
                    continue;
                }
                open.dispatched = Some(due.key);
            }
            orders.push(self.order(due));
        }
        let due_debts = debts.into_iter().filter_map(|id| ledger.debts.get(&id)?.due());
        orders.extend(due_debts.map(|due| self.order(due)));
        orders
    }

    fn note_operation(
        &mut self,
        ledger: &Ledger,
        id: OperationId,
        event: &OperationEvent,
        moved: &mut BTreeSet<OperationId>,
    ) {
        match event {
            OperationEvent::Opened { kind, .. } | OperationEvent::Rescheduled { kind } => {
                self.opened(id, kind);
                moved.insert(id);
            }
            OperationEvent::StepCompleted { .. }
            | OperationEvent::AttemptFailed { .. }
            | OperationEvent::StepWaived { .. }
            | OperationEvent::UndoStarted { .. }
            | OperationEvent::StepUndone { .. }
            | OperationEvent::UndoWaived { .. } => {
                moved.insert(id);
            }
            OperationEvent::Closed { .. } => {
                let resources = self.open.remove(&id).map(|open| open.resources).unwrap_or_default();
                moved.extend(resources.into_iter().flat_map(|key| ledger.claimants(key)));
            }
        }
    }

    fn opened(&mut self, id: OperationId, kind: &OperationKind) {
        let resources = kind.uses().into_iter().map(|(key, _)| key).collect();
        self.open.insert(id, Open { resources, dispatched: None });
    }

    fn order(&self, due: DueEffect) -> WorkOrder {
        let (operation, request) = (due.key.operation(), self.requests.of(due.key));
        WorkOrder { due, operation, request }
    }
}
