//! Lets no new volumes go to a backend.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "disable_backend", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let backend = draw.backend()?;
    let reason = draw.name();
    Some(draw.admin().asks(Command::DisableBackend { backend, reason }))
}
