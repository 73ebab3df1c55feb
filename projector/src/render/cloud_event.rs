//! An event as a CloudEvent, for programs that are not ours: `docs/public-events.md`.

use serde::Serialize;
use tephra_domain::actor::Role;
use tephra_domain::event::Commit;
use tephra_domain::ids::{Position, ProjectId};
use tephra_journal::event_stream::MAX_EVENT_BYTES;

use super::EventView;

/// What each type begins with.
const TYPE_PREFIX: &str = "tephra.";

/// Context attributes and data, in the order in which they are written.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: &'a str,
    sequence: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlationid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a EventView>,
}

/// The `index`-th event of a commit for those who may see what is `owner`'s. The network address of
/// its author is shown only if it comes from the owner's own project, and never an administrator's:
/// where others work from is not their users' business.
pub fn public_view(
    position: Position,
    index: usize,
    commit: &Commit,
    owner: Option<&ProjectId>,
) -> Option<EventView> {
    let event = commit.events.get(index)?;
    let mut view = EventView::new(position, index, commit, event, owner);
    let author = &commit.actor;
    let is_colleague = owner == Some(&author.project) && author.role != Role::Admin;
    if !is_colleague {
        view.actor.address = None;
    }
    Some(view)
}

/// The CloudEvent, as JSON in one line. `source` is the ledger, `number` says which of its events
/// it is. An event that is too large for a message says where it is to be had instead.
pub fn cloud_event(source: &str, number: u64, view: &EventView) -> Vec<u8> {
    let mut event = CloudEvent {
        specversion: "1.0",
        id: &view.sequence,
        source,
        kind: format!("{TYPE_PREFIX}{}", view.kind),
        subject: format!("{}/{}", view.resource.kind, view.resource.id),
        time: &view.time,
        // Texts of one length sort as the numbers do.
        sequence: format!("{number:020}"),
        correlationid: &view.request_id,
        causationid: view.causation.as_deref(),
        project: view.project.as_deref(),
        datacontenttype: "application/json",
        dataref: None,
        data: Some(view),
    };
    let whole = written(&event);
    if whole.len() <= MAX_EVENT_BYTES {
        return whole;
    }
    event.data = None;
    event.dataref = Some(format!("/ledger/v1/events?after={}&limit=1", view.position.saturating_sub(1)));
    written(&event)
}

fn written(event: &CloudEvent<'_>) -> Vec<u8> {
    // It is made of texts and numbers: writing it as JSON cannot fail.
    serde_json::to_vec(event).unwrap_or_default()
}
