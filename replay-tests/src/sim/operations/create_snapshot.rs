//! Takes a snapshot.

use tephra_domain::command::{Command, CreateSnapshot};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_snapshot", weight: 20, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let taken = draw.below(40) == 0;
    let create = CreateSnapshot {
        snapshot: if taken { draw.snapshot()?.0 } else { draw.fresh().into() },
        volume,
        name: draw.name(),
        description: None,
        force: draw.below(6) == 0,
        metadata: draw.metadata(),
    };
    Some(draw.owner(&project).asks(Command::CreateSnapshot(Box::new(create))))
}
