//! Larger and smaller volumes.
//!
//! A thick volume that grows gets space that somebody else may have written. It is zeroed before the
//! effect is done, and until then a tag says between which bytes: whatever may show the volume's new
//! size to anybody begins with that.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::units::SizeGib;

use super::super::name;
use super::super::report::Lv;
use super::super::step::{Plan, Step};
use super::revert::may_wait;
use super::{World, activated, has_size, is_unused};

impl World<'_> {
    pub fn extend(&self, volume: BackendObject, to: SizeGib) -> Result<Plan, Failure> {
        let lv = self.whole(volume)?;
        if lv.bytes >= to.bytes() {
            return Ok(Plan::done(activated(lv)));
        }
        if lv.has_thick_snapshots() {
            // lvm2 resizes such a volume only while its device is away
            is_unused(volume, lv)?;
        }
        Ok(Plan::done(grown(&lv.name, lv, to.bytes())))
    }

    pub fn shrink(&self, volume: BackendObject, to: SizeGib) -> Result<Plan, Failure> {
        let lv = self.whole(volume)?;
        if lv.bytes <= to.bytes() {
            has_size(volume, lv, to)?;
            return Ok(Plan::done(activated(lv)));
        }
        is_unused(volume, lv)?;
        if lv.has_thick_snapshots() {
            let message =
                format!("{volume} has thick snapshots: lvm2 cannot shrink it before they are deleted");
            return Err(Failure::new(FailureKind::Unsupported, message));
        }
        let mut steps = activated(lv);
        let (name, bytes) = (lv.name.clone(), to.bytes());
        steps.push(Step::RequireZeroes { lv: name.clone(), from: bytes, to: lv.bytes });
        steps.push(Step::Reduce { lv: name, bytes });
        Ok(Plan::done(steps))
    }
}

/// What fills a volume that is to be taken over, and is named so by then, up to whole GiB.
pub fn fill_up(object: BackendObject, lv: &Lv, size: SizeGib) -> Result<Vec<Step>, Failure> {
    if lv.is_thick_snapshot() || lv.has_thick_snapshots() {
        let message = format!(
            "{} is {} bytes long, and thick snapshots and their origins cannot be filled up to whole GiB",
            lv.name,
            lv.shown_bytes()
        );
        return Err(Failure::new(FailureKind::Unsupported, message));
    }
    Ok(grown(&name::of(object), lv, size.bytes()))
}

/// Makes a volume larger, with zeroes where it has grown, and has its device be there.
fn grown(name: &str, lv: &Lv, bytes: u64) -> Vec<Step> {
    let named = || name.to_owned();
    let mut extend = Vec::new();
    if lv.has_thick_snapshots() {
        extend.push(Step::ExtendInactive { lv: named(), bytes });
    } else {
        extend.push(Step::Extend { lv: named(), bytes });
        if !lv.is_active {
            extend.push(Step::Activate { lv: named() });
        }
    }
    if lv.is_thin() {
        return extend;
    }
    let tag = name::growing(lv.bytes, bytes);
    let mut steps = Vec::new();
    if !lv.has_tag(&tag) {
        steps.push(Step::AddTags { lv: named(), tags: vec![tag.clone()] });
    }
    steps.extend(extend);
    steps.extend(zeroed(name, lv.bytes, bytes, tag));
    steps
}

fn zeroed(name: &str, from: u64, to: u64, tag: String) -> [Step; 3] {
    let named = || name.to_owned();
    [
        Step::ZeroGrown { lv: named(), from, to },
        Step::Sync { lv: named() },
        Step::RemoveTags { lv: named(), tags: vec![tag] },
    ]
}

/// What finishes an extend that an attempt has left half-done, unless the effect can do without.
pub fn settle_growth(effect: &Effect, volume: &Lv) -> Option<Plan> {
    let steps = half_grown(volume);
    let goes_on = matches!(effect, Effect::ExtendVolume { to, .. } if volume.bytes < to.bytes()
        && volume.has_tag(&name::growing(volume.bytes, to.bytes())));
    (!steps.is_empty() && !goes_on && !may_wait(effect)).then(|| Plan::first(steps))
}

/// What finishes an extend that an attempt has left half-done.
pub fn half_grown(volume: &Lv) -> Vec<Step> {
    let growth = volume.tags.iter().find_map(|tag| Some((tag, name::grown_between(tag)?)));
    let Some((tag, (from, to))) = growth else { return Vec::new() };
    if volume.bytes != to {
        // it has not grown
        return vec![Step::RemoveTags { lv: volume.name.clone(), tags: vec![tag.clone()] }];
    }
    let mut steps = activated(volume);
    steps.extend(zeroed(&volume.name, from, to, tag.clone()));
    steps
}
