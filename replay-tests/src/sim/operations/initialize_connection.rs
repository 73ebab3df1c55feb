//! Has a volume exported to a host, the old way, under an id that is taken or fresh.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "initialize_connection", weight: 8, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let attachment = draw.attachment_id(volume);
    let (connector, mode) = (draw.connector(), draw.attach_mode());
    let command = Command::InitializeConnection { volume, attachment, connector, mode };
    Some(draw.owner(&project).asks(command))
}
