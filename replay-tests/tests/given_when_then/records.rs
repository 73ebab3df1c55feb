//! Commands that change a record and need no work on a backend.

use std::collections::BTreeMap;

use tephra_domain::actor::Role;
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{Command, CreateVolumeType, MetadataChange, VolumeTypeRef};
use tephra_domain::ids::{BackendName, PoolName, ProjectId, VolumeTypeId, ZoneName};
use tephra_domain::volume::VolumeState;
use tephra_domain::volume_type::DEFAULT_TYPE_ID;
use tephra_replay_tests::world::{PROJECT, World, actor};

use super::code;

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn metadata_is_merged_replaced_and_removed_by_key() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let change = |change| Command::ChangeVolumeMetadata { volume, change };
    let metadata = |world: &World| world.ledger.volumes.get(&volume).unwrap().metadata.clone();
    world.when(change(MetadataChange::Merge(pairs(&[("a", "1"), ("b", "2")])))).unwrap();
    world.when(change(MetadataChange::Merge(pairs(&[("b", "3")])))).unwrap();
    assert_eq!(metadata(&world), pairs(&[("a", "1"), ("b", "3")]));
    world.when(change(MetadataChange::Remove("a".to_owned()))).unwrap();
    assert_eq!(code(world.when(change(MetadataChange::Remove("a".to_owned())))), "VolumeMetadataNotFound");
    world.when(change(MetadataChange::Replace(pairs(&[("z", "9")])))).unwrap();
    assert_eq!(metadata(&world), pairs(&[("z", "9")]));
}

#[test]
fn an_update_leaves_what_it_does_not_name() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let update = |name, description| Command::UpdateVolume { volume, name, description, metadata: None };
    world.when(update(None, Some(Some("what it is for".into())))).unwrap();
    world.when(update(Some(None), None)).unwrap();
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!((row.name.as_deref(), row.description.as_deref()), (None, Some("what it is for")));
    assert_eq!(world.when(update(None, None)), Ok(vec![]), "nothing to do is no event");
}

#[test]
fn readers_look_and_strangers_see_nothing() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let commands = [
        Command::SetVolumeBootable { volume, bootable: true },
        Command::SetVolumeReadonly { volume, readonly: true },
        Command::UpdateVolume { volume, name: Some(None), description: None, metadata: None },
        Command::ChangeVolumeMetadata { volume, change: MetadataChange::Replace(BTreeMap::new()) },
    ];
    for command in commands {
        assert_eq!(code(world.when_as(actor(PROJECT, Role::Reader), command.clone())), "PolicyNotAuthorized");
        assert_eq!(code(world.when_as(actor("other", Role::Member), command.clone())), "VolumeNotFound");
        world.when(command).unwrap();
    }
}

#[test]
fn a_type_in_use_and_the_default_type_stay() {
    let mut world = World::default();
    let gold = VolumeTypeId::from_uuid(world.fresh());
    let create = Command::CreateVolumeType(Box::new(CreateVolumeType {
        volume_type: gold,
        name: "gold".into(),
        description: None,
        is_public: false,
        extra_specs: BTreeMap::new(),
    }));
    assert_eq!(code(world.when(create.clone())), "PolicyNotAuthorized");
    world.must(create.clone());
    assert_eq!(code(world.when_admin(create)), "VolumeTypeExists");
    let golden = |world: &mut World| {
        let (id, mut create) = world.new_volume(1);
        if let Command::CreateVolume(create) = &mut create {
            create.volume_type = Some(VolumeTypeRef::Named("gold".into()));
        }
        (id, create)
    };
    let (_, create) = golden(&mut world);
    assert_eq!(code(world.when(create)), "VolumeTypeNotFoundByName", "it is private");
    let project = ProjectId::new(PROJECT);
    let grant = Command::GrantTypeAccess { volume_type: gold, project: project.clone() };
    world.must(grant.clone());
    assert_eq!(code(world.when_admin(grant)), "TypeAccessExists");
    let (volume, create) = golden(&mut world);
    world.when(create).unwrap();
    world.settle();
    let delete = Command::DeleteVolumeType { volume_type: gold };
    assert_eq!(code(world.when_admin(delete.clone())), "VolumeTypeInUse");
    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    world.settle();
    let revoke = Command::RevokeTypeAccess { volume_type: gold, project };
    world.must(revoke.clone());
    assert_eq!(code(world.when_admin(revoke)), "TypeAccessNotFound");
    world.must(delete);
    let default = Command::DeleteVolumeType { volume_type: DEFAULT_TYPE_ID };
    assert_eq!(code(world.when_admin(default)), "VolumeTypeIsDefault");
}

#[test]
fn a_backend_that_says_nothing_new_is_no_event() {
    let mut world = World::default();
    let register = |zone| Command::RegisterBackend {
        backend: BackendName::new("two"),
        description: Box::new(BackendDescription {
            host: "host".into(),
            driver: "sim".into(),
            availability_zone: ZoneName::new(zone),
            pools: vec![PoolName::new("two")],
            native_revert: true,
            capabilities: BTreeMap::new(),
        }),
    };
    assert_eq!(world.when_admin(register("nova")), Ok(vec!["BackendRegistered"]));
    assert_eq!(world.when_admin(register("nova")), Ok(vec![]));
    assert_eq!(world.when_admin(register("mars")), Ok(vec!["BackendRegistered"]));
    assert!(world.ledger.has_zone(&ZoneName::new("mars")));
}

#[test]
fn a_disabled_backend_takes_nothing_new_and_finishes_what_it_has() {
    let mut world = World::default();
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    let backend = BackendName::new("one");
    world.must(Command::DisableBackend { backend: backend.clone(), reason: Some("maintenance".into()) });
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    let (refused, create) = world.new_volume(1);
    world.when(create).unwrap();
    assert_eq!(world.volume_state(refused), VolumeState::Error);
    world.must(Command::EnableBackend { backend });
    world.given_volume(1, 0);
    let unknown = Command::EnableBackend { backend: BackendName::new("nowhere") };
    assert_eq!(code(world.when_admin(unknown)), "BackendNotFound");
}
