//! Removes a volume type, also one that is in use and the default.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "delete_volume_type", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let volume_type = draw.volume_type()?;
    Some(draw.admin().asks(Command::DeleteVolumeType { volume_type }))
}
