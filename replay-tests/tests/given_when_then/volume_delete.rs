use tephra_domain::actor::Role;
use tephra_domain::command::Command;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::VolumeId;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor};

use super::{broken, code};

const fn delete(volume: VolumeId) -> Command {
    Command::DeleteVolume { volume, cascade: false, force: false }
}

const fn cascade(volume: VolumeId) -> Command {
    Command::DeleteVolume { volume, cascade: true, force: false }
}

const fn force(volume: VolumeId) -> Command {
    Command::DeleteVolume { volume, cascade: false, force: true }
}

#[test]
fn the_row_goes_when_the_object_is_gone() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    assert_eq!(world.when(delete(volume)), Ok(vec!["VolumeDeleteAccepted", "OperationOpened"]));
    assert_eq!(world.volume_state(volume), VolumeState::Deleting);
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Absent);
    assert!(world.ledger.usage.is_empty(), "the quota is given back");
    world.check_at_rest();
}

#[test]
fn cascade_takes_the_newest_snapshot_first() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (older, newer) = (world.given_snapshot(volume), world.given_snapshot(volume));
    let events = world.when(cascade(volume)).unwrap();
    assert_eq!(events[..2], ["SnapshotDeleteAccepted", "SnapshotDeleteAccepted"]);
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    assert_eq!(world.snapshot_state(newer), SnapshotState::Absent);
    assert_eq!(world.snapshot_state(older), SnapshotState::Deleting);
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Absent);
    world.check_at_rest();
}

#[test]
fn a_cascade_that_stops_half_way_says_what_was_and_was_not_reached() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (older, newer) = (world.given_snapshot(volume), world.given_snapshot(volume));
    world.when(cascade(volume)).unwrap();
    world.fail_next(broken());
    assert_eq!(world.snapshot_state(newer), SnapshotState::ErrorDeleting);
    assert_eq!(world.snapshot_state(older), SnapshotState::Available);
    assert_eq!(world.volume_state(volume), VolumeState::Available, "it was not touched");
    world.check_at_rest();
}

#[test]
fn busy_leads_back_to_available_and_anything_else_to_error_deleting() {
    for (kind, state) in
        [(FailureKind::Busy, VolumeState::Available), (FailureKind::Mismatch, VolumeState::ErrorDeleting)]
    {
        let mut world = World::default();
        let volume = world.given_volume(1, 0);
        world.when(delete(volume)).unwrap();
        while world.volume_state(volume) == VolumeState::Deleting {
            world.fail_next(Failure::new(kind, "no"));
        }
        assert_eq!(world.volume_state(volume), state);
        world.check_at_rest();
    }
}

/// Found by a random walk: a snapshot without an object became available because a cascade that
/// never reached it failed.
#[test]
fn what_a_failed_cascade_did_not_reach_is_what_it_was() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let older = world.given_snapshot(volume);
    world.given_snapshot(volume);
    world.must(Command::ResetSnapshotStatus { snapshot: older, to: SnapshotState::Error });
    world.when(cascade(volume)).unwrap();
    world.fail_next(broken());
    assert_eq!(world.snapshot_state(older), SnapshotState::Error);
    world.check_at_rest();
}

#[test]
fn force_ends_the_operation_that_is_open() {
    let mut world = World::default();
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    let stale = world.next_due().unwrap();
    let events = world.when_admin(force(volume)).unwrap();
    assert_eq!(events, ["OperationClosed", "VolumeDeleteAccepted", "OperationOpened"]);
    assert_eq!(code(world.perform(&stale)), "StaleReport", "the executor that still works on it is fenced");
    world.settle();
    world.check_at_rest();
    assert_eq!(code(world.when_admin(force(volume))), "VolumeNotFound");
}

#[test]
fn forcing_what_is_being_deleted_changes_nothing() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.when(delete(volume)).unwrap();
    assert_eq!(world.when_admin(force(volume)), Ok(vec![]));
}

#[test]
fn rejections_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    assert_eq!(code(world.when_as(actor(PROJECT, Role::Reader), delete(volume))), "PolicyNotAuthorized");
    assert_eq!(code(world.when(force(volume))), "PolicyNotAuthorized", "force is for administrators");
    assert_eq!(code(world.when_as(actor("other", Role::Member), delete(volume))), "VolumeNotFound");
    assert_eq!(code(world.when(delete(volume))), "VolumeHasSnapshots");
    world.when(Command::DeleteSnapshot { snapshot, force: false }).unwrap();
    assert_eq!(code(world.when(cascade(volume))), "VolumeSnapshotsNotDeletable");
    world.settle();
    world.when(delete(volume)).unwrap();
    assert_eq!(code(world.when(delete(volume))), "VolumeNotDeletable");
}
