//! Takes a volume for a server, with its host or before that is known, under an id that is taken.

use tephra_domain::command::{Command, CreateAttachment};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_attachment", weight: 14, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let attachment = draw.attachment_id(volume);
    let connector = (draw.below(2) == 0).then(|| draw.connector());
    let create = CreateAttachment {
        volume,
        attachment,
        instance: draw.instance(),
        mode: draw.attach_mode(),
        connector,
        connector_mode: draw.attach_mode(),
    };
    Some(draw.owner(&project).asks(Command::CreateAttachment(Box::new(create))))
}
