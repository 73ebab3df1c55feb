//! The engine that walks an operation's step table.
//!
//! An operation is a row of steps, each an effect for an executor with the effect that undoes it.
//! The engine waits for one report at a time, takes it only if it is about the attempt that is due,
//! and goes on, tries again, goes back, or ends. Which steps there are, and what the end means for
//! the volume, is said in [`crate::operations`], one file per operation.

use crate::debt::DebtEvent;
use crate::effect::{BackendObject, Direction, DueEffect, Effect, EffectKey, Failure, FailureKind, Outcome};
use crate::event::Event;
use crate::ids::{DebtId, OperationId, PoolId, Position, ProjectId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operations::OperationKind;
use crate::units::Timestamp;

/// How often one effect is tried before the operation turns round.
pub const MAX_TRIES: u8 = 3;

/// How long to wait before the second, third, … try of an effect or a debt. The last entry
/// repeats: debts are retried for ever, about every ten minutes.
pub const RETRY_DELAYS_MS: &[i64] = &[200, 1_000, 5_000, 30_000, 120_000, 600_000];

/// The longest wait for a backend that an operation waits for as long as it takes
/// ([`OperationKind::waits_for_backend`]): soon after it is back, the operation goes on.
pub const WAIT_DELAY_MS: i64 = 30_000;

/// The wait after `tries` attempts.
pub fn retry_delay_ms(tries: u32) -> i64 {
    let index = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX);
    RETRY_DELAYS_MS.get(index).or_else(|| RETRY_DELAYS_MS.last()).copied().unwrap_or(0)
}

/// What follows when a step will not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfItFails {
    /// Turn round: undo this step and those before it.
    Undo,
    /// The work is done but for tidying up: note what stays behind as a debt and go on.
    OweCleanup,
    /// The work is done, and nothing is left behind: note the failure and go on.
    GoOn,
}

/// What follows when an undo will not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfUndoFails {
    /// Note what stays behind as a debt and go on undoing.
    OweCleanup,
    /// Go on undoing: the object belongs to a resource that stays, in error, and goes when that is
    /// deleted. A debt would remove it even after an operator had made it available again.
    LeaveToOwner,
    /// Stop here; the resource ends in an error status and what later undo steps would remove is
    /// held, because it may be needed to put things right.
    NeedsOperator,
}

/// One row of an operation's step table. `P` holds the operation's parameters.
pub struct Step<P> {
    /// Unique within the table.
    pub name: &'static str,
    /// In words, when the step is there at all.
    pub when: &'static str,
    /// How often the step is there with these parameters: mostly 1, or 0 where it does not apply.
    pub count: fn(&P) -> usize,
    /// The effect (of the n-th occurrence).
    pub effect: fn(&P, usize) -> Effect,
    /// What follows if it is not done.
    pub if_it_fails: IfItFails,
    /// What undoes it.
    pub undo: Option<fn(&P, usize) -> Effect>,
    /// What follows if it is not undone.
    pub if_undo_fails: IfUndoFails,
}

/// A step with its parameters filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// The row's name.
    pub name: &'static str,
    /// What to do.
    pub effect: Effect,
    /// What follows if it is not done.
    pub if_it_fails: IfItFails,
    /// What undoes it.
    pub undo: Option<Effect>,
    /// What follows if it is not undone.
    pub if_undo_fails: IfUndoFails,
}

/// Fills a step table in.
pub fn plan<P>(table: &[Step<P>], params: &P) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    for row in table {
        for n in 0..(row.count)(params) {
            steps.push(PlannedStep {
                name: row.name,
                effect: (row.effect)(params, n),
                if_it_fails: row.if_it_fails,
                undo: row.undo.map(|undo| undo(params, n)),
                if_undo_fails: row.if_undo_fails,
            });
        }
    }
    steps
}

/// Something that operations take turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKey {
    /// A volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// How an operation uses a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads its data, beside other readers.
    Shared,
    /// Changes it, alone.
    Exclusive,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// This step is being done.
    Forward {
        /// Counts from 0.
        step: u16,
    },
    /// The steps below this one are being undone, the highest first.
    Undo {
        /// One above the next candidate.
        below: u16,
    },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationEnd {
    /// What was asked is done.
    Completed,
    /// It is not.
    Failed,
    /// An operator ended it.
    Abandoned,
}

