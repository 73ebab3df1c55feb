//! Sets a default limit.

use tephra_domain::command::Command;
use tephra_domain::quota::QuotaResource;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "set_quota_defaults", weight: 1, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let limit = i64::from(8 + draw.below(30));
    let resource = if draw.below(2) == 0 { QuotaResource::Volumes } else { QuotaResource::Snapshots };
    Some(draw.admin().asks(Command::SetQuotaDefaults { limits: [(resource, limit)].into() }))
}
