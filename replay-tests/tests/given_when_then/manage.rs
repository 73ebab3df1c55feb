use tephra_domain::actor::Role;
use tephra_domain::backend::FROZEN_REASON;
use tephra_domain::command::{CleanObject, Command};
use tephra_domain::drift::FoundKind;
use tephra_domain::effect::BackendObject;
use tephra_domain::ids::{BackendName, ProjectId, VolumeId};
use tephra_domain::quota::QuotaResource;
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor, gib, pool};

use super::{broken, code};

fn gigabytes(world: &World) -> i64 {
    world.ledger.usage.get(&ProjectId::new(PROJECT)).map_or(0, |usage| usage.total.gigabytes)
}

fn clean(name: &str) -> Command {
    Command::CleanObject(Box::new(CleanObject {
        pool: pool("one"),
        name: name.into(),
        kind: FoundKind::Volume,
    }))
}

#[test]
fn something_on_a_pool_becomes_a_volume_with_its_data() {
    let mut world = World::default();
    world.given_stranger("one", "legacy", 3, 77);
    let (volume, command) = world.new_managed("one", "legacy", 3);
    let events = world.when_admin(command);
    assert_eq!(events, Ok(vec!["VolumeManageAccepted", "OperationOpened"]));
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!((row.status.state(), row.status.wire_name()), (VolumeState::Managing, "creating"));
    assert_eq!(gigabytes(&world), 3, "it counts from acceptance");
    world.settle();
    assert_eq!((world.volume_state(volume), world.tag(volume)), (VolumeState::Available, Some(77)));
    assert_eq!(world.stranger("one", "legacy"), None);
    assert!(world.ledger.volumes.get(&volume).unwrap().launched_at.is_some());
    world.check_at_rest();
}

#[test]
fn a_failure_gives_the_object_its_name_back_and_deleting_the_volume_leaves_it_alone() {
    let mut world = World::default();
    world.given_stranger("one", "legacy", 1, 77);
    let (volume, command) = world.new_managed("one", "legacy", 1);
    world.must(command);
    let due = world.next_due().unwrap();
    world.storage.perform(&due.pool, &due.effect).unwrap();
    assert_eq!(world.fail_next(broken()), ["UndoStarted"]);
    world.settle();
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!((row.status.state(), row.status.wire_name()), (VolumeState::ErrorManaging, "error"));
    assert_eq!(row.last_failure.as_ref().unwrap().failure, broken());
    assert_eq!(world.stranger("one", "legacy"), Some(77));

    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    world.settle();
    assert_eq!((world.stranger("one", "legacy"), gigabytes(&world)), (Some(77), 0));
    world.check_at_rest();
}

#[test]
fn what_the_ledger_has_cannot_be_taken_over() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    world.given_stranger("one", "legacy", 1, 0);
    let (_, first) = world.new_managed("one", "legacy", 1);
    world.must(first);
    for name in [format!("volume-{volume}"), format!("snapshot-{snapshot}"), "legacy".to_owned()] {
        let (_, again) = world.new_managed("one", &name, 1);
        assert_eq!(code(world.when_admin(again)), "ObjectAlreadyManaged", "{name}");
        assert_eq!(code(world.when_admin(clean(&name))), "ObjectAlreadyManaged", "{name}");
    }
    // once the operation has ended, the old name is nobody's
    world.settle();
    world.given_stranger("one", "legacy", 1, 0);
    let (_, another) = world.new_managed("one", "legacy", 1);
    world.must(another);
}

#[test]
fn taking_over_is_for_administrators_within_quota_on_a_backend_in_service() {
    let mut world = World::default();
    world.given_stranger("one", "legacy", 5, 0);
    let (volume, command) = world.new_managed("one", "legacy", 5);
    assert_eq!(code(world.when(command.clone())), "PolicyNotAuthorized");
    let backend = BackendName::new("one");
    world.must(Command::DisableBackend { backend: backend.clone(), reason: None });
    assert_eq!(code(world.when_admin(command.clone())), "BackendNotInService");
    world.must(Command::EnableBackend { backend });
    world.pools[0].is_up = false;
    assert_eq!(code(world.when_admin(command.clone())), "BackendNotInService");
    world.pools[0].is_up = true;
    let (_, elsewhere) = world.new_managed("nowhere", "legacy", 5);
    assert_eq!(code(world.when_admin(elsewhere)), "BackendNotInService");
    let limits = [(QuotaResource::Gigabytes, 4)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    assert_eq!(code(world.when_admin(command)), "GigabytesQuotaExceeded");
    assert_eq!(world.volume_state(volume), VolumeState::Absent);
    world.check_at_rest();
}

#[test]
fn a_volume_that_is_given_up_is_forgotten_and_can_be_taken_over_again() {
    let mut world = World::default();
    let volume = world.given_volume(2, 42);
    assert_eq!(code(world.when(Command::UnmanageVolume { volume })), "PolicyNotAuthorized");
    let events = world.when_admin(Command::UnmanageVolume { volume });
    assert_eq!(events, Ok(vec!["VolumeUnmanageAccepted", "OperationOpened"]));
    assert_eq!(world.volume_state(volume), VolumeState::Unmanaging);
    world.settle();
    assert_eq!((world.volume_state(volume), gigabytes(&world)), (VolumeState::Absent, 0));
    let name = BackendObject::Volume(volume).unmanaged_name();
    assert_eq!(&*name, format!("unmanaged-volume-{volume}"));
    let (again, command) = world.new_managed("one", &name, 2);
    world.must(command);
    world.settle();
    assert_eq!(world.tag(again), Some(42));
    world.check_at_rest();
}

#[test]
fn a_volume_with_snapshots_or_at_work_is_not_given_up() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    let unmanage = || Command::UnmanageVolume { volume };
    assert_eq!(code(world.when_admin(unmanage())), "VolumeHasSnapshots");
    world.when(Command::DeleteSnapshot { snapshot, force: false }).unwrap();
    world.settle();
    world.when(Command::ExtendVolume { volume, to: gib(2), online: false }).unwrap();
    assert_eq!(code(world.when_admin(unmanage())), "VolumeNotDeletable");
    let missing = VolumeId::from_uuid(world.fresh());
    assert_eq!(code(world.when_admin(Command::UnmanageVolume { volume: missing })), "VolumeNotFound");
}

