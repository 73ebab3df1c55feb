//! Operations as the views remember them: open ones, and how the ended ones went.

use serde::{Deserialize, Serialize};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{OperationId, Position, ProjectId, SnapshotId, VolumeId};
use tephra_domain::operation::{Access, OperationEnd, OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;
use tephra_domain::units::Timestamp;
use uuid::Uuid;

use crate::row::Row;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Not reached, or being done.
    Pending,
    /// Done.
    Completed,
    /// Not done, and the operation went on without it.
    Waived,
    /// Not done, and the operation turned round.
    Failed,
    /// Done (or half done), and then undone.
    Undone,
    /// Done (or half done), and its undo was given up.
    UndoWaived,
}

/// A step of an operation, as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// The row's name in the operation's step table.
    pub name: Box<str>,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Whether it has an undo.
    pub can_be_undone: bool,
    /// Failed attempts at it, its undo's included.
    pub failed_attempts: u32,
    /// The last thing that went wrong with it.
    pub failure: Option<Failure>,
    /// When its outcome was reported.
    pub at: Option<Timestamp>,
}

/// An operation, open or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRecord {
    /// Which.
    pub id: OperationId,
    /// Whose resource it is about.
    pub project: ProjectId,
    /// What is to be done, as in [`tephra_domain::operations::OperationKind::name`].
    pub kind: Box<str>,
    /// The resources that it changes.
    pub changes: Vec<ResourceKey>,
    /// The commit that opened it.
    pub opened: Position,
    /// When that was.
    pub opened_at: Timestamp,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// How it ended; nothing while it is open.
    pub end: Option<OperationEnd>,
    /// Why it turned round, or the last failed attempt.
    pub failure: Option<Failure>,
    /// Its steps (after a reschedule, those of the last placement).
    pub steps: Vec<StepRecord>,
    /// How often it began again elsewhere.
    pub reschedules: u32,
}

/// Which operations are asked for.
#[derive(Clone, Debug, Default)]
pub struct OperationQuery {
    /// Only this project's; nothing for all.
    pub project: Option<ProjectId>,
    /// Only open ones, or only ended ones.
    pub open: Option<bool>,
    /// Only of this kind (`volume_revert`).
    pub kind: Option<String>,
    /// Only those that change this resource.
    pub resource: Option<ResourceKey>,
    /// The last row of the page before.
    pub marker: Option<OperationId>,
    /// Rows at most.
    pub limit: usize,
}

impl OperationRecord {
    /// The record that an opening begins.
    pub(crate) fn opened(
        id: OperationId,
        project: ProjectId,
        kind: &OperationKind,
        position: Position,
        at: Timestamp,
    ) -> Self {
        Self {
            id,
            project,
            kind: kind.name().into(),
            changes: changes_of(kind),
            opened: position,
            opened_at: at,
            closed_at: None,
            end: None,
            failure: None,
            steps: steps_of(kind),
            reschedules: 0,
        }
    }

    /// Takes an event in.
    pub(crate) fn apply(&mut self, at: Timestamp, event: &OperationEvent) {
        match event {
            OperationEvent::Opened { .. } => {}
            OperationEvent::StepCompleted { step } => self.note(*step, at, StepOutcome::Completed, None),
            OperationEvent::StepWaived { step, failure } => {
                self.note(*step, at, StepOutcome::Waived, Some(failure));
            }
            OperationEvent::UndoStarted { step, failure } => {
                self.failure = Some(failure.clone());
                self.note(*step, at, StepOutcome::Failed, Some(failure));
            }
            OperationEvent::StepUndone { step } => self.note(*step, at, StepOutcome::Undone, None),
            OperationEvent::UndoWaived { step, failure } => {
                self.note(*step, at, StepOutcome::UndoWaived, Some(failure));
            }
            OperationEvent::AttemptFailed { failure, .. } => {
                let forward = self.steps.iter().all(|step| step.outcome.is_forward());
                if forward || self.failure.is_none() {
                    self.failure = Some(failure.clone());
                }
                if let Some(step) = self.current() {
                    step.failed_attempts = step.failed_attempts.saturating_add(1);
                    step.failure = Some(failure.clone());
                }
            }
            OperationEvent::Rescheduled { kind } => {
                self.changes = changes_of(kind);
                self.steps = steps_of(kind);
                self.reschedules = self.reschedules.saturating_add(1);
            }
            OperationEvent::Closed { end } => {
                self.closed_at = Some(at);
                self.end = Some(*end);
            }
        }
    }

    fn note(&mut self, step: u16, at: Timestamp, outcome: StepOutcome, failure: Option<&Failure>) {
        let Some(step) = self.steps.get_mut(usize::from(step)) else { return };
        step.outcome = outcome;
        step.at = Some(at);
        if let Some(failure) = failure {
            step.failed_attempts = step.failed_attempts.saturating_add(1);
            step.failure = Some(failure.clone());
        }
    }

    /// The step that is being done, or undone.
    fn current(&mut self) -> Option<&mut StepRecord> {
        let forward = self.steps.iter().all(|step| step.outcome.is_forward());
        if forward {
            return self.steps.iter_mut().find(|step| step.outcome == StepOutcome::Pending);
        }
        let being_undone = |step: &StepRecord| match step.outcome {
            StepOutcome::Completed | StepOutcome::Failed | StepOutcome::Waived => step.can_be_undone,
            StepOutcome::Pending | StepOutcome::Undone | StepOutcome::UndoWaived => false,
        };
        self.steps.iter_mut().rev().find(|step| being_undone(step))
    }
}

