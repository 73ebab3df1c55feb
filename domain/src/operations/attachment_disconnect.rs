//! Removing the export of an attachment: the client lets the volume go.
//!
//! | step     | effect         | undo | if it fails     |
//! |----------|----------------|------|-----------------|
//! | unexport | UnexportVolume | –    | error_detaching |
//!
//! While what exports cannot be reached, the operation waits for it.
//!
//! Whatever is under way on the attachment is ended first: a client may give up at any time. Once
//! the export is gone, so is the attachment, and the volume is used as the others say. If it cannot
//! be removed, the attachment is in `error_detaching` and the volume still in use; deleting it again
//! tries again, and so does whatever has exports made again (`export_restore`).

use crate::attachment::{Attachment, AttachmentEvent, AttachmentState};
use crate::command::Context;
use crate::effect::{BackendObject, Effect, Failure};
use crate::event::Event;
use crate::ids::{AttachmentId, OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, abandon, plan};
use crate::volume::{Volume, VolumeEvent, VolumeState};

use super::attachment_connect::used_without;
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentDisconnect {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// The attachment.
    pub attachment: AttachmentId,
    /// Whether it stays, without its export, until the client detaches (the old way).
    pub keep: bool,
}

/// The steps.
pub const STEPS: &[Step<AttachmentDisconnect>] = &[Step {
    name: "unexport",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::UnexportVolume {
        volume: BackendObject::Volume(p.volume),
        attachment: p.attachment,
    },
    if_it_fails: IfItFails::Undo,
    undo: None,
    if_undo_fails: IfUndoFails::OweCleanup,
}];

/// The events that begin to remove attachments, or remove them at once where there is no export;
/// none where that is under way already, unless what is to stay is to go now. With each comes whether it stays, without its export. The
/// command brings one id: the operations of the second and later ones are named beside it.
pub fn begin<'a>(
    ledger: &Ledger,
    volume: &Volume,
    attachments: impl Iterator<Item = (&'a Attachment, bool)>,
    ctx: &Context,
) -> Vec<Event> {
    let on = |id, event| Event::Volume(volume.id, VolumeEvent::Attachment { attachment: id, event });
    let first = OperationId::from(ctx.command);
    let mut operation = first;
    let mut deleted = Vec::new();
    let mut events = Vec::new();
    for (Attachment { id, .. }, keep, has_export) in attachments
        .filter(|(one, keep)| {
            one.status.state() != AttachmentState::Disconnecting || (!keep && is_to_stay(ledger, one))
        })
        .map(|(one, keep)| (one, keep, one.has_export()))
    {
        match &volume.pool {
            Some(pool) if has_export => {
                let params =
                    AttachmentDisconnect { volume: volume.id, pool: pool.clone(), attachment: *id, keep };
                events.extend(begin_as(operation, ledger, volume, params));
                operation = first.beside(*id);
            }
            Some(_) | None if keep => {}
            Some(_) | None => {
                deleted.push(*id);
                events.push(on(*id, AttachmentEvent::Deleted));
            }
        }
    }
    if !deleted.is_empty() {
        let others = volume.attachments.iter().filter(|one| !deleted.contains(&one.id));
        let used = volume.used_as(Volume::use_of(others));
        events.extend(used.map(|event| Event::Volume(volume.id, event)));
    }
    events
}

/// The events that begin to remove an export.
pub(super) fn begin_as(
    operation: OperationId,
    ledger: &Ledger,
    volume: &Volume,
    params: AttachmentDisconnect,
) -> Vec<Event> {
    let mut events = ended_for(ledger, volume.id, params.attachment);
    events.push(params.event(AttachmentEvent::DisconnectAccepted { operation }));
    let kind = OperationKind::AttachmentDisconnect(params);
    events.extend(open(ledger, operation, &volume.project, kind));
    events
}

/// Whether what is under way leaves the attachment, without its export.
fn is_to_stay(ledger: &Ledger, attachment: &Attachment) -> bool {
    let open = attachment.status.operation().and_then(|id| ledger.operations.get(&id));
    open.is_some_and(|open| matches!(&open.kind, OperationKind::AttachmentDisconnect(one) if one.keep))
}

/// Ends what is under way on an attachment: it would make the export again, or leave the attachment.
pub(super) fn ended_for(ledger: &Ledger, volume: VolumeId, attachment: AttachmentId) -> Vec<Event> {
    let claimants = ledger.claimants(ResourceKey::Volume(volume));
    let open = claimants.iter().filter_map(|id| ledger.operations.get(id));
    let makes_it = |kind: &OperationKind| {
        matches!(kind, OperationKind::AttachmentConnect(connect) if connect.export.attachment == attachment)
            || matches!(kind, OperationKind::ExportRestore(lost) if lost.export.attachment == attachment)
            || matches!(kind, OperationKind::AttachmentDisconnect(end) if end.attachment == attachment)
    };
    open.filter(|operation| makes_it(&operation.kind))
        .flat_map(|operation| abandon(ledger, operation, false))
        .collect()
}

impl AttachmentDisconnect {
    fn event(&self, event: AttachmentEvent) -> Event {
        Event::Volume(self.volume, VolumeEvent::Attachment { attachment: self.attachment, event })
    }
}

impl Saga for AttachmentDisconnect {
    const NAME: &'static str = "attachment_disconnect";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        vec![(ResourceKey::Volume(self.volume), Access::Shared)]
    }

    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        if self.keep {
            return vec![self.event(AttachmentEvent::Disconnected)];
        }
        let used = used_without(ledger, self.volume, self.attachment);
        std::iter::once(self.event(AttachmentEvent::Deleted)).chain(used).collect()
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        vec![self.event(AttachmentEvent::DisconnectFailed { operation: id, failure: failure.clone() })]
    }

    fn after_failure(&self, ledger: &Ledger, _restored: bool) -> Vec<Event> {
        // still attached, for all that is known
        let used = ledger.volumes.get(&self.volume).and_then(|volume| volume.used_as(VolumeState::InUse));
        used.map(|event| Event::Volume(self.volume, event)).into_iter().collect()
    }

    /// A daemon that is down comes back, and clients may give up before.
    fn waits_for_backend(&self) -> bool {
        true
    }
}
