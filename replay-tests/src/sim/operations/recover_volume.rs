//! Puts held data back after a revert that could not be undone.

use tephra_domain::command::Command;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "recover_volume", weight: 4, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let held: Vec<_> = draw
        .ledger
        .debts
        .sorted()
        .into_iter()
        .filter(|(_, debt)| debt.held)
        .map(|(_, debt)| debt.object.volume())
        .collect();
    let volume = match draw.choose(&held) {
        Some(volume) if draw.below(8) != 0 => volume,
        _ => draw.volume()?.0,
    };
    Some(draw.admin().asks(Command::RecoverVolume { volume }))
}
