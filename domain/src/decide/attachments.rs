//! What clients ask of attachments: the new way (reserve, connect, complete, delete) and the old
//! one (volume actions), over the same attachments.

use crate::attachment::{
    AttachMode, Attachment, AttachmentEvent, AttachmentState, Connector, MAX_ATTACHMENTS,
};
use crate::command::{AttachVolume, Context, CreateAttachment};
use crate::event::Event;
use crate::ids::{AttachmentId, VolumeId};
use crate::ledger::Ledger;
use crate::operations::{attachment_connect, attachment_disconnect};
use crate::rejection::Rejection;
use crate::volume::{Volume, VolumeEvent, VolumeState};

fn on(volume: VolumeId, event: VolumeEvent) -> Event {
    Event::Volume(volume, event)
}

fn to_attachment(volume: VolumeId, attachment: AttachmentId, event: AttachmentEvent) -> Event {
    on(volume, VolumeEvent::Attachment { attachment, event })
}

fn found(volume: &Volume, id: AttachmentId) -> Result<&Attachment, Rejection> {
    volume.attachment(id).ok_or(Rejection::AttachmentNotFound { attachment: id })
}

/// Refuses the id of a new attachment that is taken, and one more than a volume may have.
fn is_fresh(volume: &Volume, attachment: AttachmentId) -> Result<(), Rejection> {
    match volume.attachment(attachment) {
        Some(_) => Err(Rejection::AttachmentExists { attachment }),
        None if u32::try_from(volume.attachments.len()).unwrap_or(u32::MAX) >= MAX_ATTACHMENTS => {
            Err(Rejection::TooManyAttachments { volume: volume.id, limit: MAX_ATTACHMENTS })
        }
        None => Ok(()),
    }
}

/// The volume and its attachment; another project's is not there.
fn visible<'a>(
    ledger: &'a Ledger,
    volume: VolumeId,
    attachment: AttachmentId,
    ctx: &Context,
) -> Result<(&'a Volume, &'a Attachment), Rejection> {
    let volume = ledger
        .visible_volume(volume, &ctx.actor)
        .map_err(|_| Rejection::AttachmentNotFound { attachment })?;
    Ok((volume, found(volume, attachment)?))
}

/// A volume whose flag says so is attached for reading only, whatever else is asked.
fn mode_of(volume: &Volume, asked: Option<AttachMode>) -> Option<AttachMode> {
    if volume.readonly == Some(true) { Some(AttachMode::ReadOnly) } else { asked }
}

fn with_use(volume: &Volume, mut events: Vec<Event>, to: VolumeState) -> Vec<Event> {
    events.extend(volume.used_as(to).map(|event| on(volume.id, event)));
    events
}

/// Refuses what the volume's readonly flag forbids.
fn mode_allowed(volume: &Volume, mode: AttachMode) -> Result<(), Rejection> {
    if volume.readonly == Some(true) && mode != AttachMode::ReadOnly {
        return Err(Rejection::AttachModeInvalid { volume: volume.id, mode: mode.as_str() });
    }
    Ok(())
}

/// Refuses a volume that an operation, an error or an operator has.
fn is_for_clients(volume: &Volume) -> Result<(), Rejection> {
    if crate::volume::USES.contains(&volume.status.state()) {
        return Ok(());
    }
    Err(Rejection::VolumeNotConnectable { status: volume.status.wire_name() })
}

fn is_error(state: VolumeState) -> bool {
    crate::volume::RESETTABLE.contains(&state) && state != VolumeState::Maintenance
}

