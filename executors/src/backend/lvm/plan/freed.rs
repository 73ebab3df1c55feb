//! The space that merges free, with what is in it.
//!
//! A merge ends with lvm2 giving back the space of the snapshot as it is: blocks that the volume held
//! once. Which extents that are is tagged onto the volume before the merge. The snapshot is taken again
//! on exactly these, and cleared when it is deleted, as any other. Where that cannot be, because
//! others took some, or because there is no snapshot to be taken, those that are free still are
//! held by a passing volume, cleared, and given back.

use super::super::Clear;
use super::super::extents::{self, Extents, PvExtents};
use super::super::name;
use super::super::report::Lv;
use super::super::step::{Plan, Step, snapshot_bytes};
use super::World;

/// The tags of a volume that name extents.
pub fn tags(volume: &Lv) -> Vec<String> {
    volume.tags.iter().filter(|tag| Extents::of_tag(tag).is_some()).cloned().collect()
}

impl World<'_> {
    /// What a volume must have on it before a snapshot is merged into it, beside what it has.
    pub fn tags_of_what_a_merge_frees(&self, volume: &Lv, snapshot: &Lv) -> Vec<String> {
        if self.settings.clear == Clear::None {
            return Vec::new();
        }
        let own = extents::of(&snapshot.name, &self.observed.segments);
        own.iter().map(Extents::freed).filter(|tag| !volume.has_tag(tag)).collect()
    }

    /// All that the last merge has freed, if a snapshot of the volume fits there exactly.
    pub fn where_the_snapshot_was(&self, volume: &Lv) -> Option<Vec<PvExtents>> {
        let count = |free: &[PvExtents]| free.iter().map(|extents| extents.count).sum::<u64>();
        let extent_bytes = self.extent_bytes()?;
        let needed = snapshot_bytes(volume.bytes).div_ceil(extent_bytes);
        let freed: u64 = freed(volume).iter().map(|extents| extents.count).sum();
        let free = self.free(volume);
        (freed == needed && count(&free) == needed).then_some(free)
    }

    /// Clears what is still free of what merges have freed.
    pub fn reclaim(&self, volume: &Lv) -> Option<Plan> {
        let tags = tags(volume);
        let forget = (!tags.is_empty()).then(|| Step::RemoveTags { lv: volume.name.clone(), tags });
        let lv = name::clear(&volume.name);
        if let Some(held) = self.observed.get(&lv) {
            let mut steps: Vec<Step> = forget.into_iter().collect();
            steps.extend(self.clear_and_remove(held));
            return Some(Plan::first(steps));
        }
        let forget = forget?;
        let on = self.free(volume);
        if on.is_empty() {
            return Some(Plan::first(vec![forget]));
        }
        let count: u64 = on.iter().map(|extents| extents.count).sum();
        let bytes = count.saturating_mul(self.extent_bytes().unwrap_or_default());
        Some(Plan::first(vec![
            Step::Hold { lv: lv.clone(), on },
            // held, they need no tag any more; with one, they would be cleared again after a crash
            forget,
            Step::Clear { lv: lv.clone(), bytes },
            Step::Remove { lv },
        ]))
    }

    fn free(&self, volume: &Lv) -> Vec<PvExtents> {
        extents::free_among(&freed(volume), &self.observed.segments)
    }

    fn extent_bytes(&self) -> Option<u64> {
        self.observed.segments.first().map(|segment| segment.extent_bytes).filter(|bytes| *bytes > 0)
    }
}

fn freed(volume: &Lv) -> Vec<Extents> {
    volume.tags.iter().filter_map(|tag| Extents::of_tag(tag)).collect()
}
