use tephra_domain::actor::Role;
use tephra_domain::command::Command;
use tephra_domain::ids::ProjectId;
use tephra_domain::quota::QuotaResource;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor, gib};

use super::{broken, code};

#[test]
fn the_new_size_counts_from_acceptance_and_shows_when_it_is_there() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let project = ProjectId::new(PROJECT);
    let events = world.when(Command::ExtendVolume { volume, to: gib(5), online: false });
    assert_eq!(events, Ok(vec!["VolumeExtendAccepted", "OperationOpened"]));
    assert_eq!(world.ledger.usage.get(&project).unwrap().total.gigabytes, 5);
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().size, gib(1));
    world.settle();
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().size, gib(5));
    world.check_at_rest();
}

#[test]
fn a_failure_gives_the_old_size_and_the_quota_back() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.when(Command::ExtendVolume { volume, to: gib(5), online: false }).unwrap();
    assert_eq!(world.fail_next(broken()), ["UndoStarted"]);
    world.settle();
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!((row.status.state(), row.size), (VolumeState::Available, gib(1)));
    assert_eq!(row.last_failure.as_ref().unwrap().failure, broken());
    assert_eq!(world.ledger.usage.get(&ProjectId::new(PROJECT)).unwrap().total.gigabytes, 1);
    world.check_at_rest();
}

#[test]
fn only_if_the_old_size_cannot_be_had_back_is_it_error_extending() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.when(Command::ExtendVolume { volume, to: gib(5), online: false }).unwrap();
    world.fail_next(broken());
    assert_eq!(world.fail_next(broken()), ["UndoWaived", "VolumeExtendFailed", "OperationClosed"]);
    assert_eq!(world.volume_state(volume), VolumeState::ErrorExtending);
    world.check_at_rest();
    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    world.settle();
    world.check_at_rest();
}

#[test]
fn rejections_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(2, 0);
    let extend = |to| Command::ExtendVolume { volume, to: gib(to), online: false };
    assert_eq!(code(world.when_as(actor(PROJECT, Role::Reader), extend(3))), "PolicyNotAuthorized");
    assert_eq!(code(world.when_as(actor("other", Role::Member), extend(3))), "VolumeNotFound");
    world.when(extend(3)).unwrap();
    assert_eq!(code(world.when(extend(2))), "ExtendNotLarger");
    assert_eq!(code(world.when(extend(4))), "VolumeNotExtendable");
    world.settle();
    let limits = [(QuotaResource::PerVolumeGigabytes, 10), (QuotaResource::Gigabytes, 5)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    assert_eq!(code(world.when(extend(11))), "VolumeSizeExceedsLimit");
    assert_eq!(code(world.when(extend(6))), "GigabytesQuotaExceeded");
    world.when(extend(5)).unwrap();
}
