//! A volume: its statuses, what may happen to it, and which event leads from which status to which.
//!
//! Statuses and their names are Cinder's (`cinder/objects/fields.py`). A transitional status names
//! the operation that owns it: a volume is `creating` exactly as long as that operation is open.
//! `reserved`, `attaching`, `in-use` and `detaching` wait for clients, not for us: they are at rest.

#![allow(missing_docs, reason = "statuses, events and fields carry Cinder's own words")]

use std::collections::BTreeMap;

use crate::attachment::{Attachment, AttachmentEvent, AttachmentState};
use crate::effect::Failure;
use crate::event::IllegalEvent;
use crate::ids::{
    AttachmentId, ImageId, OperationId, PoolId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId,
    ZoneName,
};
use crate::units::{SizeGib, Timestamp};

mod event;
mod status;

pub use event::{VolumeCreateAccepted, VolumeEvent, VolumeEventKind};
pub use status::{
    DELETABLE, RESETTABLE, STATUS_NEUTRAL, TRANSITIONS, USES, VolumeState, VolumeStatus, is_transition,
};

use VolumeState as S;

/// What a new volume starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing: all zeroes.
    Blank,
    /// A snapshot's data.
    Snapshot(SnapshotId),
    /// Another volume's data, as it is when the operation runs.
    Volume(VolumeId),
    /// An image's disk.
    Image(ImageId),
}

/// Why the last operation on a resource did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRecord {
    /// The operation that failed.
    pub operation: OperationId,
    /// When it ended.
    pub at: Timestamp,
    /// What went wrong.
    pub failure: Failure,
}

/// A volume as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub project: ProjectId,
    pub user: UserId,
    pub name: Option<Box<str>>,
    pub description: Option<Box<str>>,
    pub size: SizeGib,
    pub status: VolumeStatus,
    pub volume_type: VolumeTypeId,
    pub availability_zone: ZoneName,
    /// Nothing if no pool would take it.
    pub pool: Option<PoolId>,
    pub source: VolumeSource,
    pub metadata: BTreeMap<String, String>,
    /// What it remembers of the image that it came from, by itself or by its source.
    pub image_metadata: BTreeMap<String, String>,
    pub multiattach: bool,
    pub bootable: bool,
    /// Nothing until somebody sets the flag, as in Cinder.
    pub readonly: Option<bool>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// When its backend object first existed.
    pub launched_at: Option<Timestamp>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// Who uses it, oldest first.
    pub attachments: Vec<Attachment>,
    /// The last operation on it that failed.
    pub last_failure: Option<Box<FailureRecord>>,
}

