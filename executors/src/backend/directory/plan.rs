//! What must be done so that an effect holds, from what is there: pure, and on one screen.
//!
//! A creation finds its object there already, or not at all: files appear under their final name
//! only when they are complete, and the ledger has the intent before any file is made. So a file of
//! the right size is an earlier attempt's work, and one of another size is not ours to replace.

use std::fmt::Display;

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::units::SizeGib;

/// What the directory shows of an effect's objects: lengths in bytes, nothing where there is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The object that the effect is about.
    pub target: Option<u64>,
    /// The object whose data it takes.
    pub source: Option<u64>,
    /// What is under the name that is none of ours.
    pub outside: Option<u64>,
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
    /// The file outside gets our name, and zeroes at the end up to whole GiB.
    TakeOver {
        /// Its length afterwards.
        bytes: u64,
    },
    /// Our file gets the name outside.
    GiveUp,
}

/// The object whose data an effect takes.
pub fn source_of(effect: &Effect) -> Option<BackendObject> {
    match effect {
        Effect::CreateSnapshot { snapshot } => Some(BackendObject::Volume(snapshot.volume())),
        Effect::CreateVolume { .. }
        | Effect::CreateVolumeFromImage { .. }
        | Effect::CreateVolumeFromSnapshot { .. }
        | Effect::CloneVolume { .. }
        | Effect::CopyVolume { .. }
        | Effect::DeleteVolume { .. }
        | Effect::ExtendVolume { .. }
        | Effect::ShrinkVolume { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::OverwriteVolume { .. }
        | Effect::Verify { .. }
        | Effect::Adopt { .. }
        | Effect::Disown { .. }
        | Effect::ExportVolume { .. }
        | Effect::UnexportVolume { .. }
        | Effect::UploadImage { .. }
        | Effect::RemoveImage { .. } => effect.source(),
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
        Effect::CreateVolumeFromImage { .. } | Effect::UploadImage { .. } | Effect::RemoveImage { .. } => {
            Err(super::super::needs_images(effect))
        }
        Effect::CopyVolume { .. } => Err(super::super::needs_neighbours(effect)),
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
        Effect::Adopt { from, size, .. } => match (observed.target, observed.outside) {
            // an earlier attempt may have died before the end was filled
            (Some(length), _) => filled(&target, length, *size).map(|bytes| Action::Lengthen { bytes }),
            (None, Some(length)) => filled(from, length, *size).map(|bytes| Action::TakeOver { bytes }),
            (None, None) => Err(Failure::new(FailureKind::ObjectMissing, format!("{from} does not exist"))),
        },
        Effect::Disown { to, .. } => match (observed.target, observed.outside) {
            (None, _) => Ok(Action::MakeDurable),
            (Some(_), None) => Ok(Action::GiveUp),
            (Some(_), Some(_)) => {
                Err(Failure::new(FailureKind::Mismatch, format!("{to} exists already beside {target}")))
            }
        },
        // whoever sees the directory reaches the file
        Effect::ExportVolume { .. } => exists(target, observed.target).map(|_| Action::Nothing),
        Effect::UnexportVolume { .. } => Ok(Action::Nothing),
    }
}

fn exists(object: BackendObject, length: Option<u64>) -> Result<u64, Failure> {
    length.ok_or_else(|| Failure::new(FailureKind::ObjectMissing, format!("{object} does not exist")))
}

/// The length that something has once it is taken over: its whole GiB filled, if it has that many.
fn filled(name: &dyn Display, length: u64, size: Option<SizeGib>) -> Result<u64, Failure> {
    match size {
        None => Ok(length),
        Some(size) if SizeGib::holding(length) == Some(size) => Ok(size.bytes()),
        Some(size) => {
            let message = format!("{name} is {length} bytes long, which does not make {size} GiB");
            Err(Failure::new(FailureKind::Mismatch, message))
        }
    }
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

#[cfg(test)]
mod tests {
    use tephra_domain::ids::{OperationId, SnapshotId, VolumeId};
    use uuid::Uuid;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn volume() -> BackendObject {
        BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(1)))
    }

    fn other() -> BackendObject {
        BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(2)))
    }

    fn snapshot() -> BackendObject {
        let snapshot = SnapshotId::from_uuid(Uuid::from_u128(3));
        BackendObject::Snapshot { volume: volume().volume(), snapshot }
    }

    /// The target's length, the source's, and what follows.
    type Row = (Option<u64>, Option<u64>, Result<Action, FailureKind>);

    fn check(effect: &Effect, cases: &[Row]) {
        for (target, source, expected) in cases {
            let observed = Observed { target: *target, source: *source, outside: None };
            let planned = plan(effect, observed).map_err(|failure| failure.kind);
            assert_eq!(planned, *expected, "{effect:?} with {observed:?}");
        }
    }

    #[test]
    fn a_blank_volume_is_made_once_and_never_replaced() {
        let effect = Effect::CreateVolume { volume: volume(), size: SizeGib::new(2).unwrap() };
        check(
            &effect,
            &[
                (None, None, Ok(Action::CreateBlank { bytes: 2 * GIB })),
                (Some(2 * GIB), None, Ok(Action::MakeDurable)),
                (Some(GIB), None, Err(FailureKind::Mismatch)),
                (Some(0), None, Err(FailureKind::Mismatch)),
                (Some(3 * GIB), None, Err(FailureKind::Mismatch)),
            ],
        );
    }

    #[test]
    fn a_copy_needs_a_whole_source_that_fits() {
        let size = SizeGib::new(2).unwrap();
        for effect in [
            Effect::CloneVolume { volume: other(), size, source: volume() },
            Effect::CreateVolumeFromSnapshot { volume: other(), size, snapshot: snapshot() },
        ] {
            check(
                &effect,
                &[
                    (None, Some(GIB), Ok(Action::CreateCopy { bytes: 2 * GIB })),
                    (None, Some(2 * GIB), Ok(Action::CreateCopy { bytes: 2 * GIB })),
                    (None, Some(3 * GIB), Err(FailureKind::Mismatch)),
                    (None, None, Err(FailureKind::ObjectMissing)),
                    (None, Some(0), Err(FailureKind::ObjectMissing)),
                    (None, Some(GIB - 512), Err(FailureKind::ObjectMissing)),
                    (Some(2 * GIB), Some(GIB), Ok(Action::MakeDurable)),
                    (Some(2 * GIB), None, Ok(Action::MakeDurable)),
                    (Some(GIB), Some(GIB), Err(FailureKind::Mismatch)),
                ],
            );
        }
    }

    #[test]
    fn a_snapshot_is_as_large_as_its_volume_was() {
        check(
            &Effect::CreateSnapshot { snapshot: snapshot() },
            &[
                (None, Some(3 * GIB), Ok(Action::CreateCopy { bytes: 3 * GIB })),
                (None, None, Err(FailureKind::ObjectMissing)),
                (None, Some(5), Err(FailureKind::ObjectMissing)),
                (Some(GIB), Some(GIB), Ok(Action::MakeDurable)),
                (Some(GIB), None, Ok(Action::MakeDurable)),
                (Some(7), Some(GIB), Err(FailureKind::ObjectMissing)),
            ],
        );
    }

    #[test]
    fn deleting_asks_for_nothing() {
        for effect in [Effect::delete(volume()), Effect::delete(snapshot())] {
            check(&effect, &[(None, None, Ok(Action::Remove)), (Some(5), None, Ok(Action::Remove))]);
        }
    }

    #[test]
    fn a_volume_grows_and_never_shrinks_by_an_extend() {
        check(
            &Effect::ExtendVolume { volume: volume(), to: SizeGib::new(2).unwrap() },
            &[
                (Some(GIB), None, Ok(Action::Lengthen { bytes: 2 * GIB })),
                (Some(2 * GIB), None, Ok(Action::MakeDurable)),
                (Some(3 * GIB), None, Ok(Action::MakeDurable)),
                (None, None, Err(FailureKind::ObjectMissing)),
            ],
        );
    }

    #[test]
    fn a_volume_shrinks_to_its_old_size_and_never_grows_by_that() {
        check(
            &Effect::ShrinkVolume { volume: volume(), to: SizeGib::new(2).unwrap() },
            &[
                (Some(3 * GIB), None, Ok(Action::CutZeroes { bytes: 2 * GIB })),
                (Some(2 * GIB), None, Ok(Action::MakeDurable)),
                (Some(GIB), None, Err(FailureKind::Mismatch)),
                (None, None, Err(FailureKind::ObjectMissing)),
            ],
        );
    }

    #[test]
    fn a_revert_and_an_overwrite_keep_the_volumes_size() {
        let operation = OperationId::from_uuid(Uuid::from_u128(4));
        let temporary = BackendObject::TemporaryVolume { volume: volume().volume(), operation };
        for effect in [
            Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() },
            Effect::OverwriteVolume { volume: volume(), source: temporary },
        ] {
            check(
                &effect,
                &[
                    (Some(2 * GIB), Some(2 * GIB), Ok(Action::ReplaceByCopy { bytes: 2 * GIB })),
                    (Some(2 * GIB), Some(GIB), Ok(Action::ReplaceByCopy { bytes: 2 * GIB })),
                    (Some(GIB), Some(2 * GIB), Err(FailureKind::Mismatch)),
                    (Some(GIB), Some(GIB / 2), Err(FailureKind::ObjectMissing)),
                    (Some(GIB), None, Err(FailureKind::ObjectMissing)),
                    (None, Some(GIB), Err(FailureKind::ObjectMissing)),
                ],
            );
        }
    }

    #[test]
    fn verifying_only_looks() {
        check(
            &Effect::Verify { object: snapshot(), size: SizeGib::new(1).unwrap() },
            &[
                (Some(GIB), None, Ok(Action::Nothing)),
                (Some(GIB - 1), None, Err(FailureKind::Mismatch)),
                (None, None, Err(FailureKind::ObjectMissing)),
            ],
        );
    }

    #[test]
    fn what_is_taken_over_is_filled_up_and_never_replaces_anything() {
        let size = SizeGib::new(2);
        let as_it_is = Effect::Adopt { object: volume(), from: "legacy".into(), size: None };
        let found = Observed { target: None, source: None, outside: Some(5) };
        assert_eq!(plan(&as_it_is, found), Ok(Action::TakeOver { bytes: 5 }));
        let effect = Effect::Adopt { object: volume(), from: "legacy".into(), size };
        let filled = Action::Lengthen { bytes: 2 * GIB };
        for (target, outside, expected) in [
            (None, Some(2 * GIB), Ok(Action::TakeOver { bytes: 2 * GIB })),
            (None, Some(GIB + 1), Ok(Action::TakeOver { bytes: 2 * GIB })),
            (None, Some(GIB), Err(FailureKind::Mismatch)),
            (None, Some(2 * GIB + 1), Err(FailureKind::Mismatch)),
            (None, Some(0), Err(FailureKind::Mismatch)),
            (None, None, Err(FailureKind::ObjectMissing)),
            (Some(GIB + 1), None, Ok(filled)),
            (Some(2 * GIB), None, Ok(filled)),
            (Some(2 * GIB), Some(GIB), Ok(filled)),
            (Some(GIB), None, Err(FailureKind::Mismatch)),
        ] {
            let planned = plan(&effect, Observed { target, source: None, outside });
            assert_eq!(planned.map_err(|failure| failure.kind), expected, "{target:?} {outside:?}");
        }
    }

    #[test]
    fn what_is_given_up_takes_nobodys_name() {
        let effect = Effect::Disown { object: volume(), to: "legacy".into() };
        for (target, outside, expected) in [
            (Some(GIB), None, Ok(Action::GiveUp)),
            (None, Some(GIB), Ok(Action::MakeDurable)),
            (None, None, Ok(Action::MakeDurable)),
            (Some(GIB), Some(GIB), Err(FailureKind::Mismatch)),
        ] {
            let planned = plan(&effect, Observed { target, source: None, outside });
            assert_eq!(planned.map_err(|failure| failure.kind), expected, "{target:?} {outside:?}");
        }
    }
}
