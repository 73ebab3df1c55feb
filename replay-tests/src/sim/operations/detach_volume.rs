//! Detaches a volume, the old way: named or not, by force or not.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "detach_volume", weight: 5, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, attachment, project) = draw.attachment()?;
    let attachment = (draw.below(2) == 0).then_some(attachment);
    let force = draw.below(4) == 0;
    let who = if force { draw.admin() } else { draw.owner(&project) };
    Some(who.asks(Command::DetachVolume { volume, attachment, force }))
}
