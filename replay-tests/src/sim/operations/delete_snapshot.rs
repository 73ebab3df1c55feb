//! Removes a snapshot, by force or not.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "delete_snapshot", weight: 10, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (snapshot, project) = draw.snapshot()?;
    let force = draw.below(5) == 0;
    let who = if force { draw.admin() } else { draw.owner(&project) };
    Some(who.asks(Command::DeleteSnapshot { snapshot, force }))
}
