//! Goes on with a volume after all, mostly one that is being detached.

use tephra_domain::command::Command;
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "roll_detaching", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume_in(VolumeState::Detaching)?;
    Some(draw.owner(&project).asks(Command::RollDetaching { volume }))
}
