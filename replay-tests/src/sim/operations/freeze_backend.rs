//! Refuses changes on a backend.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "freeze_backend", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let backend = draw.backend()?;
    Some(draw.admin().asks(Command::FreezeBackend { backend }))
}
