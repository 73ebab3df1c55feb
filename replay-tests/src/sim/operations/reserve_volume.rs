//! Reserves a volume, the old way.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "reserve_volume", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    Some(draw.owner(&project).asks(Command::ReserveVolume { volume }))
}
