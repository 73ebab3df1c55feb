//! Reverting, and finishing reverts that a crash has left half-done.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};

use super::super::name;
use super::super::report::Lv;
use super::super::step::{Plan, Step, Then};
use super::resize::settle_growth;
use super::{World, activated, freed, half_reverted, home, is_unused};

/// Whether an effect needs a snapshot that a merge has consumed to be taken again before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakeAgain {
    /// What comes next may change the volume, whose data is the snapshot's until then.
    Now,
    /// The volume stays as it is, or goes with its tags. Where there is no room for the snapshot,
    /// this must go on: deleting makes room.
    Later,
    /// The snapshot itself is to go.
    No,
}

fn whether_to_take_again(effect: &Effect, snapshot: &str) -> TakeAgain {
    if matches!(effect, Effect::DeleteSnapshot { snapshot: going } if name::of(*going) == snapshot) {
        TakeAgain::No
    } else if may_wait(effect) {
        TakeAgain::Later
    } else {
        TakeAgain::Now
    }
}

/// Whether an effect goes on beside what another has left half-done on its volume, because it neither
/// changes nor shows what the volume holds, or takes all of it away.
pub const fn may_wait(effect: &Effect) -> bool {
    match effect {
        Effect::DeleteSnapshot { .. }
        | Effect::DeleteVolume { .. }
        | Effect::UnexportVolume { .. }
        | Effect::Verify { .. } => true,
        Effect::CreateVolume { .. }
        | Effect::CreateVolumeFromImage { .. }
        | Effect::CreateVolumeFromSnapshot { .. }
        | Effect::CloneVolume { .. }
        | Effect::CopyVolume { .. }
        | Effect::ExtendVolume { .. }
        | Effect::ShrinkVolume { .. }
        | Effect::CreateSnapshot { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. }
        | Effect::Adopt { .. }
        | Effect::Disown { .. }
        | Effect::ExportVolume { .. }
        | Effect::UploadImage { .. }
        | Effect::RemoveImage { .. } => false,
    }
}

