//! Where in a volume group something lies: in which extents of which disks (physical volumes).
//!
//! A merge frees the space of the snapshot that it consumes, with what is in it. Which space that is
//! must be known afterwards, also after a crash: it is tagged onto the volume before, by the disks'
//! UUIDs, since a disk may have another name after a restart.

use std::fmt;

/// On a volume that is being reverted: extents that a merge frees, and that nobody has cleared.
const FREED: &str = "tephra.freed=";

/// Extents of one disk that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// The disk's UUID.
    pub uuid: String,
    /// The first of them.
    pub first: u64,
    /// How many they are: at least one.
    pub count: u64,
}

impl Extents {
    /// The tag that says that they were freed.
    pub fn freed(&self) -> String {
        format!("{FREED}{}:{}+{}", self.uuid, self.first, self.count)
    }

    /// The extents that a tag names.
    pub fn of_tag(tag: &str) -> Option<Self> {
        let (uuid, numbers) = tag.strip_prefix(FREED)?.split_once(':')?;
        let (first, count) = numbers.split_once('+')?;
        let (first, count) = (first.parse().ok()?, count.parse().ok()?);
        (count > 0).then(|| Self { uuid: uuid.to_owned(), first, count })
    }
}

/// The same, as commands of lvm2 take them: with the present name of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvExtents {
    /// The disk's device.
    pub pv: String,
    /// The first of them.
    pub first: u64,
    /// How many they are: at least one.
    pub count: u64,
}

impl fmt::Display for PvExtents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.first.saturating_add(self.count).saturating_sub(1);
        write!(f, "{}:{}-{last}", self.pv, self.first)
    }
}

/// A part of a disk that belongs to one logical volume, or to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The disk's device.
    pub pv: String,
    /// Where it is.
    pub extents: Extents,
    /// Bytes in an extent.
    pub extent_bytes: u64,
    /// Whose it is; nothing if it is free.
    pub lv: Option<String>,
}

impl Segment {
    /// What of it is among these extents.
    fn among(&self, extents: &Extents) -> Option<PvExtents> {
        let end = |extents: &Extents| extents.first.saturating_add(extents.count);
        let first = self.extents.first.max(extents.first);
        let count = end(&self.extents).min(end(extents)).saturating_sub(first);
        let is_any = self.extents.uuid == extents.uuid && count > 0;
        is_any.then(|| PvExtents { pv: self.pv.clone(), first, count })
    }
}

/// The extents of a logical volume.
pub fn of(lv: &str, segments: &[Segment]) -> Vec<Extents> {
    let own = segments.iter().filter(|segment| segment.lv.as_deref() == Some(lv));
    own.map(|segment| segment.extents.clone()).collect()
}

/// Those of some extents that are free.
pub fn free_among(extents: &[Extents], segments: &[Segment]) -> Vec<PvExtents> {
    let free = segments.iter().filter(|segment| segment.lv.is_none());
    free.flat_map(|segment| extents.iter().filter_map(|some| segment.among(some))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(uuid: &str, first: u64, count: u64) -> Extents {
        Extents { uuid: uuid.to_owned(), first, count }
    }

    fn segment(uuid: &str, first: u64, count: u64, lv: Option<&str>) -> Segment {
        let lv = lv.map(str::to_owned);
        Segment {
            pv: format!("/dev/{uuid}"),
            extents: extents(uuid, first, count),
            extent_bytes: 4 << 20,
            lv,
        }
    }

    #[test]
    fn a_tag_says_which_extents_were_freed() {
        let some = extents("xQ1-2b", 256, 257);
        assert_eq!(Extents::of_tag(&some.freed()), Some(some));
        for tag in ["tephra", "tephra.freed=", "tephra.freed=a:1", "tephra.freed=a:1+0", "tephra.freed=a:b+1"]
        {
            assert_eq!(Extents::of_tag(tag), None, "{tag}");
        }
    }

    #[test]
    fn what_is_still_free_is_found_on_the_disk_that_it_is_on() {
        let segments = [
            segment("a", 0, 10, Some("volume")),
            segment("a", 10, 10, None),
            segment("a", 20, 5, Some("other")),
            segment("a", 25, 75, None),
            segment("b", 0, 100, None),
        ];
        assert_eq!(of("other", &segments), [extents("a", 20, 5)]);
        let free = free_among(&[extents("a", 5, 25)], &segments);
        let shown: Vec<String> = free.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/dev/a:10-19", "/dev/a:25-29"]);
        assert_eq!(free_among(&[extents("a", 0, 10), extents("c", 0, 100)], &segments), []);
    }
}
