//! What must be done so that an effect holds, from what is there: pure, and on one screen.
//!
//! Every step can be repeated. A clone appears under its final name with its source's size and a
//! parent; growing it and giving it data of its own (`flatten`) follow in that order, so an attempt
//! that died between them is told by its parent and goes on where it stopped.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::image::Location;
use super::names::Place;
use super::report::{Image, Parent};

/// How clones hold on to their parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneFormat {
    /// The parent's snapshot must be protected for as long as there are clones.
    V1,
    /// Clones count themselves; a removed snapshot stays in a trash until the last has gone.
    V2,
}

impl CloneFormat {
    /// What Ceph itself takes by default: version 2 as soon as no client is older than Mimic.
    pub fn for_oldest_client(release: &str) -> Self {
        // the names of releases begin with the letters of the alphabet in turn
        let before_mimic = release.chars().next().is_none_or(|first| first.to_ascii_lowercase() < 'm');
        if before_mimic { Self::V1 } else { Self::V2 }
    }

    /// As `rbd_default_clone_format` has it.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// What the pool shows of an effect's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The object that the effect is about.
    pub target: Option<Image>,
    /// The object whose data it takes.
    pub source: Option<Image>,
    /// What is under the name that is none of ours.
    pub outside: Option<Image>,
    /// The snapshots of what is under that name which nobody has asked to have removed, where it is an
    /// image that is about to be.
    pub kept: Vec<String>,
    /// Where the object is, if it is not under its name: a snapshot of an image of others.
    pub elsewhere: Option<Place>,
    /// Whether the source has as many ancestors as a clone may have.
    pub is_deep: bool,
}

/// One thing to be done. Each is one command, but for `Remove` and `DropSnapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A blank image under the target's name.
    Create { bytes: u64 },
    /// A snapshot.
    Snapshot { at: Place },
    /// The snapshot cannot be removed by accident.
    Protect { at: Place },
    /// An image under the target's name, with the snapshot's data.
    Clone { from: Place },
    /// The same, with the data of an image of the image store.
    CloneImage { from: Location },
    /// The target is larger.
    Grow { bytes: u64 },
    /// The target is smaller, if there is nothing beyond.
    Shrink { bytes: u64 },
    /// The target has data of its own.
    Flatten,
    /// The snapshot is gone, or hidden for as long as clones need it.
    DropSnapshot { at: Place },
    /// The image is gone, or in the trash for as long as clones need it.
    Remove { image: Image },
    /// What an attempt to make or remove the image left under its name is gone.
    RemoveRemains,
    /// The target has its snapshot's data.
    Rollback { to: Place },
    /// The target has the source's data.
    CopyOver { from: Place },
    /// Another name.
    Rename { from: Place, to: Place },
}

