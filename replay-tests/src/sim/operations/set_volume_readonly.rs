//! Says whether a volume may only be read.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "set_volume_readonly", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let readonly = draw.below(2) == 0;
    Some(draw.owner(&project).asks(Command::SetVolumeReadonly { volume, readonly }))
}
