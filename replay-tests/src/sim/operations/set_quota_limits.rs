//! Sets limits of a project, mostly near to what it uses.

use tephra_domain::command::Command;
use tephra_domain::quota::QuotaResource;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "set_quota_limits", weight: 4, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let project = draw.project();
    let resource = match draw.below(8) {
        0 => QuotaResource::PerVolumeGigabytes,
        1 => QuotaResource::VolumesOfType(draw.volume_type()?),
        2 => QuotaResource::GigabytesOfType(draw.volume_type()?),
        3 => QuotaResource::SnapshotsOfType(draw.volume_type()?),
        4 => QuotaResource::Snapshots,
        5 => QuotaResource::Gigabytes,
        _ => QuotaResource::Volumes,
    };
    let used = draw.ledger.usage.get(&project).map_or(0, |usage| usage.of(resource));
    let limit = match draw.below(6) {
        0 => -1,
        1 => 0,
        _ => used.saturating_add(i64::from(draw.below(8))),
    };
    let limits = [(resource, limit)].into();
    Some(draw.admin().asks(Command::SetQuotaLimits { project, limits }))
}
