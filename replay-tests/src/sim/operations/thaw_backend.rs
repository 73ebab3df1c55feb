//! Takes changes on a backend again.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "thaw_backend", weight: 4, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let backend = draw.backend()?;
    Some(draw.admin().asks(Command::ThawBackend { backend }))
}
