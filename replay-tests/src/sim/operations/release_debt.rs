//! Wants a debt paid now, a held one too.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "release_debt", weight: 3, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let debts: Vec<_> = draw.ledger.debts.sorted().into_iter().map(|(id, _)| *id).collect();
    let debt = match draw.choose(&debts) {
        Some(debt) => debt,
        None => draw.unknown_debt(),
    };
    Some(draw.admin().asks(Command::ReleaseDebt { debt }))
}
