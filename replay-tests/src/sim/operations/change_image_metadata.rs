//! Changes what a volume remembers of its image, mostly where it remembers anything.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "change_image_metadata", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let rows = draw.ledger.volumes.sorted().into_iter();
    let of_images: Vec<_> = rows
        .filter(|(_, row)| !row.image_metadata.is_empty())
        .map(|(id, row)| (*id, row.project.clone()))
        .collect();
    let (volume, project) = match draw.choose(&of_images) {
        Some(found) if draw.below(6) != 0 => found,
        _ => draw.volume()?,
    };
    let change = draw.metadata_change();
    Some(draw.owner(&project).asks(Command::ChangeImageMetadata { volume, change }))
}
