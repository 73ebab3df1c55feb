//! What the runs have reached, and what they have not: a simulation proves nothing about what it
//! never did.

use std::collections::{BTreeMap, BTreeSet};

use tephra_domain::attachment::{self, AttachmentState};
use tephra_domain::event::{Commit, Event};
use tephra_domain::evolve::evolve;
use tephra_domain::ids::Position;
use tephra_domain::ledger::Ledger;
use tephra_domain::operation::{OperationEvent, Step};
use tephra_domain::operations::{
    attachment_connect, attachment_disconnect, export_restore, object_clean, snapshot_create,
    snapshot_delete, snapshot_manage, snapshot_unmanage, status_verify, volume_copy, volume_create,
    volume_delete, volume_extend, volume_extend_attached, volume_manage, volume_recover, volume_revert,
    volume_unmanage,
};
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::{self, SnapshotState};
use tephra_domain::volume::{self, VolumeEvent, VolumeState};

use super::faults::FaultKind;

/// Rejections that a client behind the api cannot meet, each with its reason.
pub const UNREACHABLE_REJECTIONS: &[(&str, &str)] =
    &[("OperationNotFound", "only queries for operations say it; no command does")];

/// Counts of what was reached, by what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, String), u64>,
}

const TRANSITIONS: &str = "transition";
const REJECTIONS: &str = "rejection";
const STEPS: &str = "step";
const EVENTS: &str = "event";
const FAULTS: &str = "fault";
const OPERATIONS: &str = "operation";

fn step_names<P>(operation: &str, table: &[Step<P>], into: &mut BTreeSet<String>) {
    for step in table {
        into.insert(format!("{operation}.{} done", step.name));
        into.insert(format!("{operation}.{} failed", step.name));
        if step.undo.is_some() {
            into.insert(format!("{operation}.{} undone", step.name));
            into.insert(format!("{operation}.{} undo failed", step.name));
        }
    }
}

