//! Which effects are due, as the ledger goes on.
//!
//! Due effects follow from the state, so nothing here has to be remembered: after a restart, or
//! after orders were lost, [`Dispatcher::everything`] says it all again, and the queue takes the
//! same attempt only once. After each block it is enough to look at the operations and debts that
//! the block moved, and at those that waited for an operation which it closed.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::debt::DebtEvent;
use tephra_domain::effect::{DueEffect, EffectKey};
use tephra_domain::event::Event;
use tephra_domain::ids::{DebtId, OperationId, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;

use crate::log::Block;
use crate::work_queue::WorkOrder;

struct Open {
    resources: Vec<ResourceKey>,
    request: RequestId,
    dispatched: Option<EffectKey>,
}

/// Follows the ledger and says what is due.
#[derive(Default)]
pub struct Dispatcher {
    open: BTreeMap<OperationId, Open>,
    debts: BTreeMap<DebtId, RequestId>,
}

impl Dispatcher {
    /// Begins at a state. The requests that its operations came from are not known any more: their
    /// orders carry the operation's id in place of it.
    pub fn at(ledger: &Ledger) -> Self {
        let mut dispatcher = Self::default();
        for (id, operation) in ledger.operations.sorted() {
            dispatcher.opened(*id, &operation.kind, request_unknown(*id));
        }
        dispatcher
    }

    /// Every order that is due: for the start, and now and then in case orders were lost.
    pub fn everything(&mut self, ledger: &Ledger) -> Vec<WorkOrder> {
        ledger.all_due().into_iter().map(|due| self.order(due)).collect()
    }

    /// The orders that became due with a block. `ledger` stands right after it.
    pub fn after(&mut self, ledger: &Ledger, block: &Block) -> Vec<WorkOrder> {
        let mut moved = BTreeSet::new();
        let mut debts = BTreeSet::new();
        for sequenced in &block.commits {
            for event in &sequenced.commit.events {
                match event {
                    Event::Operation(id, event) => {
                        self.note_operation(ledger, *id, event, &sequenced.commit.request, &mut moved);
                    }
                    Event::Debt(id, event) => match event {
                        DebtEvent::Incurred { .. } => {
                            self.debts.insert(*id, sequenced.commit.request.clone());
                            debts.insert(*id);
                        }
                        DebtEvent::AttemptFailed { .. } | DebtEvent::Released => {
                            debts.insert(*id);
                        }
                        DebtEvent::Paid => {
                            self.debts.remove(id);
                        }
                    },
                    Event::Volume(..)
                    | Event::Snapshot(..)
                    | Event::VolumeType(..)
                    | Event::Quota(_)
                    | Event::Backend(..) => {}
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
        request: &RequestId,
        moved: &mut BTreeSet<OperationId>,
    ) {
        match event {
            OperationEvent::Opened { kind, .. } => {
                self.opened(id, kind, request.clone());
                moved.insert(id);
            }
            OperationEvent::Rescheduled { kind } => {
                let request = self.open.remove(&id).map_or_else(|| request_unknown(id), |open| open.request);
                self.opened(id, kind, request);
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

    fn opened(&mut self, id: OperationId, kind: &OperationKind, request: RequestId) {
        let resources = kind.uses().into_iter().map(|(key, _)| key).collect();
        self.open.insert(id, Open { resources, request, dispatched: None });
    }

    fn order(&self, due: DueEffect) -> WorkOrder {
        let operation = due.key.operation();
        let known = match due.key {
            EffectKey::Step { .. } => self.open.get(&operation).map(|open| &open.request),
            EffectKey::Debt { debt, .. } => self.debts.get(&debt),
        };
        let request = known.cloned().unwrap_or_else(|| request_unknown(operation));
        WorkOrder { due, operation, request }
    }
}

fn request_unknown(operation: OperationId) -> RequestId {
    RequestId::new(operation.to_string())
}