#[test]
fn a_volume_that_could_not_be_given_up_is_what_it_was() {
    let mut world = World::default();
    let volume = world.given_volume(1, 42);
    world.must(Command::UnmanageVolume { volume });
    world.fail_next(broken());
    world.settle();
    assert_eq!((world.volume_state(volume), world.tag(volume)), (VolumeState::Available, Some(42)));
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().last_failure.as_ref().unwrap().failure, broken());
    world.check_at_rest();
}

#[test]
fn a_snapshot_is_taken_over_and_given_up() {
    let mut world = World::default();
    let volume = world.given_volume(2, 1);
    world.given_stranger("one", "before", 2, 9);
    let (snapshot, command) = world.new_managed_snapshot(volume, "before", 2);
    assert_eq!(code(world.when(command.clone())), "PolicyNotAuthorized");
    assert_eq!(world.when_admin(command), Ok(vec!["SnapshotManageAccepted", "OperationOpened"]));
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Creating);
    assert_eq!(gigabytes(&world), 4);
    world.settle();
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Available);
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().snapshots, [snapshot]);
    world.check_at_rest();

    world.must(Command::UnmanageSnapshot { snapshot });
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Unmanaging);
    world.settle();
    assert_eq!(world.stranger("one", &format!("unmanaged-snapshot-{snapshot}")), Some(9));
    assert_eq!((world.snapshot_state(snapshot), gigabytes(&world)), (SnapshotState::Absent, 2));
    assert!(world.ledger.volumes.get(&volume).unwrap().snapshots.is_empty());
    world.check_at_rest();
}

#[test]
fn what_nobody_knows_is_cleaned_with_its_author_on_record() {
    let mut world = World::default();
    world.given_stranger("one", "stray", 1, 5);
    assert_eq!(code(world.when(clean("stray"))), "PolicyNotAuthorized");
    let operator = actor("operators", Role::Admin);
    assert_eq!(world.when_as(operator.clone(), clean("stray")), Ok(vec!["OperationOpened"]));
    assert_eq!(world.history.last().unwrap().actor, operator);
    world.settle();
    assert_eq!(world.stranger("one", "stray"), None);
    world.check_at_rest();
}

#[test]
fn what_could_not_be_removed_is_owed_until_it_is() {
    let mut world = World::default();
    world.given_stranger("one", "stray", 1, 5);
    world.must(clean("stray"));
    let claim = world.next_due().unwrap();
    assert_eq!(world.perform(&claim), Ok(vec!["StepCompleted"]));
    assert_eq!(world.fail_next(broken()), ["CleanupDebtIncurred", "StepWaived", "OperationClosed"]);
    assert_eq!(world.ledger.debts.len(), 1);
    world.settle();
    assert!(world.ledger.debts.is_empty());
    world.check_at_rest();
}

#[test]
fn what_cannot_be_claimed_keeps_its_name() {
    let mut world = World::default();
    world.given_stranger("one", "stray", 1, 5);
    world.must(clean("stray"));
    world.fail_next(broken());
    world.settle();
    assert_eq!(world.stranger("one", "stray"), Some(5));
    world.check_at_rest();
}

#[test]
fn freezing_says_why_the_backend_is_disabled() {
    let mut world = World::default();
    let backend = BackendName::new("one");
    assert_eq!(
        world.when_admin(Command::FreezeBackend { backend: backend.clone() }),
        Ok(vec!["BackendFrozen"])
    );
    let row = world.ledger.backends.get(&backend).unwrap();
    assert_eq!((row.enabled, row.disabled_reason.as_deref()), (false, Some(FROZEN_REASON)));
    let again = world.when_admin(Command::FreezeBackend { backend: backend.clone() });
    assert_eq!(again, Err(Rejection::BackendFreezeUnchanged { service: "host@one".into(), frozen: true }));
    world.must(Command::ThawBackend { backend: backend.clone() });
    assert!(world.ledger.backends.get(&backend).unwrap().enabled);
    assert_eq!(code(world.when_admin(Command::ThawBackend { backend })), "BackendFreezeUnchanged");
}
