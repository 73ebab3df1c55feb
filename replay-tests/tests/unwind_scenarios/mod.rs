//! One way at least to open each operation, and what may have become of the data at its end.

use std::collections::BTreeMap;

use tephra_domain::command::{CleanObject, Command, UploadVolume};
use tephra_domain::drift::FoundKind;
use tephra_domain::effect::{BackendObject, Failure, FailureKind, Outcome};
use tephra_domain::ids::{AttachmentId, ImageId, ProjectId, SnapshotId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{Volume, VolumeSource, VolumeState};
use tephra_replay_tests::world::{World, gib, pool};
use uuid::Uuid;

/// The data of a volume when its snapshot was taken.
const OLD: u64 = 111;
/// The data that was written afterwards.
const NEW: u64 = 222;
/// What a revert that went wrong left behind.
const GARBAGE: u64 = 333;

/// What an operation is about.
#[derive(Clone, Copy)]
pub struct Subject {
    pub volume: VolumeId,
    pub snapshot: Option<SnapshotId>,
}

/// One way to open one operation.
pub struct Scenario {
    /// Its name in `OperationKind::NAMES`.
    pub operation: &'static str,
    pub case: &'static str,
    pub backends: &'static [&'static str],
    pub native_revert: bool,
    /// Brings about what the operation needs, and opens it.
    pub open: fn(&mut World) -> Subject,
    /// What must be true when all is over.
    pub check: fn(&World, &Subject),
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        operation: "volume_create",
        case: "blank, with backends to go to",
        backends: &["one", "two", "three", "four"],
        native_revert: true,
        open: |world| {
            let (volume, command) = world.new_volume(1);
            world.when(command).unwrap();
            Subject { volume, snapshot: None }
        },
        check: |world, subject| ends_in(world, subject, &[VolumeState::Available, VolumeState::Error]),
    },
    Scenario {
        operation: "volume_create",
        case: "from a snapshot",
        backends: &["one", "two"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let snapshot = world.given_snapshot(volume);
            let (copy, command) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
            world.when(command).unwrap();
            Subject { volume: copy, snapshot: Some(snapshot) }
        },
        check: copy_is_whole_and_source_unharmed,
    },
    Scenario {
        operation: "volume_create",
        case: "from a volume",
        backends: &["one", "two"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let (copy, command) = world.new_volume_from(Some(2), VolumeSource::Volume(volume));
            world.when(command).unwrap();
            Subject { volume: copy, snapshot: None }
        },
        check: copy_is_whole_and_source_unharmed,
    },
    Scenario {
        operation: "volume_copy",
        case: "of a volume, with backends to go to",
        backends: &["one", "two", "three"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.fill("one");
            let (copy, command) = world.new_volume_from(Some(2), VolumeSource::Volume(volume));
            world.when(command).unwrap();
            Subject { volume: copy, snapshot: None }
        },
        check: copy_is_whole_and_source_unharmed,
    },
    Scenario {
        operation: "volume_copy",
        case: "of a snapshot",
        backends: &["one", "two"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let snapshot = world.given_snapshot(volume);
            world.fill("one");
            let (copy, command) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
            world.when(command).unwrap();
            Subject { volume: copy, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            copy_is_whole_and_source_unharmed(world, subject);
            snapshot_ends_in(world, subject, &[SnapshotState::Available]);
        },
    },
    Scenario {
        operation: "volume_delete",
        case: "without snapshots",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
            Subject { volume, snapshot: None }
        },
        check: deleted_or_not,
    },
    Scenario {
        operation: "volume_delete",
        case: "with three snapshots",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.given_snapshot(volume);
            world.given_snapshot(volume);
            let snapshot = world.given_snapshot(volume);
            world.when(Command::DeleteVolume { volume, cascade: true, force: false }).unwrap();
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: deleted_or_not,
    },
    Scenario {
        operation: "volume_delete",
        case: "with a safety snapshot held",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let subject = recovering_volume(world);
            world.must(Command::DeleteVolume { volume: subject.volume, cascade: true, force: true });
            subject
        },
        check: |world, subject| {
            deleted_or_not(world, subject);
            if world.volume_state(subject.volume) == VolumeState::Absent {
                assert!(world.ledger.debts.is_empty(), "nothing is held for a volume that is gone");
            }
        },
    },
    Scenario {
        operation: "volume_extend",
        case: "by four gigabytes",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.when(Command::ExtendVolume { volume, to: gib(5), online: false }).unwrap();
            Subject { volume, snapshot: None }
        },
        check: |world, subject| {
            ends_in(world, subject, &[VolumeState::Available, VolumeState::ErrorExtending]);
            assert_eq!(world.tag(subject.volume), Some(OLD));
            let volume = world.ledger.volumes.get(&subject.volume).unwrap();
            if volume.status.state() == VolumeState::Available {
                let pool = volume.pool.as_ref().unwrap();
                let contents = world.storage.contents(pool, BackendObject::Volume(volume.id)).unwrap();
                assert_eq!(contents.size, volume.size, "the backend and the ledger agree on the size");
            }
        },
    },
    Scenario {
        operation: "volume_revert",
        case: "by the backend's own means",
        backends: &["one"],
        native_revert: true,
        open: reverting_volume,
        check: |world, subject| {
            let snapshot = subject.snapshot.map(|id| world.snapshot_state(id));
            assert_eq!(snapshot, Some(SnapshotState::Available));
            let failed = world.ledger.volumes.get(&subject.volume).unwrap().last_failure.is_some();
            data_is_safe(world, subject, if failed { NEW } else { OLD });
        },
    },
    Scenario {
        operation: "volume_revert",
        case: "by copying",
        backends: &["one"],
        native_revert: false,
        open: reverting_volume,
        check: |world, subject| {
            let snapshot = subject.snapshot.map(|id| world.snapshot_state(id));
            assert_eq!(snapshot, Some(SnapshotState::Available));
            let failed = world.ledger.volumes.get(&subject.volume).unwrap().last_failure.is_some();
            data_is_safe(world, subject, if failed { NEW } else { OLD });
        },
    },
    Scenario {
        operation: "volume_recover",
        case: "by the backend's own means",
        backends: &["one"],
        native_revert: true,
        open: recovering_volume,
        check: |world, subject| data_is_safe(world, subject, NEW),
    },
    Scenario {
        operation: "volume_recover",
        case: "by copying",
        backends: &["one"],
        native_revert: false,
        open: recovering_volume,
        check: |world, subject| data_is_safe(world, subject, NEW),
    },
    Scenario {
        operation: "snapshot_create",
        case: "of an available volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let (snapshot, command) = world.new_snapshot(volume);
            world.when(command).unwrap();
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            data_is_safe(world, subject, OLD);
            snapshot_ends_in(world, subject, &[SnapshotState::Available, SnapshotState::Error]);
        },
    },
    Scenario {
        operation: "snapshot_delete",
        case: "of an available volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let snapshot = world.given_snapshot(volume);
            world.when(Command::DeleteSnapshot { snapshot, force: false }).unwrap();
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            data_is_safe(world, subject, OLD);
            let ends = [SnapshotState::Absent, SnapshotState::ErrorDeleting, SnapshotState::Available];
            snapshot_ends_in(world, subject, &ends);
        },
    },
    Scenario {
        operation: "status_verify",
        case: "of a volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
            world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Available });
            Subject { volume, snapshot: None }
        },
        check: |world, subject| ends_in(world, subject, &[VolumeState::Available, VolumeState::Error]),
    },
    Scenario {
        operation: "status_verify",
        case: "of a snapshot",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let snapshot = world.given_snapshot(volume);
            world.must(Command::ResetSnapshotStatus { snapshot, to: SnapshotState::Error });
            world.must(Command::ResetSnapshotStatus { snapshot, to: SnapshotState::Available });
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            snapshot_ends_in(world, subject, &[SnapshotState::Available, SnapshotState::Error]);
        },
    },
    Scenario {
        operation: "volume_manage",
        case: "of something on its pool",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            world.given_stranger("one", "legacy", 2, OLD);
            let (volume, command) = world.new_managed("one", "legacy", 2);
            world.must(command);
            Subject { volume, snapshot: None }
        },
        check: |world, subject| {
            ends_in(world, subject, &[VolumeState::Available, VolumeState::ErrorManaging]);
            let here = [world.tag(subject.volume), world.stranger("one", "legacy")];
            assert!(matches!(here, [Some(OLD), None] | [None, Some(OLD)]), "in one place, whole: {here:?}");
            if world.volume_state(subject.volume) == VolumeState::Available {
                assert_eq!(world.tag(subject.volume), Some(OLD));
            }
        },
    },
    Scenario {
        operation: "volume_unmanage",
        case: "of an available volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(2, OLD);
            world.must(Command::UnmanageVolume { volume });
            Subject { volume, snapshot: None }
        },
        check: |world, subject| {
            ends_in(world, subject, &[VolumeState::Absent, VolumeState::Available, VolumeState::Error]);
            let name = BackendObject::Volume(subject.volume).unmanaged_name();
            let here = [world.tag(subject.volume), world.stranger("one", &name)];
            let state = world.volume_state(subject.volume);
            assert!(state != VolumeState::Available || here == [Some(OLD), None], "{here:?}");
            assert!(state != VolumeState::Absent || here == [None, Some(OLD)], "{here:?}");
            assert!(here.contains(&Some(OLD)), "the data is in one place or the other");
        },
    },
    Scenario {
        operation: "snapshot_manage",
        case: "of something on its volume's pool",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(2, NEW);
            world.given_stranger("one", "before", 2, OLD);
            let (snapshot, command) = world.new_managed_snapshot(volume, "before", 2);
            world.must(command);
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            data_is_safe(world, subject, NEW);
            snapshot_ends_in(world, subject, &[SnapshotState::Available, SnapshotState::Error]);
            let here = [snapshot_tag(world, subject), world.stranger("one", "before")];
            assert!(matches!(here, [Some(OLD), None] | [None, Some(OLD)]), "in one place, whole: {here:?}");
        },
    },
    Scenario {
        operation: "snapshot_unmanage",
        case: "of an available snapshot",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            let snapshot = world.given_snapshot(volume);
            world.write(volume, NEW);
            world.must(Command::UnmanageSnapshot { snapshot });
            Subject { volume, snapshot: Some(snapshot) }
        },
        check: |world, subject| {
            data_is_safe(world, subject, NEW);
            let ends = [SnapshotState::Absent, SnapshotState::Available, SnapshotState::Error];
            snapshot_ends_in(world, subject, &ends);
            let object = snapshot_object(subject);
            let here = [
                world.storage.contents(&pool("one"), object).map(|contents| contents.tag),
                world.stranger("one", &object.unmanaged_name()),
            ];
            assert!(matches!(here, [Some(OLD), None] | [None, Some(OLD)]), "in one place, whole: {here:?}");
        },
    },
    Scenario {
        operation: "object_clean",
        case: "of something that nobody knows",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.given_stranger("one", "stray", 3, GARBAGE);
            let clean = CleanObject { pool: pool("one"), name: "stray".into(), kind: FoundKind::Volume };
            world.must(Command::CleanObject(Box::new(clean)));
            Subject { volume, snapshot: None }
        },
        check: |world, _| {
            // what could not be claimed is left alone; what was claimed is gone or owed
            assert!(matches!(world.stranger("one", "stray"), None | Some(GARBAGE)));
        },
    },
    Scenario {
        operation: "attachment_connect",
        case: "of an available volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.connect(volume);
            Subject { volume, snapshot: None }
        },
        check: used_as_attachments_say,
    },
    Scenario {
        operation: "attachment_disconnect",
        case: "of an attached volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let (volume, attachment) = attached_volume(world);
            world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
            Subject { volume, snapshot: None }
        },
        check: used_as_attachments_say,
    },
    Scenario {
        operation: "volume_extend_attached",
        case: "by one gigabyte",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let (volume, _) = attached_volume(world);
            world.when(Command::ExtendVolume { volume, to: gib(2), online: true }).unwrap();
            Subject { volume, snapshot: None }
        },
        check: used_as_attachments_say,
    },
    Scenario {
        operation: "export_restore",
        case: "after the host's restart",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let (volume, _) = attached_volume(world);
            let backend = pool("one").backend;
            world.must(Command::RestoreExports { backend, after: None });
            Subject { volume, snapshot: None }
        },
        check: used_as_attachments_say,
    },
    Scenario {
        operation: "volume_upload",
        case: "at rest",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let volume = world.given_volume(1, OLD);
            world.must(upload(volume, false));
            Subject { volume, snapshot: None }
        },
        check: is_uploaded_or_not_there,
    },
    Scenario {
        operation: "volume_upload",
        case: "of an attached volume",
        backends: &["one"],
        native_revert: true,
        open: |world| {
            let (volume, _) = attached_volume(world);
            world.must(upload(volume, true));
            Subject { volume, snapshot: None }
        },
        check: is_uploaded_or_not_there,
    },
];

