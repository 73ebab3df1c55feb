//! An executor presents its backend once more, unchanged or with another description.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "register_backend", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let backend = draw.backend()?;
    let mut description = draw.ledger.backends.get(&backend)?.description.clone();
    if draw.below(3) == 0 {
        description.native_revert = !description.native_revert;
    }
    Some(draw.admin().asks(Command::RegisterBackend { backend, description: Box::new(description) }))
}
