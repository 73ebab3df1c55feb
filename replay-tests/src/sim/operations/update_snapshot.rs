//! Renames or redescribes a snapshot.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "update_snapshot", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (snapshot, project) = draw.snapshot()?;
    let name = (draw.below(2) == 0).then(|| draw.name());
    let description = (draw.below(2) == 0).then(|| draw.name());
    Some(draw.owner(&project).asks(Command::UpdateSnapshot { snapshot, name, description }))
}