const IMAGE: ImageId = ImageId::from_uuid(Uuid::from_u128(77));

fn upload(volume: VolumeId, force: bool) -> Command {
    let image = NewImage {
        id: IMAGE,
        owner: ProjectId::new("p"),
        name: "golden".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: None,
        protected: true,
        properties: BTreeMap::new(),
    };
    Command::UploadVolume(Box::new(UploadVolume { volume, force, image }))
}

fn is_uploaded_or_not_there(world: &World, subject: &Subject) {
    used_as_attachments_say(world, subject);
    let failed = world.ledger.volumes.get(&subject.volume).is_some_and(|row| row.last_failure.is_some());
    let image = world.storage.images.get(&IMAGE).map(|image| image.tag);
    assert!(image == Some(OLD) || (image.is_none() && failed), "{image:?}");
}

fn snapshot_object(subject: &Subject) -> BackendObject {
    BackendObject::Snapshot { volume: subject.volume, snapshot: subject.snapshot.unwrap() }
}

fn snapshot_tag(world: &World, subject: &Subject) -> Option<u64> {
    world.storage.contents(&pool("one"), snapshot_object(subject)).map(|contents| contents.tag)
}

fn attached_volume(world: &mut World) -> (VolumeId, AttachmentId) {
    let volume = world.given_volume(1, OLD);
    let attachment = world.connect(volume);
    world.settle();
    world.when(Command::CompleteAttachment { volume, attachment }).unwrap();
    (volume, attachment)
}

