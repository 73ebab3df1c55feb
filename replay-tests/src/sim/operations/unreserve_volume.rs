//! Lets go of what was reserved the old way, or was not.

use tephra_domain::command::Command;
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "unreserve_volume", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume_in(VolumeState::Attaching)?;
    Some(draw.owner(&project).asks(Command::UnreserveVolume { volume }))
}