/// Checks, in this order: role; the volume exists and is visible; it is in no error; it is
/// available, or in use and made for that (multiattach), or the same server has it already; the id is
/// not taken, and the attachment not one too many; with a connector, what connecting needs.
pub(super) fn create(
    ledger: &Ledger,
    command: &CreateAttachment,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:attachment_create")?;
    let volume = ledger.visible_volume(command.volume, &ctx.actor)?;
    let state = volume.status.state();
    if is_error(state) {
        let status = volume.status.wire_name();
        return Err(Rejection::VolumeInErrorNotAttachable { volume: volume.id, status });
    }
    // the same server may take it again: it is moving to another host
    let is_again = matches!(state, VolumeState::InUse | VolumeState::Reserved)
        && command.instance.is_some()
        && volume.attachments.iter().any(|other| other.instance == command.instance);
    let is_free = state == VolumeState::Available || (volume.multiattach && state == VolumeState::InUse);
    if !is_free && !is_again {
        return Err(Rejection::VolumeNotReservable {
            volume: volume.id,
            status: volume.status.wire_name(),
            multiattach: volume.multiattach,
        });
    }
    is_fresh(volume, command.attachment)?;
    let mode = mode_of(volume, command.mode);
    let reserved = AttachmentEvent::Reserved { instance: command.instance.clone(), mode };
    let mut events = vec![to_attachment(volume.id, command.attachment, reserved)];
    match &command.connector {
        // who moves to another host goes on using it meanwhile
        None if !is_free => Ok(events),
        None => Ok(with_use(volume, events, VolumeState::Reserved)),
        Some(connector) => {
            let mode = mode.or(command.connector_mode).unwrap_or(AttachMode::ReadWrite);
            let id = command.attachment;
            events.extend(attachment_connect::begin(ledger, volume, id, mode, connector, ctx)?);
            Ok(events)
        }
    }
}

/// Checks, in this order: role; the attachment exists and is visible; its volume is in no error; it
/// is not being connected or disconnected; unless the volume is made for that, no other server has
/// a connection; what connecting needs.
pub(super) fn update(
    ledger: &Ledger,
    volume: VolumeId,
    attachment: AttachmentId,
    connector: &Connector,
    mode: Option<AttachMode>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:attachment_update")?;
    let (volume, attachment) = visible(ledger, volume, attachment, ctx)?;
    let state = volume.status.state();
    if is_error(state) {
        let status = volume.status.wire_name();
        return Err(Rejection::VolumeInErrorNotConnectable { volume: volume.id, status });
    }
    is_for_clients(volume)?;
    is_still(attachment)?;
    let is_elsewhere = |other: &Attachment| {
        other.id != attachment.id
            && other.has_export()
            && (other.instance.is_none() || other.instance != attachment.instance)
    };
    if !volume.multiattach && volume.attachments.iter().any(is_elsewhere) {
        return Err(Rejection::DuplicateConnectors { volume: volume.id });
    }
    // since the attachment was made, the flag may have been set
    let mode = mode_of(volume, attachment.mode.or(mode)).unwrap_or(AttachMode::ReadWrite);
    let is_so = attachment.connector.as_ref() == Some(connector)
        && attachment.mode == Some(mode)
        && attachment.status.state() == AttachmentState::Attaching;
    if is_so {
        return Ok(Vec::new());
    }
    attachment_connect::begin(ledger, volume, attachment.id, mode, connector, ctx)
}

/// Refuses an attachment on which an operation is open, or whose export could not be removed.
fn is_still(attachment: &Attachment) -> Result<(), Rejection> {
    let state = attachment.status.state();
    match state {
        AttachmentState::Reserved
        | AttachmentState::Attaching
        | AttachmentState::Attached
        | AttachmentState::ErrorAttaching => Ok(()),
        AttachmentState::Absent
        | AttachmentState::Connecting
        | AttachmentState::Disconnecting
        | AttachmentState::ErrorDetaching => {
            Err(Rejection::AttachmentBusy { attachment: attachment.id, status: state.wire_name() })
        }
    }
}

/// Refuses a volume that an operation or an error has, except one that grows, and a mode that its
/// readonly flag forbids.
fn may_be_used(volume: &Volume, attachment: &Attachment) -> Result<(), Rejection> {
    if volume.status.state() != VolumeState::Extending {
        is_for_clients(volume)?;
    }
    attachment.mode.map_or(Ok(()), |mode| mode_allowed(volume, mode))
}

