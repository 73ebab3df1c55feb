//! A history of volumes that are made from images, copied, and told to forget them.

use std::collections::BTreeMap;

use tephra_domain::actor::Role;
use tephra_domain::command::{Command, CreateVolume, CreateVolumeFromImage, MetadataChange};
use tephra_domain::ids::ImageId;
use tephra_domain::image::ImageFacts;
use tephra_domain::volume::VolumeSource;

use super::Recorder;

const ROUNDS: usize = 120;

/// The history of a seed.
pub fn record_from_images(seed: u64) -> Recorder {
    Recorder::of(seed, ROUNDS, |recorder| (Role::Member, recorder.about_images()))
}

impl Recorder {
    fn about_images(&mut self) -> Command {
        let create = CreateVolume { name: Some("booted from".into()), ..self.a_blank_volume() };
        let volume = self.a_volume();
        match self.draw(10) {
            0..=4 => {
                let image = ImageFacts {
                    id: ImageId::from_uuid(self.fresh()),
                    status: "active".into(),
                    size_bytes: Some(1 << 20),
                    min_disk_gib: 1,
                    metadata: BTreeMap::from([("image_name".to_owned(), "debian – 13".to_owned())]),
                };
                Command::CreateVolumeFromImage(Box::new(CreateVolumeFromImage { create, image }))
            }
            5 | 6 => Command::CreateVolume(Box::new(CreateVolume {
                source: VolumeSource::Volume(volume),
                size: None,
                ..create
            })),
            7 => {
                let change = MetadataChange::Remove("image_name".to_owned());
                Command::ChangeImageMetadata { volume, change }
            }
            8 => {
                let change = MetadataChange::Merge([("os".to_owned(), "linux".to_owned())].into());
                Command::ChangeImageMetadata { volume, change }
            }
            _ => Command::DeleteVolume { volume, cascade: true, force: false },
        }
    }
}
