//! Operations as the views remember them: open ones, and how the ended ones went.

use tephra_domain::effect::Failure;
use tephra_domain::ids::{OperationId, Position, ProjectId};
use tephra_domain::operation::{OperationEnd, ResourceKey};
use tephra_domain::units::Timestamp;

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
