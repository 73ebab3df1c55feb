//! A host's export daemon: what servers can reach, and what they see there. It outlives the
//! executors that drive it, and forgets everything when it is started again itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tephra_domain::attachment::{AttachMode, AttachmentState};
use tephra_domain::effect::{BackendObject, Effect, Export, Failure, FailureKind};
use tephra_domain::event::Event;
use tephra_domain::ids::{AttachmentId, BackendName, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;
use tephra_domain::units::SizeGib;
use tephra_domain::volume::USES;
use tephra_executors::backend::memory::MemoryBackend;
use tephra_executors::export::Exporter;

use super::host::HostState;
use super::invariants::{Invariant, Violation};

/// What a server sees through an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The volume.
    pub volume: VolumeId,
    /// As large as it was when the export was made.
    pub size: SizeGib,
    /// The host that may connect.
    pub initiator: Option<Box<str>>,
    /// Whether it may write.
    pub mode: AttachMode,
}

#[derive(Default)]
struct Daemon {
    life: u64,
    exports: BTreeMap<AttachmentId, Shown>,
}

/// The daemon. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Exports {
    store: MemoryBackend,
    state: Arc<HostState>,
    daemon: Arc<Mutex<Daemon>>,
}

impl Exports {
    /// A daemon without exports, before this storage.
    pub fn new(store: MemoryBackend, state: Arc<HostState>) -> Self {
        Self { store, state, daemon: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is killed and started again: nothing is exported any more.
    pub fn restart(&self) {
        let mut daemon = self.lock();
        daemon.life += 1;
        daemon.exports.clear();
    }

    /// Everything that is exported.
    pub fn shown(&self) -> BTreeMap<AttachmentId, Shown> {
        self.lock().exports.clone()
    }

    /// Whether an effect takes away or changes, under somebody's hands, what a server can reach.
    pub fn is_in_the_way(&self, effect: &Effect) -> bool {
        let BackendObject::Volume(volume) = effect.target() else { return false };
        takes_away(effect) && self.lock().exports.values().any(|shown| shown.volume == volume)
    }

    fn up(&self) -> Result<(), Failure> {
        if self.state.down.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureKind::BackendUnavailable, "the host does not answer"));
        }
        Ok(())
    }
}

fn takes_away(effect: &Effect) -> bool {
    match effect {
        Effect::DeleteVolume { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. }
        | Effect::Disown { .. } => true,
        Effect::CreateVolume { .. }
        | Effect::CreateVolumeFromImage { .. }
        | Effect::CreateVolumeFromSnapshot { .. }
        | Effect::CloneVolume { .. }
        | Effect::CopyVolume { .. }
        | Effect::ExtendVolume { .. }
        | Effect::ShrinkVolume { .. }
        | Effect::CreateSnapshot { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::Verify { .. }
        | Effect::Adopt { .. }
        | Effect::ExportVolume { .. }
        | Effect::UnexportVolume { .. }
        | Effect::UploadImage { .. }
        | Effect::RemoveImage { .. } => false,
    }
}

#[async_trait]
impl Exporter for Exports {
    fn facts(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("portal".to_owned(), "192.0.2.1:3260".to_owned())])
    }

    async fn export(&self, _source: &Path, volume: VolumeId, export: &Export) -> Result<(), Failure> {
        self.up()?;
        let missing = || Failure::new(FailureKind::ObjectMissing, format!("volume {volume} does not exist"));
        let size = self.store.object(BackendObject::Volume(volume)).ok_or_else(missing)?.size;
        let shown = Shown { volume, size, initiator: export.initiator.clone(), mode: export.mode };
        self.lock().exports.insert(export.attachment, shown);
        Ok(())
    }

    async fn unexport(&self, attachment: AttachmentId) -> Result<(), Failure> {
        self.up()?;
        self.lock().exports.remove(&attachment);
        Ok(())
    }

    async fn incarnation(&self) -> Result<String, Failure> {
        self.up()?;
        Ok(self.lock().life.to_string())
    }
}

/// The volume of which an export goes on showing the old size, after this event: it is on the
/// operation's record, and is put right when the export is next made.
pub fn unrefreshed(before: &Ledger, event: &Event) -> Option<VolumeId> {
    let Event::Operation(id, OperationEvent::StepWaived { .. }) = event else { return None };
    let kind = &before.operations.get(id)?.kind;
    if let OperationKind::VolumeExtendAttached(extend) = kind { Some(extend.extend.volume) } else { None }
}

/// Checks that servers reach what they are told they reach, and nothing else, once nothing is at
/// work any more.
///
/// # Errors
/// The first export that is not there, not as it should be, or nobody's.
pub fn check_at_rest(
    ledger: &Ledger,
    hosts: &BTreeMap<BackendName, Exports>,
    unrefreshed: &BTreeSet<VolumeId>,
) -> Result<(), Violation> {
    let broken = |found| Err(Violation { invariant: Invariant::ExportsAreAttachments, found });
    let mut accounted = BTreeSet::new();
    for (id, volume) in ledger.volumes.sorted() {
        let Some(host) = volume.pool.as_ref().and_then(|pool| hosts.get(&pool.backend)) else { continue };
        let shown = host.shown();
        for attachment in &volume.attachments {
            let Some(export) = attachment.export() else { continue };
            accounted.insert(attachment.id);
            let state = attachment.status.state();
            let found = shown.get(&attachment.id);
            match (state, found) {
                (AttachmentState::Attaching | AttachmentState::Attached, None) => {
                    return broken(format!(
                        "attachment {} is {}, without export",
                        attachment.id,
                        state.as_str()
                    ));
                }
                (AttachmentState::Attaching | AttachmentState::Attached, Some(found)) => {
                    // what an operator has set aside is not looked after
                    let is_usual = USES.contains(&volume.status.state())
                        && !unrefreshed.contains(id)
                        && ledger.claimants(ResourceKey::Volume(*id)).is_empty();
                    let size = if is_usual { volume.size } else { found.size };
                    let wanted = Shown { volume: *id, size, initiator: export.initiator, mode: export.mode };
                    if *found != wanted {
                        return broken(format!(
                            "attachment {} shows {found:?}, not {wanted:?}",
                            attachment.id
                        ));
                    }
                }
                // it failed, and may be there or not
                (
                    AttachmentState::Absent
                    | AttachmentState::Reserved
                    | AttachmentState::Connecting
                    | AttachmentState::Disconnecting
                    | AttachmentState::ErrorAttaching
                    | AttachmentState::ErrorDetaching,
                    _,
                ) => {}
            }
        }
    }
    for (name, host) in hosts {
        if let Some((id, shown)) = host.shown().into_iter().find(|(id, _)| !accounted.contains(id)) {
            return broken(format!("{name} exports volume {} through {id}, which nobody has", shown.volume));
        }
    }
    Ok(())
}
