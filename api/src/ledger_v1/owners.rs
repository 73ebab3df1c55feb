//! Whose an event is, where the event does not say so itself.

use std::collections::BTreeMap;

use tephra_domain::event::Event;
use tephra_domain::ids::{OperationId, Position, ProjectId};
use tephra_projector::QueryError;
use tephra_projector::events::EventQuery;
use tephra_projector::history::ResourceRef;
use tephra_projector::render::event::named_project;

use crate::state::AppState;

/// Owners that were looked up, for one page or one stream.
pub struct Owners {
    known: BTreeMap<ResourceRef, Option<ProjectId>>,
}

/// Owners that are remembered at a time; a stream that lives long forgets and looks up again.
const MAX_KNOWN: usize = 4096;

impl Owners {
    pub const fn new() -> Self {
        Self { known: BTreeMap::new() }
    }

    /// The project that an event is about; nothing for what belongs to the deployment.
    ///
    /// # Errors
    /// If the views or the log fail.
    pub async fn of(&mut self, state: &AppState, event: &Event) -> Result<Option<ProjectId>, QueryError> {
        let resource = match event {
            Event::Volume(id, _) => ResourceRef::Volume(*id),
            Event::Snapshot(id, _) => ResourceRef::Snapshot(*id),
            Event::Operation(id, _) => ResourceRef::Operation(*id),
            Event::Debt(id, _) => ResourceRef::Operation(id.operation),
            Event::Quota(_) | Event::VolumeType(..) | Event::Backend(..) | Event::TurnBegan { .. } => {
                return Ok(named_project(event).cloned());
            }
        };
        if let Some(owner) = self.known.get(&resource) {
            return Ok(owner.clone());
        }
        let owner = match named_project(event) {
            Some(owner) => Some(owner.clone()),
            None => look_up(state, &resource).await?,
        };
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(resource, owner.clone());
        Ok(owner)
    }
}

async fn look_up(state: &AppState, resource: &ResourceRef) -> Result<Option<ProjectId>, QueryError> {
    let alive = match resource {
        ResourceRef::Volume(id) => state.views.volume(*id)?.map(|row| row.project),
        ResourceRef::Snapshot(id) => state.views.snapshot(*id)?.map(|row| row.project),
        ResourceRef::Operation(id) => return owner_of_operation(state, *id),
        ResourceRef::VolumeType(_)
        | ResourceRef::Backend(_)
        | ResourceRef::Debt(_)
        | ResourceRef::Project(_) => None,
    };
    match alive {
        Some(owner) => Ok(Some(owner)),
        None => first_words(state, resource).await,
    }
}

fn owner_of_operation(state: &AppState, id: OperationId) -> Result<Option<ProjectId>, QueryError> {
    Ok(state.views.operation(id)?.map(|record| record.project))
}

/// What is gone still said once whose it was, in the commit that it began with.
async fn first_words(state: &AppState, resource: &ResourceRef) -> Result<Option<ProjectId>, QueryError> {
    let query = EventQuery {
        after: Position::START,
        limit: 1,
        resource: Some(resource.clone()),
        ..EventQuery::default()
    };
    let page = state.views.list_events(state.log.as_ref(), &query).await?;
    let commit = page.rows.first().map(|row| &row.commit.commit);
    Ok(commit.and_then(|commit| commit.events.iter().find_map(named_project).cloned()))
}
