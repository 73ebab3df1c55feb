use tephra_domain::command::Command;
use tephra_domain::ids::BackendName;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::World;

use super::code;

#[test]
fn what_is_on_a_frozen_backend_is_neither_deleted_nor_snapshotted_nor_added_to() {
    let mut world = World::default();
    let volume = world.given_volume(1, 7);
    let snapshot = world.given_snapshot(volume);
    world.given_stranger("one", "legacy", 1, 0);
    world.must(Command::FreezeBackend { backend: BackendName::new("one") });
    for force in [false, true] {
        let delete = Command::DeleteVolume { volume, cascade: true, force };
        assert_eq!(code(world.when_admin(delete)), "BackendFrozen");
        assert_eq!(code(world.when_admin(Command::DeleteSnapshot { snapshot, force })), "BackendFrozen");
    }
    let (_, take) = world.new_snapshot(volume);
    assert_eq!(code(world.when(take)), "BackendFrozen");
    let (_, manage) = world.new_managed("one", "legacy", 1);
    assert_eq!(code(world.when_admin(manage)), "BackendFrozen");
    let (fresh, create) = world.new_volume(1);
    world.when(create).unwrap();
    assert_eq!(world.volume_state(fresh), VolumeState::Error, "nothing is placed there");
    let why = world.ledger.volumes.get(&fresh).unwrap().last_failure.as_ref().unwrap();
    assert!(why.failure.message.contains("the backend is frozen (service)"), "{}", why.failure);

    world.must(Command::ThawBackend { backend: BackendName::new("one") });
    world.when(Command::DeleteVolume { volume, cascade: true, force: false }).unwrap();
    world.settle();
    world.check_at_rest();
}