/// What happens to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationEvent {
    /// The command was accepted.
    Opened {
        /// Whose resource it is about.
        project: ProjectId,
        /// What is to be done.
        kind: OperationKind,
    },
    /// A step is done.
    StepCompleted {
        /// Counts from 0.
        step: u16,
    },
    /// An attempt failed and there will be another.
    AttemptFailed {
        /// Why.
        failure: Failure,
        /// When the next one is due.
        retry_at: Timestamp,
    },
    /// A step will not be done, and the operation goes on without it.
    StepWaived {
        /// Counts from 0.
        step: u16,
        /// Why.
        failure: Failure,
    },
    /// A step will not be done, and the operation turns round.
    UndoStarted {
        /// Counts from 0.
        step: u16,
        /// Why.
        failure: Failure,
    },
    /// A step is undone.
    StepUndone {
        /// Counts from 0.
        step: u16,
    },
    /// A step will not be undone, and undoing goes on without it.
    UndoWaived {
        /// Counts from 0.
        step: u16,
        /// Why.
        failure: Failure,
    },
    /// It begins again elsewhere.
    Rescheduled {
        /// What is to be done now.
        kind: OperationKind,
    },
    /// It is over.
    Closed {
        /// How it ended.
        end: OperationEnd,
    },
}

/// An open operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Equal to the id of the command that opened it.
    pub id: OperationId,
    /// Whose resource it is about.
    pub project: ProjectId,
    /// What is to be done.
    pub kind: OperationKind,
    /// Since when.
    pub opened_at: Timestamp,
    /// Operations on one resource take turns in this order.
    pub opened: Position,
    /// Where it stands.
    pub phase: Phase,
    /// The attempt that is due; never repeats within the operation.
    pub attempt: u32,
    /// Failed attempts at the present effect.
    pub tries: u8,
    /// When the attempt is due.
    pub not_before: Timestamp,
    /// Why it turned round, or the last failed attempt.
    pub failure: Option<Failure>,
    /// Debts incurred so far.
    pub debts: u16,
}

impl Operation {
    /// The effect that is due, regardless of other operations' turns. Nothing if all is done.
    pub fn due(&self) -> Option<DueEffect> {
        let steps = self.kind.steps();
        let (direction, step) = self.current(&steps)?;
        let planned = steps.get(usize::from(step))?;
        let effect = match direction {
            Direction::Forward => planned.effect.clone(),
            Direction::Undo => planned.undo.clone()?,
        };
        Some(DueEffect {
            key: EffectKey::Step { operation: self.id, direction, step, attempt: self.attempt },
            pool: self.kind.pool_of(&effect.target())?.clone(),
            effect,
            not_before: self.not_before,
        })
    }

    fn current(&self, steps: &[PlannedStep]) -> Option<(Direction, u16)> {
        match self.phase {
            Phase::Forward { step } => {
                (usize::from(step) < steps.len()).then_some((Direction::Forward, step))
            }
            Phase::Undo { below } => (0..below)
                .rev()
                .find(|step| steps.get(usize::from(*step)).is_some_and(|planned| planned.undo.is_some()))
                .map(|step| (Direction::Undo, step)),
        }
    }

    fn tries_again_after(&self, failure: &Failure) -> bool {
        failure.kind.is_retryable() && self.tries.saturating_add(1) < MAX_TRIES
    }

    /// Whether it waits, however long that takes, for what cannot be reached to be back.
    fn waits_after(&self, failure: &Failure) -> bool {
        failure.kind == FailureKind::BackendUnavailable && self.kind.waits_for_backend()
    }

    fn move_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.attempt = self.attempt.saturating_add(1);
        self.tries = 0;
        self.not_before = Timestamp::default();
    }

    /// Takes one event in; opening and closing are the ledger's business.
    pub fn apply(&mut self, event: &OperationEvent) {
        match event {
            OperationEvent::Opened { .. } | OperationEvent::Closed { .. } => {}
            OperationEvent::StepCompleted { step } | OperationEvent::StepWaived { step, .. } => {
                self.move_to(Phase::Forward { step: step.saturating_add(1) });
            }
            OperationEvent::AttemptFailed { failure, retry_at } => {
                self.attempt = self.attempt.saturating_add(1);
                self.tries = self.tries.saturating_add(1);
                self.not_before = *retry_at;
                if self.failure.is_none() || matches!(self.phase, Phase::Forward { .. }) {
                    self.failure = Some(failure.clone());
                }
            }
            OperationEvent::UndoStarted { step, failure } => {
                self.failure = Some(failure.clone());
                self.move_to(Phase::Undo { below: step.saturating_add(1) });
            }
            OperationEvent::StepUndone { step } | OperationEvent::UndoWaived { step, .. } => {
                self.move_to(Phase::Undo { below: *step });
            }
            OperationEvent::Rescheduled { kind } => {
                self.kind = kind.clone();
                self.move_to(Phase::Forward { step: 0 });
            }
        }
    }
}

