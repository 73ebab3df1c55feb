//! Asks whether an attempt is due: one that is, or one that was.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "check_attempt", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let key = if draw.below(2) == 0 { draw.stale_attempt()? } else { draw.due_attempt()? };
    Some(draw.system().asks(Command::CheckAttempt { key }))
}