/// Checks, in this order: role; the attachment exists and is visible; it is reserved, attaching or
/// attached already; unless attached, its volume is one that can be used, in its mode.
pub(super) fn complete(
    ledger: &Ledger,
    volume: VolumeId,
    attachment: AttachmentId,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:attachment_complete")?;
    let (volume, attachment) = visible(ledger, volume, attachment, ctx)?;
    match attachment.status.state() {
        AttachmentState::Attached => Ok(with_use(volume, Vec::new(), VolumeState::InUse)),
        AttachmentState::Reserved | AttachmentState::Attaching => {
            may_be_used(volume, attachment)?;
            let events = vec![to_attachment(volume.id, attachment.id, AttachmentEvent::Completed)];
            Ok(with_use(volume, events, VolumeState::InUse))
        }
        state @ (AttachmentState::Absent
        | AttachmentState::Connecting
        | AttachmentState::Disconnecting
        | AttachmentState::ErrorAttaching
        | AttachmentState::ErrorDetaching) => {
            Err(Rejection::AttachmentBusy { attachment: attachment.id, status: state.wire_name() })
        }
    }
}

/// Checks, in this order: role; the attachment exists and is visible. A client may let go at any
/// time.
pub(super) fn delete(
    ledger: &Ledger,
    volume: VolumeId,
    attachment: AttachmentId,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:attachment_delete")?;
    let (volume, attachment) = visible(ledger, volume, attachment, ctx)?;
    Ok(attachment_disconnect::begin(ledger, volume, std::iter::once((attachment, false)), ctx))
}

/// os-reserve. Checks, in this order: role; the volume exists and is visible; it is available, or
/// in use and made for that.
pub(super) fn reserve(ledger: &Ledger, volume: VolumeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:reserve")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    let state = volume.status.state();
    if state == VolumeState::Available || (volume.multiattach && state == VolumeState::InUse) {
        return Ok(with_use(volume, Vec::new(), VolumeState::Attaching));
    }
    let (status, multiattach) = (volume.status.wire_name(), volume.multiattach);
    Err(Rejection::VolumeNotReservableByAction { status, multiattach })
}

/// os-unreserve. Checks role and volume; one that is not reserved stays as it is.
pub(super) fn unreserve(ledger: &Ledger, volume: VolumeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:unreserve")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    if volume.status.state() != VolumeState::Attaching {
        return Ok(Vec::new());
    }
    Ok(with_use(volume, Vec::new(), Volume::use_of(volume.attachments.iter())))
}

/// os-begin_detaching. Checks, in this order: role; the volume exists and is visible; it is in use
/// and attached.
pub(super) fn begin_detaching(
    ledger: &Ledger,
    volume: VolumeId,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:begin_detaching")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    let is_attached = volume.attachments.iter().any(|one| one.status.state() == AttachmentState::Attached);
    if volume.status.state() != VolumeState::InUse || !is_attached {
        return Err(Rejection::VolumeNotDetachable);
    }
    Ok(with_use(volume, Vec::new(), VolumeState::Detaching))
}

/// os-roll_detaching. Checks role and volume; one that is not detaching stays as it is.
pub(super) fn roll_detaching(
    ledger: &Ledger,
    volume: VolumeId,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:roll_detaching")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    if volume.status.state() != VolumeState::Detaching {
        return Ok(Vec::new());
    }
    Ok(with_use(volume, Vec::new(), Volume::use_of(volume.attachments.iter())))
}

