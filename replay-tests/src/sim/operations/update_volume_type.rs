//! Renames a volume type or changes who may see it.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "update_volume_type", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let volume_type = draw.volume_type()?;
    let name = (draw.below(2) == 0).then(|| format!("type-{}", draw.below(8)).into());
    let description = (draw.below(2) == 0).then(|| draw.name());
    let is_public = (draw.below(2) == 0).then(|| draw.below(2) == 0);
    Some(draw.admin().asks(Command::UpdateVolumeType { volume_type, name, description, is_public }))
}
