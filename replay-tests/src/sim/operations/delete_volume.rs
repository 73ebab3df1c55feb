//! Removes a volume, with its snapshots or without, by force or not.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "delete_volume", weight: 10, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = match draw.below(8) {
        0 => draw.volume_with_debts()?,
        1 | 2 => draw.volume_at_odds()?,
        _ => draw.volume()?,
    };
    let (cascade, force) = (draw.below(2) == 0, draw.below(5) == 0);
    let who = if force { draw.admin() } else { draw.owner(&project) };
    Some(who.asks(Command::DeleteVolume { volume, cascade, force }))
}
