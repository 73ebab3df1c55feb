//! Says from which host a server connects, once or again, from here or from there.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "update_attachment", weight: 8, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, attachment, project) = draw.attachment()?;
    let (connector, mode) = (draw.connector(), draw.attach_mode());
    Some(draw.owner(&project).asks(Command::UpdateAttachment { volume, attachment, connector, mode }))
}