/// Decides what a report means. Nothing at all if it is not about the attempt that is due: the
/// fencing token is stale, and whoever sent it was overtaken.
pub fn decide_report(
    ledger: &Ledger,
    operation: &Operation,
    key: EffectKey,
    outcome: &Outcome,
    now: Timestamp,
) -> Option<Vec<Event>> {
    let steps = operation.kind.steps();
    let (direction, step) = operation.current(&steps)?;
    let expected = EffectKey::Step { operation: operation.id, direction, step, attempt: operation.attempt };
    if key != expected {
        return None;
    }
    let planned = steps.get(usize::from(step))?;
    let mut saga = Saga { ledger, operation, steps: &steps, debts: operation.debts, events: Vec::new() };
    match (direction, outcome) {
        (Direction::Forward, Outcome::Done) => saga.step_done(step),
        (Direction::Undo, Outcome::Done) => {
            saga.operation_event(OperationEvent::StepUndone { step });
            saga.continue_undo(step, true);
        }
        (Direction::Forward | Direction::Undo, Outcome::Failed(failure))
            if operation.waits_after(failure) || operation.tries_again_after(failure) =>
        {
            let delay = retry_delay_ms(u32::from(operation.tries).saturating_add(1));
            let most = if operation.waits_after(failure) { WAIT_DELAY_MS } else { delay };
            saga.operation_event(OperationEvent::AttemptFailed {
                failure: failure.clone(),
                retry_at: now.plus_ms(delay.min(most)),
            });
        }
        (Direction::Forward, Outcome::Failed(failure)) => saga.step_failed(step, planned, failure),
        (Direction::Undo, Outcome::Failed(failure)) => saga.undo_failed(step, planned, failure),
    }
    Some(saga.events)
}

/// Ends an operation at an operator's word: the temporary objects that it may have made are owed,
/// and resources that it held are let go. The status of the resource that it was about is for the
/// caller to set, in the same commit. `keep_data`: a safety snapshot that may by now be the only
/// whole copy of the data is held.
pub fn abandon(ledger: &Ledger, operation: &Operation, keep_data: bool) -> Vec<Event> {
    let steps = operation.kind.steps();
    let mut saga = Saga { ledger, operation, steps: &steps, debts: operation.debts, events: Vec::new() };
    let failure = Failure::new(FailureKind::NotAttempted, "an operator ended the operation");
    let reached = match operation.phase {
        Phase::Forward { step } => step.saturating_add(1),
        Phase::Undo { below } => below,
    };
    // before the step that changes the data, and once it is done or undone, the data is whole
    let changes_data = |step: u16| {
        let planned = steps.get(usize::from(step));
        planned.is_some_and(|planned| planned.if_undo_fails == IfUndoFails::NeedsOperator)
    };
    let held = keep_data && operation.current(&steps).is_some_and(|(_, step)| changes_data(step));
    saga.owe_below(reached, &failure, held, &is_temporary);
    saga.events.extend(operation.kind.abandoned());
    saga.operation_event(OperationEvent::Closed { end: OperationEnd::Abandoned });
    saga.events
}

const fn is_temporary(object: &BackendObject) -> bool {
    match object {
        BackendObject::SafetySnapshot { .. } | BackendObject::TemporaryVolume { .. } => true,
        BackendObject::Volume(_) | BackendObject::Snapshot { .. } => false,
    }
}

struct Saga<'a> {
    ledger: &'a Ledger,
    operation: &'a Operation,
    steps: &'a [PlannedStep],
    debts: u16,
    events: Vec<Event>,
}

