//! Sets a snapshot's status by hand, mostly while an operation is open on it.

use tephra_domain::command::Command;
use tephra_domain::snapshot::SnapshotState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "reset_snapshot_status", weight: 4, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let busy = draw.busy_snapshots();
    let snapshot = match draw.choose(&busy) {
        Some(snapshot) if draw.below(2) == 0 => snapshot,
        _ => draw.snapshot()?.0,
    };
    let to = if draw.below(2) == 0 { SnapshotState::Available } else { draw.choose(SnapshotState::ALL)? };
    Some(draw.admin().asks(Command::ResetSnapshotStatus { snapshot, to }))
}
