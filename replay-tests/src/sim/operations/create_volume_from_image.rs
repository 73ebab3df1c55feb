//! Makes a volume of an image: of one that is not there yet, too large for it, or with everything
//! that making a volume can have wrong.

use tephra_domain::command::{Command, CreateVolumeFromImage};

use super::create_volume::parameters;
use super::{Ask, Draw, Operation};
use tephra_domain::volume::VolumeSource;

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_volume_from_image", weight: 8, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let image = draw.image();
    let owner = draw.project();
    let create = parameters(draw, VolumeSource::Image(image.id))?;
    let command = Command::CreateVolumeFromImage(Box::new(CreateVolumeFromImage { create, image }));
    Some(draw.owner(&owner).asks(command))
}
