use std::collections::BTreeMap;

use tephra_domain::command::{Command, MetadataChange, UploadVolume};
use tephra_domain::effect::{Effect, Failure, FailureKind};
use tephra_domain::ids::{ImageId, ProjectId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::World;
use uuid::Uuid;

use super::code;

const IMAGE: ImageId = ImageId::from_uuid(Uuid::from_u128(77));

fn upload(volume: VolumeId, force: bool, visibility: &str) -> Command {
    Command::UploadVolume(Box::new(UploadVolume {
        volume,
        force,
        image: NewImage {
            id: IMAGE,
            owner: ProjectId::new("whoever says so"),
            name: "golden".into(),
            disk_format: "qcow2".into(),
            container_format: "bare".into(),
            visibility: Some(visibility.into()),
            protected: false,
            properties: BTreeMap::new(),
        },
    }))
}

#[test]
fn given_an_available_volume_when_uploaded_then_an_image_holds_its_data() {
    let mut world = World::with_backends(&["one"], true);
    let volume = world.given_volume(1, 9);
    let remembered = [("os_distro", "debian"), ("size", "1"), ("os_glance_stage", "x")];
    let remembered = remembered.map(|(key, value)| (key.to_owned(), value.to_owned()));
    world.must(Command::ChangeImageMetadata { volume, change: MetadataChange::Merge(remembered.into()) });
    let events = world.when(upload(volume, false, "private"));
    assert_eq!(events, Ok(vec!["VolumeUploadAccepted", "OperationOpened"]));
    assert_eq!(world.volume_state(volume), VolumeState::Uploading);
    let due = world.next_due().unwrap();
    let Effect::UploadImage { image, .. } = &due.effect else { panic!("{due:?}") };
    assert_eq!(image.owner, world.ledger.volumes.get(&volume).unwrap().project, "whose volume it is");
    let inherited: Vec<_> = image.properties.keys().map(String::as_str).collect();
    assert_eq!(inherited, ["os_distro"], "what an image cannot say by other means");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_eq!(world.storage.images.get(&IMAGE).map(|image| image.tag), Some(9));
}

#[test]
fn given_an_upload_that_fails_then_no_image_is_left_and_the_volume_is_what_it_was() {
    let mut world = World::with_backends(&["one"], true);
    let volume = world.given_volume(1, 9);
    world.must(upload(volume, false, "private"));
    let failure = Failure::new(FailureKind::Mismatch, "the image service refuses it");
    world.fail_next(failure);
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_eq!(world.tag(volume), Some(9));
    assert!(world.storage.images.is_empty());
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!(&*row.last_failure.as_ref().unwrap().failure.message, "the image service refuses it");
}

#[test]
fn given_a_volume_in_use_when_uploaded_then_only_by_force_and_it_is_in_use_again() {
    let mut world = World::with_backends(&["one"], true);
    let volume = world.given_volume(1, 9);
    let attachment = world.connect(volume);
    world.settle();
    world.must(Command::CompleteAttachment { volume, attachment });
    assert_eq!(code(world.when(upload(volume, false, "private"))), "VolumeNotUploadable");
    world.must(upload(volume, true, "private"));
    assert_eq!(code(world.when(upload(volume, true, "private"))), "VolumeNotUploadable");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
}

#[test]
fn given_a_member_when_the_image_is_to_be_public_then_it_is_refused() {
    let mut world = World::with_backends(&["one"], true);
    let volume = world.given_volume(1, 9);
    assert_eq!(code(world.when(upload(volume, false, "public"))), "PolicyNotAuthorized");
    assert!(world.when_admin(upload(volume, false, "public")).is_ok());
    let missing = VolumeId::from_uuid(Uuid::from_u128(404));
    assert_eq!(code(world.when(upload(missing, false, "public"))), "VolumeNotFound");
}
