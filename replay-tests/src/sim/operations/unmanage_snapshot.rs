//! Gives a snapshot up, left on the backend.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "unmanage_snapshot", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (snapshot, _) = draw.snapshot()?;
    Some(draw.admin().asks(Command::UnmanageSnapshot { snapshot }))
}
