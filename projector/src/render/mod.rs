//! The ledger's own words as JSON: events, operations, debts and resources.
//!
//! Nothing here knows of HTTP: the live stream, the pages of `/ledger/v1` and published events all
//! say the same things in the same words. Fields are in snake_case, units come last, moments are
//! RFC 3339 in UTC. A field that was once published keeps its name and meaning; new ones may come.

pub mod cloud_event;
pub mod event;
pub mod operation;
pub mod sentence;
pub mod state;

use serde::Serialize;
use serde_json::{Value, json};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::effect::{BackendObject, Failure};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{Position, ProjectId};
use tephra_domain::quota::QuotaEvent;
use tephra_domain::units::Timestamp;
use utoipa::ToSchema;

/// The resource that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResourceView {
    /// `volume`, `snapshot`, `type`, `quota`, `backend`, `operation` or `debt`.
    pub kind: &'static str,
    /// Its id; of a quota the project, or `default`; of a backend its name.
    pub id: String,
}

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActorView {
    /// The user; `tephra` for the system itself.
    pub user: String,
    /// The project that the user acted for.
    pub project: String,
    /// `reader`, `member` or `admin`.
    pub role: &'static str,
    /// Where the request came from, if it came over a network.
    pub address: Option<String>,
}

/// One event of the ledger, as `/ledger/v1` and every stream shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventView {
    /// `<position>.<index>`: where a stream resumes. Unique, rising, never reused.
    pub sequence: String,
    /// The commit that the event is part of. Events of one position happened together or not at all.
    pub position: u64,
    /// When it was decided: RFC 3339, UTC, microseconds.
    pub time: String,
    /// What happened, for example `VolumeCreated`.
    pub kind: &'static str,
    /// To what.
    pub resource: ResourceView,
    /// Whose it is; nothing for what belongs to the deployment (types, backends, default limits).
    pub project: Option<String>,
    /// Who asked.
    pub actor: ActorView,
    /// The request that this chain of causes began with.
    pub request_id: String,
    /// The operation whose progress caused it, if no request did so directly.
    pub causation: Option<String>,
    /// What else there is to know; the fields depend on `kind`.
    pub data: Value,
}

impl EventView {
    /// The `index`-th event of a commit. `project` is the owner of the resource, where the event
    /// does not say so itself.
    pub fn new(
        position: Position,
        index: usize,
        commit: &Commit,
        event: &Event,
        project: Option<&ProjectId>,
    ) -> Self {
        Self {
            sequence: sequence(position, index),
            position: position.0,
            time: moment(commit.time),
            kind: event.name(),
            resource: resource(event),
            project: project.or_else(|| event::named_project(event)).map(ToString::to_string),
            actor: actor(&commit.actor),
            request_id: commit.request.to_string(),
            causation: commit.causation.map(|operation| operation.to_string()),
            data: event::data(event),
        }
    }
}

/// Where an event is: the position of its commit, and its place within it, from 0.
pub fn sequence(position: Position, index: usize) -> String {
    format!("{position}.{index}")
}

/// Reads what [`sequence`] writes; a position alone means all of its events.
pub fn parse_sequence(text: &str) -> Option<(Position, usize)> {
    match text.split_once('.') {
        None => Some((Position(text.parse().ok()?), usize::MAX)),
        Some((position, index)) => Some((Position(position.parse().ok()?), index.parse().ok()?)),
    }
}

/// A moment in RFC 3339, UTC, always with six digits of a second so that text sorts as time does.
pub fn moment(at: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(at.micros()) {
        Ok(moment) => format!("{moment:.6}"),
        // Beyond the year 9999 only a damaged clock leads: say the number rather than nothing.
        Err(_) => at.micros().to_string(),
    }
}

/// Reads a moment in RFC 3339.
pub fn parse_moment(text: &str) -> Option<Timestamp> {
    text.parse::<jiff::Timestamp>().ok().map(|moment| Timestamp(moment.as_microsecond()))
}

