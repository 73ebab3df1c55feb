//! Making an image of a volume (`os-volume_upload_image`).
//!
//! | step   | effect      | undo        | if the undo fails |
//! |--------|-------------|-------------|-------------------|
//! | upload | UploadImage | RemoveImage | leave to owner    |
//!
//! The volume is only read. Whatever becomes of the image, the volume is afterwards used as its
//! attachments say, and an image that is not whole is not there.

use std::collections::BTreeMap;

use crate::command::{Context, UploadVolume};
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::image::NewImage;
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::volume::{VolumeEvent, VolumeState};

use super::volume_extend_attached::used_again;
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUpload {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// What is made of it.
    pub image: NewImage,
}

/// The steps.
pub const STEPS: &[Step<VolumeUpload>] = &[Step {
    name: "upload",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::UploadImage {
        volume: BackendObject::Volume(p.volume),
        image: Box::new(p.image.clone()),
    },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::RemoveImage { volume: BackendObject::Volume(p.volume), image: p.image.id }),
    if_undo_fails: IfUndoFails::LeaveToOwner,
}];

/// Checks, in this order: role; the volume exists and is visible; it is available, or with `force`
/// also in use; it is on a backend; a public image is an administrator's.
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &UploadVolume, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:upload_image")?;
    let volume = ledger.visible_volume(command.volume, &ctx.actor)?;
    if command.image.visibility.as_deref() == Some("public") {
        ctx.actor.require_admin("volume_extension:volume_actions:upload_public")?;
    }
    let state = volume.status.state();
    let is_usable = state == VolumeState::Available || (command.force && state == VolumeState::InUse);
    let Some(pool) = volume.pool.clone().filter(|_| is_usable) else {
        return Err(Rejection::VolumeNotUploadable { volume: command.volume, force: command.force });
    };
    let operation = OperationId::from(ctx.command);
    let image = NewImage {
        owner: volume.project.clone(),
        properties: inherited(&volume.image_metadata),
        ..command.image.clone()
    };
    let params = VolumeUpload { volume: command.volume, pool, image };
    let accepted = VolumeEvent::UploadAccepted { operation, image: command.image.id };
    let mut events = vec![Event::Volume(command.volume, accepted)];
    events.extend(open(ledger, operation, &volume.project, OperationKind::VolumeUpload(params)));
    Ok(events)
}

/// What an image says of itself by other means (Cinder's `glance_core_properties`).
const CORE_PROPERTIES: &[&str] = &[
    "checksum",
    "container_format",
    "disk_format",
    "id",
    "image_id",
    "image_name",
    "min_disk",
    "min_ram",
    "name",
    "owner",
    "protected",
    "size",
    "status",
    "visibility",
];
/// What only the image store itself may set.
const RESERVED: &str = "os_glance";

/// What the new image takes over from the one that the volume came from.
fn inherited(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_own = |key: &str| !CORE_PROPERTIES.contains(&key) && !key.starts_with(RESERVED);
    metadata.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Saga for VolumeUpload {
    const NAME: &'static str = "volume_upload";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Exclusive)]
    }

    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        let mut events = vec![Event::Volume(self.volume, VolumeEvent::Uploaded { image: self.image.id })];
        events.extend(used_again(ledger, self.volume));
        events
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![Event::Volume(self.volume, VolumeEvent::UploadFailed { operation: id, failure })]
    }

    fn after_failure(&self, ledger: &Ledger, _restored: bool) -> Vec<Event> {
        used_again(ledger, self.volume).into_iter().collect()
    }
}