impl Coverage {
    fn count(&mut self, what: &'static str, which: String, times: u64) {
        *self.counts.entry((what, which)).or_default() += times;
    }

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        for ((what, which), times) in &other.counts {
            self.count(what, which.clone(), *times);
        }
    }

    /// A client asked for this.
    pub fn operation(&mut self, name: &str) {
        self.count(OPERATIONS, name.to_owned(), 1);
    }

    /// A rejection was given.
    pub fn rejected(&mut self, rejection: &Rejection) {
        self.count(REJECTIONS, rejection.code().to_owned(), 1);
    }

    /// Faults struck.
    pub fn faults(&mut self, struck: &BTreeMap<FaultKind, u64>) {
        for (kind, times) in struck {
            self.count(FAULTS, kind.as_str().to_owned(), *times);
        }
    }

    /// A commit was appended. `before` is the state that it was decided on.
    pub fn follow(&mut self, before: &Ledger, commit: &Commit) {
        let mut state = before.clone();
        for event in &commit.events {
            self.count(EVENTS, event.name().to_owned(), 1);
            let volume = |ledger: &Ledger, id| {
                ledger.volumes.get(id).map_or(VolumeState::Absent, |row| row.status.state())
            };
            let snapshot = |ledger: &Ledger, id| {
                ledger.snapshots.get(id).map_or(SnapshotState::Absent, |row| row.status.state())
            };
            let attachment = |ledger: &Ledger, id, attachment| {
                let row = ledger.volumes.get(id).and_then(|row| row.attachment(attachment));
                row.map_or(AttachmentState::Absent, |row| row.status.state())
            };
            let was = match event {
                Event::Volume(id, VolumeEvent::Attachment { attachment: one, .. }) => {
                    attachment(&state, id, *one).as_str()
                }
                Event::Volume(id, _) => volume(&state, id).as_str(),
                Event::Snapshot(id, _) => snapshot(&state, id).as_str(),
                Event::VolumeType(..)
                | Event::Quota(_)
                | Event::Backend(..)
                | Event::Operation(..)
                | Event::Debt(..)
                | Event::TurnBegan { .. } => "",
            };
            self.step(&state, event);
            // the oracle has found it legal already
            drop(evolve(&mut state, Position::START, commit.time, event));
            match event {
                Event::Volume(id, VolumeEvent::Attachment { attachment: one, event }) => {
                    let to = attachment(&state, id, *one).as_str();
                    self.count(TRANSITIONS, format!("attachment {was} {:?} {to}", event.kind()), 1);
                }
                Event::Volume(id, event) => {
                    let to = volume(&state, id).as_str();
                    self.count(TRANSITIONS, format!("volume {was} {:?} {to}", event.kind()), 1);
                }
                Event::Snapshot(id, event) => {
                    let to = snapshot(&state, id).as_str();
                    self.count(TRANSITIONS, format!("snapshot {was} {:?} {to}", event.kind()), 1);
                }
                Event::VolumeType(..)
                | Event::Quota(_)
                | Event::Backend(..)
                | Event::Operation(..)
                | Event::Debt(..)
                | Event::TurnBegan { .. } => {}
            }
        }
    }

    fn step(&mut self, state: &Ledger, event: &Event) {
        let Event::Operation(id, event) = event else { return };
        let (step, became) = match event {
            OperationEvent::StepCompleted { step } => (*step, "done"),
            OperationEvent::StepWaived { step, .. } | OperationEvent::UndoStarted { step, .. } => {
                (*step, "failed")
            }
            OperationEvent::StepUndone { step } => (*step, "undone"),
            OperationEvent::UndoWaived { step, .. } => (*step, "undo failed"),
            OperationEvent::Opened { .. }
            | OperationEvent::AttemptFailed { .. }
            | OperationEvent::Rescheduled { .. }
            | OperationEvent::Closed { .. } => return,
        };
        let Some(operation) = state.operations.get(id) else { return };
        let steps = operation.kind.steps();
        if let Some(planned) = steps.get(usize::from(step)) {
            self.count(STEPS, format!("{}.{} {became}", operation.kind.name(), planned.name), 1);
        }
    }

    /// Everything that could be reached.
    fn universe() -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut transitions: BTreeSet<String> = volume::TRANSITIONS
            .iter()
            .map(|(from, kind, to)| format!("volume {} {kind:?} {}", from.as_str(), to.as_str()))
            .collect();
        transitions.extend(
            snapshot::TRANSITIONS
                .iter()
                .map(|(from, kind, to)| format!("snapshot {} {kind:?} {}", from.as_str(), to.as_str())),
        );
        transitions.extend(
            attachment::TRANSITIONS
                .iter()
                .map(|(from, kind, to)| format!("attachment {} {kind:?} {}", from.as_str(), to.as_str())),
        );
        let unreachable = |code: &&&str| !UNREACHABLE_REJECTIONS.iter().any(|(other, _)| other == *code);
        let rejections = Rejection::CODES.iter().filter(unreachable).map(|code| (*code).to_owned()).collect();
        let mut steps = BTreeSet::new();
        step_names("volume_create", volume_create::STEPS, &mut steps);
        step_names("volume_copy", volume_copy::STEPS, &mut steps);
        step_names("volume_delete", volume_delete::STEPS, &mut steps);
        step_names("volume_extend", volume_extend::STEPS, &mut steps);
        step_names("volume_revert", volume_revert::STEPS, &mut steps);
        step_names("volume_recover", volume_recover::STEPS, &mut steps);
        step_names("snapshot_create", snapshot_create::STEPS, &mut steps);
        step_names("snapshot_delete", snapshot_delete::STEPS, &mut steps);
        step_names("status_verify", status_verify::STEPS, &mut steps);
        step_names("volume_manage", volume_manage::STEPS, &mut steps);
        step_names("volume_unmanage", volume_unmanage::STEPS, &mut steps);
        step_names("snapshot_manage", snapshot_manage::STEPS, &mut steps);
        step_names("snapshot_unmanage", snapshot_unmanage::STEPS, &mut steps);
        step_names("object_clean", object_clean::STEPS, &mut steps);
        step_names("attachment_connect", attachment_connect::STEPS, &mut steps);
        step_names("attachment_disconnect", attachment_disconnect::STEPS, &mut steps);
        step_names("export_restore", export_restore::STEPS, &mut steps);
        step_names("volume_extend_attached", volume_extend_attached::STEPS, &mut steps);
        let faults = FaultKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
        let operations = super::operations::ALL.iter().map(|operation| operation.name.to_owned()).collect();
        [
            (TRANSITIONS, transitions),
            (REJECTIONS, rejections),
            (STEPS, steps),
            (FAULTS, faults),
            (OPERATIONS, operations),
        ]
        .into()
    }

    /// What was never reached, by what it is.
    pub fn unreached(&self) -> BTreeMap<&'static str, Vec<String>> {
        let missing = |what, all: BTreeSet<String>| {
            all.into_iter().filter(|which| !self.counts.contains_key(&(what, which.clone()))).collect()
        };
        Self::universe().into_iter().map(|(what, all)| (what, missing(what, all))).collect()
    }

    /// A table: how much of everything was reached, and what was not.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let unreached = self.unreached();
        for (what, all) in Self::universe() {
            let missing = unreached.get(what).map_or(0, Vec::len);
            text.push_str(&format!("{what:<11} {:>4} of {:>4} reached\n", all.len() - missing, all.len()));
        }
        for (what, missing) in unreached {
            for which in missing {
                text.push_str(&format!("  not reached: {what} {which}\n"));
            }
        }
        text
    }

    /// Every count, the rarest first: for whoever wants to know what is only just reached.
    pub fn rarest(&self) -> Vec<(String, u64)> {
        let mut counts: Vec<(String, u64)> =
            self.counts.iter().map(|((what, which), times)| (format!("{what} {which}"), *times)).collect();
        counts.sort_by_key(|(_, times)| *times);
        counts
    }
}
