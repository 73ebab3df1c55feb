//! Gives a project the defaults again.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "clear_quota_limits", weight: 2, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let project = draw.project();
    Some(draw.admin().asks(Command::ClearQuotaLimits { project }))
}
