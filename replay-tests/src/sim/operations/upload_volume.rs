//! Makes an image of a volume: one that is free, in use, or in no state for it.

use std::collections::BTreeMap;

use tephra_domain::command::{Command, UploadVolume};
use tephra_domain::image::NewImage;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "upload_volume", weight: 5, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, project) = draw.volume()?;
    let image = NewImage {
        id: draw.fresh().into(),
        owner: project.clone(),
        name: "image".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: draw.choose(&[None, Some("private".into()), Some("public".into())])?,
        protected: draw.below(2) == 0,
        properties: BTreeMap::new(),
    };
    let force = draw.below(2) == 0;
    let command = Command::UploadVolume(Box::new(UploadVolume { volume, force, image }));
    Some(draw.owner(&project).asks(command))
}
