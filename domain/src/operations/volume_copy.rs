//! Creating a volume of what another pool holds, where no volume beside its source is possible.
//!
//! | step          | when                    | effect                                  | on         | undo                   | if the undo fails |
//! |---------------|-------------------------|-----------------------------------------|------------|------------------------|-------------------|
//! | snapshot      | the source is a volume  | CreateSnapshot(passing)                 | the source | DeleteSnapshot(passing)| owe cleanup       |
//! | copy          | always                  | CopyVolume                              | the target | DeleteVolume           | leave to owner    |
//! | drop_snapshot | the source is a volume  | DeleteSnapshot(passing), else owe       | the source | –                      |                   |
//!
//! A volume is copied from a snapshot of its own, so that it may be in use. The source is held from
//! the first step to the last: neither it nor its snapshot can be deleted meanwhile. A copy that fails
//! goes to the next backend as [`super::volume_create`] does, and leaves a cleanup debt on the one that
//! failed; the snapshot stays and serves the next one too.

use crate::effect::{BackendObject, Effect, Failure, FailureKind};
use crate::event::Event;
use crate::ids::{BackendName, OperationId, PoolId, SnapshotId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{
    Access, IfItFails, IfUndoFails, Operation, Phase, PlannedStep, ResourceKey, Step, plan,
};
use crate::units::SizeGib;
use crate::volume::VolumeEvent;

use super::Saga;
use super::volume_create::{Attempts, CreateSource};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCopy {
    /// This operation: the snapshot that a volume is copied from is named after it.
    pub operation: OperationId,
    /// The new volume.
    pub volume: VolumeId,
    /// Its size.
    pub size: SizeGib,
    /// Where its data comes from.
    pub source: CopySource,
    /// Where that is.
    pub from: PoolId,
    /// Where the volume is being made.
    pub pool: PoolId,
    /// Where to go if that fails, best first.
    pub alternatives: Vec<PoolId>,
    /// Backends that failed.
    pub failed_backends: Vec<BackendName>,
}

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A snapshot, with its volume.
    Snapshot {
        /// The snapshot's volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A volume as it is when the operation begins.
    Volume(VolumeId),
}

impl CopySource {
    /// What a source of [`super::volume_create`] is here; nothing if it is on no pool.
    pub const fn of(source: CreateSource) -> Option<Self> {
        match source {
            CreateSource::Snapshot { volume, snapshot } => Some(Self::Snapshot { volume, snapshot }),
            CreateSource::Volume(volume) => Some(Self::Volume(volume)),
            CreateSource::Blank | CreateSource::Image(_) => None,
        }
    }

    const fn is_volume(self) -> bool {
        match self {
            Self::Volume(_) => true,
            Self::Snapshot { .. } => false,
        }
    }
}

impl VolumeCopy {
    /// What is read: the snapshot that was asked for, or the one that is taken for this.
    const fn source_object(&self) -> BackendObject {
        match self.source {
            CopySource::Snapshot { volume, snapshot } => BackendObject::Snapshot { volume, snapshot },
            CopySource::Volume(volume) => BackendObject::SafetySnapshot { volume, operation: self.operation },
        }
    }

    /// The next backend, if the copy failed and another may do better.
    pub(super) fn rescheduled(
        &self,
        ledger: &Ledger,
        operation: &Operation,
        failure: &Failure,
    ) -> Option<(Self, Vec<Event>)> {
        let copy = u16::from(self.source.is_volume());
        // a source that cannot be had is missed everywhere
        if operation.phase != (Phase::Forward { step: copy }) || failure.kind == FailureKind::ObjectMissing {
            return None;
        }
        let (next, event) = self.attempts().next(ledger, failure)?;
        let Attempts { pool, alternatives, failed_backends } = next;
        let kind = Self { pool, alternatives, failed_backends, ..self.clone() };
        Some((kind, vec![Event::Volume(self.volume, event)]))
    }

    fn attempts(&self) -> Attempts {
        Attempts {
            pool: self.pool.clone(),
            alternatives: self.alternatives.clone(),
            failed_backends: self.failed_backends.clone(),
        }
    }
}

/// The steps.
pub const STEPS: &[Step<VolumeCopy>] = &[
    Step {
        name: "snapshot",
        when: "the source is a volume",
        count: |p| usize::from(p.source.is_volume()),
        effect: |p, _| Effect::CreateSnapshot { snapshot: p.source_object() },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::DeleteSnapshot { snapshot: p.source_object() }),
        if_undo_fails: IfUndoFails::OweCleanup,
    },
    Step {
        name: "copy",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::CopyVolume {
            volume: BackendObject::Volume(p.volume),
            size: p.size,
            from: p.from.clone(),
            source: p.source_object(),
        },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::DeleteVolume { volume: BackendObject::Volume(p.volume) }),
        if_undo_fails: IfUndoFails::LeaveToOwner,
    },
    Step {
        name: "drop_snapshot",
        when: "the source is a volume",
        count: |p| usize::from(p.source.is_volume()),
        effect: |p, _| Effect::DeleteSnapshot { snapshot: p.source_object() },
        if_it_fails: IfItFails::OweCleanup,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
];

impl Saga for VolumeCopy {
    const NAME: &'static str = "volume_copy";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn pool_of(&self, object: &BackendObject) -> Option<&PoolId> {
        Some(if *object == self.source_object() { &self.from } else { &self.pool })
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        let mut uses = vec![(ResourceKey::Volume(self.volume), Access::Exclusive)];
        match self.source {
            CopySource::Snapshot { volume, snapshot } => {
                uses.push((ResourceKey::Volume(volume), Access::Shared));
                uses.push((ResourceKey::Snapshot(snapshot), Access::Shared));
            }
            CopySource::Volume(source) => uses.push((ResourceKey::Volume(source), Access::Shared)),
        }
        uses
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        vec![Event::Volume(self.volume, VolumeEvent::Created)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = self.attempts().all_failed(failure);
        vec![Event::Volume(self.volume, VolumeEvent::CreateFailed { operation: id, failure })]
    }
}
