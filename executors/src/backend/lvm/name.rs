//! What logical volumes are called, and what their tags say.
//!
//! Objects have the names that Cinder gives them, so a volume group of Cinder's goes on as it is.
//! Names of what lives shorter than an effect derive from the object it is made for, so that the
//! next attempt finds it. Tags hold what a crash must not make anybody forget: LVM writes them with
//! its metadata, atomically.

use std::path::{Path, PathBuf};

use tephra_domain::effect::BackendObject;

/// On everything that we make.
pub const OURS: &str = "tephra";

/// On a volume whose data is still being copied into it: nobody may take it for complete.
pub const INCOMPLETE: &str = "tephra.incomplete";

/// On a volume whose data is being cleared: nobody may take it for whole again.
pub const DELETING: &str = "tephra.deleting";

/// On a volume that is being reverted by a merge, which consumes the snapshot, followed by the
/// snapshot's name: it is to be taken again.
const REVERTING: &str = "tephra.reverting=";

/// On a thick volume that grows, followed by the bytes between which it does: they are not zeroed yet.
const GROWING: &str = "tephra.growing=";

/// What is made beside a thin volume to take its place.
const NEW: &str = "new-";

/// What has lost its place to that.
const OLD: &str = "old-";

/// The state of a clone's source while it is being copied.
const COPY: &str = "copy-";

/// Extents that a merge into a volume has freed, while they are cleared.
const CLEAR: &str = "clear-";

/// lvm2's own bound on names, less what the device mapper adds.
const LONGEST: usize = 110;

/// An object's logical volume. lvm2 keeps names that begin with `snapshot` for itself.
pub fn of(object: BackendObject) -> String {
    escaped(&object.to_string())
}

/// The logical volume of a name as the ledger gives it.
pub fn escaped(name: &str) -> String {
    if name.starts_with("snapshot") { format!("_{name}") } else { name.to_owned() }
}

/// The ledger's name of a logical volume.
pub fn unescaped(lv: &str) -> &str {
    match lv.strip_prefix('_') {
        Some(name) if name.starts_with("snapshot") => name,
        Some(_) | None => lv,
    }
}

/// What is to take the place of a thin volume.
pub fn new(lv: &str) -> String {
    format!("{NEW}{lv}")
}

/// What had the place of a thin volume.
pub fn old(lv: &str) -> String {
    format!("{OLD}{lv}")
}

/// The snapshot of its source from which a new volume is copied.
pub fn copy(lv: &str) -> String {
    format!("{COPY}{lv}")
}

/// What holds the extents that a merge into a volume has freed, while they are cleared.
pub fn clear(lv: &str) -> String {
    format!("{CLEAR}{lv}")
}

/// Whether a logical volume lives no longer than an effect.
pub fn is_passing(lv: &str) -> bool {
    [NEW, OLD, COPY, CLEAR]
        .iter()
        .filter_map(|prefix| lv.strip_prefix(prefix))
        .any(|rest| ["volume-", "temporary-"].iter().any(|kind| rest.starts_with(kind)))
}

/// The tag of a volume that is being reverted to a snapshot.
pub fn reverting(snapshot_lv: &str) -> String {
    format!("{REVERTING}{snapshot_lv}")
}

/// The snapshot that a tag names.
pub fn reverted_to(tag: &str) -> Option<&str> {
    tag.strip_prefix(REVERTING)
}

/// The tag of a volume that grows from so many bytes to so many.
pub fn growing(from: u64, to: u64) -> String {
    format!("{GROWING}{from}-{to}")
}

/// From how many bytes to how many a volume grows, as a tag says.
pub fn grown_between(tag: &str) -> Option<(u64, u64)> {
    let (from, to) = tag.strip_prefix(GROWING)?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// Whether lvm2 could have a logical volume of this name. One that it could not have is not there.
pub fn is_possible(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '.' | '-');
    !name.is_empty()
        && name.len() <= LONGEST
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.chars().all(allowed)
}

/// A logical volume's device.
pub fn device(volume_group: &str, lv: &str) -> PathBuf {
    Path::new("/dev").join(volume_group).join(lv)
}

/// What the device mapper calls a logical volume.
pub fn mapped(volume_group: &str, lv: &str) -> String {
    format!("{}-{}", volume_group.replace('-', "--"), lv.replace('-', "--"))
}

#[cfg(test)]
mod tests {
    use tephra_domain::ids::{OperationId, SnapshotId, VolumeId};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn names_are_those_of_cinder_and_lead_back() {
        let (volume, id) = (VolumeId::from_uuid(Uuid::from_u128(1)), Uuid::from_u128(2));
        for (object, lv) in [
            (BackendObject::Volume(volume), "volume-00000000-0000-0000-0000-000000000001"),
            (
                BackendObject::Snapshot { volume, snapshot: SnapshotId::from_uuid(id) },
                "_snapshot-00000000-0000-0000-0000-000000000002",
            ),
            (
                BackendObject::SafetySnapshot { volume, operation: OperationId::from_uuid(id) },
                "safety-00000000-0000-0000-0000-000000000002",
            ),
        ] {
            assert_eq!(of(object), lv);
            assert_eq!(unescaped(lv), object.to_string());
            assert!(is_possible(lv) && is_possible(&new(lv)) && !is_passing(lv));
        }
        let lv = of(BackendObject::Volume(volume));
        assert!(is_passing(&new(&lv)) && is_passing(&old(&lv)) && is_passing(&copy(&lv)));
        assert_eq!(mapped("a-b", "_s-1"), "a--b-_s--1");
        assert_eq!(reverted_to(&reverting("_snapshot-2")), Some("_snapshot-2"));
        assert_eq!(grown_between(&growing(5, 1 << 40)), Some((5, 1 << 40)));
        assert_eq!(grown_between("tephra.growing=5"), None);
    }

    #[test]
    fn a_name_that_lvm_could_not_have_is_none() {
        for name in ["", "-rf", "a b", "a/b", "a\"b", "..", &"x".repeat(200)] {
            assert!(!is_possible(name), "{name}");
        }
    }
}
