//! Making exports again that their host has lost.
//!
//! | step   | effect       | undo | if it fails                   |
//! |--------|--------------|------|-------------------------------|
//! | export | ExportVolume | –    | it ends there, with its reason |
//!
//! Exports live in a daemon's memory: after a restart of the daemon or its host they are gone,
//! while servers still hold their volumes. An executor that finds itself before a new daemon says so
//! ([`crate::command::Command::RestoreExports`]), and every export that should be there is made
//! again, as it was: the same target, the same secrets. Statuses do not change. What could not be
//! removed before is removed now ([`AttachmentDisconnect`]).

use crate::attachment::{Attachment, AttachmentState};
use crate::command::Context;
use crate::effect::{BackendObject, Effect, Export, Failure};
use crate::event::Event;
use crate::ids::{BackendName, OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::volume::Volume;

use super::attachment_disconnect::{AttachmentDisconnect, begin_as};
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRestore {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// What is to be there.
    pub export: Export,
}

/// The steps.
pub const STEPS: &[Step<ExportRestore>] = &[Step {
    name: "export",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::ExportVolume { volume: BackendObject::Volume(p.volume), export: p.export.clone() },
    if_it_fails: IfItFails::Undo,
    undo: None,
    if_undo_fails: IfUndoFails::OweCleanup,
}];

/// After how many exports a command takes no further volume: all of it must fit into one commit, and
/// a volume has at most [`MAX_ATTACHMENTS`](crate::attachment::MAX_ATTACHMENTS). The executor asks
/// again for what comes after the last volume.
pub const BATCH: usize = 64;

/// Opens one operation for each export of the backend that should be there, or could not be removed,
/// of the volumes after one of them, except where one is open already. Checks only the role.
///
/// # Errors
/// If somebody else than the system or an administrator asks.
pub fn decide(
    ledger: &Ledger,
    backend: &BackendName,
    after: Option<VolumeId>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("tephra:export:restore")?;
    let first = OperationId::from(ctx.command);
    let mut events = Vec::new();
    let mut count = 0_usize;
    for volume in ledger.volumes_exported_on(backend, after) {
        if count >= BATCH {
            break;
        }
        let Some(pool) = &volume.pool else { continue };
        for attachment in &volume.attachments {
            let operation = first.beside(attachment.id);
            let (volume_id, pool) = (volume.id, pool.clone());
            if let Some(export) = lost(ledger, volume, attachment) {
                count = count.saturating_add(1);
                let params = ExportRestore { volume: volume_id, pool, export };
                events.extend(open(ledger, operation, &volume.project, OperationKind::ExportRestore(params)));
            } else if attachment.status.state() == AttachmentState::ErrorDetaching && attachment.has_export()
            {
                count = count.saturating_add(1);
                let id = attachment.id;
                let params = AttachmentDisconnect { volume: volume_id, pool, attachment: id, keep: false };
                events.extend(begin_as(operation, ledger, volume, params));
            }
        }
    }
    Ok(events)
}

/// An attachment's export, if it should be there and nobody is at work on it.
fn lost(ledger: &Ledger, volume: &Volume, attachment: &Attachment) -> Option<Export> {
    let claimants = ledger.claimants(ResourceKey::Volume(volume.id));
    let being_restored = claimants.iter().filter_map(|id| ledger.operations.get(id)).any(|operation| {
        matches!(&operation.kind, OperationKind::ExportRestore(open) if open.export.attachment == attachment.id)
    });
    match attachment.status.state() {
        AttachmentState::Attaching | AttachmentState::Attached if !being_restored => attachment.export(),
        // an operation is at work, or what is left is to go
        AttachmentState::Attaching
        | AttachmentState::Attached
        | AttachmentState::Absent
        | AttachmentState::Reserved
        | AttachmentState::Connecting
        | AttachmentState::Disconnecting
        | AttachmentState::ErrorAttaching
        | AttachmentState::ErrorDetaching => None,
    }
}

impl Saga for ExportRestore {
    const NAME: &'static str = "export_restore";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Shared)]
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        Vec::new()
    }

    fn failed(&self, _id: OperationId, _step: u16, _failure: &Failure, _restored: bool) -> Vec<Event> {
        Vec::new()
    }
}