/// os-attach. Checks, in this order: role; the volume exists and is visible; it is not in
/// maintenance; its readonly flag allows the mode; nobody else has it, unless it is made for that;
/// it is available, attaching or in use; the mode is the one that os-initialize_connection gave,
/// which Cinder lets differ; a new attachment's id is not taken, and it is not one too many. The
/// same server or host once more changes nothing.
pub(super) fn attach(
    ledger: &Ledger,
    command: &AttachVolume,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:attach")?;
    let volume = ledger.visible_volume(command.volume, &ctx.actor)?;
    let state = volume.status.state();
    if state == VolumeState::Maintenance {
        return Err(Rejection::VolumeInMaintenance { verb: "attached" });
    }
    mode_allowed(volume, command.mode)?;
    let is_attached = |one: &Attachment| one.status.state() == AttachmentState::Attached;
    let is_same = |one: &&Attachment| match &command.instance {
        Some(_) => one.instance == command.instance,
        None => one.host == command.host,
    };
    if volume.attachments.iter().filter(|one| is_attached(one)).any(|one| is_same(&one)) {
        return Ok(with_use(volume, Vec::new(), VolumeState::InUse));
    }
    if !volume.multiattach && state == VolumeState::InUse {
        return Err(Rejection::VolumeAlreadyAttached);
    }
    is_for_clients(volume)?;
    // what os-initialize_connection made waits for this
    let waiting = volume.attachments.iter().find(|one| {
        one.status.state() == AttachmentState::Attaching
            && one.instance.is_none()
            && (command.host.is_none() || one.host.is_none() || one.host == command.host)
    });
    // its host can do what it was connected for, whatever is said afterwards
    if waiting.and_then(Attachment::export).is_some_and(|export| export.mode != command.mode) {
        return Err(Rejection::AttachModeInvalid { volume: volume.id, mode: command.mode.as_str() });
    }
    let attached = AttachmentEvent::Attached {
        instance: command.instance.clone(),
        host: command.host.clone(),
        mountpoint: Some(command.mountpoint.clone()),
        mode: command.mode,
    };
    let mut events = Vec::new();
    let id = waiting.map_or(command.attachment, |one| one.id);
    if waiting.is_none() {
        is_fresh(volume, id)?;
        let reserved =
            AttachmentEvent::Reserved { instance: command.instance.clone(), mode: Some(command.mode) };
        events.push(to_attachment(volume.id, id, reserved));
    }
    events.push(to_attachment(volume.id, id, attached));
    Ok(with_use(volume, events, VolumeState::InUse))
}

/// What is meant where no attachment is named: the one that is attached, otherwise the one that may
/// have an export, otherwise the one that there is.
fn the_one_to_detach(volume: &Volume) -> Result<Option<&Attachment>, Rejection> {
    let is_attached = |one: &&Attachment| one.status.state() == AttachmentState::Attached;
    let all = || volume.attachments.iter();
    let attached: Vec<_> = all().filter(is_attached).collect();
    let exported: Vec<_> = all().filter(|one| one.has_export()).collect();
    let found = [attached, exported, all().collect()].into_iter().find(|found| !found.is_empty());
    match found.unwrap_or_default().as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        [..] => Err(Rejection::AttachmentNotNamed),
    }
}

/// os-detach and os-force_detach. Checks, in this order: role (administrator for `force`); the
/// volume exists and is visible; it is not in maintenance; which attachment is meant. One that is
/// not there (any more) leaves only the volume's status to be put right.
pub(super) fn detach(
    ledger: &Ledger,
    volume: VolumeId,
    attachment: Option<AttachmentId>,
    force: bool,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    if force {
        ctx.actor.require_admin("volume_extension:volume_admin_actions:force_detach")?;
    } else {
        ctx.actor.require_member("volume_extension:volume_actions:detach")?;
    }
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    if volume.status.state() == VolumeState::Maintenance {
        return Err(Rejection::VolumeInMaintenance { verb: "detached" });
    }
    let meant = match attachment {
        Some(id) => volume.attachment(id),
        None => the_one_to_detach(volume)?,
    };
    match meant {
        Some(meant) => Ok(attachment_disconnect::begin(ledger, volume, std::iter::once((meant, false)), ctx)),
        None => Ok(with_use(volume, Vec::new(), Volume::use_of(volume.attachments.iter()))),
    }
}

