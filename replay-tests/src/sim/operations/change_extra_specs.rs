//! Changes what a volume type asks for.

use tephra_domain::command::Command;
use tephra_domain::command::MetadataChange;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "change_extra_specs", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let volume_type = draw.volume_type()?;
    let change = match draw.below(3) {
        0 => MetadataChange::Remove("volume_backend_name".to_owned()),
        1 => MetadataChange::Replace([("RESKEY".to_owned(), "x".to_owned())].into()),
        _ => MetadataChange::Merge([("storage_protocol".to_owned(), "memory".to_owned())].into()),
    };
    Some(draw.admin().asks(Command::ChangeExtraSpecs { volume_type, change }))
}
