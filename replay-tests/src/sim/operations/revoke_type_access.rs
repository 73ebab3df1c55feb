//! No longer lets a project use a private type.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "revoke_type_access", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let volume_type = draw.private_type().or_else(|| draw.volume_type())?;
    let project = draw.project();
    Some(draw.admin().asks(Command::RevokeTypeAccess { volume_type, project }))
}
