//! Takes a snapshot over that a backend has already, or that it has not.

use std::collections::BTreeMap;

use tephra_domain::command::{Command, ManageSnapshot};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "manage_snapshot", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, _) = draw.volume()?;
    let (_, name, size) = draw.stranger()?;
    let manage = ManageSnapshot {
        snapshot: draw.fresh().into(),
        volume,
        name,
        size,
        display_name: draw.name(),
        description: None,
        metadata: BTreeMap::new(),
    };
    Some(draw.admin().asks(Command::ManageSnapshot(Box::new(manage))))
}
