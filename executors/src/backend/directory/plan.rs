//! What must be done so that an effect holds, from what is there: pure, and on one screen.
//!
//! A creation finds its object there already, or not at all: files appear under their final name
//! only when they are complete, and the ledger has the intent before any file is made. So a file of
//! the right size is an earlier attempt's work, and one of another size is not ours to replace.

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::units::SizeGib;

/// What the directory shows of an effect's objects: lengths in bytes, nothing where there is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The object that the effect is about.
    pub target: Option<u64>,
    /// The object whose data it takes.
    pub source: Option<u64>,
}

/// What is to be done to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The effect was only a question, and the answer is yes.
    Nothing,
    /// It holds already; an earlier attempt may have died before making that durable.
    MakeDurable,
    /// A new file of zeroes.
    CreateBlank {
        /// Its length.
        bytes: u64,
    },
    /// A new file with the source's data, zeroes beyond.
    CreateCopy {
        /// Its length.
        bytes: u64,
    },
    /// The source's data in the place of what is there, zeroes beyond, at one stroke.
    ReplaceByCopy {
        /// Its length, as it was.
        bytes: u64,
    },
    /// More zeroes at the end.
    Lengthen {
        /// The new length.
        bytes: u64,
    },
    /// Fewer zeroes at the end; anything but zeroes there is an error.
    CutZeroes {
        /// The new length.
        bytes: u64,
    },
    /// No file.
    Remove,
}

/// The object whose data an effect takes.
pub fn source_of(effect: &Effect) -> Option<BackendObject> {
    match effect {
        Effect::CreateSnapshot { snapshot } => Some(BackendObject::Volume(snapshot.volume())),
        Effect::CreateVolume { .. }
        | Effect::CreateVolumeFromSnapshot { .. }
        | Effect::CloneVolume { .. }
        | Effect::DeleteVolume { .. }
        | Effect::ExtendVolume { .. }
        | Effect::ShrinkVolume { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. }
        | Effect::Verify { .. } => effect.source(),
    }
}

/// What to do.
///
/// # Errors
/// `ObjectMissing` if a file that is needed is not there or has lost its end, `Mismatch` if what
/// is there is not what the ledger says.
pub fn plan(effect: &Effect, observed: Observed) -> Result<Action, Failure> {
    let target = effect.target();
    match effect {
        Effect::CreateVolume { size, .. } => match observed.target {
            Some(length) => has_size(target, length, *size).map(|()| Action::MakeDurable),
            None => Ok(Action::CreateBlank { bytes: size.bytes() }),
        },
        Effect::CreateVolumeFromSnapshot { size, snapshot: source, .. }
        | Effect::CloneVolume { size, source, .. } => match observed.target {
            Some(length) => has_size(target, length, *size).map(|()| Action::MakeDurable),
            None => {
                fits(*source, whole(*source, observed.source)?, target, size.bytes())?;
                Ok(Action::CreateCopy { bytes: size.bytes() })
            }
        },
        Effect::CreateSnapshot { .. } => match (observed.target, observed.source) {
            // the snapshot has the size that its volume had when it was taken
            (Some(length), _) => whole(target, Some(length)).map(|_| Action::MakeDurable),
            (None, source) => {
                let bytes = whole(BackendObject::Volume(target.volume()), source)?;
                Ok(Action::CreateCopy { bytes })
            }
        },
        Effect::DeleteVolume { .. } | Effect::DeleteSnapshot { .. } => Ok(Action::Remove),
        Effect::ExtendVolume { to, .. } => {
            let length = exists(target, observed.target)?;
            if length < to.bytes() {
                Ok(Action::Lengthen { bytes: to.bytes() })
            } else {
                Ok(Action::MakeDurable)
            }
        }
        Effect::ShrinkVolume { to, .. } => {
            let length = exists(target, observed.target)?;
            if length > to.bytes() {
                Ok(Action::CutZeroes { bytes: to.bytes() })
            } else {
                has_size(target, length, *to).map(|()| Action::MakeDurable)
            }
        }
        Effect::RevertToSnapshot { snapshot: source, .. } | Effect::OverwriteVolume { source, .. } => {
            let length = exists(target, observed.target)?;
            fits(*source, whole(*source, observed.source)?, target, length)?;
            Ok(Action::ReplaceByCopy { bytes: length })
        }
        Effect::Verify { size, .. } => {
            has_size(target, exists(target, observed.target)?, *size).map(|()| Action::Nothing)
        }
    }
}

fn exists(object: BackendObject, length: Option<u64>) -> Result<u64, Failure> {
    length.ok_or_else(|| Failure::new(FailureKind::ObjectMissing, format!("{object} does not exist")))
}

/// Objects are whole GiB long. One that is not has lost its end, and its data with it.
fn whole(object: BackendObject, length: Option<u64>) -> Result<u64, Failure> {
    let length = exists(object, length)?;
    if length == 0 || !length.is_multiple_of(1 << 30) {
        let message = format!("{object} has lost its end: it is {length} bytes long, not whole GiB");
        return Err(Failure::new(FailureKind::ObjectMissing, message));
    }
    Ok(length)
}

fn has_size(object: BackendObject, length: u64, size: SizeGib) -> Result<(), Failure> {
    if length == size.bytes() {
        return Ok(());
    }
    let message = format!("{object} is {length} bytes long, not {} ({size} GiB)", size.bytes());
    Err(Failure::new(FailureKind::Mismatch, message))
}

fn fits(source: BackendObject, length: u64, target: BackendObject, room: u64) -> Result<(), Failure> {
    if length <= room {
        return Ok(());
    }
    let message = format!("{source} is {length} bytes long, more than the {room} bytes of {target}");
    Err(Failure::new(FailureKind::Mismatch, message))
}
