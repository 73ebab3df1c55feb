//! Takes a volume over that a backend has already, or that it has not.

use std::collections::BTreeMap;

use tephra_domain::command::{Command, ManageVolume};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "manage_volume", weight: 4, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (pool, name, size) = draw.stranger()?;
    let manage = ManageVolume {
        volume: draw.fresh().into(),
        pool,
        name,
        size,
        display_name: draw.name(),
        description: None,
        volume_type: None,
        availability_zone: None,
        metadata: BTreeMap::new(),
        bootable: draw.below(2) == 0,
    };
    Some(draw.admin().asks(Command::ManageVolume(Box::new(manage))))
}
