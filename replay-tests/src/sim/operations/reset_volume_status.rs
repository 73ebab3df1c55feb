//! Sets a volume's status by hand, mostly while an operation is open on it.

use tephra_domain::command::Command;
use tephra_domain::volume::VolumeState;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "reset_volume_status", weight: 6, draw };

/// Where volumes come to by an operator's word alone, or nearly.
const RARE: &[VolumeState] = &[
    VolumeState::ErrorBackingUp,
    VolumeState::ErrorExtending,
    VolumeState::ErrorManaging,
    VolumeState::ErrorRestoring,
    VolumeState::Maintenance,
];

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let busy = draw.busy_volumes();
    let volume = match draw.choose(&busy) {
        Some(volume) if draw.below(2) == 0 => volume,
        _ if draw.below(3) == 0 => draw.volume_at_odds()?.0,
        _ => draw.volume()?.0,
    };
    let to = match draw.below(4) {
        0 => VolumeState::Available,
        1 => VolumeState::Error,
        2 => draw.choose(RARE)?,
        _ => draw.choose(VolumeState::ALL)?,
    };
    Some(draw.admin().asks(Command::ResetVolumeStatus { volume, to }))
}
