use tephra_domain::actor::Role;
use tephra_domain::command::{Command, CreateVolumeFromImage, MetadataChange, VolumeTypeRef};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::event::Event;
use tephra_domain::ids::{ImageId, ProjectId, SnapshotId, VolumeId, ZoneName};
use tephra_domain::image::ImageFacts;
use tephra_domain::quota::QuotaResource;
use tephra_domain::volume::{VolumeEvent, VolumeSource, VolumeState};
use tephra_replay_tests::sim_backend::tag_of;
use tephra_replay_tests::world::{PROJECT, World, actor, gib, pool};

use super::{broken, code, hiccup};

#[test]
fn accepting_takes_quota_and_opens_the_operation_in_one_commit() {
    let mut world = World::default();
    let (volume, create) = world.new_volume(3);
    assert_eq!(world.when(create), Ok(vec!["VolumeCreateAccepted", "OperationOpened"]));
    assert_eq!(world.volume_state(volume), VolumeState::Creating);
    let usage = world.ledger.usage.get(&ProjectId::new(PROJECT)).unwrap();
    assert_eq!((usage.total.volumes, usage.total.gigabytes), (1, 3));
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_eq!(world.history.last().unwrap().events.len(), 3, "step, volume and operation in one commit");
}

#[test]
fn a_hiccup_is_tried_again_on_the_same_backend() {
    let mut world = World::with_backends(&["one", "two"], true);
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    assert_eq!(world.fail_next(hiccup()), ["StepAttemptFailed"]);
    let before = world.now;
    assert_eq!(world.next_due().unwrap().pool, pool("one"));
    assert!(world.now > before, "after a pause");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
}

#[test]
fn a_failure_goes_to_the_next_backend_and_owes_cleanup_on_the_first() {
    let mut world = World::with_backends(&["one", "two"], true);
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    let events = world.fail_next(broken());
    assert_eq!(events, ["CleanupDebtIncurred", "VolumeRescheduled", "OperationRescheduled"]);
    assert_eq!(world.volume_state(volume), VolumeState::Creating);
    world.settle();
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().pool, Some(pool("two")));
    world.check_at_rest();
}

#[test]
fn after_three_backends_it_ends_in_error_with_its_reason() {
    let mut world = World::with_backends(&["one", "two", "three", "four"], true);
    let (volume, create) = world.new_volume(1);
    world.when(create).unwrap();
    let mut tried = Vec::new();
    while world.volume_state(volume) == VolumeState::Creating {
        let due = world.next_due().unwrap();
        if due.effect.name() == "CreateVolume" {
            tried.push(due.pool.backend.to_string());
            world.fail_next(Failure::new(FailureKind::NoSpace, "the pool is full"));
        } else {
            world.perform(&due).unwrap();
        }
    }
    assert_eq!(tried, ["one", "two", "three"]);
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    let record = world.ledger.volumes.get(&volume).unwrap().last_failure.clone().unwrap();
    assert!(record.failure.message.contains("the pool is full"), "{}", record.failure);
    world.check_at_rest();
}

#[test]
fn without_a_pool_it_is_in_error_at_once_with_every_verdict() {
    let mut world = World::default();
    let (volume, create) = world.new_volume(500);
    assert_eq!(world.when(create), Ok(vec!["VolumeCreateAccepted", "VolumeCreateFailed"]));
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    let record = world.ledger.volumes.get(&volume).unwrap().last_failure.clone().unwrap();
    assert!(
        record.failure.message.contains("500 GiB asked, 100.0 GiB free (capacity)"),
        "{}",
        record.failure
    );
    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::Absent, "there is nothing to wait for");
    world.check_at_rest();
}

#[test]
fn a_copy_stays_beside_its_source_and_takes_its_size_and_type() {
    let mut world = World::with_backends(&["one", "two"], true);
    let source = world.given_volume(2, 7);
    let snapshot = world.given_snapshot(source);
    for from in [VolumeSource::Volume(source), VolumeSource::Snapshot(snapshot)] {
        let (copy, create) = world.new_volume_from(None, from);
        world.when(create).unwrap();
        world.settle();
        let row = world.ledger.volumes.get(&copy).unwrap();
        assert_eq!((row.size, row.pool.clone()), (gib(2), Some(pool("one"))));
        assert_eq!(world.tag(copy), Some(7));
    }
}

