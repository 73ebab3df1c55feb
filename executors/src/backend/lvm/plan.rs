//! Which lvm2 commands make an effect hold, from what `lvs` shows: pure.
//!
//! Every plan begins with what is there, so an attempt goes on where a killed one stopped:
//!
//! * A copy's target is tagged [`name::INCOMPLETE`] from the command that makes it until its data is
//!   durable.
//! * A thick volume that grows says by a tag which of its bytes are not zeroed yet ([`resize`]).
//! * A volume is tagged [`name::DELETING`] before the first of its bytes is cleared. A thick
//!   snapshot is split from its origin before that; what is left is no snapshot any more.
//! * A merge consumes the snapshot. Its name is tagged onto the volume before, and the tag goes
//!   when the snapshot has been taken again. In between, [`settle`] finishes what was begun before
//!   anything may change the volume. Deletes go on without: where the space that the merge freed has
//!   gone to others, they make room. More tags say which space that was, until it is cleared or is
//!   the snapshot's again ([`freed`]).
//! * A thin volume is replaced by renaming: the new one beside it, the old one aside, the new one
//!   into its place. At every point the two that are there say what comes next.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::units::SizeGib;

use super::Clear;
use super::extents::Segment;
use super::name;
use super::report::Lv;
use super::step::{Plan, Step};

mod copy;
mod freed;
mod remove;
mod resize;
mod revert;
#[cfg(test)]
mod tests;

pub use self::remove::{begins_to_delete, deletes, is_half_deleted};

/// The unit in which devices are written.
const SECTOR_BYTES: u64 = 512;

/// How the pool is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The thin pool that new volumes go to; nothing for thick ones.
    pub thin_pool: Option<String>,
    /// What happens to the data of what is removed.
    pub clear: Clear,
}

/// What `lvs` shows of everything that an effect may be about.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Those that are there.
    pub lvs: Vec<Lv>,
    /// Where everything in the group lies, if [`needs_segments`].
    pub segments: Vec<Segment>,
}

impl Observed {
    /// A logical volume, if it is there.
    pub fn get(&self, lv: &str) -> Option<&Lv> {
        self.lvs.iter().find(|found| found.name == lv)
    }
}

/// The logical volumes that an effect may be about.
pub fn involved(effect: &Effect, settings: &Settings) -> Vec<String> {
    let target = name::of(effect.target());
    let home = name::of(home(effect));
    let passing = [name::copy(&target), name::new(&home), name::old(&home), name::clear(&home)];
    let mut lvs = vec![target, home];
    lvs.extend(passing);
    lvs.extend(effect.source().map(name::of));
    lvs.extend(effect.outside_name().map(name::escaped));
    lvs.extend(settings.thin_pool.clone());
    lvs.sort_unstable();
    lvs.dedup();
    lvs.retain(|lv| name::is_possible(lv));
    lvs
}

/// The snapshot that a half-done revert of the effect's volume names: it is to be looked at, too.
pub fn also_involved(effect: &Effect, observed: &Observed) -> Option<String> {
    let reverted_to = half_reverted(observed.get(&name::of(home(effect)))?)?;
    observed.get(reverted_to).is_none().then(|| reverted_to.to_owned())
}

/// Whether a plan needs to know where everything lies: for a merge, and for what one has freed.
pub fn needs_segments(effect: &Effect, observed: &Observed, settings: &Settings) -> bool {
    let Some(volume) = observed.get(&name::of(home(effect))) else { return false };
    let merges = if let Effect::RevertToSnapshot { snapshot, .. } = effect {
        observed.get(&name::of(*snapshot)).is_some_and(Lv::is_thick_snapshot)
    } else {
        false
    };
    settings.clear != Clear::None && (merges || !freed::tags(volume).is_empty())
}

/// The volume that the effect's target is, or was taken of.
const fn home(effect: &Effect) -> BackendObject {
    let target = effect.target();
    if target.is_snapshot() { BackendObject::Volume(target.volume()) } else { target }
}

