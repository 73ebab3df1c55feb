//! Changes keys and values of a snapshot.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "change_snapshot_metadata", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (snapshot, project) = draw.snapshot()?;
    let change = draw.metadata_change();
    Some(draw.owner(&project).asks(Command::ChangeSnapshotMetadata { snapshot, change }))
}
