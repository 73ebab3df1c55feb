//! Where objects are in a pool.
//!
//! Volumes are images, snapshots are snapshots of their volume's image; both have the names that
//! Cinder gives. Two kinds of snapshots are the backend's own: the one that a clone of a volume is
//! made from, and with clones of version 1 a removed snapshot that clones still need.

use tephra_domain::effect::BackendObject;
use tephra_domain::ids::VolumeId;
use uuid::Uuid;

/// What the names of the backend's own snapshots begin with.
const OWN: &str = "tephra.";

/// An image, or a snapshot of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The image's name.
    pub image: String,
    /// The snapshot's name, if it is one.
    pub snapshot: Option<String>,
}

impl Place {
    /// An object's.
    pub fn of(object: BackendObject) -> Self {
        if object.is_snapshot() {
            let image = BackendObject::Volume(object.volume()).to_string();
            Self { image, snapshot: Some(object.to_string()) }
        } else {
            Self { image: object.to_string(), snapshot: None }
        }
    }

    /// The snapshot's name; the image's if it is none.
    pub fn name(&self) -> &str {
        self.snapshot.as_deref().unwrap_or(&self.image)
    }

    /// A snapshot of the same image.
    pub fn with_snapshot(self, snapshot: String) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    /// Under another name: of the snapshot if it is one, otherwise of the image.
    pub fn renamed(&self, name: &str) -> Self {
        match &self.snapshot {
            Some(_) => Self { image: self.image.clone(), snapshot: Some(name.to_owned()) },
            None => Self { image: name.to_owned(), snapshot: None },
        }
    }
}

/// What the name of a snapshot that a clone is made from begins with; the clone's name follows.
const CLONE: &str = "tephra.clone.";

/// The snapshot of a source that a clone is made from.
pub fn clone_snapshot(clone: BackendObject) -> String {
    format!("{CLONE}{clone}")
}

/// The volume that a snapshot was taken to make, if it was taken for that.
pub fn volume_cloned_from(snapshot: &str) -> Option<VolumeId> {
    let id = snapshot.strip_prefix(CLONE)?.strip_prefix("volume-")?;
    Uuid::try_parse(id).ok().map(VolumeId::from_uuid)
}

/// What a removed snapshot is called while clones of version 1 need it.
pub fn hidden(snapshot: &str) -> String {
    format!("{OWN}deleted.{snapshot}")
}

/// Whether a snapshot is the backend's own, to be removed as soon as no clone needs it.
pub fn is_own(snapshot: &str) -> bool {
    snapshot.starts_with(OWN)
}

/// Whether a snapshot goes with its volume: its own, or one that lives as long as an operation.
pub fn goes_with_its_volume(snapshot: &str) -> bool {
    is_own(snapshot) || has_id(snapshot, "safety-")
}

/// Whether an image has a name as we give them.
pub fn is_volume_of_ours(image: &str) -> bool {
    has_id(image, "volume-") || has_id(image, "temporary-")
}

fn has_id(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|id| Uuid::try_parse(id).is_ok())
}

/// Whether a snapshot is protected as long as it exists, as Cinder does it: users' are.
pub const fn is_protected(object: BackendObject) -> bool {
    match object {
        BackendObject::Snapshot { .. } => true,
        BackendObject::SafetySnapshot { .. }
        | BackendObject::Volume(_)
        | BackendObject::TemporaryVolume { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_ours() {
        let id = Uuid::from_u128(7);
        assert!(is_volume_of_ours(&format!("volume-{id}")));
        assert!(is_volume_of_ours(&format!("temporary-{id}")));
        let clone = VolumeId::from_uuid(id);
        assert_eq!(volume_cloned_from(&clone_snapshot(BackendObject::Volume(clone))), Some(clone));
        assert!(is_own(&clone_snapshot(BackendObject::Volume(clone))));
        assert_eq!(volume_cloned_from(&hidden(&format!("snapshot-{id}"))), None);
        for other in ["volume-7", "golden-image", "unmanaged-volume-1", &format!("snapshot-{id}")] {
            assert!(!is_volume_of_ours(other), "{other}");
        }
        assert!(goes_with_its_volume(&format!("safety-{id}")));
        assert!(goes_with_its_volume(&hidden("snapshot-1")));
        for other in ["snapshot-1", "safety-belt", "before-upgrade"] {
            assert!(!goes_with_its_volume(other), "{other}");
        }
    }
}