fn half_reverted(volume: &Lv) -> Option<&str> {
    volume.tags.iter().find_map(|tag| name::reverted_to(tag))
}

/// What to do.
///
/// # Errors
/// `Busy` for what is open or suspended, `ObjectMissing`, `Mismatch` for what is not as the ledger
/// says, `NoSpace` for a full thin pool, `Unsupported` for what lvm2 cannot do.
pub fn plan(effect: &Effect, observed: &Observed, settings: &Settings) -> Result<Plan, Failure> {
    let world = World { observed, settings };
    if let Effect::Verify { object, size } = effect {
        return world.verify(*object, *size);
    }
    if let Some(first) = world.resume_half_reverted(effect) {
        return Ok(first);
    }
    world.nothing_is_suspended()?;
    if let Some(first) = world.settle(effect)? {
        return Ok(first);
    }
    match effect {
        Effect::CreateVolume { volume, size } => world.create(*volume, *size),
        Effect::CreateVolumeFromImage { .. } | Effect::UploadImage { .. } | Effect::RemoveImage { .. } => {
            Err(super::super::needs_images(effect))
        }
        Effect::CopyVolume { .. } => Err(super::super::needs_neighbours(effect)),
        Effect::CreateVolumeFromSnapshot { volume, size, snapshot: source }
        | Effect::CloneVolume { volume, size, source } => world.create_copy(*volume, *size, *source),
        Effect::DeleteVolume { volume } => world.delete_volume(*volume),
        Effect::ExtendVolume { volume, to } => world.extend(*volume, *to),
        Effect::ShrinkVolume { volume, to } => world.shrink(*volume, *to),
        Effect::CreateSnapshot { snapshot } => world.create_snapshot(*snapshot),
        Effect::DeleteSnapshot { snapshot } => world.delete_snapshot(*snapshot),
        Effect::RevertToSnapshot { volume, snapshot } => world.revert(*volume, *snapshot),
        Effect::OverwriteVolume { volume, source } => world.overwrite(*volume, *source),
        Effect::Adopt { object, from, size } => world.adopt(*object, from, *size),
        Effect::Disown { object, to } => world.disown(*object, to),
        Effect::Verify { object, size } => world.verify(*object, *size),
        Effect::ExportVolume { volume, .. } => world.whole(*volume).map(|lv| Plan::done(activated(lv))),
        Effect::UnexportVolume { .. } => Ok(Plan::done(Vec::new())),
    }
}

/// What makes an object's device be there, so that its bytes can be read and written.
///
/// # Errors
/// `ObjectMissing`, `Mismatch` for what is not whole, `Busy` for what is suspended.
pub fn readable(object: BackendObject, observed: &Observed) -> Result<Vec<Step>, Failure> {
    let settings = Settings { thin_pool: None, clear: Clear::None };
    let world = World { observed, settings: &settings };
    world.nothing_is_suspended()?;
    let lv = world.whole(object)?;
    let steps = resize::half_grown(lv);
    Ok(if steps.is_empty() { activated(lv) } else { steps })
}

/// What zeroes a volume from a byte on, where its space may hold anything.
///
/// # Errors
/// As [`readable`].
pub fn zeroed_beyond(volume: BackendObject, bytes: u64, observed: &Observed) -> Result<Vec<Step>, Failure> {
    let mut steps = readable(volume, observed)?;
    let from = bytes.next_multiple_of(SECTOR_BYTES);
    if let Some(lv) = observed.get(&name::of(volume)).filter(|lv| !lv.is_thin() && from < lv.bytes) {
        steps.push(Step::Zero { lv: lv.name.clone(), from, to: lv.bytes });
        steps.push(Step::Sync { lv: lv.name.clone() });
    }
    Ok(steps)
}

/// What plans are made from.
struct World<'a> {
    observed: &'a Observed,
    settings: &'a Settings,
}

