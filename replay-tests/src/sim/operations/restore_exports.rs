//! Wants exports made sure of, as an executor that finds a daemon without them.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "restore_exports", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let backend = draw.backend()?;
    let after = (draw.below(4) == 0).then(|| draw.volume()).flatten().map(|(volume, _)| volume);
    Some(draw.system().asks(Command::RestoreExports { backend, after }))
}