fn used_as_attachments_say(world: &World, subject: &Subject) {
    assert_eq!(world.tag(subject.volume), Some(OLD), "the data is what it was");
    let volume = world.ledger.volumes.get(&subject.volume).unwrap();
    if volume.status.state() != VolumeState::ErrorExtending {
        assert_eq!(volume.status.state(), Volume::use_of(volume.attachments.iter()));
    }
}

fn reverting_volume(world: &mut World) -> Subject {
    let volume = world.given_volume(1, OLD);
    let snapshot = world.given_snapshot(volume);
    world.write(volume, NEW);
    world.when(Command::RevertVolume { volume, snapshot: Some(snapshot) }).unwrap();
    Subject { volume, snapshot: Some(snapshot) }
}

/// A revert of which neither the deed nor the undo works leaves the volume in error, with its
/// safety snapshot held. The recovery is what is opened.
fn recovering_volume(world: &mut World) -> Subject {
    let subject = reverting_volume(world);
    while world.volume_state(subject.volume) != VolumeState::Error {
        let due = world.next_due().expect("the revert goes on");
        if matches!(due.effect.name(), "RevertToSnapshot" | "OverwriteVolume") {
            world.write(subject.volume, GARBAGE);
            let broken = Failure::new(FailureKind::Mismatch, "broken");
            world.report(due.key, Outcome::Failed(broken)).unwrap();
        } else {
            world.perform(&due).unwrap();
        }
    }
    world.settle();
    world.must(Command::RecoverVolume { volume: subject.volume });
    subject
}

