//! The ledger's own API: what Cinder's has no word for.
//!
//! Everybody sees what is their project's; administrators see everything. What belongs to another
//! project answers as if it were not there.
//!
//! * [`events`]: what happened, page by page; [`live`]: as it happens, with how far long work has come
//!   (`progress`); [`history`]: to one thing.
//! * [`past`]: what was, at a time or a position. [`operations`], [`debts`]: what is under way and
//!   what was left behind. [`drift`]: where backends show something else. [`verify`]: whether the log and the views are what they should be.

pub mod debts;
pub mod drift;
pub mod events;
pub mod history;
pub mod live;
pub mod operations;
mod owners;
pub mod past;
mod progress;
pub mod verify;

use tephra_domain::ids::{
    BackendName, DebtId, OperationId, Position, ProjectId, SnapshotId, VolumeId, VolumeTypeId,
};
use tephra_projector::as_of::AsOf;
use tephra_projector::history::ResourceRef;
use tephra_projector::render::parse_moment;
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Identity;
use crate::error::Fault;
use crate::request::PathId;
use crate::state::AppState;

/// The routes below `/ledger/v1`.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(debts::routes())
        .merge(drift::routes())
        .merge(events::routes())
        .merge(history::routes())
        .merge(live::routes())
        .merge(operations::routes())
        .merge(past::routes())
        .merge(verify::routes())
}

impl PathId for OperationId {
    const PARAM: &'static str = "operation_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| Fault::not_found(format!("Operation {text} could not be found.")))
    }
}

impl PathId for DebtId {
    const PARAM: &'static str = "debt_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| Fault::not_found(format!("Cleanup debt {text} could not be found.")))
    }
}

/// Whose things the asker may list: their own project's, or all that an administrator asks for.
/// Members who name another project get what there is of it for them: nothing.
fn scope(identity: &Identity, asked: Option<&str>) -> Option<ProjectId> {
    match asked {
        _ if !identity.is_admin() => Some(identity.actor.project.clone()),
        Some(project) => Some(ProjectId::new(project)),
        None => None,
    }
}

/// `volume:<id>`, `snapshot:<id>`, `type:<id>`, `operation:<id>`, `debt:<id>`, `backend:<name>`.
fn parse_resource(text: &str) -> Result<ResourceRef, Fault> {
    let (kind, id) = text.split_once(':').ok_or_else(|| unknown_resource(text))?;
    resource_of(kind, id)
}

fn resource_of(kind: &str, id: &str) -> Result<ResourceRef, Fault> {
    let unknown = || unknown_resource(&format!("{kind}:{id}"));
    let uuid = || id.parse::<uuid::Uuid>().map_err(|_| unknown());
    match kind {
        "volume" => Ok(ResourceRef::Volume(VolumeId::from_uuid(uuid()?))),
        "snapshot" => Ok(ResourceRef::Snapshot(SnapshotId::from_uuid(uuid()?))),
        "type" => Ok(ResourceRef::VolumeType(VolumeTypeId::from_uuid(uuid()?))),
        "operation" => Ok(ResourceRef::Operation(OperationId::from_uuid(uuid()?))),
        "debt" => Ok(ResourceRef::Debt(id.parse().map_err(|_| unknown())?)),
        "backend" if !id.is_empty() => Ok(ResourceRef::Backend(BackendName::new(id))),
        _ => Err(unknown()),
    }
}

fn unknown_resource(text: &str) -> Fault {
    Fault::bad_request(format!(
        "'{text}' names no resource: use volume:ID, snapshot:ID, type:ID, operation:ID, debt:ID or backend:NAME."
    ))
}

/// A position (digits) or a moment (RFC 3339).
fn parse_at(text: &str) -> Result<AsOf, Fault> {
    if let Ok(position) = text.parse() {
        return Ok(AsOf::Position(Position(position)));
    }
    // A plus sign in a query is a space, and offsets have plus signs.
    parse_moment(&text.replace(' ', "+")).map(AsOf::Time).ok_or_else(|| {
        Fault::bad_request(format!(
            "'{text}' is neither a position nor a moment such as 2026-01-31T14:03:00Z."
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{parse_at, parse_resource};
    use tephra_domain::ids::Position;
    use tephra_domain::units::Timestamp;
    use tephra_projector::as_of::AsOf;

    #[test]
    fn a_point_in_the_past_is_a_position_or_a_moment() {
        assert_eq!(parse_at("12"), Ok(AsOf::Position(Position(12))));
        assert_eq!(parse_at("1970-01-01T00:00:01Z"), Ok(AsOf::Time(Timestamp(1_000_000))));
        assert_eq!(parse_at("1970-01-01T02:00:01 02:00"), Ok(AsOf::Time(Timestamp(1_000_000))));
        for wrong in ["", "-1", "yesterday", "1970-01-01"] {
            assert!(parse_at(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_resource_is_a_kind_and_an_id() {
        let id = "6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10";
        for kind in ["volume", "snapshot", "type", "operation"] {
            assert!(parse_resource(&format!("{kind}:{id}")).is_ok(), "{kind}");
            assert!(parse_resource(&format!("{kind}:7")).is_err(), "{kind}");
        }
        assert!(parse_resource(&format!("debt:{id}.0")).is_ok());
        assert!(parse_resource("backend:fast").is_ok());
        for wrong in ["backend:", "volume", "planet:earth", ""] {
            assert!(parse_resource(wrong).is_err(), "{wrong:?}");
        }
    }
}
