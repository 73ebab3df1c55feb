//! Ends the export to a host, or all of a volume, the old way.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "terminate_connection", weight: 5, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (volume, _, project) = draw.attachment()?;
    let connector = (draw.below(3) != 0).then(|| draw.connector());
    Some(draw.owner(&project).asks(Command::TerminateConnection { volume, connector }))
}
