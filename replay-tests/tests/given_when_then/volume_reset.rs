use tephra_domain::command::{Command, CreateVolumeFromImage};
use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::ids::{ImageId, VolumeId};
use tephra_domain::image::ImageFacts;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};
use tephra_replay_tests::sim_backend::Contents;
use tephra_replay_tests::world::{World, gib, pool};

use super::code;

#[test]
fn an_error_status_is_set_at_once() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let reset = Command::ResetVolumeStatus { volume, to: VolumeState::Error };
    assert_eq!(world.when_admin(reset), Ok(vec!["VolumeStatusReset"]));
    assert_eq!(world.volume_state(volume), VolumeState::Error);
}

#[test]
fn available_is_set_only_if_the_backend_shows_the_object() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Available });
    let shown = world.ledger.volumes.get(&volume).unwrap().status.wire_name();
    assert_eq!(shown, "error", "until the backend has answered");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);

    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
    world.storage.objects.remove(&(pool("one"), BackendObject::Volume(volume)));
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Available });
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Error, "it is not there");
    world.check_at_rest();
}

#[test]
fn resetting_ends_the_operation_and_fences_its_executor() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.when(Command::ExtendVolume { volume, to: gib(2), online: false }).unwrap();
    let stale = world.next_due().unwrap();
    let events = world.when_admin(Command::ResetVolumeStatus { volume, to: VolumeState::Maintenance });
    assert_eq!(events, Ok(vec!["OperationClosed", "VolumeStatusReset"]));
    assert_eq!(code(world.perform(&stale)), "StaleReport");
    world.check_invariants();
}

#[test]
fn a_transitional_status_is_never_set_by_hand() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    for to in VolumeState::ALL.iter().filter(|state| state.is_transitional()) {
        let reset = Command::ResetVolumeStatus { volume, to: *to };
        assert_eq!(code(world.when_admin(reset)), "StatusNotResettable", "{to:?}");
    }
    for to in SnapshotState::ALL.iter().filter(|state| state.is_transitional()) {
        let reset = Command::ResetSnapshotStatus { snapshot, to: *to };
        assert_eq!(code(world.when_admin(reset)), "StatusNotResettable", "{to:?}");
    }
}

#[test]
fn rejections_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let reset = |to| Command::ResetVolumeStatus { volume, to };
    assert_eq!(code(world.when(reset(VolumeState::Error))), "PolicyNotAuthorized");
    assert_eq!(code(world.when_admin(reset(VolumeState::Deleting))), "StatusNotResettable");
    let (unplaced, create) = world.new_volume_from(Some(5000), VolumeSource::Blank);
    world.must(Command::SetQuotaLimits {
        project: tephra_domain::ids::ProjectId::new(tephra_replay_tests::world::PROJECT),
        limits: [(tephra_domain::quota::QuotaResource::Gigabytes, -1)].into(),
    });
    world.when(create).unwrap();
    let to_available = Command::ResetVolumeStatus { volume: unplaced, to: VolumeState::Available };
    assert_eq!(code(world.when_admin(to_available)), "NothingToVerify");
    let snapshot = world.given_snapshot(volume);
    world.when(Command::RevertVolume { volume, snapshot: Some(snapshot) }).unwrap();
    let of_snapshot = Command::ResetSnapshotStatus { snapshot, to: SnapshotState::Error };
    assert_eq!(code(world.when_admin(of_snapshot)), "SnapshotHeldByVolume");
}

fn from_image(world: &mut World) -> (VolumeId, Command) {
    let image = ImageFacts {
        id: ImageId::from_uuid(uuid::Uuid::from_u128(0x1_4000_8000_0000_0000_0007)),
        status: "active".into(),
        size_bytes: Some(1 << 20),
        min_disk_gib: 0,
        metadata: std::collections::BTreeMap::new(),
    };
    let (id, blank) = world.new_volume_from(Some(1), VolumeSource::Blank);
    let Command::CreateVolume(create) = blank else { unreachable!("a create is a create") };
    (id, Command::CreateVolumeFromImage(Box::new(CreateVolumeFromImage { create: *create, image })))
}

/// An executor that died: the object is there with its full size, and with half of its data.
fn leave_half_filled(world: &mut World, volume: VolumeId) {
    world
        .storage
        .objects
        .insert((pool("one"), BackendObject::Volume(volume)), Contents { size: gib(1), tag: 5 });
}

#[test]
fn a_volume_that_was_never_filled_does_not_become_available() {
    let mut world = World::default();
    let origin = world.given_volume(1, 7);
    let snapshot = world.given_snapshot(origin);
    for create in [
        from_image(&mut world),
        world.new_volume_from(Some(1), VolumeSource::Snapshot(snapshot)),
        world.new_volume_from(Some(1), VolumeSource::Volume(origin)),
    ] {
        let (volume, create) = create;
        let reset = |to| Command::ResetVolumeStatus { volume, to };
        world.when(create).unwrap();
        let stale = world.next_due().unwrap();
        leave_half_filled(&mut world, volume);
        assert_eq!(code(world.when_admin(reset(VolumeState::Available))), "VolumeNeverFilled");
        assert_eq!(world.volume_state(volume), VolumeState::Creating, "and its creation goes on");
        world.must(reset(VolumeState::Error));
        assert_eq!(code(world.perform(&stale)), "StaleReport");
        leave_half_filled(&mut world, volume);
        assert_eq!(code(world.when_admin(reset(VolumeState::Available))), "VolumeNeverFilled");
        assert_eq!(world.volume_state(volume), VolumeState::Error);
        world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
        world.settle();
        world.check_at_rest();
    }
}

#[test]
fn a_creation_that_fails_and_leaves_half_a_volume_cannot_be_talked_into_a_whole_one() {
    let mut world = World::default();
    let (volume, create) = from_image(&mut world);
    world.when(create).unwrap();
    leave_half_filled(&mut world, volume);
    world.fail_next(Failure::new(FailureKind::NoSpace, "the pool is full"));
    while world.next_due().is_some() {
        world.fail_next(Failure::new(FailureKind::BackendError, "the delete fails as well"));
    }
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    let reset = Command::ResetVolumeStatus { volume, to: VolumeState::Available };
    assert_eq!(code(world.when_admin(reset)), "VolumeNeverFilled");
}

#[test]
fn a_volume_that_was_filled_once_and_a_blank_one_become_available_again() {
    let mut world = World::default();
    let (filled, create) = from_image(&mut world);
    world.when(create).unwrap();
    world.settle();
    world.must(Command::ResetVolumeStatus { volume: filled, to: VolumeState::Error });
    let (blank, create) = world.new_volume(1);
    world.when(create).unwrap();
    world
        .storage
        .objects
        .insert((pool("one"), BackendObject::Volume(blank)), Contents { size: gib(1), tag: 0 });
    for volume in [filled, blank] {
        world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Available });
        world.settle();
        assert_eq!(world.volume_state(volume), VolumeState::Available);
    }
    world.check_at_rest();
}
