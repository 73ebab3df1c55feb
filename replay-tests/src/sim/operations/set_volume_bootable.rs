//! Says whether a server can boot from a volume.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "set_volume_bootable", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let bootable = draw.below(2) == 0;
    Some(draw.owner(&project).asks(Command::SetVolumeBootable { volume, bootable }))
}