/// os-initialize_connection. Checks, in this order: role; the volume exists and is visible; it is
/// not in maintenance; its status lets it be connected; a new attachment's id is not taken, and it is
/// not one too many; what connecting needs. A host that is connected already stays so, and one that
/// could not be connected is connected anew.
pub(super) fn initialize(
    ledger: &Ledger,
    volume: VolumeId,
    fresh: AttachmentId,
    connector: &Connector,
    mode: Option<AttachMode>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:initialize_connection")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    let state = volume.status.state();
    if state == VolumeState::Maintenance {
        return Err(Rejection::VolumeConnectionInMaintenance);
    }
    is_for_clients(volume)?;
    let connected = volume.attachments.iter().find(|one| is_connected_from(one, connector));
    if let Some(connected) = connected {
        is_still(connected)?;
    }
    // one that failed is tried again, so that failures do not pile up
    let has_failed = |one: &&Attachment| {
        let is_of_host = one.host.is_some() && one.host == connector.host;
        one.status.state() == AttachmentState::ErrorAttaching && one.instance.is_none() && is_of_host
    };
    let failed = match connected {
        Some(one) if one.status.state() == AttachmentState::ErrorAttaching => Some(one),
        Some(_) => return Ok(Vec::new()),
        None => volume.attachments.iter().find(has_failed),
    };
    let asked = mode.unwrap_or(AttachMode::ReadWrite);
    let mode = mode_of(volume, Some(asked)).unwrap_or(asked);
    let mut events = Vec::new();
    let id = failed.map_or(fresh, |one| one.id);
    if failed.is_none() {
        is_fresh(volume, fresh)?;
        let reserved = AttachmentEvent::Reserved { instance: None, mode: Some(mode) };
        events.push(to_attachment(volume.id, fresh, reserved));
    }
    events.extend(attachment_connect::begin(ledger, volume, id, mode, connector, ctx)?);
    if matches!(state, VolumeState::InUse | VolumeState::Detaching) {
        // a second host of a server that moves: the volume is in use all the time
        events.retain(|event| !matches!(event, Event::Volume(_, VolumeEvent::UseChanged { .. })));
    }
    Ok(events)
}

fn is_connected_from(attachment: &Attachment, connector: &Connector) -> bool {
    attachment.connector.as_ref().is_some_and(|known| known.is_same_host(connector))
}

/// os-terminate_connection. Checks role and volume. With a connector, that host's connections end,
/// without one all. Servers on one host cannot be told apart by it: if several have the volume, only
/// what none has attached yet ends, and what they have ends as each is detached. What was attached
/// stays so until it is detached, and a volume that was only being connected is free again.
pub(super) fn terminate(
    ledger: &Ledger,
    volume: VolumeId,
    connector: Option<&Connector>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume_extension:volume_actions:terminate_connection")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    let is_of_host = |one: &&Attachment| {
        one.has_export() && connector.is_none_or(|connector| is_connected_from(one, connector))
    };
    let is_going = |one: &Attachment| one.status.state() == AttachmentState::Disconnecting;
    let of_host = || volume.attachments.iter().filter(is_of_host).filter(|one| !is_going(one));
    let is_shared = connector.is_some() && of_host().count() > 1;
    let is_waiting =
        |one: &Attachment| one.instance.is_none() && one.status.state() != AttachmentState::Attached;
    let meant = of_host().filter(|one| !is_shared || is_waiting(one)).map(|one| {
        let keep = one.status.state() == AttachmentState::Attached;
        (one, keep)
    });
    let events = attachment_disconnect::begin(ledger, volume, meant, ctx);
    if events.is_empty() && volume.status.state() == VolumeState::Attaching {
        return Ok(with_use(volume, events, Volume::use_of(volume.attachments.iter())));
    }
    Ok(events)
}

/// An administrator's reset of `attach_status` to `detached`: every attachment goes. Checks, in
/// this order: administrator; the volume exists.
pub(super) fn detach_all(ledger: &Ledger, volume: VolumeId, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_admin("volume_extension:volume_admin_actions:reset_status")?;
    let volume = ledger.visible_volume(volume, &ctx.actor)?;
    let all = volume.attachments.iter().map(|one| (one, false));
    Ok(attachment_disconnect::begin(ledger, volume, all, ctx))
}
