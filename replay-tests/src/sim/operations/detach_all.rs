//! Ends all attachments of a volume at an administrator's word.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "detach_all", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, _, _) = draw.attachment()?;
    Some(draw.admin().asks(Command::DetachAll { volume }))
}
