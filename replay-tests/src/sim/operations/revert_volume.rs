//! Puts a snapshot's data back: mostly the latest, sometimes another one or none.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "revert_volume", weight: 14, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume_with_snapshots()?;
    let latest = draw.ledger.volumes.get(&volume).and_then(|row| row.snapshots.last().copied());
    let snapshot = match draw.below(12) {
        0 => None,
        1 => draw.snapshot().map(|(id, _)| id),
        _ => latest,
    };
    Some(draw.owner(&project).asks(Command::RevertVolume { volume, snapshot }))
}
