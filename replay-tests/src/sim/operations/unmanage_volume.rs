//! Gives a volume up, with its data left on the backend.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "unmanage_volume", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, _) = if draw.below(2) == 0 { draw.volume_at_odds()? } else { draw.volume()? };
    Some(draw.admin().asks(Command::UnmanageVolume { volume }))
}