fn ends_in(world: &World, subject: &Subject, ends: &[VolumeState]) {
    let state = world.volume_state(subject.volume);
    assert!(ends.contains(&state), "{state:?} is not an end of this operation");
}

fn snapshot_ends_in(world: &World, subject: &Subject, ends: &[SnapshotState]) {
    let state = subject.snapshot.map(|id| world.snapshot_state(id));
    assert!(state.is_some_and(|state| ends.contains(&state)), "{state:?} is not an end of this operation");
}

/// An available volume has this data; one in error has it in a snapshot that is held.
fn data_is_safe(world: &World, subject: &Subject, tag: u64) {
    ends_in(world, subject, &[VolumeState::Available, VolumeState::Error]);
    if world.volume_state(subject.volume) == VolumeState::Available {
        assert_eq!(world.tag(subject.volume), Some(tag), "the data of an available volume");
    } else {
        let (debt, object) = world.ledger.held_safety_snapshot_of(subject.volume).expect("a way back");
        let pool = &world.ledger.debts.get(&debt).unwrap().pool;
        let held = world.storage.contents(pool, object).map(|contents| contents.tag);
        assert_eq!(held, Some(tag), "the data that is held");
    }
}

fn copy_is_whole_and_source_unharmed(world: &World, subject: &Subject) {
    ends_in(world, subject, &[VolumeState::Available, VolumeState::Error]);
    for (_, volume) in world.ledger.volumes.sorted() {
        if volume.status.state() == VolumeState::Available || volume.id != subject.volume {
            assert_eq!(world.tag(volume.id), Some(OLD), "the data of {}", volume.id);
        }
    }
}

fn deleted_or_not(world: &World, subject: &Subject) {
    ends_in(world, subject, &[VolumeState::Absent, VolumeState::ErrorDeleting, VolumeState::Available]);
    if world.volume_state(subject.volume) == VolumeState::Absent {
        assert!(world.ledger.snapshots.is_empty(), "no snapshot outlives its volume");
    }
}
