use std::collections::BTreeMap;

use tephra_domain::command::{Command, CreateVolumeType, VolumeTypeRef};
use tephra_domain::decide::Verdict;
use tephra_domain::event::Idempotency;
use tephra_domain::ids::{IdempotencyKey, ProjectId, VolumeTypeId};
use tephra_domain::quota::QuotaResource;
use tephra_replay_tests::world::{PROJECT, World};

use super::{broken, code};

#[test]
fn limits_hold_per_type_too() {
    let mut world = World::default();
    let gold = VolumeTypeId::from_uuid(world.fresh());
    world.must(Command::CreateVolumeType(Box::new(CreateVolumeType {
        volume_type: gold,
        name: "gold".into(),
        description: None,
        is_public: true,
        extra_specs: BTreeMap::new(),
    })));
    let limits = [(QuotaResource::VolumesOfType(gold), 1)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    let golden = |world: &mut World| {
        let (_, mut create) = world.new_volume(1);
        if let Command::CreateVolume(create) = &mut create {
            create.volume_type = Some(VolumeTypeRef::Named("gold".into()));
        }
        world.when(create)
    };
    golden(&mut world).unwrap();
    let rejection = golden(&mut world).unwrap_err();
    assert!(rejection.to_string().contains("'volumes_gold'"), "{rejection}");
    world.given_volume(1, 0);
}

#[test]
fn a_volume_in_error_counts_until_it_is_deleted() {
    let mut world = World::default();
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    world.fail_next(broken());
    world.settle();
    let project = ProjectId::new(PROJECT);
    assert_eq!(world.ledger.usage.get(&project).unwrap().total.volumes, 1);
    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    world.settle();
    assert!(world.ledger.usage.get(&project).is_none());
}

#[test]
fn a_limit_is_reached_exactly_and_never_exceeded() {
    let mut world = World::default();
    let limits = [(QuotaResource::Volumes, 3), (QuotaResource::Gigabytes, -1)].into();
    world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
    for _ in 0..3 {
        let (_, create) = world.new_volume(1);
        world.when(create).unwrap();
    }
    let (_, create) = world.new_volume(1);
    assert_eq!(code(world.when(create)), "VolumeLimitExceeded");
    world.must(Command::ClearQuotaLimits { project: ProjectId::new(PROJECT) });
    let (_, create) = world.new_volume(1);
    world.when(create).unwrap();
}

#[test]
fn a_key_repeats_its_first_answer_for_a_day_and_refuses_another_request() {
    let mut world = World::default();
    let (_, create) = world.new_volume(1);
    let context = |world: &mut World, fingerprint| tephra_domain::command::Context {
        command: tephra_domain::ids::CommandId::from_uuid(world.fresh()),
        request: tephra_domain::ids::RequestId::new("req-test"),
        actor: tephra_replay_tests::world::actor(PROJECT, tephra_domain::actor::Role::Member),
        now: world.now,
        idempotency: Some(Idempotency { key: IdempotencyKey::new("k"), fingerprint: [fingerprint; 32] }),
        pools: world.pools.clone(),
    };
    let ctx = context(&mut world, 1);
    let Verdict::Accepted { position, .. } = world.submit_with(ctx, &create) else { panic!() };
    let ctx = context(&mut world, 1);
    assert_eq!(world.submit_with(ctx, &create), Verdict::Repeated { position });
    let ctx = context(&mut world, 2);
    let other = world.submit_with(ctx, &create);
    assert_eq!(other, Verdict::Rejected(tephra_domain::rejection::Rejection::IdempotencyKeyReused));
    world.now = world.now.plus_ms(24 * 60 * 60 * 1000);
    let (_, fresh) = world.new_volume(1);
    let ctx = context(&mut world, 2);
    assert!(matches!(world.submit_with(ctx, &fresh), Verdict::Accepted { .. }));
}
