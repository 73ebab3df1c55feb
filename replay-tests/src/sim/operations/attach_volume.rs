//! Says that a server or a host has connected, the old way.

use tephra_domain::attachment::AttachMode;
use tephra_domain::command::{AttachVolume, Command};
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "attach_volume", weight: 7, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = match draw.below(2) {
        0 => draw.volume_in(VolumeState::Attaching)?,
        _ => draw.volume()?,
    };
    let attachment = draw.attachment_id(volume);
    let attach = AttachVolume {
        volume,
        attachment,
        instance: draw.instance(),
        host: draw.connector().host,
        mountpoint: "/dev/vdb".into(),
        mode: draw.attach_mode().unwrap_or(AttachMode::ReadWrite),
    };
    Some(draw.owner(&project).asks(Command::AttachVolume(Box::new(attach))))
}
