//! Making the export of an attachment, for the host that its client names.
//!
//! | step   | effect       | undo           | if the undo fails |
//! |--------|--------------|----------------|-------------------|
//! | export | ExportVolume | UnexportVolume | needs operator    |
//!
//! While what exports cannot be reached, the operation waits for it.
//!
//! A failure leaves the attachment in `error_attaching` with its reason, and the volume used as its
//! other attachments say. If the undo fails too, an export may be left: the volume stays
//! `attaching` until somebody deletes the attachment, which tries again to remove it.

use crate::attachment::{AttachMode, Attachment, AttachmentEvent, Connector};
use crate::backend::ExportProtocol;
use crate::command::Context;
use crate::effect::{BackendObject, Effect, Export, Failure};
use crate::event::Event;
use crate::ids::{AttachmentId, OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::rejection::Rejection;
use crate::volume::{Volume, VolumeEvent, VolumeState};

use super::attachment_disconnect::ended_for;
use super::{OperationKind, Saga, open};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentConnect {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is.
    pub pool: PoolId,
    /// What is to be made.
    pub export: Export,
}

/// The steps.
pub const STEPS: &[Step<AttachmentConnect>] = &[Step {
    name: "export",
    when: "always",
    count: |_| 1,
    effect: |p, _| Effect::ExportVolume { volume: BackendObject::Volume(p.volume), export: p.export.clone() },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::UnexportVolume {
        volume: BackendObject::Volume(p.volume),
        attachment: p.export.attachment,
    }),
    if_undo_fails: IfUndoFails::NeedsOperator,
}];

/// Checks what every connection needs, in this order: the volume is on a pool; its backend can
/// export it; the connector says what that takes.
///
/// # Errors
/// The first of these that does not hold.
pub fn check(ledger: &Ledger, volume: &Volume, connector: &Connector) -> Result<PoolId, Rejection> {
    let Some(pool) = &volume.pool else {
        return Err(Rejection::VolumeNotConnectable { status: volume.status.wire_name() });
    };
    let protocol = ledger.backends.get(&pool.backend).and_then(|backend| backend.description.protocol());
    match (protocol, &connector.initiator) {
        (Some(ExportProtocol::Iscsi), None) => Err(Rejection::ConnectorIncomplete { missing: "initiator" }),
        (Some(_) | None, _) => Ok(pool.clone()),
    }
}

/// The events that begin to connect an attachment of the volume.
///
/// # Errors
/// As [`check`].
pub fn begin(
    ledger: &Ledger,
    volume: &Volume,
    attachment: AttachmentId,
    mode: AttachMode,
    connector: &Connector,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    let pool = check(ledger, volume, connector)?;
    let operation = OperationId::from(ctx.command);
    let export = Export::of(attachment, connector, mode);
    let accepted = AttachmentEvent::ConnectAccepted { operation, connector: connector.clone(), mode };
    let mut events = ended_for(ledger, volume.id, attachment);
    events.push(Event::Volume(volume.id, VolumeEvent::Attachment { attachment, event: accepted }));
    events.extend(volume.used_as(VolumeState::Attaching).map(|event| Event::Volume(volume.id, event)));
    let params = AttachmentConnect { volume: volume.id, pool, export };
    events.extend(open(ledger, operation, &volume.project, OperationKind::AttachmentConnect(params)));
    Ok(events)
}

/// How a volume is used once an attachment of it is gone, or of no more use.
pub(super) fn used_without(ledger: &Ledger, volume: VolumeId, attachment: AttachmentId) -> Option<Event> {
    let row = ledger.volumes.get(&volume)?;
    let others = row.attachments.iter().filter(|other: &&Attachment| other.id != attachment);
    row.used_as(Volume::use_of(others)).map(|event| Event::Volume(volume, event))
}

impl AttachmentConnect {
    fn event(&self, event: AttachmentEvent) -> Event {
        Event::Volume(self.volume, VolumeEvent::Attachment { attachment: self.export.attachment, event })
    }
}

impl Saga for AttachmentConnect {
    const NAME: &'static str = "attachment_connect";

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
        vec![self.event(AttachmentEvent::Connected)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        let failure = failure.clone();
        vec![self.event(AttachmentEvent::ConnectFailed { operation: id, failure, restored })]
    }

    fn after_failure(&self, ledger: &Ledger, restored: bool) -> Vec<Event> {
        let freed = restored.then(|| used_without(ledger, self.volume, self.export.attachment));
        freed.flatten().into_iter().collect()
    }

    /// A daemon that is down comes back, and clients may give up before.
    fn waits_for_backend(&self) -> bool {
        true
    }
}