impl Volume {
    /// The attachment of that id.
    pub fn attachment(&self, id: AttachmentId) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.id == id)
    }

    /// Whether it holds what it was to start from, as far as anybody has said: a blank one holds it
    /// as soon as it exists, and one that was taken over did before.
    pub fn has_its_data(&self) -> bool {
        self.launched_at.is_some() || self.source == VolumeSource::Blank
    }

    /// Whether any export of it exists, or may.
    pub fn has_exports(&self) -> bool {
        self.attachments.iter().any(Attachment::has_export)
    }

    /// Whether a server has it, or may still reach it.
    pub fn is_held(&self) -> bool {
        let holds = |one: &Attachment| one.has_export() || one.status.state() == AttachmentState::Attached;
        self.attachments.iter().any(holds)
    }

    /// How it is used if these are its attachments: the strongest use counts, as in Cinder's
    /// `finish_detach`. An export that could not be removed still is one.
    pub fn use_of<'a>(attachments: impl Iterator<Item = &'a Attachment> + Clone) -> VolumeState {
        let any = |wanted: &[AttachmentState]| {
            attachments.clone().any(|attachment| wanted.contains(&attachment.status.state()))
        };
        let half_made = |attachment: &Attachment| {
            attachment.status.state() == AttachmentState::ErrorAttaching && attachment.has_export()
        };
        if any(&[AttachmentState::Attached, AttachmentState::ErrorDetaching]) {
            S::InUse
        } else if any(&[AttachmentState::Connecting, AttachmentState::Attaching])
            || attachments.clone().any(half_made)
        {
            S::Attaching
        } else if any(&[AttachmentState::Disconnecting]) {
            S::Detaching
        } else if any(&[AttachmentState::Reserved]) {
            S::Reserved
        } else {
            S::Available
        }
    }

    /// The event that makes the volume's status this use of it; nothing if it is so already, or if
    /// an operation or an error decides the status.
    pub fn used_as(&self, to: VolumeState) -> Option<VolumeEvent> {
        let state = self.status.state();
        (USES.contains(&state) && state != to).then_some(VolumeEvent::UseChanged { to })
    }
    /// The volume that [`VolumeEvent::CreateAccepted`] brings about.
    pub fn accepted(id: VolumeId, at: Timestamp, event: &VolumeCreateAccepted) -> Self {
        Self {
            id,
            project: event.project.clone(),
            user: event.user.clone(),
            name: event.name.clone(),
            description: event.description.clone(),
            size: event.size,
            status: VolumeStatus::Creating { operation: event.operation },
            volume_type: event.volume_type,
            availability_zone: event.availability_zone.clone(),
            pool: event.placement.chosen.clone(),
            source: event.source,
            metadata: event.metadata.clone(),
            image_metadata: BTreeMap::new(),
            multiattach: event.multiattach,
            bootable: event.bootable,
            readonly: None,
            created_at: at,
            updated_at: None,
            launched_at: None,
            snapshots: Vec::new(),
            attachments: Vec::new(),
            last_failure: None,
        }
    }

    /// The volume that [`VolumeEvent::ManageAccepted`] brings about.
    pub fn managed(id: VolumeId, at: Timestamp, event: &VolumeCreateAccepted) -> Self {
        Self {
            status: VolumeStatus::Managing { operation: event.operation },
            ..Self::accepted(id, at, event)
        }
    }

    /// Takes one event in. `Ok(false)` says that the volume is gone with it.
    ///
    /// # Errors
    /// [`IllegalEvent`] if [`TRANSITIONS`] has no such change: the history is not a history.
    pub fn apply(&mut self, at: Timestamp, event: &VolumeEvent) -> Result<bool, IllegalEvent> {
        let from = self.status.state();
        let to = self.target_of(event);
        if !is_transition(from, event.kind(), to) {
            return Err(IllegalEvent {
                resource: self.id.to_string(),
                state: from.as_str(),
                event: format!("{:?}", event.kind()),
            });
        }
        if let VolumeEvent::Attachment { attachment, event } = event {
            self.attach(at, *attachment, event)?;
        }
        self.updated_at = Some(at);
        match event {
            VolumeEvent::CreateAccepted(_)
            | VolumeEvent::ManageAccepted { .. }
            | VolumeEvent::Deleted
            | VolumeEvent::Unmanaged => return Ok(false),
            VolumeEvent::Rescheduled { placement, .. } => self.pool.clone_from(&placement.chosen),
            VolumeEvent::Created | VolumeEvent::Managed => {
                self.launched_at = Some(at);
                self.status = VolumeStatus::Available;
            }
            VolumeEvent::Reverted | VolumeEvent::Uploaded { .. } => self.status = VolumeStatus::Available,
            VolumeEvent::UploadAccepted { operation, image } => {
                self.status = VolumeStatus::Uploading { operation: *operation, image: *image };
            }
            VolumeEvent::DeleteAccepted { operation } => {
                self.status = VolumeStatus::Deleting { operation: *operation, from };
            }
            VolumeEvent::ExtendAccepted { operation, to } => {
                self.status = VolumeStatus::Extending { operation: *operation, to: *to };
            }
            VolumeEvent::Extended { to } => {
                self.size = *to;
                self.status = VolumeStatus::Available;
            }
            VolumeEvent::RevertAccepted { operation, snapshot } => {
                self.status = VolumeStatus::Reverting { operation: *operation, snapshot: *snapshot };
            }
            VolumeEvent::ResetAccepted { operation } => {
                self.status = VolumeStatus::Verifying { operation: *operation, from };
            }
            VolumeEvent::UnmanageAccepted { operation } => {
                self.status = VolumeStatus::Unmanaging { operation: *operation, from };
            }
            VolumeEvent::CreateFailed { operation, failure }
            | VolumeEvent::ManageFailed { operation, failure }
            | VolumeEvent::UnmanageFailed { operation, failure, .. }
            | VolumeEvent::DeleteFailed { operation, failure }
            | VolumeEvent::ExtendFailed { operation, failure, .. }
            | VolumeEvent::RevertFailed { operation, failure, .. }
            | VolumeEvent::UploadFailed { operation, failure }
            | VolumeEvent::ResetFailed { operation, failure } => {
                self.last_failure =
                    Some(Box::new(FailureRecord { operation: *operation, at, failure: failure.clone() }));
                self.rest_in(to);
            }
            VolumeEvent::StatusReset { to } => self.rest_in(*to),
            VolumeEvent::DetailsUpdated { name, description } => {
                self.name.clone_from(name);
                self.description.clone_from(description);
            }
            VolumeEvent::MetadataReplaced { metadata } => self.metadata.clone_from(metadata),
            VolumeEvent::BootableChanged { bootable } => self.bootable = *bootable,
            VolumeEvent::ReadonlyChanged { readonly } => self.readonly = Some(*readonly),
            VolumeEvent::ImageMetadataReplaced { metadata } => self.image_metadata.clone_from(metadata),
            VolumeEvent::UseChanged { to } => self.rest_in(*to),
            // taken in above: what is refused must change nothing
            VolumeEvent::Attachment { .. } => {}
        }
        Ok(true)
    }

    fn attach(
        &mut self,
        at: Timestamp,
        id: AttachmentId,
        event: &AttachmentEvent,
    ) -> Result<(), IllegalEvent> {
        let place = self.attachments.iter().position(|attachment| attachment.id == id);
        match (event, place) {
            (AttachmentEvent::Reserved { instance, mode }, None) => {
                self.attachments.push(Attachment::reserved(id, at, instance.clone(), *mode));
                Ok(())
            }
            (_, Some(place)) => {
                let stays = match self.attachments.get_mut(place) {
                    Some(attachment) => attachment.apply(at, event)?,
                    None => true,
                };
                if !stays {
                    self.attachments.remove(place);
                }
                Ok(())
            }
            (_, None) => Err(IllegalEvent {
                resource: id.to_string(),
                state: AttachmentState::Absent.as_str(),
                event: format!("{:?}", event.kind()),
            }),
        }
    }

    fn rest_in(&mut self, state: VolumeState) {
        if let Some(status) = VolumeStatus::at_rest(state) {
            self.status = status;
        }
    }

    fn target_of(&self, event: &VolumeEvent) -> VolumeState {
        match event {
            VolumeEvent::CreateAccepted(_) | VolumeEvent::Rescheduled { .. } => S::Creating,
            VolumeEvent::Created
            | VolumeEvent::Managed
            | VolumeEvent::Extended { .. }
            | VolumeEvent::Reverted
            | VolumeEvent::Uploaded { .. }
            | VolumeEvent::UploadFailed { .. } => S::Available,
            VolumeEvent::UploadAccepted { .. } => S::Uploading,
            VolumeEvent::ManageAccepted { .. } => S::Managing,
            VolumeEvent::ManageFailed { .. } => S::ErrorManaging,
            VolumeEvent::UnmanageAccepted { .. } => S::Unmanaging,
            VolumeEvent::UnmanageFailed { restored, .. } => {
                self.status.left_from().filter(|_| *restored).unwrap_or(S::Error)
            }
            VolumeEvent::CreateFailed { .. } | VolumeEvent::ResetFailed { .. } => S::Error,
            VolumeEvent::DeleteAccepted { .. } => S::Deleting,
            VolumeEvent::Deleted | VolumeEvent::Unmanaged => S::Absent,
            VolumeEvent::DeleteFailed { failure, .. } => {
                let from = self.status.left_from().filter(|from| !from.is_transitional());
                let untouched = failure.kind.leaves_object_untouched();
                from.filter(|_| untouched).unwrap_or(S::ErrorDeleting)
            }
            VolumeEvent::ExtendAccepted { .. } => S::Extending,
            VolumeEvent::ExtendFailed { restored, .. } => {
                if *restored {
                    S::Available
                } else {
                    S::ErrorExtending
                }
            }
            VolumeEvent::RevertAccepted { .. } => S::Reverting,
            VolumeEvent::RevertFailed { restored, .. } => {
                if *restored {
                    S::Available
                } else {
                    S::Error
                }
            }
            VolumeEvent::ResetAccepted { .. } => S::Verifying,
            VolumeEvent::StatusReset { to } | VolumeEvent::UseChanged { to } => *to,
            VolumeEvent::DetailsUpdated { .. }
            | VolumeEvent::MetadataReplaced { .. }
            | VolumeEvent::BootableChanged { .. }
            | VolumeEvent::ReadonlyChanged { .. }
            | VolumeEvent::ImageMetadataReplaced { .. }
            | VolumeEvent::Attachment { .. } => self.status.state(),
        }
    }

    /// What it takes of the project's gigabytes: while it grows, the size that it will have.
    pub const fn charged_gib(&self) -> u32 {
        match &self.status {
            VolumeStatus::Extending { to, .. } => to.gib(),
            VolumeStatus::Creating { .. }
            | VolumeStatus::Available
            | VolumeStatus::Deleting { .. }
            | VolumeStatus::Reverting { .. }
            | VolumeStatus::Verifying { .. }
            | VolumeStatus::Managing { .. }
            | VolumeStatus::Unmanaging { .. }
            | VolumeStatus::Uploading { .. }
            | VolumeStatus::Error
            | VolumeStatus::ErrorDeleting
            | VolumeStatus::ErrorExtending
            | VolumeStatus::ErrorRestoring
            | VolumeStatus::ErrorManaging
            | VolumeStatus::ErrorBackingUp
            | VolumeStatus::Maintenance
            | VolumeStatus::Reserved
            | VolumeStatus::Attaching
            | VolumeStatus::InUse
            | VolumeStatus::Detaching => self.size.gib(),
        }
    }
}
