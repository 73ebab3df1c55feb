//! Removing something from a backend that the ledger knows nothing of, at an operator's word.
//!
//! | step   | effect                        | undo   | if the undo fails | if it fails |
//! |--------|-------------------------------|--------|-------------------|-------------|
//! | claim  | Adopt(temporary)              | Disown | owe cleanup       | undo        |
//! | remove | DeleteVolume / DeleteSnapshot | –      | –                 | owe cleanup |
//!
//! The object is claimed under a name of this operation first: what somebody uses is refused there
//! and keeps its name, and from then on it is a temporary object like any other, whose removal is
//! owed as a debt until it is done.

use crate::command::{CleanObject, Context};
use crate::drift::FoundKind;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;

use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectClean {
    /// Where the object is.
    pub pool: PoolId,
    /// Its name there, until it is claimed.
    pub name: Box<str>,
    /// What it is once it is claimed: temporary.
    pub object: BackendObject,
}

/// The steps.
pub const STEPS: &[Step<ObjectClean>] = &[
    Step {
        name: "claim",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::Adopt { object: p.object, from: p.name.clone(), size: None },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::Disown { object: p.object, to: p.name.clone() }),
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "remove",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::delete(p.object),
        if_it_fails: IfItFails::OweCleanup,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
];

/// Checks, in this order: administrator; the object is not the ledger's; the backend is known, in
/// service and not frozen.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &CleanObject, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("tephra:drift:clean")?;
    if ledger.knows_name(&command.pool, &command.name) {
        return Err(Rejection::ObjectAlreadyManaged { name: command.name.clone() });
    }
    ledger.backend_in_service(&command.pool, &ctx.pools)?;
    let operation = OperationId::from(ctx.command);
    // a snapshot is claimed beside the volume that it is of, if that is ours
    let of_itself = VolumeId::from_uuid(operation.as_uuid());
    let object = match &command.kind {
        FoundKind::Volume => BackendObject::TemporaryVolume { volume: of_itself, operation },
        FoundKind::Snapshot { of } => {
            let of = of.as_deref().and_then(|name| name.strip_prefix("volume-"));
            // written in another way it is the name of something else
            let is_ours = |id: &str| id.parse().ok().filter(|volume: &VolumeId| volume.to_string() == id);
            let volume = of.and_then(is_ours).unwrap_or(of_itself);
            BackendObject::SafetySnapshot { volume, operation }
        }
    };
    let params = ObjectClean { pool: command.pool.clone(), name: command.name.clone(), object };
    Ok(open(ledger, operation, &ctx.actor.project, OperationKind::ObjectClean(params)))
}

impl Saga for ObjectClean {
    const NAME: &'static str = "object_clean";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.object.volume()), Access::Exclusive)]
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        Vec::new()
    }

    fn failed(&self, _id: OperationId, _step: u16, _failure: &Failure, _restored: bool) -> Vec<Event> {
        Vec::new()
    }
}
