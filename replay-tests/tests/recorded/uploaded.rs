//! A history of volumes that images are made of, attached or not.

use std::collections::BTreeMap;

use tephra_domain::actor::Role;
use tephra_domain::command::{Command, MetadataChange, UploadVolume};
use tephra_domain::ids::{ImageId, ProjectId};
use tephra_domain::image::NewImage;

use super::Recorder;

const ROUNDS: usize = 300;

/// The history of a seed.
pub fn record_uploaded(seed: u64) -> Recorder {
    Recorder::of(seed, ROUNDS, |recorder| (Role::Member, recorder.about_uploads()))
}

impl Recorder {
    fn about_uploads(&mut self) -> Command {
        let volume = self.a_volume();
        match self.draw(10) {
            0 | 1 => self.a_new_volume(),
            2 => self.an_attach(volume, "compute-1"),
            3 => {
                let change = MetadataChange::Merge([("os_distro".to_owned(), "debian".to_owned())].into());
                Command::ChangeImageMetadata { volume, change }
            }
            4 => Command::DeleteVolume { volume, cascade: true, force: false },
            _ => Command::UploadVolume(Box::new(UploadVolume {
                volume,
                force: self.draw(2) == 0,
                image: NewImage {
                    id: ImageId::from_uuid(self.fresh()),
                    owner: ProjectId::new("alpha"),
                    name: "goldenes Abbild – 1".into(),
                    disk_format: "qcow2".into(),
                    container_format: "bare".into(),
                    visibility: Some("private".into()),
                    protected: true,
                    properties: BTreeMap::new(),
                },
            })),
        }
    }
}
