use tephra_domain::actor::Role;
use tephra_domain::command::Command;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{ProjectId, SnapshotId};
use tephra_domain::quota::QuotaResource;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor, gib};

use super::{broken, code};

#[test]
fn a_snapshot_counts_with_its_volumes_size() {
    let mut world = World::default();
    let volume = world.given_volume(3, 0);
    let snapshot = world.given_snapshot(volume);
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Available);
    let usage = world.ledger.usage.get(&ProjectId::new(PROJECT)).unwrap().total;
    assert_eq!((usage.volumes, usage.snapshots, usage.gigabytes), (1, 1, 6));
    world.when(Command::DeleteSnapshot { snapshot, force: false }).unwrap();
    world.settle();
    let usage = world.ledger.usage.get(&ProjectId::new(PROJECT)).unwrap().total;
    assert_eq!((usage.volumes, usage.snapshots, usage.gigabytes), (1, 0, 3));
}

#[test]
fn a_failure_leaves_it_in_error_and_nothing_on_the_backend() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (snapshot, create) = world.new_snapshot(volume);
    world.when(create).unwrap();
    assert_eq!(world.fail_next(broken()), ["UndoStarted"]);
    world.settle();
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Error);
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

/// Found by a random walk: a debt removed a snapshot that an operator had made available again.
#[test]
fn what_could_not_be_undone_belongs_to_the_row_in_error() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (snapshot, create) = world.new_snapshot(volume);
    world.when(create).unwrap();
    let due = world.next_due().unwrap();
    world.storage.perform(&due.pool, &due.effect).unwrap();
    world.fail_next(broken());
    world.fail_next(broken());
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Error);
    assert!(world.ledger.debts.is_empty());
    world.must(Command::ResetSnapshotStatus { snapshot, to: SnapshotState::Available });
    world.settle();
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Available);
    world.check_at_rest();
}

#[test]
fn busy_leads_back_to_available_and_anything_else_to_error_deleting() {
    let ends = [
        (FailureKind::Busy, SnapshotState::Available),
        (FailureKind::Mismatch, SnapshotState::ErrorDeleting),
    ];
    for (kind, state) in ends {
        let mut world = World::default();
        let volume = world.given_volume(1, 0);
        let snapshot = world.given_snapshot(volume);
        world.when(Command::DeleteSnapshot { snapshot, force: false }).unwrap();
        while world.snapshot_state(snapshot) == SnapshotState::Deleting {
            world.fail_next(Failure::new(kind, "no"));
        }
        assert_eq!(world.snapshot_state(snapshot), state);
        world.check_at_rest();
    }
}

#[test]
fn operations_on_one_volume_take_turns() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (_, first) = world.new_snapshot(volume);
    let (_, second) = world.new_snapshot(volume);
    world.when(first).unwrap();
    world.when(second).unwrap();
    assert_eq!(world.ledger.all_due().len(), 1, "the second waits for the first");
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    assert_eq!(world.ledger.all_due().len(), 1, "now it is its turn");
    world.settle();
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().snapshots.len(), 2);
    world.check_at_rest();
}

#[test]
fn rejections_of_create_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let existing = world.given_snapshot(volume);
    let (_, create) = world.new_snapshot(volume);
    assert_eq!(code(world.when_as(actor(PROJECT, Role::Reader), create.clone())), "PolicyNotAuthorized");
    let (_, mut taken) = world.new_snapshot(volume);
    if let Command::CreateSnapshot(create) = &mut taken {
        create.snapshot = existing;
    }
    assert_eq!(code(world.when(taken)), "SnapshotExists");
    assert_eq!(code(world.when_as(actor("other", Role::Member), create.clone())), "VolumeNotFound");
    let limits = [(QuotaResource::Snapshots, 1)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    world.when(Command::ExtendVolume { volume, to: gib(2), online: false }).unwrap();
    assert_eq!(code(world.when(create.clone())), "VolumeNotSnapshottable");
    world.settle();
    assert_eq!(code(world.when(create.clone())), "SnapshotLimitExceeded");
    let limits = [(QuotaResource::Snapshots, -1), (QuotaResource::Gigabytes, 4)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    assert_eq!(code(world.when(create)), "GigabytesQuotaExceeded");
}

#[test]
fn rejections_of_delete_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    let delete = |snapshot, force| Command::DeleteSnapshot { snapshot, force };
    let absent = SnapshotId::from_uuid(world.fresh());
    let reader = actor(PROJECT, Role::Reader);
    assert_eq!(code(world.when_as(reader, delete(snapshot, false))), "PolicyNotAuthorized");
    assert_eq!(code(world.when(delete(snapshot, true))), "PolicyNotAuthorized");
    assert_eq!(code(world.when(delete(absent, false))), "SnapshotNotFound");
    let stranger = actor("other", Role::Member);
    assert_eq!(code(world.when_as(stranger, delete(snapshot, false))), "SnapshotNotFound");
    world.when(Command::RevertVolume { volume, snapshot: Some(snapshot) }).unwrap();
    assert_eq!(code(world.when(delete(snapshot, false))), "SnapshotNotDeletable");
    assert_eq!(code(world.when_admin(delete(snapshot, true))), "SnapshotNotDeletable");
    world.settle();
    world.when(delete(snapshot, false)).unwrap();
    assert_eq!(world.when_admin(delete(snapshot, true)), Ok(vec![]), "it is being deleted already");
}
