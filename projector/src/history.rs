//! Which commits are about which resource, and where in the log a commit is.

use tephra_domain::ids::{BackendName, DebtId, OperationId, ProjectId, SnapshotId, VolumeId, VolumeTypeId};

/// Something that has a history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceRef {
    /// A volume: its own events, its snapshots', and those of operations and debts about it.
    Volume(VolumeId),
    /// A snapshot: its own events, and those of operations about it.
    Snapshot(SnapshotId),
    /// A volume type.
    VolumeType(VolumeTypeId),
    /// A backend.
    Backend(BackendName),
    /// An operation, and the debts that it left.
    Operation(OperationId),
    /// A cleanup debt.
    Debt(DebtId),
    /// Everything that belongs to a project, its quota included.
    Project(ProjectId),
}
