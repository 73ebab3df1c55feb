//! Growing a volume while servers use it (3.42).
//!
//! | step    | when            | effect       | undo         | if it fails          |
//! |---------|-----------------|--------------|--------------|----------------------|
//! | extend  | always          | ExtendVolume | ShrinkVolume | as an extend at rest |
//! | refresh | once per export | ExportVolume | –            | go on                |
//!
//! Nobody takes back what servers may already write to: once the volume is larger, an export that
//! still shows the old size is a failure on the operation's record, and is put right when the
//! export is next made. Afterwards the volume is used as its attachments say by then.

use crate::effect::{BackendObject, Effect, Export, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, VolumeId};
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, PlannedStep, ResourceKey, Step, plan};
use crate::volume::{Volume, VolumeEvent, VolumeState};

use super::{Saga, VolumeExtend};

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeExtendAttached {
    /// What is to be done to the volume.
    pub extend: VolumeExtend,
    /// Who is to see it.
    pub exports: Vec<Export>,
}

impl VolumeExtendAttached {
    const fn object(&self) -> BackendObject {
        BackendObject::Volume(self.extend.volume)
    }
}

/// The steps.
pub const STEPS: &[Step<VolumeExtendAttached>] = &[
    Step {
        name: "extend",
        when: "always",
        count: |_| 1,
        effect: |p, _| Effect::ExtendVolume { volume: p.object(), to: p.extend.to },
        if_it_fails: IfItFails::Undo,
        undo: Some(|p, _| Effect::ShrinkVolume { volume: p.object(), to: p.extend.from }),
        if_undo_fails: IfUndoFails::NeedsOperator,
    },
    Step {
        name: "refresh",
        when: "once per export",
        count: |p| p.exports.len(),
        effect: |p, n| match p.exports.get(n) {
            Some(export) => Effect::ExportVolume { volume: p.object(), export: export.clone() },
            None => Effect::Verify { object: p.object(), size: p.extend.to },
        },
        if_it_fails: IfItFails::GoOn,
        undo: None,
        if_undo_fails: IfUndoFails::OweCleanup,
    },
];

/// What follows on a volume's becoming `available`, if somebody has it attached.
pub(super) fn used_again(ledger: &Ledger, volume: VolumeId) -> Option<Event> {
    let to = Volume::use_of(ledger.volumes.get(&volume)?.attachments.iter());
    (to != VolumeState::Available).then_some(Event::Volume(volume, VolumeEvent::UseChanged { to }))
}

impl Saga for VolumeExtendAttached {
    const NAME: &'static str = "volume_extend_attached";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        self.extend.pool()
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        self.extend.uses()
    }

    fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        self.extend.completed(ledger)
    }

    fn failed(&self, id: OperationId, step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        self.extend.failed(id, step, failure, restored)
    }

    fn after_failure(&self, ledger: &Ledger, restored: bool) -> Vec<Event> {
        self.extend.after_failure(ledger, restored)
    }
}
