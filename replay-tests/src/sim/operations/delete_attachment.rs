//! Lets a volume go, at any moment.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "delete_attachment", weight: 9, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, attachment, project) = draw.attachment()?;
    Some(draw.owner(&project).asks(Command::DeleteAttachment { volume, attachment }))
}
