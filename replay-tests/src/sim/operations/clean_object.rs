//! Removes what a backend has and the ledger knows nothing of.

use tephra_domain::command::{CleanObject, Command};
use tephra_domain::drift::FoundKind;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "clean_object", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (pool, name, _) = draw.stranger()?;
    let kind = if name.contains("snapshot") { FoundKind::Snapshot { of: None } } else { FoundKind::Volume };
    Some(draw.admin().asks(Command::CleanObject(Box::new(CleanObject { pool, name, kind }))))
}