#[test]
fn a_source_is_deleted_only_after_the_copy_is_made() {
    let mut world = World::default();
    let source = world.given_volume(1, 7);
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    world.when(Command::DeleteVolume { volume: source, cascade: false, force: false }).unwrap();
    let due: Vec<_> = world.ledger.all_due().iter().map(|due| due.effect.name()).collect();
    assert_eq!(due, ["CloneVolume"], "the deletion waits its turn");
    world.settle();
    assert_eq!(world.tag(copy), Some(7));
    assert_eq!(world.volume_state(source), VolumeState::Absent);
    world.check_at_rest();
}

#[test]
fn the_placement_in_the_event_says_why() {
    let mut world = World::with_backends(&["one", "two"], true);
    world.pools[0].is_up = false;
    let (_, create) = world.new_volume(1);
    world.when(create).unwrap();
    let commit = world.history.last().unwrap();
    let Event::Volume(_, VolumeEvent::CreateAccepted(accepted)) = &commit.events[0] else {
        panic!("{commit:?}");
    };
    let verdicts: Vec<_> = accepted
        .placement
        .candidates
        .iter()
        .map(|c| (c.pool.backend.to_string(), c.refused.as_ref().map(|(f, why)| (f.as_str(), &**why))))
        .collect();
    let expected = [("two".to_owned(), None), ("one".to_owned(), Some(("service", "the backend is down")))];
    assert_eq!(verdicts, expected);
}

