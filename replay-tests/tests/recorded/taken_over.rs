//! A history of what is taken over from backends and given up again, and of backends that are
//! frozen meanwhile.

use std::collections::BTreeMap;

use tephra_domain::actor::Role;
use tephra_domain::command::{CleanObject, Command, CreateSnapshot, ManageSnapshot, ManageVolume};
use tephra_domain::drift::FoundKind;
use tephra_domain::ids::{BackendName, PoolId, PoolName, SnapshotId, VolumeId};
use uuid::Uuid;

use super::{BACKENDS, Recorder};

const ROUNDS: usize = 300;

/// The history of a seed.
pub fn record_taken_over(seed: u64) -> Recorder {
    Recorder::of(seed, ROUNDS, |recorder| (Role::Admin, recorder.taking_over()))
}

impl Recorder {
    fn a_pool(&mut self) -> PoolId {
        let name = self.pick(&BACKENDS).unwrap_or_default();
        PoolId { backend: BackendName::new(name), pool: PoolName::new(name) }
    }

    fn taking_over(&mut self) -> Command {
        let (volume, snapshot) = (self.a_volume(), self.a_snapshot());
        let name = format!("legacy-{}", self.draw(1_000)).into();
        let backend = self.a_pool().backend;
        match self.draw(20) {
            0..=4 => Command::ManageVolume(Box::new(ManageVolume {
                volume: VolumeId::from_uuid(self.fresh()),
                pool: self.a_pool(),
                name,
                size: self.a_size(),
                display_name: Some("taken over".into()),
                description: None,
                volume_type: None,
                availability_zone: None,
                metadata: self.some_metadata(),
                bootable: self.draw(2) == 0,
            })),
            5..=7 => Command::UnmanageVolume { volume },
            8..=10 => Command::ManageSnapshot(Box::new(ManageSnapshot {
                snapshot: SnapshotId::from_uuid(self.fresh()),
                volume,
                name,
                size: self.a_size(),
                display_name: None,
                description: Some("older than the ledger".into()),
                metadata: BTreeMap::new(),
            })),
            11..=13 => Command::UnmanageSnapshot { snapshot },
            14 | 15 => {
                let kind = if self.draw(2) == 0 {
                    FoundKind::Volume
                } else {
                    FoundKind::Snapshot { of: Some(format!("volume-{}", Uuid::nil()).into()) }
                };
                Command::CleanObject(Box::new(CleanObject { pool: self.a_pool(), name, kind }))
            }
            16 => Command::CreateSnapshot(Box::new(CreateSnapshot {
                snapshot: SnapshotId::from_uuid(self.fresh()),
                volume,
                name: None,
                description: None,
                force: false,
                metadata: BTreeMap::new(),
            })),
            17 => Command::FreezeBackend { backend },
            _ => Command::ThawBackend { backend },
        }
    }
}
