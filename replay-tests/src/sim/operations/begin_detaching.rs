//! Is about to disconnect a volume, mostly one that is in use.

use tephra_domain::command::Command;
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "begin_detaching", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume_in(VolumeState::InUse)?;
    Some(draw.owner(&project).asks(Command::BeginDetaching { volume }))
}