/// What to do, in this order.
///
/// # Errors
/// `ObjectMissing` if an object that is needed is not there, `Mismatch` if what is there is not
/// what the ledger says.
pub fn plan(
    pool: &str,
    effect: &Effect,
    observed: &Observed,
    flatten_from_snapshot: bool,
    format: CloneFormat,
) -> Result<Vec<Step>, Failure> {
    let target = effect.target();
    let place = observed.elsewhere.clone().unwrap_or_else(|| Place::of_target(effect));
    match effect {
        Effect::CreateVolume { size, .. } => match &observed.target {
            Some(found) => has_size(target, found.size, *size).map(|()| Vec::new()),
            None => Ok(vec![Step::Create { bytes: size.bytes() }]),
        },
        Effect::CreateVolumeFromImage { .. } | Effect::UploadImage { .. } | Effect::RemoveImage { .. } => {
            Err(super::super::needs_images(effect))
        }
        Effect::CopyVolume { .. } => Err(super::super::needs_neighbours(effect)),
        Effect::CreateVolumeFromSnapshot { size, snapshot, .. } => {
            let from = Place::of(*snapshot);
            let made = making_clone(target, *snapshot, (pool, &from), *size, observed)?;
            let mut steps = Vec::new();
            if matches!(made, Made::Nothing { .. }) {
                if format == CloneFormat::V1
                    && observed.source.as_ref().is_some_and(|source| !source.is_protected())
                {
                    steps.push(Step::Protect { at: from.clone() });
                }
                steps.push(Step::Clone { from });
            }
            steps.extend(made.rest(*size, observed.is_deep || flatten_from_snapshot));
            Ok(steps)
        }
        Effect::CloneVolume { size, source, .. } => {
            clone_volume(pool, target, *source, *size, observed, format)
        }
        Effect::CreateSnapshot { .. } => Ok(create_snapshot(target, observed)),
        Effect::DeleteVolume { .. } => Ok(vec![match &observed.target {
            Some(image) => Step::Remove { image: image.clone() },
            None => Step::RemoveRemains,
        }]),
        Effect::DeleteSnapshot { .. } => {
            Ok(observed.target.iter().map(|_| Step::DropSnapshot { at: place.clone() }).collect())
        }
        Effect::ExtendVolume { to, .. } => {
            let found = exists(target, observed.target.as_ref())?;
            Ok(Vec::from_iter((found.size < to.bytes()).then_some(Step::Grow { bytes: to.bytes() })))
        }
        Effect::ShrinkVolume { to, .. } => {
            let found = exists(target, observed.target.as_ref())?;
            if found.size > to.bytes() {
                Ok(vec![Step::Shrink { bytes: to.bytes() }])
            } else {
                has_size(target, found.size, *to).map(|()| Vec::new())
            }
        }
        Effect::RevertToSnapshot { snapshot, .. } => {
            let found = exists(target, observed.target.as_ref())?;
            let source = exists(*snapshot, observed.source.as_ref())?;
            same_size(*snapshot, source.size, target, found.size)?;
            Ok(vec![Step::Rollback { to: Place::of(*snapshot) }])
        }
        Effect::OverwriteVolume { source, .. } => {
            let found = exists(target, observed.target.as_ref())?;
            let from = exists(*source, observed.source.as_ref())?;
            fits(*source, from.size, target, found.size)?;
            Ok(vec![Step::CopyOver { from: Place::of(*source) }])
        }
        Effect::Verify { size, .. } => {
            has_size(target, exists(target, observed.target.as_ref())?.size, *size).map(|()| Vec::new())
        }
        // hosts reach images by themselves
        Effect::ExportVolume { .. } => exists(target, observed.target.as_ref()).map(|_| Vec::new()),
        Effect::UnexportVolume { .. } => Ok(Vec::new()),
        Effect::Adopt { from, size, .. } => adopt(target, place, from, *size, observed),
        Effect::Disown { to, .. } => match (&observed.target, &observed.outside) {
            (None, _) => Ok(Vec::new()),
            (Some(_), None) => Ok(vec![Step::Rename { to: place.renamed(to), from: place }]),
            (Some(_), Some(_)) => Err(mismatch(format!("{to} exists already beside {target}"))),
        },
    }
}

fn clone_volume(
    pool: &str,
    target: BackendObject,
    source: BackendObject,
    size: SizeGib,
    observed: &Observed,
    format: CloneFormat,
) -> Result<Vec<Step>, Failure> {
    let from = Place::of(source).with_snapshot(super::names::clone_snapshot(target));
    let made = making_clone(target, source, (pool, &from), size, observed)?;
    let mut steps = Vec::new();
    if matches!(made, Made::Nothing { .. }) {
        steps.push(Step::Snapshot { at: from.clone() });
        if format == CloneFormat::V1 {
            steps.push(Step::Protect { at: from.clone() });
        }
        steps.push(Step::Clone { from: from.clone() });
    }
    steps.extend(made.rest(size, observed.is_deep));
    steps.push(Step::DropSnapshot { at: from });
    Ok(steps)
}

fn create_snapshot(target: BackendObject, observed: &Observed) -> Vec<Step> {
    let place = Place::of(target);
    let mut steps = Vec::new();
    if observed.target.is_none() {
        steps.push(Step::Snapshot { at: place.clone() });
    }
    if super::names::is_protected(target) && !observed.target.as_ref().is_some_and(Image::is_protected) {
        steps.push(Step::Protect { at: place });
    }
    steps
}

/// How far an earlier attempt at a clone came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// There is no such image, but a source of this size.
    Nothing { bytes: u64 },
    /// It has its source's size and parent.
    Small { bytes: u64 },
    /// It has its size, and maybe a parent still.
    Sized { is_clone: bool },
}