impl Saga<'_> {
    fn operation_event(&mut self, event: OperationEvent) {
        self.events.push(Event::Operation(self.operation.id, event));
    }

    fn step_done(&mut self, step: u16) {
        self.operation_event(OperationEvent::StepCompleted { step });
        self.events.extend(self.operation.kind.step_completed(self.ledger, step));
        self.go_on_after(step);
    }

    fn go_on_after(&mut self, step: u16) {
        if usize::from(step).saturating_add(1) >= self.steps.len() {
            self.events.extend(self.operation.kind.completed(self.ledger));
            self.operation_event(OperationEvent::Closed { end: OperationEnd::Completed });
        }
    }

    fn step_failed(&mut self, step: u16, planned: &PlannedStep, failure: &Failure) {
        match planned.if_it_fails {
            IfItFails::OweCleanup => {
                self.owe(planned.effect.target(), failure, false);
                self.operation_event(OperationEvent::StepWaived { step, failure: failure.clone() });
                self.go_on_after(step);
            }
            IfItFails::GoOn => {
                self.operation_event(OperationEvent::StepWaived { step, failure: failure.clone() });
                self.go_on_after(step);
            }
            IfItFails::Undo => {
                if let Some((kind, events)) =
                    self.operation.kind.rescheduled(self.ledger, self.operation, failure)
                {
                    // what it made where it does not go on; what it reads serves the next attempt too
                    let failed = self.operation.kind.pool();
                    let is_there = |object: &BackendObject| self.operation.kind.pool_of(object) == failed;
                    self.owe_below(step.saturating_add(1), failure, false, &is_there);
                    self.events.extend(events);
                    self.operation_event(OperationEvent::Rescheduled { kind });
                    return;
                }
                self.operation_event(OperationEvent::UndoStarted { step, failure: failure.clone() });
                self.continue_undo_for(step.saturating_add(1), true, failure, step);
            }
        }
    }

    fn undo_failed(&mut self, step: u16, planned: &PlannedStep, failure: &Failure) {
        match planned.if_undo_fails {
            IfUndoFails::OweCleanup => {
                if let Some(undo) = &planned.undo {
                    self.owe(undo.target(), failure, false);
                }
                self.operation_event(OperationEvent::UndoWaived { step, failure: failure.clone() });
                self.continue_undo(step, true);
            }
            IfUndoFails::LeaveToOwner => {
                self.operation_event(OperationEvent::UndoWaived { step, failure: failure.clone() });
                self.continue_undo(step, true);
            }
            IfUndoFails::NeedsOperator => {
                self.operation_event(OperationEvent::UndoWaived { step, failure: failure.clone() });
                self.owe_all_below(step, failure, true);
                self.end_failed(false, failure, step);
            }
        }
    }

    fn continue_undo(&mut self, below: u16, restored: bool) {
        let cause = self
            .operation
            .failure
            .clone()
            .unwrap_or_else(|| Failure::new(FailureKind::BackendError, "the operation failed"));
        self.continue_undo_for(below, restored, &cause, below);
    }

    fn continue_undo_for(&mut self, below: u16, restored: bool, cause: &Failure, step: u16) {
        let more = (0..below)
            .any(|lower| self.steps.get(usize::from(lower)).is_some_and(|planned| planned.undo.is_some()));
        if !more {
            self.end_failed(restored, cause, step);
        }
    }

    fn end_failed(&mut self, restored: bool, failure: &Failure, step: u16) {
        let ended = self.operation.kind.failed(self.operation.id, step, failure, restored);
        self.events.extend(ended);
        self.events.extend(self.operation.kind.after_failure(self.ledger, restored));
        self.operation_event(OperationEvent::Closed { end: OperationEnd::Failed });
    }

    /// Owes the removal of everything that undo steps below `below` would have removed.
    fn owe_all_below(&mut self, below: u16, reason: &Failure, held: bool) {
        self.owe_below(below, reason, held, &|_| true);
    }

    fn owe_below(
        &mut self,
        below: u16,
        reason: &Failure,
        held: bool,
        which: &dyn Fn(&BackendObject) -> bool,
    ) {
        for planned in self.steps.iter().take(usize::from(below)) {
            match &planned.undo {
                Some(
                    Effect::DeleteVolume { volume: object } | Effect::DeleteSnapshot { snapshot: object },
                ) => {
                    if which(object) {
                        self.owe(*object, reason, held);
                    }
                }
                Some(
                    Effect::CreateVolume { .. }
                    | Effect::CreateVolumeFromImage { .. }
                    | Effect::CreateVolumeFromSnapshot { .. }
                    | Effect::CloneVolume { .. }
                    | Effect::CopyVolume { .. }
                    | Effect::ExtendVolume { .. }
                    | Effect::ShrinkVolume { .. }
                    | Effect::CreateSnapshot { .. }
                    | Effect::RevertToSnapshot { .. }
                    | Effect::OverwriteVolume { .. }
                    | Effect::Verify { .. }
                    | Effect::Adopt { .. }
                    | Effect::Disown { .. }
                    | Effect::ExportVolume { .. }
                    | Effect::UnexportVolume { .. }
                    | Effect::UploadImage { .. }
                    | Effect::RemoveImage { .. },
                )
                | None => {}
            }
        }
    }

    fn owe(&mut self, object: BackendObject, reason: &Failure, held: bool) {
        let Some(pool) = self.operation.kind.pool_of(&object) else { return };
        let debt = DebtId { operation: self.operation.id, ordinal: self.debts };
        self.debts = self.debts.saturating_add(1);
        self.events.push(Event::Debt(
            debt,
            DebtEvent::Incurred {
                project: self.operation.project.clone(),
                pool: PoolId::clone(pool),
                object,
                reason: reason.clone(),
                // a temporary volume is a copy of something that stays
                held: held && object.is_snapshot(),
            },
        ));
    }
}
