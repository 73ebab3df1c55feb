//! Where objects are in a pool.
//!
//! Volumes are images, snapshots are snapshots of their volume's image; both have the names that
//! Cinder gives. Two kinds of snapshots are the backend's own: the one that a clone of a volume is
//! made from, and with clones of version 1 a removed snapshot that clones still need.
//!
//! A snapshot of an image that has no name of ours is shown as `image@snapshot`, as `rbd` itself writes
//! it: it is claimed and given back under that name, and stays with its image meanwhile.

use tephra_domain::effect::{BackendObject, Effect};
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

    /// The place of what an effect is about. What is claimed from an image of others, or given back to
    /// one, is there.
    pub fn of_target(effect: &Effect) -> Self {
        let place = Self::of(effect.target());
        let image = effect.outside_name().and_then(|name| name.split_once(OF_OTHERS));
        match image.filter(|_| place.snapshot.is_some()) {
            Some((image, _)) => Self { image: image.to_owned(), ..place },
            None => place,
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
        match (&self.snapshot, name.split_once(OF_OTHERS)) {
            (Some(_), Some((image, snapshot))) => {
                Self { image: image.to_owned(), snapshot: Some(snapshot.to_owned()) }
            }
            (Some(_), None) => Self { image: self.image.clone(), snapshot: Some(name.to_owned()) },
            (None, _) => Self { image: name.to_owned(), snapshot: None },
        }
    }
}

/// Between an image and its snapshot. Ceph allows it in the name of neither.
const OF_OTHERS: char = '@';

/// What a snapshot is called outside of this backend: by its own name where that and its volume say
/// where it is.
pub fn shown(image: &str, snapshot: String) -> String {
    if has_canonical_id(image, "volume-") { snapshot } else { format!("{image}{OF_OTHERS}{snapshot}") }
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
    is_own(snapshot) || is_claimed(snapshot)
}

/// Whether a snapshot has the name of an operation's, which no other has.
pub fn is_claimed(snapshot: &str) -> bool {
    has_id(snapshot, "safety-")
}

/// Whether an image has a name as we give them.
pub fn is_volume_of_ours(image: &str) -> bool {
    has_id(image, "volume-") || has_id(image, "temporary-")
}

/// Whether the name is the very one that we give to what has this id.
fn has_canonical_id(name: &str, prefix: &str) -> bool {
    let id = name.strip_prefix(prefix).and_then(|id| Some((id, Uuid::try_parse(id).ok()?)));
    id.is_some_and(|(id, uuid)| uuid.hyphenated().to_string() == id)
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
    use tephra_domain::ids::OperationId;

    use super::*;

    #[test]
    fn a_snapshot_of_an_image_of_others_is_claimed_and_given_back_where_it_is() {
        let id = Uuid::from_u128(7);
        let daily = || "daily".to_owned();
        assert_eq!(shown(&format!("volume-{id}"), daily()), "daily");
        for other in ["golden", "volume-7", &format!("temporary-{id}"), &format!("volume-{}", id.simple())] {
            assert_eq!(shown(other, daily()), format!("{other}@daily"));
        }
        let object = BackendObject::SafetySnapshot {
            volume: VolumeId::from_uuid(id),
            operation: OperationId::from_uuid(id),
        };
        let at = |image: &str, snapshot: &str| Place {
            image: image.to_owned(),
            snapshot: Some(snapshot.to_owned()),
        };
        for (name, image) in [("golden@daily", "golden"), ("daily", &*format!("volume-{id}"))] {
            let claim = Effect::Adopt { object, from: name.into(), size: None };
            let give_back = Effect::Disown { object, to: name.into() };
            for effect in [claim, give_back] {
                let place = Place::of_target(&effect);
                assert_eq!(place, at(image, &object.to_string()));
                assert_eq!(place.renamed(name), at(image, "daily"));
            }
        }
    }

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
