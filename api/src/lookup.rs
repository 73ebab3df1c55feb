//! Finding things for an asker: what belongs to another project is not there.

use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{SnapshotId, VolumeId, VolumeTypeId};
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::{Snapshot, SnapshotEvent};
use tephra_domain::volume::{Volume, VolumeEvent};
use tephra_domain::volume_type::VolumeTypeEvent;

use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;

impl AppState {
    /// A volume that the asker may see.
    ///
    /// # Errors
    /// 404, the same for what is not there and for what is another project's.
    pub fn visible_volume(&self, identity: &Identity, id: VolumeId) -> Result<Volume, Fault> {
        let found = self.views.volume(id)?.filter(|volume| identity.actor.can_see(&volume.project));
        found.ok_or_else(|| Rejection::VolumeNotFound { volume: id }.into())
    }

    /// A snapshot that the asker may see.
    ///
    /// # Errors
    /// 404, the same for what is not there and for what is another project's.
    pub fn visible_snapshot(&self, identity: &Identity, id: SnapshotId) -> Result<Snapshot, Fault> {
        let found = self.views.snapshot(id)?.filter(|snapshot| identity.actor.can_see(&snapshot.project));
        found.ok_or_else(|| Rejection::SnapshotNotFound { snapshot: id }.into())
    }
}

/// The volume that a commit created, as it was right after that commit.
pub fn created_volume(commit: &Commit) -> Option<Volume> {
    let mut created: Option<Volume> = None;
    for event in &commit.events {
        let Event::Volume(id, event) = event else { continue };
        match (&mut created, event) {
            (None, VolumeEvent::CreateAccepted(accepted)) => {
                created = Some(Volume::accepted(*id, commit.time, accepted));
            }
            (None, VolumeEvent::ManageAccepted { accepted, .. }) => {
                created = Some(Volume::managed(*id, commit.time, accepted));
            }
            (Some(volume), event) if volume.id == *id => {
                volume.apply(commit.time, event).ok()?;
            }
            (Some(_) | None, _) => {}
        }
    }
    created
}

/// The snapshot that a commit created, as it was right after that commit.
pub fn created_snapshot(commit: &Commit) -> Option<Snapshot> {
    let mut created: Option<Snapshot> = None;
    for event in &commit.events {
        let Event::Snapshot(id, event) = event else { continue };
        match (&mut created, event) {
            (
                None,
                SnapshotEvent::CreateAccepted(accepted) | SnapshotEvent::ManageAccepted { accepted, .. },
            ) => {
                created = Some(Snapshot::accepted(*id, commit.time, accepted));
            }
            (Some(snapshot), event) if snapshot.id == *id => {
                snapshot.apply(commit.time, event).ok()?;
            }
            (Some(_) | None, _) => {}
        }
    }
    created
}

/// The volume type that a commit created.
pub fn created_volume_type(commit: &Commit) -> Option<VolumeTypeId> {
    commit.events.iter().find_map(|event| {
        if let Event::VolumeType(id, VolumeTypeEvent::Created { .. }) = event { Some(*id) } else { None }
    })
}
