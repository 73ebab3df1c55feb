use tephra_domain::command::Command;
use tephra_domain::effect::BackendObject;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};
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
