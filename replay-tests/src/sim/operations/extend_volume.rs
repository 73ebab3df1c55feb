//! Grows a volume, or asks it to shrink.

use tephra_domain::command::Command;
use tephra_domain::units::SizeGib;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "extend_volume", weight: 10, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let to = SizeGib::new(1 + draw.below(9))?;
    let online = draw.below(2) == 0;
    Some(draw.owner(&project).asks(Command::ExtendVolume { volume, to, online }))
}