/// The stable word for a role.
pub const fn role(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

/// Who asked.
pub fn actor(actor: &Actor) -> ActorView {
    ActorView {
        user: actor.user.to_string(),
        project: actor.project.to_string(),
        role: role(actor.role),
        address: actor.address.as_deref().map(ToOwned::to_owned),
    }
}

/// The resource that an event is about.
pub fn resource(event: &Event) -> ResourceView {
    let (kind, id) = match event {
        Event::Volume(id, _) => ("volume", id.to_string()),
        Event::Snapshot(id, _) => ("snapshot", id.to_string()),
        Event::VolumeType(id, _) => ("type", id.to_string()),
        Event::Quota(QuotaEvent::LimitsSet { project, .. } | QuotaEvent::LimitsCleared { project }) => {
            ("quota", project.to_string())
        }
        Event::Quota(QuotaEvent::DefaultsSet { .. }) => ("quota", "default".to_owned()),
        Event::Backend(name, _) => ("backend", name.to_string()),
        Event::Operation(id, _) => ("operation", id.to_string()),
        Event::Debt(id, _) => ("debt", id.to_string()),
        Event::TurnBegan { sequencer } => ("sequencer", sequencer.to_string()),
    };
    ResourceView { kind, id }
}

/// Why something did not happen.
pub fn failure(failure: &Failure) -> Value {
    json!({ "kind": failure.kind.as_str(), "message": failure.message })
}

/// Something on a backend: its kind, its name there, and the ids behind it.
pub fn object(object: &BackendObject) -> Value {
    let name = object.to_string();
    match object {
        BackendObject::Volume(volume) => {
            json!({ "kind": "volume", "name": name, "volume_id": volume.to_string() })
        }
        BackendObject::Snapshot { volume, snapshot } => json!({
            "kind": "snapshot",
            "name": name,
            "volume_id": volume.to_string(),
            "snapshot_id": snapshot.to_string(),
        }),
        BackendObject::SafetySnapshot { volume, operation } => json!({
            "kind": "safety_snapshot",
            "name": name,
            "volume_id": volume.to_string(),
            "operation_id": operation.to_string(),
        }),
        BackendObject::TemporaryVolume { volume, operation } => json!({
            "kind": "temporary_volume",
            "name": name,
            "volume_id": volume.to_string(),
            "operation_id": operation.to_string(),
        }),
    }
}

/// A cleanup debt that is still owed.
pub fn debt(debt: &CleanupDebt) -> Value {
    json!({
        "id": debt.id.to_string(),
        "operation_id": debt.id.operation.to_string(),
        "project": debt.project.as_str(),
        "pool": debt.pool.to_string(),
        "object": object(&debt.object),
        "reason": failure(&debt.reason),
        "held": debt.held,
        "attempt": debt.attempt,
        "not_before": (debt.not_before > Timestamp::default()).then(|| moment(debt.not_before)),
        "incurred_at": moment(debt.incurred_at),
    })
}

#[cfg(test)]
mod tests {
    use super::{moment, parse_moment, parse_sequence, sequence};
    use tephra_domain::ids::Position;
    use tephra_domain::units::Timestamp;

    #[test]
    fn moments_sort_as_text_and_read_back() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_700_000_000_000_000, "2023-11-14T22:13:20.000000Z"),
            (1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z"),
        ];
        for (micros, text) in cases {
            assert_eq!(moment(Timestamp(micros)), text);
            assert_eq!(parse_moment(text), Some(Timestamp(micros)));
        }
        assert_eq!(parse_moment("2023-11-14 at ten"), None);
    }

    #[test]
    fn a_sequence_reads_back_and_a_bare_position_means_all_of_it() {
        assert_eq!(parse_sequence(&sequence(Position(7), 2)), Some((Position(7), 2)));
        assert_eq!(parse_sequence("7"), Some((Position(7), usize::MAX)));
        for wrong in ["", ".", "7.", ".2", "-1", "7.2.1", "seven"] {
            assert_eq!(parse_sequence(wrong), None, "{wrong:?}");
        }
    }
}
