//! What the data should be: a model of every volume and snapshot, as its owner was told.
//!
//! It follows the events, and looks at a backend only where an operator's word made what is there
//! the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tephra_domain::effect::BackendObject;
use tephra_domain::event::Event;
use tephra_domain::ids::{BackendName, ImageId, OperationId, PoolId, SnapshotId, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEnd, OperationEvent, ResourceKey};
use tephra_domain::operations::OperationKind;
use tephra_domain::snapshot::{SnapshotEvent, SnapshotState};
use tephra_domain::units::SizeGib;
use tephra_domain::volume::{USES, VolumeEvent, VolumeSource, VolumeState, VolumeStatus};
use tephra_executors::backend::memory::{BLOCK_BYTES, MemoryBackend};

use super::invariants::{Invariant, Violation};

/// Blocks by number; what is not there is zeroes.
pub type Blocks = BTreeMap<u64, Arc<[u8]>>;

/// The model.
#[derive(Default)]
pub struct Contents {
    hosts: BTreeMap<BackendName, MemoryBackend>,
    volumes: BTreeMap<VolumeId, Blocks>,
    snapshots: BTreeMap<SnapshotId, Blocks>,
    /// A volume's data just before a revert, by the operation.
    before_revert: BTreeMap<OperationId, Blocks>,
    /// What was given up, by its name on its backend.
    given_up: BTreeMap<Box<str>, Blocks>,
    /// The names of what is being taken over.
    taken_over: BTreeMap<uuid::Uuid, Box<str>>,
    /// What is in the images that were made of volumes.
    uploaded: BTreeMap<ImageId, Blocks>,
    /// Images that may be there although their operations failed: the record says so.
    left_behind: BTreeSet<ImageId>,
    next_tag: u64,
}

impl Contents {
    /// Adds a backend's storage.
    pub fn add_host(&mut self, name: BackendName, store: MemoryBackend) {
        self.hosts.insert(name, store);
    }

    fn on_backend(&self, pool: &PoolId, object: BackendObject) -> Option<(SizeGib, Blocks)> {
        let found = self.hosts.get(&pool.backend)?.object(object)?;
        Some((found.size, found.blocks))
    }

    /// Every object on every backend.
    pub fn objects(&self) -> Vec<(BackendName, BackendObject)> {
        let hosts = self.hosts.iter();
        hosts.flat_map(|(name, host)| host.objects().into_keys().map(|o| (name.clone(), o))).collect()
    }

    /// A user writes into a volume, if nothing is at work on it. Says where.
    pub fn write(&mut self, ledger: &Ledger, id: VolumeId, random: &mut fastrand::Rng) -> Option<u64> {
        let volume = ledger.volumes.get(&id)?;
        let pool = volume.pool.as_ref()?;
        let is_free = ledger.claimants(ResourceKey::Volume(id)).is_empty();
        if !is_free || !USES.contains(&volume.status.state()) {
            return None;
        }
        let last = volume.size.bytes() / BLOCK_BYTES - 1;
        let block = [0, random.u64(0..=last), last][random.usize(0..3)];
        self.next_tag += 1;
        let content: Arc<[u8]> = self.next_tag.to_le_bytes().into();
        self.hosts.get(&pool.backend)?.write_block(BackendObject::Volume(id), block, &content);
        self.volumes.entry(id).or_default().insert(block, content);
        Some(block)
    }

