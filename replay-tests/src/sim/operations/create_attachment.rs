//! Takes a volume for a server, with its host or before that is known, under an id that is taken.

use tephra_domain::command::{Command, CreateAttachment};
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_attachment", weight: 14, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    if let Some(again) = once_more(draw) {
        return Some(again);
    }
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

/// In these a volume may be had once more by whoever has it.
const HELD: [VolumeState; 2] = [VolumeState::Reserved, VolumeState::InUse];

/// A server that has a volume several times wants it once more.
fn once_more(draw: &mut Draw<'_>) -> Option<Ask> {
    let rows = draw.ledger.volumes.sorted().into_iter();
    let held = rows.filter(|(_, row)| HELD.contains(&row.status.state()));
    let (id, row) = held.max_by_key(|(_, row)| row.attachments.len())?;
    let instance = row.attachments.iter().find_map(|one| one.instance.clone())?;
    let (volume, project) = (*id, row.project.clone());
    if draw.below(4) == 0 {
        return None;
    }
    let create = CreateAttachment {
        volume,
        attachment: draw.attachment_id(volume),
        instance: Some(instance),
        mode: None,
        connector: None,
        connector_mode: None,
    };
    Some(draw.owner(&project).asks(Command::CreateAttachment(Box::new(create))))
}