impl<'a> World<'a> {
    fn find(&self, object: BackendObject) -> Option<&'a Lv> {
        self.observed.get(&name::of(object))
    }

    /// An object that is there, whole, and not on its way out.
    fn whole(&self, object: BackendObject) -> Result<&'a Lv, Failure> {
        let lv = self
            .find(object)
            .ok_or_else(|| Failure::new(FailureKind::ObjectMissing, format!("{object} does not exist")))?;
        is_whole(object, lv)?;
        Ok(lv)
    }

    /// A suspended device holds whoever touches it for ever.
    fn nothing_is_suspended(&self) -> Result<(), Failure> {
        match self.observed.lvs.iter().find(|lv| lv.is_suspended) {
            None => Ok(()),
            Some(lv) => {
                let message = format!(
                    "{} is suspended: another command is at work on it, or died at that (dmsetup resume wakes it)",
                    lv.name
                );
                Err(Failure::new(FailureKind::Busy, message))
            }
        }
    }

    fn thin_pool_has_room(&self) -> Result<(), Failure> {
        let Some(pool) = &self.settings.thin_pool else { return Ok(()) };
        let Some(lv) = self.observed.get(pool) else {
            let message = format!("the thin pool {pool} is gone");
            return Err(Failure::new(FailureKind::BackendUnavailable, message));
        };
        let full = |percent: Option<f64>| percent.is_some_and(|percent| percent >= 100.0);
        if full(lv.data_percent) || full(lv.metadata_percent) {
            let what = if full(lv.data_percent) { "space" } else { "metadata" };
            let message = format!("the thin pool {pool} is full: all of its {what} is used");
            return Err(Failure::new(FailureKind::NoSpace, message));
        }
        Ok(())
    }

    /// A new volume without data.
    fn blank(&self, lv: String, bytes: u64, incomplete: bool) -> Step {
        match &self.settings.thin_pool {
            Some(pool) => Step::CreateThin { lv, bytes, pool: pool.clone(), incomplete },
            None => Step::CreateThick { lv, bytes, incomplete },
        }
    }

    fn create(&self, volume: BackendObject, size: SizeGib) -> Result<Plan, Failure> {
        if let Some(lv) = self.find(volume) {
            is_whole(volume, lv)?;
            has_size(volume, lv, size)?;
            return Ok(Plan::done(activated(lv)));
        }
        self.thin_pool_has_room()?;
        Ok(Plan::done(vec![self.blank(name::of(volume), size.bytes(), false)]))
    }

    fn create_snapshot(&self, snapshot: BackendObject) -> Result<Plan, Failure> {
        if let Some(lv) = self.find(snapshot) {
            return is_whole(snapshot, lv).map(|()| Plan::done(Vec::new()));
        }
        let volume = BackendObject::Volume(snapshot.volume());
        let of = self.whole(volume)?;
        let mut steps = activated(of);
        steps.push(self.snapshot(name::of(snapshot), of)?);
        Ok(Plan::done(steps))
    }

    /// A snapshot of its kind of a volume. Thin ones stay inactive until somebody needs them.
    fn snapshot(&self, lv: String, of: &Lv) -> Result<Step, Failure> {
        if of.is_thin() {
            self.thin_pool_has_room()?;
            return Ok(Step::SnapshotThin { lv, of: of.name.clone(), is_volume: false, incomplete: false });
        }
        Ok(Step::SnapshotThick { lv, of: of.name.clone(), bytes: of.bytes })
    }

    fn verify(&self, object: BackendObject, size: SizeGib) -> Result<Plan, Failure> {
        let lv = self.whole(object)?;
        has_size(object, lv, size)?;
        Ok(Plan::done(Vec::new()))
    }

    fn adopt(&self, object: BackendObject, from: &str, size: Option<SizeGib>) -> Result<Plan, Failure> {
        let missing = || Failure::new(FailureKind::ObjectMissing, format!("{from} does not exist"));
        let outside = self.observed.get(&name::escaped(from));
        let (lv, renames) = match (self.find(object), outside) {
            (Some(lv), _) => (lv, Vec::new()),
            (None, Some(lv)) => {
                is_unused_lv(from, lv)?;
                if matches!(object, BackendObject::TemporaryVolume { .. }) && lv.has_thick_snapshots() {
                    // claimed to be removed, it would have lost its name, and could not go before they do
                    let message = format!("{from} has thick snapshots, which have to go before it");
                    return Err(Failure::new(FailureKind::Mismatch, message));
                }
                (lv, vec![Step::Rename { from: lv.name.clone(), to: name::of(object) }])
            }
            (None, None) => return Err(missing()),
        };
        let fits = !lv.is_thin_pool() && !lv.is_merging && (lv.is_thick_snapshot() <= object.is_snapshot());
        if !fits || (object.is_snapshot() && !lv.is_thick_snapshot() && !lv.is_thin()) {
            let what = if object.is_snapshot() { "snapshot" } else { "volume" };
            return Err(Failure::new(FailureKind::Mismatch, format!("{from} is no {what}")));
        }
        let mut steps = renames;
        if let Some(size) = size {
            if SizeGib::holding(lv.shown_bytes()) != Some(size) {
                let message =
                    format!("{from} is {} bytes long, which does not make {size} GiB", lv.shown_bytes());
                return Err(Failure::new(FailureKind::Mismatch, message));
            }
            if lv.shown_bytes() < size.bytes() {
                steps.extend(resize::fill_up(object, lv, size)?);
                return Ok(Plan::done(steps));
            }
        }
        if !object.is_snapshot() && !lv.is_active {
            steps.push(Step::Activate { lv: name::of(object) });
        }
        Ok(Plan::done(steps))
    }

    fn disown(&self, object: BackendObject, to: &str) -> Result<Plan, Failure> {
        let Some(lv) = self.find(object) else { return Ok(Plan::done(Vec::new())) };
        is_unused(object, lv)?;
        let to = name::escaped(to);
        if !name::is_possible(&to) {
            return Err(Failure::new(FailureKind::Unsupported, format!("lvm2 cannot name anything {to:?}")));
        }
        if self.observed.get(&to).is_some() {
            let message = format!("{to} exists already beside {object}");
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        Ok(Plan::done(vec![Step::Rename { from: lv.name.clone(), to }]))
    }
}

