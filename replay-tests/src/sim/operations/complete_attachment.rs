//! Says that a server has connected, whether or not it could have.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "complete_attachment", weight: 8, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, attachment, project) = draw.attachment()?;
    Some(draw.owner(&project).asks(Command::CompleteAttachment { volume, attachment }))
}