    /// Takes an event in. `before` is the state before its commit, `after` the one after.
    #[allow(clippy::too_many_lines, reason = "one arm per event that says something of data")]
    pub fn follow(&mut self, before: &Ledger, after: &Ledger, event: &Event) {
        match event {
            Event::Volume(id, VolumeEvent::Created) => {
                let source = after.volumes.get(id).map(|volume| volume.source);
                let data = match source {
                    Some(VolumeSource::Volume(source)) => self.volumes.get(&source).cloned(),
                    Some(VolumeSource::Snapshot(source)) => self.snapshots.get(&source).cloned(),
                    Some(VolumeSource::Image(image)) => Some(disk_of(image)),
                    Some(VolumeSource::Blank) | None => None,
                };
                self.volumes.insert(*id, data.unwrap_or_default());
            }
            Event::Volume(id, VolumeEvent::RevertAccepted { operation, snapshot }) => {
                let data = self.volumes.get(id).cloned().unwrap_or_default();
                self.before_revert.insert(*operation, data);
                // a recovery names the revert that failed in place of a snapshot
                let failed = OperationId::from_uuid(snapshot.as_uuid());
                if let Some(data) = self.before_revert.get(&failed).cloned() {
                    self.snapshots.insert(*snapshot, data);
                }
            }
            Event::Volume(id, VolumeEvent::Uploaded { image }) => {
                self.uploaded.insert(*image, self.volumes.get(id).cloned().unwrap_or_default());
            }
            Event::Operation(
                id,
                OperationEvent::UndoWaived { .. } | OperationEvent::Closed { end: OperationEnd::Abandoned },
            ) => {
                let kind = before.operations.get(id).map(|operation| &operation.kind);
                if let Some(OperationKind::VolumeUpload(upload)) = kind {
                    self.left_behind.insert(upload.image.id);
                }
            }
            Event::Volume(id, VolumeEvent::Unmanaged) => {
                let data = self.volumes.get(id).cloned().unwrap_or_default();
                let was = before.volumes.get(id).map(|volume| volume.status.clone());
                // what was in error may hold anything
                if matches!(was, Some(VolumeStatus::Unmanaging { from: VolumeState::Available, .. })) {
                    self.given_up.insert(BackendObject::Volume(*id).unmanaged_name(), data);
                }
            }
            Event::Volume(id, VolumeEvent::ManageAccepted { name, .. }) => {
                self.taken_over.insert(id.as_uuid(), name.clone());
            }
            Event::Snapshot(id, SnapshotEvent::ManageAccepted { name, .. }) => {
                self.taken_over.insert(id.as_uuid(), name.clone());
            }
            Event::Volume(id, VolumeEvent::Managed) => {
                let pool = after.volumes.get(id).and_then(|volume| volume.pool.clone());
                let found = pool.and_then(|pool| self.on_backend(&pool, BackendObject::Volume(*id)));
                let known =
                    self.taken_over.remove(&id.as_uuid()).and_then(|name| self.given_up.remove(&name));
                let data = known.or(found.map(|(_, blocks)| blocks));
                self.volumes.insert(*id, data.unwrap_or_default());
            }
            Event::Snapshot(id, SnapshotEvent::Managed) => {
                if let Some(row) = after.snapshots.get(id) {
                    let object = BackendObject::Snapshot { volume: row.volume, snapshot: *id };
                    let found = self.on_backend(&row.pool, object);
                    let known =
                        self.taken_over.remove(&id.as_uuid()).and_then(|name| self.given_up.remove(&name));
                    let data = known.or(found.map(|(_, blocks)| blocks));
                    self.snapshots.insert(*id, data.unwrap_or_default());
                }
            }
            Event::Volume(id, VolumeEvent::Reverted) => {
                let status = before.volumes.get(id).map(|volume| &volume.status);
                if let Some(VolumeStatus::Reverting { snapshot, .. }) = status {
                    let data = self.snapshots.get(snapshot).cloned().unwrap_or_default();
                    self.volumes.insert(*id, data);
                }
            }
            // an operator believes the backend: whatever is there is the data now
            Event::Volume(id, VolumeEvent::StatusReset { to: VolumeState::Available }) => {
                let pool = after.volumes.get(id).and_then(|volume| volume.pool.clone());
                let found = pool.and_then(|pool| self.on_backend(&pool, BackendObject::Volume(*id)));
                self.volumes.insert(*id, found.map(|(_, blocks)| blocks).unwrap_or_default());
            }
            Event::Snapshot(id, SnapshotEvent::Created) => {
                let volume = after.snapshots.get(id).map(|snapshot| snapshot.volume);
                let data = volume.and_then(|volume| self.volumes.get(&volume)).cloned();
                self.snapshots.insert(*id, data.unwrap_or_default());
            }
            Event::Snapshot(id, SnapshotEvent::StatusReset { to: SnapshotState::Available }) => {
                if let Some(row) = after.snapshots.get(id) {
                    let object = BackendObject::Snapshot { volume: row.volume, snapshot: *id };
                    let found = self.on_backend(&row.pool, object);
                    self.snapshots.insert(*id, found.map(|(_, blocks)| blocks).unwrap_or_default());
                }
            }
            Event::Volume(..)
            | Event::Snapshot(..)
            | Event::VolumeType(..)
            | Event::Quota(_)
            | Event::Backend(..)
            | Event::Operation(..)
            | Event::Debt(..)
            | Event::TurnBegan { .. } => {}
        }
    }

