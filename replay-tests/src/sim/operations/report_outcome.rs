//! Reports an attempt that was overtaken long ago: it must change nothing, whatever it says.

use tephra_domain::command::Command;
use tephra_domain::effect::{Failure, FailureKind, Outcome};

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "report_outcome", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let key = draw.stale_attempt()?;
    let outcome = match draw.below(2) {
        0 => Outcome::Done,
        _ => Outcome::Failed(Failure::new(FailureKind::BackendError, "a report that comes too late")),
    };
    Some(draw.system().asks(Command::ReportOutcome { key, outcome }))
}
