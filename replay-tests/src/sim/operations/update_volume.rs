//! Renames or redescribes a volume.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "update_volume", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let name = (draw.below(2) == 0).then(|| draw.name());
    let description = (draw.below(2) == 0).then(|| draw.name());
    let metadata = (draw.below(3) == 0).then(|| draw.metadata());
    Some(draw.owner(&project).asks(Command::UpdateVolume { volume, name, description, metadata }))
}