impl Made {
    fn rest(self, size: SizeGib, flatten: bool) -> Vec<Step> {
        let (is_small, is_clone) = match self {
            Self::Nothing { bytes } | Self::Small { bytes } => (bytes < size.bytes(), true),
            Self::Sized { is_clone } => (false, is_clone),
        };
        let grow = is_small.then_some(Step::Grow { bytes: size.bytes() });
        grow.into_iter().chain((flatten && is_clone).then_some(Step::Flatten)).collect()
    }
}

fn making_clone(
    target: BackendObject,
    source: BackendObject,
    from: (&str, &Place),
    size: SizeGib,
    observed: &Observed,
) -> Result<Made, Failure> {
    let Some(found) = &observed.target else {
        let bytes = exists(source, observed.source.as_ref())?.size;
        fits(source, bytes, target, size.bytes())?;
        return Ok(Made::Nothing { bytes });
    };
    if found.parent.as_ref().is_some_and(|parent| is_in(parent, from)) && found.size < size.bytes() {
        return Ok(Made::Small { bytes: found.size });
    }
    has_size(target, found.size, size)?;
    Ok(Made::Sized { is_clone: found.parent.is_some() })
}

/// Whether a clone is of this snapshot in this pool. A snapshot that was removed since has a UUID for a
/// name, in the snapshots' trash, where its clones keep it.
fn is_in(parent: &Parent, (pool, place): (&str, &Place)) -> bool {
    let is_removed = Uuid::try_parse(&parent.snapshot).is_ok();
    parent.pool == pool
        && parent.image == place.image
        && (is_removed || place.snapshot.as_ref() == Some(&parent.snapshot))
}

fn adopt(
    target: BackendObject,
    place: Place,
    from: &str,
    size: Option<SizeGib>,
    observed: &Observed,
) -> Result<Vec<Step>, Failure> {
    let (mut steps, found) = match (&observed.target, &observed.outside) {
        // an earlier attempt may have died before the end was filled
        (Some(found), _) => (Vec::new(), found),
        // claimed, it would have lost its name, and could not go before they do
        (None, Some(_)) if !observed.kept.is_empty() => {
            let kept = observed.kept.join(", ");
            return Err(mismatch(format!("{from} has snapshots, which have to go before it: {kept}")));
        }
        (None, Some(found)) => (vec![Step::Rename { from: place.renamed(from), to: place }], found),
        (None, None) => return Err(missing(format!("{from} does not exist"))),
    };
    let Some(size) = size else { return Ok(steps) };
    if SizeGib::holding(found.size) != Some(size) {
        return Err(mismatch(format!("{from} has {} bytes, which do not make {size} GiB", found.size)));
    }
    if found.size < size.bytes() && !target.is_snapshot() {
        steps.push(Step::Grow { bytes: size.bytes() });
    }
    Ok(steps)
}

fn exists(object: BackendObject, found: Option<&Image>) -> Result<&Image, Failure> {
    found.ok_or_else(|| missing(format!("{object} does not exist")))
}

fn has_size(object: BackendObject, bytes: u64, size: SizeGib) -> Result<(), Failure> {
    if bytes == size.bytes() {
        return Ok(());
    }
    Err(mismatch(format!("{object} has {bytes} bytes, not {} ({size} GiB)", size.bytes())))
}

fn fits(source: BackendObject, bytes: u64, target: BackendObject, room: u64) -> Result<(), Failure> {
    if bytes <= room {
        return Ok(());
    }
    Err(mismatch(format!("{source} has {bytes} bytes, more than the {room} bytes of {target}")))
}

/// A rollback gives the image its snapshot's size.
fn same_size(snapshot: BackendObject, bytes: u64, volume: BackendObject, room: u64) -> Result<(), Failure> {
    if bytes == room {
        return Ok(());
    }
    Err(mismatch(format!("{snapshot} has {bytes} bytes, {volume} has {room}")))
}

fn missing(message: String) -> Failure {
    Failure::new(FailureKind::ObjectMissing, message)
}

fn mismatch(message: String) -> Failure {
    Failure::new(FailureKind::Mismatch, message)
}

#[cfg(test)]
mod tests;