#[test]
fn rejections_come_in_their_documented_order() {
    let mut world = World::default();
    let source = world.given_volume(4, 7);
    let snapshot = world.given_snapshot(source);
    let absent = VolumeId::from_uuid(world.fresh());
    let absent_snapshot = SnapshotId::from_uuid(world.fresh());
    let project = ProjectId::new(PROJECT);

    let (_, create) = world.new_volume(1);
    assert_eq!(code(world.when_as(actor(PROJECT, Role::Reader), create)), "PolicyNotAuthorized");

    let (_, mut create) = world.new_volume(1);
    if let Command::CreateVolume(create) = &mut create {
        create.volume = source;
    }
    assert_eq!(code(world.when(create)), "VolumeExists");

    let (_, create) = world.new_volume_from(None, VolumeSource::Volume(absent));
    assert_eq!(code(world.when(create)), "VolumeNotFound");
    let (_, create) = world.new_volume_from(None, VolumeSource::Snapshot(absent_snapshot));
    assert_eq!(code(world.when(create)), "SnapshotNotFound");
    let (_, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    assert_eq!(code(world.when_as(actor("other", Role::Member), create)), "VolumeNotFound");

    let (_, create) = world.new_volume_from(None, VolumeSource::Blank);
    assert_eq!(code(world.when(create)), "VolumeSizeMissing");
    let (_, create) = world.new_volume_from(Some(3), VolumeSource::Volume(source));
    assert_eq!(code(world.when(create)), "SizeBelowSource");
    let (_, create) = world.new_volume_from(Some(3), VolumeSource::Snapshot(snapshot));
    assert_eq!(code(world.when(create)), "SizeBelowSnapshot");

    let (_, mut create) = world.new_volume(1);
    if let Command::CreateVolume(create) = &mut create {
        create.volume_type = Some(VolumeTypeRef::Named("gold".into()));
        create.availability_zone = Some(ZoneName::new("mars"));
    }
    assert_eq!(code(world.when(create.clone())), "VolumeTypeNotFoundByName");
    if let Command::CreateVolume(create) = &mut create {
        create.volume_type = None;
    }
    world.must(Command::SetQuotaLimits {
        project: project.clone(),
        limits: [(QuotaResource::PerVolumeGigabytes, 5), (QuotaResource::Volumes, 1)].into(),
    });
    assert_eq!(code(world.when(create)), "AvailabilityZoneInvalid");

    let (_, create) = world.new_volume(6);
    assert_eq!(code(world.when(create)), "VolumeSizeExceedsLimit");
    let (_, create) = world.new_volume(1);
    assert_eq!(code(world.when(create)), "VolumeLimitExceeded");

    world.when(Command::RevertVolume { volume: source, snapshot: Some(snapshot) }).unwrap();
    let (_, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    assert_eq!(code(world.when(create)), "SourceVolumeNotUsable");
    let (_, create) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
    assert_eq!(code(world.when(create)), "SourceSnapshotNotUsable");
}

#[test]
fn a_rejected_command_changes_nothing() {
    let mut world = World::default();
    let before = (world.ledger.position(), world.ledger.usage.sorted().len());
    let (_, create) = world.new_volume_from(None, VolumeSource::Blank);
    world.when(create).unwrap_err();
    assert_eq!((world.ledger.position(), world.ledger.usage.sorted().len()), before);
    world.check_at_rest();
}

fn image() -> ImageFacts {
    ImageFacts {
        id: ImageId::from_uuid(uuid::Uuid::from_u128(0x1_4000_8000_0000_0000_0007)),
        status: "active".into(),
        size_bytes: Some(3 << 20),
        min_disk_gib: 2,
        metadata: [("image_name".to_owned(), "debian".to_owned())].into(),
    }
}

fn from_image(world: &mut World, size_gib: Option<u32>, image: ImageFacts) -> (VolumeId, Command) {
    let (id, blank) = world.new_volume_from(size_gib, VolumeSource::Blank);
    let Command::CreateVolume(create) = blank else { unreachable!("a create is a create") };
    (id, Command::CreateVolumeFromImage(Box::new(CreateVolumeFromImage { create: *create, image })))
}

#[test]
fn a_volume_from_an_image_is_bootable_and_remembers_it() {
    let mut world = World::default();
    let (volume, create) = from_image(&mut world, Some(2), image());
    let accepted = ["VolumeCreateAccepted", "VolumeImageMetadataReplaced", "OperationOpened"];
    assert_eq!(world.when(create).unwrap(), accepted);
    world.settle();
    let row = world.ledger.volumes.get(&volume).unwrap().clone();
    assert_eq!((row.status.state(), row.bootable), (VolumeState::Available, true));
    assert_eq!(row.image_metadata, image().metadata);
    assert_eq!(world.tag(volume), Some(tag_of(image().id)));

    let (copy, clone) = world.new_volume_from(None, VolumeSource::Volume(volume));
    world.when(clone).unwrap();
    world.settle();
    assert_eq!(world.ledger.volumes.get(&copy).unwrap().image_metadata, image().metadata);
    let snapshot = world.given_snapshot(volume);
    let (copy, create) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
    world.when(create).unwrap();
    assert_eq!(world.ledger.volumes.get(&copy).unwrap().image_metadata, image().metadata);

    let change = MetadataChange::Remove("image_name".to_owned());
    world.when(Command::ChangeImageMetadata { volume, change: change.clone() }).unwrap();
    assert!(world.ledger.volumes.get(&volume).unwrap().image_metadata.is_empty());
    assert_eq!(code(world.when(Command::ChangeImageMetadata { volume, change })), "ImageMetadataNotFound");
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    let mut world = World::default();
    let mut refused = |size_gib, image| {
        let (_, create) = from_image(&mut world, size_gib, image);
        code(world.when(create))
    };
    assert_eq!(refused(None, image()), "VolumeSizeMissing");
    assert_eq!(refused(Some(2), ImageFacts { status: "queued".into(), ..image() }), "ImageNotActive");
    assert_eq!(refused(Some(2), ImageFacts { size_bytes: Some((2 << 30) + 1), ..image() }), "SizeBelowImage");
    assert_eq!(refused(Some(1), image()), "SizeBelowMinDisk");
    let (_, bare) = world.new_volume_from(Some(2), VolumeSource::Image(image().id));
    assert_eq!(code(world.when(bare)), "ImageFactsMissing");
}

#[test]
fn an_image_that_is_not_acceptable_is_not_tried_on_another_backend() {
    let mut world = World::with_backends(&["one", "two"], true);
    let (volume, create) = from_image(&mut world, Some(2), image());
    world.when(create).unwrap();
    world.fail_next(Failure::new(FailureKind::Mismatch, "it lies"));
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    world.check_at_rest();
    let (volume, create) = from_image(&mut world, Some(2), image());
    world.when(create).unwrap();
    let first = world.ledger.volumes.get(&volume).unwrap().pool.clone();
    world.fail_next(Failure::new(FailureKind::NoSpace, "full"));
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_ne!(world.ledger.volumes.get(&volume).unwrap().pool, first);
    world.check_at_rest();
}
