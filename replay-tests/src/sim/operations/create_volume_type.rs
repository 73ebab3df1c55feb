//! Makes a volume type, sometimes under a name that is taken.

use std::collections::BTreeMap;

use tephra_domain::command::{Command, CreateVolumeType};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_volume_type", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let extra_specs = match draw.below(4) {
        0 => BTreeMap::from([("volume_backend_name".to_owned(), "one".to_owned())]),
        1 => BTreeMap::from([("multiattach".to_owned(), "<is> True".to_owned())]),
        _ => BTreeMap::new(),
    };
    let create = CreateVolumeType {
        volume_type: draw.fresh().into(),
        name: format!("type-{}", draw.below(8)).into(),
        description: draw.name(),
        is_public: draw.below(3) != 0,
        extra_specs,
    };
    Some(draw.admin().asks(Command::CreateVolumeType(Box::new(create))))
}
