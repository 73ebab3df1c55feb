//! Volumes from other objects' data.

use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::units::SizeGib;

use super::super::name;
use super::super::report::Lv;
use super::super::step::{Plan, Step};
use super::{World, activated, has_size, is_unused, is_whole};

impl World<'_> {
    /// A volume with another object's data. In one pool that is a snapshot of it; otherwise the
    /// data is copied, from a snapshot of the source if that is a volume, which others may write.
    pub fn create_copy(
        &self,
        volume: BackendObject,
        size: SizeGib,
        source: BackendObject,
    ) -> Result<Plan, Failure> {
        let target = self.find(volume);
        if let Some(lv) = target
            && !lv.has_tag(name::INCOMPLETE)
        {
            is_whole(volume, lv)?;
            has_size(volume, lv, size)?;
            return Ok(Plan::done(activated(lv)));
        }
        let from = self.whole(source)?;
        fits(source, from, volume, size.bytes())?;
        if self.is_in_our_pool(from) {
            self.create_thin_copy(volume, size, from, target)
        } else {
            self.create_full_copy(volume, size, from, target)
        }
    }

    fn is_in_our_pool(&self, lv: &Lv) -> bool {
        lv.pool.is_some() && lv.pool == self.settings.thin_pool
    }

    fn create_thin_copy(
        &self,
        volume: BackendObject,
        size: SizeGib,
        from: &Lv,
        target: Option<&Lv>,
    ) -> Result<Plan, Failure> {
        let lv = name::of(volume);
        let mut steps = Vec::new();
        if target.is_none() {
            self.thin_pool_has_room()?;
            let incomplete = from.bytes != size.bytes();
            steps.push(Step::SnapshotThin {
                lv: lv.clone(),
                of: from.name.clone(),
                is_volume: true,
                incomplete,
            });
            if !incomplete {
                return Ok(Plan::done(steps));
            }
        }
        if target.is_none_or(|target| target.bytes < size.bytes()) {
            steps.push(Step::Extend { lv: lv.clone(), bytes: size.bytes() });
        }
        steps.extend(target.into_iter().flat_map(activated));
        steps.push(Step::RemoveTags { lv, tags: vec![name::INCOMPLETE.to_owned()] });
        Ok(Plan::done(steps))
    }

    fn create_full_copy(
        &self,
        volume: BackendObject,
        size: SizeGib,
        from: &Lv,
        target: Option<&Lv>,
    ) -> Result<Plan, Failure> {
        let lv = name::of(volume);
        let complete = Step::RemoveTags { lv: lv.clone(), tags: vec![name::INCOMPLETE.to_owned()] };
        let copied_from = name::copy(&lv);
        let passing = self.observed.get(&copied_from);
        if let (Some(_), Some(passing)) = (target, passing)
            && !passing.is_thin()
            && !passing.is_thick_snapshot()
        {
            // it is split off only when the data is in its place and durable
            let mut steps = self.remove_snapshot_steps(passing);
            steps.push(complete);
            return Ok(Plan::done(steps));
        }
        let mut steps = Vec::new();
        let is_volume = !from.is_thick_snapshot() && !is_thin_snapshot(from);
        let read = match (is_volume, passing) {
            (true, None) => {
                steps.extend(activated(from));
                steps.push(self.snapshot(copied_from.clone(), from)?);
                if from.is_thin() {
                    steps.push(Step::Activate { lv: copied_from.clone() });
                }
                copied_from.clone()
            }
            (true, Some(passing)) => {
                if passing.is_invalid || !(passing.is_thin() || passing.is_thick_snapshot()) {
                    return Ok(Plan::first(self.remove_snapshot_steps(passing)));
                }
                steps.extend(activated(passing));
                copied_from.clone()
            }
            (false, _) => {
                steps.extend(activated(from));
                from.name.clone()
            }
        };
        match target {
            None => {
                self.thin_pool_has_room()?;
                steps.push(self.blank(lv.clone(), size.bytes(), true));
            }
            Some(target) if target.bytes != size.bytes() => {
                return Ok(Plan::first(self.clear_and_remove(target)));
            }
            Some(target) => steps.extend(activated(target)),
        }
        steps.push(Step::Copy { from: read, to: lv.clone() });
        let is_thin = target.map_or(self.settings.thin_pool.is_some(), Lv::is_thin);
        if !is_thin && from.shown_bytes() < size.bytes() {
            steps.push(Step::Zero { lv: lv.clone(), from: from.shown_bytes(), to: size.bytes() });
        }
        steps.push(Step::Sync { lv });
        if is_volume {
            steps.extend(match passing {
                Some(passing) => self.remove_snapshot_steps(passing),
                None => self.remove_fresh_snapshot_steps(&copied_from, from),
            });
        }
        steps.push(complete);
        Ok(Plan::done(steps))
    }

    /// Another object's data in a volume that is there.
    pub fn overwrite(&self, volume: BackendObject, source: BackendObject) -> Result<Plan, Failure> {
        let missing = |object| Failure::new(FailureKind::ObjectMissing, format!("{object} does not exist"));
        let target = self.find(volume).ok_or_else(|| missing(volume))?;
        if !target.has_tag(name::INCOMPLETE) {
            is_whole(volume, target)?;
        }
        let from = self.whole(source)?;
        fits(source, from, volume, target.bytes)?;
        is_unused(volume, target)?;
        is_unused(source, from)?;
        if self.is_in_our_pool(from) && self.is_in_our_pool(target) {
            return Ok(self.replace(target, from));
        }
        let lv = &target.name;
        let tag = || name::INCOMPLETE.to_owned();
        let mut steps = Vec::new();
        if !target.has_tag(name::INCOMPLETE) {
            steps.push(Step::AddTags { lv: lv.clone(), tags: vec![tag()] });
        }
        steps.extend(activated(target));
        steps.extend(activated(from));
        steps.push(Step::Copy { from: from.name.clone(), to: lv.clone() });
        if from.shown_bytes() < target.bytes {
            steps.push(Step::Zero { lv: lv.clone(), from: from.shown_bytes(), to: target.bytes });
        }
        steps.push(Step::Sync { lv: lv.clone() });
        steps.push(Step::RemoveTags { lv: lv.clone(), tags: vec![tag()] });
        Ok(Plan::done(steps))
    }
}

/// Whether it is a thin snapshot that nobody writes: lvm2 skips those when it activates a group.
fn is_thin_snapshot(lv: &Lv) -> bool {
    lv.is_thin() && lv.attributes.ends_with('k')
}

fn fits(source: BackendObject, from: &Lv, target: BackendObject, room: u64) -> Result<(), Failure> {
    if from.shown_bytes() <= room {
        return Ok(());
    }
    let message =
        format!("{source} is {} bytes long, more than the {room} bytes of {target}", from.shown_bytes());
    Err(Failure::new(FailureKind::Mismatch, message))
}
