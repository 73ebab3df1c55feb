//! Changes keys and values of a volume.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "change_volume_metadata", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let change = draw.metadata_change();
    Some(draw.owner(&project).asks(Command::ChangeVolumeMetadata { volume, change }))
}