    /// Checks everything that is at rest and available: it is there, with its size and its data.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_available(&self, ledger: &Ledger) -> Result<(), Violation> {
        for (id, volume) in ledger.volumes.sorted() {
            if USES.contains(&volume.status.state())
                && ledger.claimants(ResourceKey::Volume(*id)).is_empty()
                && let Some(pool) = &volume.pool
            {
                let expected = self.volumes.get(id).cloned().unwrap_or_default();
                self.check_object(pool, BackendObject::Volume(*id), volume.size, &expected)?;
            }
        }
        for (id, snapshot) in ledger.snapshots.sorted() {
            if snapshot.status.state() == SnapshotState::Available
                && ledger.claimants(ResourceKey::Snapshot(*id)).is_empty()
            {
                let expected = self.snapshots.get(id).cloned().unwrap_or_default();
                let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: *id };
                self.check_object(&snapshot.pool, object, snapshot.size, &expected)?;
            }
        }
        Ok(())
    }

    /// Checks that every image that was made of a volume is whole, and that no other is there, once
    /// nothing is at work any more.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_images(&self) -> Result<(), Violation> {
        let mut found = BTreeMap::new();
        for host in self.hosts.values() {
            found.extend(host.images().iter().map(|(id, image)| (*id, image.blocks.clone())));
        }
        for (id, expected) in &self.uploaded {
            let holds = found.remove(id);
            if holds.as_ref() != Some(expected) {
                let holds = holds
                    .as_ref()
                    .map_or_else(|| "is not there".to_owned(), |blocks| format!("holds {}", shown(blocks)));
                let found = format!("image {id} {holds}, not {}", shown(expected));
                return Err(Violation { invariant: Invariant::DataIsRight, found });
            }
        }
        match found.keys().find(|id| !self.left_behind.contains(id)) {
            Some(id) => {
                let found = format!("image {id} is there, and no record says so");
                Err(Violation { invariant: Invariant::ObjectsAreAccountedFor, found })
            }
            None => Ok(()),
        }
    }

    fn check_object(
        &self,
        pool: &PoolId,
        object: BackendObject,
        size: SizeGib,
        expected: &Blocks,
    ) -> Result<(), Violation> {
        let Some((found_size, found)) = self.on_backend(pool, object) else {
            let found = format!("{object} is available, but not on {pool}");
            return Err(Violation { invariant: Invariant::ObjectsAreAccountedFor, found });
        };
        if found_size != size {
            let found = format!("{object} is available with {size} GiB, on {pool} it has {found_size}");
            return Err(Violation { invariant: Invariant::DataIsRight, found });
        }
        if found != *expected {
            let found = format!("{object} on {pool} holds {}, not {}", shown(&found), shown(expected));
            return Err(Violation { invariant: Invariant::DataIsRight, found });
        }
        Ok(())
    }

    /// Checks that nothing on a backend is unaccounted for, once nothing is at work any more.
    ///
    /// # Errors
    /// The first object that nobody owns.
    pub fn check_nothing_is_orphaned(&self, ledger: &Ledger) -> Result<(), Violation> {
        for (backend, object) in self.objects() {
            let owed = ledger.debts.sorted().into_iter().any(|(_, debt)| debt.object == object);
            let owned = match object {
                BackendObject::Volume(id) => ledger
                    .volumes
                    .get(&id)
                    .and_then(|volume| volume.pool.as_ref())
                    .is_some_and(|pool| pool.backend == backend),
                BackendObject::Snapshot { snapshot, .. } => {
                    ledger.snapshots.get(&snapshot).is_some_and(|row| row.pool.backend == backend)
                }
                BackendObject::SafetySnapshot { .. } | BackendObject::TemporaryVolume { .. } => false,
            };
            if !owed && !owned {
                let found = format!("{object} on {backend} belongs to nobody");
                return Err(Violation { invariant: Invariant::ObjectsAreAccountedFor, found });
            }
        }
        Ok(())
    }
}

/// What is in an image: it names itself.
fn disk_of(image: ImageId) -> Blocks {
    Blocks::from([(0, image.as_uuid().as_bytes().as_slice().into())])
}

fn shown(blocks: &Blocks) -> String {
    let tags = blocks.iter().map(|(block, content)| {
        let tag = content.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        format!("{block}: {tag}")
    });
    format!("{{{}}}", tags.collect::<Vec<_>>().join(", "))
}