impl StepOutcome {
    const ALL: &[Self] =
        &[Self::Pending, Self::Completed, Self::Waived, Self::Failed, Self::Undone, Self::UndoWaived];

    const fn is_forward(self) -> bool {
        match self {
            Self::Pending | Self::Completed | Self::Waived => true,
            Self::Failed | Self::Undone | Self::UndoWaived => false,
        }
    }

    /// A stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Waived => "waived",
            Self::Failed => "failed",
            Self::Undone => "undone",
            Self::UndoWaived => "undo_waived",
        }
    }
}

/// How an operation ended, as a stable word.
pub const fn end_name(end: OperationEnd) -> &'static str {
    match end {
        OperationEnd::Completed => "completed",
        OperationEnd::Failed => "failed",
        OperationEnd::Abandoned => "abandoned",
    }
}

const ENDS: &[OperationEnd] = &[OperationEnd::Completed, OperationEnd::Failed, OperationEnd::Abandoned];

/// The resources that an operation changes, not those that it only reads.
pub(crate) fn changes_of(kind: &OperationKind) -> Vec<ResourceKey> {
    let uses = kind.uses().into_iter();
    uses.filter(|(_, access)| *access == Access::Exclusive).map(|(key, _)| key).collect()
}

fn steps_of(kind: &OperationKind) -> Vec<StepRecord> {
    let planned = kind.steps().into_iter();
    planned
        .map(|step| StepRecord {
            name: step.name.into(),
            outcome: StepOutcome::Pending,
            can_be_undone: step.undo.is_some(),
            failed_attempts: 0,
            failure: None,
            at: None,
        })
        .collect()
}

#[derive(Serialize, Deserialize)]
struct StoredFailure<'a> {
    kind: &'a str,
    message: &'a str,
}

#[derive(Serialize, Deserialize)]
struct StoredStep<'a> {
    name: &'a str,
    outcome: &'a str,
    can_be_undone: bool,
    failed_attempts: u32,
    #[serde(borrow)]
    failure: Option<StoredFailure<'a>>,
    at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecord<'a> {
    id: [u8; 16],
    project: &'a str,
    kind: &'a str,
    changes: Vec<(bool, [u8; 16])>,
    opened: u64,
    opened_at: i64,
    closed_at: Option<i64>,
    end: Option<&'a str>,
    #[serde(borrow)]
    failure: Option<StoredFailure<'a>>,
    steps: Vec<StoredStep<'a>>,
    reschedules: u32,
}

fn store_failure(failure: &Failure) -> StoredFailure<'_> {
    StoredFailure { kind: failure.kind.as_str(), message: &failure.message }
}

fn load_failure(stored: &StoredFailure<'_>) -> Result<Failure, String> {
    let kind = by_name(FailureKind::ALL, |kind| kind.as_str(), stored.kind)?;
    Ok(Failure::new(kind, stored.message))
}

fn by_name<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wanted: &str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| name(*one) == wanted);
    found.ok_or_else(|| format!("{wanted} is unknown"))
}

impl Row for OperationRecord {
    fn encode(&self) -> Vec<u8> {
        let changes = self.changes.iter().map(|key| match key {
            ResourceKey::Volume(id) => (false, id.as_uuid().into_bytes()),
            ResourceKey::Snapshot(id) => (true, id.as_uuid().into_bytes()),
        });
        let steps = self.steps.iter().map(|step| StoredStep {
            name: &step.name,
            outcome: step.outcome.as_str(),
            can_be_undone: step.can_be_undone,
            failed_attempts: step.failed_attempts,
            failure: step.failure.as_ref().map(store_failure),
            at: step.at.map(|at| at.0),
        });
        let stored = StoredRecord {
            id: self.id.as_uuid().into_bytes(),
            project: self.project.as_str(),
            kind: &self.kind,
            changes: changes.collect(),
            opened: self.opened.0,
            opened_at: self.opened_at.0,
            closed_at: self.closed_at.map(|at| at.0),
            end: self.end.map(end_name),
            failure: self.failure.as_ref().map(store_failure),
            steps: steps.collect(),
            reschedules: self.reschedules,
        };
        // Every part knows its length, and a vector takes all of it.
        postcard::to_stdvec(&stored).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored: StoredRecord<'_> = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
        let mut steps = Vec::with_capacity(stored.steps.len());
        for step in &stored.steps {
            steps.push(StepRecord {
                name: step.name.into(),
                outcome: by_name(StepOutcome::ALL, StepOutcome::as_str, step.outcome)?,
                can_be_undone: step.can_be_undone,
                failed_attempts: step.failed_attempts,
                failure: step.failure.as_ref().map(load_failure).transpose()?,
                at: step.at.map(Timestamp),
            });
        }
        let changes = stored.changes.iter().map(|(is_snapshot, id)| {
            if *is_snapshot {
                ResourceKey::Snapshot(SnapshotId::from_uuid(Uuid::from_bytes(*id)))
            } else {
                ResourceKey::Volume(VolumeId::from_uuid(Uuid::from_bytes(*id)))
            }
        });
        Ok(Self {
            id: OperationId::from_uuid(Uuid::from_bytes(stored.id)),
            project: ProjectId::new(stored.project),
            kind: stored.kind.into(),
            changes: changes.collect(),
            opened: Position(stored.opened),
            opened_at: Timestamp(stored.opened_at),
            closed_at: stored.closed_at.map(Timestamp),
            end: stored.end.map(|end| by_name(ENDS, end_name, end)).transpose()?,
            failure: stored.failure.as_ref().map(load_failure).transpose()?,
            steps,
            reschedules: stored.reschedules,
        })
    }
}
