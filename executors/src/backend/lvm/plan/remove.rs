//! Removing volumes and snapshots, and their data with them.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};

use super::super::Clear;
use super::super::name;
use super::super::report::Lv;
use super::super::step::{Plan, Step, snapshot_bytes};
use super::{Observed, World, activated, is_unused};

impl World<'_> {
    pub fn delete_volume(&self, volume: BackendObject) -> Result<Plan, Failure> {
        let target = name::of(volume);
        let mut steps = Vec::new();
        if let Some(lv) = self.find(volume) {
            can_go(volume, lv)?;
            if lv.has_thick_snapshots() {
                let message = format!("{volume} has thick snapshots, which would go with it");
                return Err(Failure::new(FailureKind::Busy, message));
            }
            // with the volume, what it says of freed space would go
            if let Some(first) = self.reclaim(lv) {
                return Ok(first);
            }
            if self.must_be_cleared(lv) && !lv.has_tag(name::DELETING) {
                steps.push(Step::AddTags { lv: target.clone(), tags: vec![name::DELETING.to_owned()] });
            }
            steps.extend(self.clear_and_remove(lv));
        }
        // what a copy into it that was never finished has left on its source
        if let Some(passing) = self.observed.get(&name::copy(&target)) {
            steps.extend(self.remove_snapshot_steps(passing));
        }
        Ok(Plan::done(steps))
    }

    pub fn delete_snapshot(&self, snapshot: BackendObject) -> Result<Plan, Failure> {
        let Some(lv) = self.find(snapshot) else { return Ok(Plan::done(Vec::new())) };
        can_go(snapshot, lv)?;
        Ok(Plan::done(self.remove_snapshot_steps(lv)))
    }

    /// Removes a snapshot of either kind, or what is left of one.
    pub fn remove_snapshot_steps(&self, lv: &Lv) -> Vec<Step> {
        if lv.is_thick_snapshot() && self.must_be_cleared(lv) {
            return self.split_clear_and_remove(&lv.name, lv.bytes);
        }
        self.clear_and_remove(lv)
    }

    /// Removes a snapshot that the same plan has made.
    pub fn remove_fresh_snapshot_steps(&self, lv: &str, of: &Lv) -> Vec<Step> {
        if of.is_thin() || self.settings.clear == Clear::None {
            return vec![Step::Remove { lv: lv.to_owned() }];
        }
        self.split_clear_and_remove(lv, snapshot_bytes(of.bytes))
    }

    /// Written over under a snapshot's table, its space would still be in use. Split from its
    /// origin it is a volume like others, and no crash makes it a snapshot again.
    fn split_clear_and_remove(&self, lv: &str, bytes: u64) -> Vec<Step> {
        let lv = lv.to_owned();
        vec![
            Step::Split { lv: lv.clone() },
            Step::Activate { lv: lv.clone() },
            Step::Clear { lv: lv.clone(), bytes },
            Step::Remove { lv },
        ]
    }

    /// Removes a volume, or what is left of one.
    pub fn clear_and_remove(&self, lv: &Lv) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.must_be_cleared(lv) {
            steps.extend(activated(lv));
            steps.push(Step::Clear { lv: lv.name.clone(), bytes: lv.bytes });
        }
        steps.push(Step::Remove { lv: lv.name.clone() });
        steps
    }

    /// A thin pool gives space out as zeroes, whatever it held.
    fn must_be_cleared(&self, lv: &Lv) -> bool {
        !lv.is_thin() && self.settings.clear != Clear::None
    }
}

fn can_go(object: BackendObject, lv: &Lv) -> Result<(), Failure> {
    if lv.is_open && has_lost_data(object, lv) {
        // not `Busy`, which would mean that it is as it was
        let message = format!("{object} is open: somebody uses it, although its data is gone in part");
        return Err(Failure::new(FailureKind::BackendError, message));
    }
    is_unused(object, lv)
}

/// Whether an earlier attempt at a delete has begun with its data, or has split it from its origin.
fn has_lost_data(object: BackendObject, lv: &Lv) -> bool {
    let is_split = object.is_snapshot() && !lv.is_thin() && !lv.is_thick_snapshot();
    is_split || lv.has_tag(name::DELETING)
}

/// Whether an effect is a delete of which earlier attempts have done so much that it cannot be left at
/// that: what is deleted is not as it was, or is gone.
pub fn is_half_deleted(effect: &Effect, observed: &Observed) -> bool {
    let object = effect.target();
    let named = name::of(object);
    let is_aside = || [name::new(&named), name::old(&named)].iter().any(|lv| observed.get(lv).is_some());
    is_delete(effect) && observed.get(&named).map_or_else(|| !is_aside(), |lv| has_lost_data(object, lv))
}

/// Whether an effect is a delete that cannot be left at that any more as soon as this step has begun.
pub fn begins_to_delete(effect: &Effect, step: &Step) -> bool {
    let (Step::Clear { lv, .. } | Step::Split { lv }) = step else { return false };
    is_delete(effect) && *lv == name::of(effect.target())
}

/// Whether an effect is a delete, and what is deleted is gone after this step.
pub fn deletes(effect: &Effect, step: &Step) -> bool {
    let Step::Remove { lv } = step else { return false };
    is_delete(effect) && *lv == name::of(effect.target())
}

const fn is_delete(effect: &Effect) -> bool {
    matches!(effect, Effect::DeleteVolume { .. } | Effect::DeleteSnapshot { .. })
}