impl World<'_> {
    /// A merge whose command was killed with its devices suspended. `lvs` waits for the group's
    /// lock, under which lvm2 suspends, so what it shows suspended nobody is at work on.
    pub fn resume_half_reverted(&self, effect: &Effect) -> Option<Plan> {
        let volume = self.find(home(effect))?;
        let snapshot = half_reverted(volume)?;
        let resume = |lv: &Lv| Step::Resume { lv: lv.name.clone() };
        let both = [Some(volume), self.observed.get(snapshot)];
        let steps: Vec<Step> = both.into_iter().flatten().filter(|lv| lv.is_suspended).map(resume).collect();
        (!steps.is_empty()).then(|| Plan::first(steps))
    }

    /// What must be finished on the effect's volume before the effect is looked at.
    pub fn settle(&self, effect: &Effect) -> Result<Option<Plan>, Failure> {
        let home = home(effect);
        if let Some(plan) = self.settle_replacement(&name::of(home)) {
            return Ok(Some(plan));
        }
        let Some(volume) = self.find(home) else { return Ok(None) };
        if volume.is_merging {
            return self.wait_for_merge(home, volume).map(Some);
        }
        if let Some(plan) = settle_growth(effect, volume) {
            return Ok(Some(plan));
        }
        if self.observed.get(&name::clear(&volume.name)).is_some() {
            return Ok(self.reclaim(volume));
        }
        let Some(snapshot) = half_reverted(volume) else { return Ok(self.reclaim(volume)) };
        let lv = || volume.name.clone();
        let forget = Step::RemoveTags { lv: lv(), tags: vec![name::reverting(snapshot)] };
        let goes_on =
            matches!(effect, Effect::RevertToSnapshot { snapshot: to, .. } if name::of(*to) == snapshot);
        if let Some(left) = self.observed.get(snapshot) {
            if !left.is_thick_snapshot() {
                // lvm2 died after the merge, and before it removed the space that the snapshot had
                return Ok(Some(Plan::first(self.remove_snapshot_steps(left))));
            }
            // the merge never began, or the snapshot has been taken again: both are whole
            return Ok((!goes_on).then(|| Plan::first(vec![forget])));
        }
        match whether_to_take_again(effect, snapshot) {
            TakeAgain::No => return Ok(Some(Plan::first(vec![forget]))),
            TakeAgain::Later => return Ok(None),
            TakeAgain::Now => {}
        }
        let mut tags = freed::tags(volume);
        let on = if tags.is_empty() { Some(Vec::new()) } else { self.where_the_snapshot_was(volume) };
        let Some(on) = on else { return Ok(self.reclaim(volume)) };
        tags.push(name::reverting(snapshot));
        let mut steps = activated(volume);
        steps.push(Step::SnapshotAgain { lv: snapshot.to_owned(), of: lv(), bytes: volume.bytes, on });
        steps.push(Step::RemoveTags { lv: lv(), tags });
        Ok(Some(if goes_on { Plan::done(steps) } else { Plan::first(steps) }))
    }

    /// Of three names, two are there while a thin volume is being replaced.
    fn settle_replacement(&self, lv: &str) -> Option<Plan> {
        let (new, old) = (name::new(lv), name::old(lv));
        let is_there = |lv: &str| self.observed.get(lv).is_some();
        let step = match (is_there(lv), is_there(&new), is_there(&old)) {
            (_, false, false) => return None,
            // the new one was never put into its place, and may not be what is wanted now
            (true, true, false) => Step::Remove { lv: new },
            (false, true, _) => Step::Rename { from: new, to: lv.to_owned() },
            (false, false, true) => Step::Rename { from: old, to: lv.to_owned() },
            (true, _, true) => Step::Remove { lv: old },
        };
        Some(Plan::first(vec![step]))
    }

    fn wait_for_merge(&self, home: BackendObject, volume: &Lv) -> Result<Plan, Failure> {
        let lv = volume.name.clone();
        if volume.merge_failed {
            let message = format!("lvm2 could not merge a snapshot into {home}");
            return Err(Failure::new(FailureKind::BackendError, message));
        }
        let steps = if !volume.is_active {
            vec![Step::Activate { lv }]
        } else if volume.data_percent.is_none() {
            // it was open when the merge was asked for: it begins when the device comes back
            is_unused(home, volume)?;
            vec![Step::Deactivate { lv: lv.clone() }, Step::Activate { lv }]
        } else {
            vec![Step::Poll { lv }]
        };
        Ok(Plan { steps, then: Then::Wait })
    }

    pub fn revert(&self, volume: BackendObject, snapshot: BackendObject) -> Result<Plan, Failure> {
        let target = self.whole(volume)?;
        let from = self.whole(snapshot)?;
        if from.shown_bytes() != target.bytes {
            let message = format!(
                "{snapshot} is {} bytes long, and {volume} {}: it was resized since",
                from.shown_bytes(),
                target.bytes
            );
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        is_unused(volume, target)?;
        is_unused(snapshot, from)?;
        if from.is_thin() && target.pool == from.pool {
            return Ok(self.replace(target, from));
        }
        if !from.is_thick_snapshot() || from.origin.as_deref() != Some(&target.name) {
            return Err(Failure::new(
                FailureKind::Mismatch,
                format!("{snapshot} is no snapshot of {volume}"),
            ));
        }
        let mut steps = activated(target);
        let mut tags = self.tags_of_what_a_merge_frees(target, from);
        if half_reverted(target) != Some(&from.name) {
            tags.push(name::reverting(&from.name));
        }
        if !tags.is_empty() {
            steps.push(Step::AddTags { lv: target.name.clone(), tags });
        }
        steps.push(Step::Merge { lv: from.name.clone() });
        Ok(Plan::first(steps))
    }

    /// A thin volume's place is taken by a snapshot of another.
    pub fn replace(&self, target: &Lv, from: &Lv) -> Plan {
        let (new, old) = (name::new(&target.name), name::old(&target.name));
        let mut steps = vec![Step::SnapshotThin {
            lv: new.clone(),
            of: from.name.clone(),
            is_volume: true,
            incomplete: false,
        }];
        if from.bytes < target.bytes {
            steps.push(Step::Extend { lv: new.clone(), bytes: target.bytes });
        }
        steps.extend([
            Step::Rename { from: target.name.clone(), to: old.clone() },
            Step::Rename { from: new, to: target.name.clone() },
            Step::Remove { lv: old },
        ]);
        Plan::done(steps)
    }
}