/// What makes its device be there, if it is not.
fn activated(lv: &Lv) -> Vec<Step> {
    if lv.is_active { Vec::new() } else { vec![Step::Activate { lv: lv.name.clone() }] }
}

fn is_whole(object: BackendObject, lv: &Lv) -> Result<(), Failure> {
    let mismatch = |what: &str| Err(Failure::new(FailureKind::Mismatch, format!("{object} {what}")));
    if lv.has_tag(name::INCOMPLETE) {
        return mismatch("holds a part of a copy that was never finished");
    }
    if lv.has_tag(name::DELETING) {
        return mismatch("is being deleted, and has lost data");
    }
    if lv.is_invalid {
        return mismatch("has overflowed: lvm2 has dropped what it held");
    }
    if object.is_snapshot() && !lv.is_thin() && !lv.is_thick_snapshot() {
        return mismatch("is no snapshot any more: it is being deleted");
    }
    Ok(())
}

fn has_size(object: BackendObject, lv: &Lv, size: SizeGib) -> Result<(), Failure> {
    if lv.shown_bytes() == size.bytes() {
        return Ok(());
    }
    let message = format!("{object} is {} bytes long, not {} ({size} GiB)", lv.shown_bytes(), size.bytes());
    Err(Failure::new(FailureKind::Mismatch, message))
}

fn is_unused(object: BackendObject, lv: &Lv) -> Result<(), Failure> {
    is_unused_lv(&object.to_string(), lv)
}

fn is_unused_lv(name: &str, lv: &Lv) -> Result<(), Failure> {
    if lv.is_open {
        return Err(Failure::new(FailureKind::Busy, format!("{name} is open: somebody uses it")));
    }
    Ok(())
}
