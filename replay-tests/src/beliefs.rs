//! What a client may believe about data, from the events that it was told of and nothing else.

use std::collections::BTreeMap;

use tephra_domain::effect::BackendObject;
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::snapshot::{SnapshotEvent, SnapshotState, SnapshotStatus};
use tephra_domain::volume::{VolumeEvent, VolumeSource, VolumeState, VolumeStatus};

use crate::sim_backend::tag_of;
use crate::world::World;

/// The tag that marks the data of each volume and snapshot, as clients were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beliefs {
    volumes: BTreeMap<VolumeId, u64>,
    snapshots: BTreeMap<SnapshotId, u64>,
    /// What each volume is being reverted to.
    reverting: BTreeMap<VolumeId, SnapshotId>,
    /// What is under names that are none of ours, where anybody can know.
    strangers: BTreeMap<Box<str>, u64>,
}

impl Beliefs {
    /// A server with the volume attached wrote.
    pub fn wrote(&mut self, volume: VolumeId, tag: u64) {
        self.volumes.insert(volume, tag);
    }

    /// Somebody put data on a backend that the ledger knows nothing of.
    pub fn put(&mut self, name: &str, tag: u64) {
        self.strangers.insert(name.into(), tag);
    }

    /// Takes in what happened; `world` is where that led to.
    ///
    /// # Panics
    /// If data came from nowhere.
    pub fn observe(&mut self, world: &World, commit: &Commit) {
        for event in &commit.events {
            match event {
                Event::Volume(id, event) => self.observe_volume(world, *id, event),
                Event::Snapshot(id, event) => self.observe_snapshot(world, *id, event),
                Event::VolumeType(..)
                | Event::Quota(_)
                | Event::Backend(..)
                | Event::Operation(..)
                | Event::Debt(..)
                | Event::TurnBegan { .. } => {}
            }
        }
    }

    fn observe_volume(&mut self, world: &World, id: VolumeId, event: &VolumeEvent) {
        if let VolumeEvent::Created = event {
            let data = match world.ledger.volumes.get(&id).map(|volume| volume.source) {
                Some(VolumeSource::Volume(source)) => self.volumes.get(&source).copied(),
                Some(VolumeSource::Snapshot(source)) => self.snapshots.get(&source).copied(),
                Some(VolumeSource::Image(image)) => Some(tag_of(image)),
                Some(VolumeSource::Blank) | None => Some(0),
            };
            self.volumes.insert(id, data.unwrap_or_else(|| panic!("{id} has no source")));
        } else if let VolumeEvent::RevertAccepted { snapshot, .. } = event {
            // of a recovery it is the data from before the revert that failed
            let before = self.volumes.get(&id).copied().unwrap_or(0);
            self.snapshots.entry(*snapshot).or_insert(before);
            self.reverting.insert(id, *snapshot);
        } else if let VolumeEvent::Reverted = event {
            let snapshot = self.reverting.remove(&id).unwrap_or_else(|| panic!("{id} was not reverting"));
            self.volumes.insert(id, self.snapshots.get(&snapshot).copied().unwrap_or(0));
        } else if let VolumeEvent::StatusReset { to: VolumeState::Available } = event {
            // an operator believes the backend: whatever is there is the data now
            if let Some(tag) = world.tag(id) {
                self.volumes.insert(id, tag);
            }
        } else if let VolumeEvent::ManageAccepted { name, .. } = event {
            self.volumes.extend(self.strangers.remove(name).map(|tag| (id, tag)));
        } else if let VolumeEvent::Managed = event {
            // of what was in error when it was given up nobody knows what it holds
            if let (None, Some(tag)) = (self.volumes.get(&id), world.tag(id)) {
                self.volumes.insert(id, tag);
            }
        } else if let VolumeEvent::ManageFailed { .. } = event {
            self.volumes.remove(&id);
        } else if let VolumeEvent::UnmanageAccepted { .. } = event {
            let status = world.ledger.volumes.get(&id).map(|volume| &volume.status);
            if let Some(VolumeStatus::Unmanaging { from: VolumeState::Available, .. }) = status {
                let name = BackendObject::Volume(id).unmanaged_name();
                self.strangers.extend(self.volumes.get(&id).map(|tag| (name, *tag)));
            }
        }
    }

    fn observe_snapshot(&mut self, world: &World, id: SnapshotId, event: &SnapshotEvent) {
        let Some(snapshot) = world.ledger.snapshots.get(&id) else { return };
        if let SnapshotEvent::Created = event {
            let data = self.volumes.get(&snapshot.volume).copied();
            self.snapshots.insert(id, data.unwrap_or_else(|| panic!("{id} has no volume")));
        } else if let SnapshotEvent::StatusReset { to: SnapshotState::Available } = event {
            let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: id };
            let tag = world.storage.contents(&snapshot.pool, object).map(|contents| contents.tag);
            self.snapshots.insert(id, tag.unwrap_or(0));
        } else if let (SnapshotEvent::UnmanageAccepted { .. }, SnapshotStatus::Unmanaging { from, .. }) =
            (event, &snapshot.status)
            && *from == SnapshotState::Available
        {
            let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: id };
            self.strangers.extend(self.snapshots.get(&id).map(|tag| (object.unmanaged_name(), *tag)));
        }
    }

    /// Whatever is available holds what clients were told it holds.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self, world: &World) {
        for (id, volume) in world.ledger.volumes.sorted() {
            if volume.status.state() == VolumeState::Available {
                assert_eq!(world.tag(*id), self.volumes.get(id).copied(), "the data of volume {id}");
            }
        }
        for (id, snapshot) in world.ledger.snapshots.sorted() {
            if snapshot.status.state() == SnapshotState::Available {
                let object = BackendObject::Snapshot { volume: snapshot.volume, snapshot: *id };
                let tag = world.storage.contents(&snapshot.pool, object).map(|contents| contents.tag);
                assert_eq!(tag, self.snapshots.get(id).copied(), "the data of snapshot {id}");
            }
        }
    }
}
