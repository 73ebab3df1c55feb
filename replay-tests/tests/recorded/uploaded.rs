//! A history of volumes that images are made of, attached or not.

use std::collections::BTreeMap;

use tephra_domain::actor::Role;
use tephra_domain::attachment::AttachMode;
use tephra_domain::command::{AttachVolume, Command, CreateVolume, MetadataChange, UploadVolume};
use tephra_domain::ids::{AttachmentId, ImageId, ProjectId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::volume::VolumeSource;

use super::{Recorder, actor};

const ROUNDS: usize = 300;

/// The history of a seed.
pub fn record_uploaded(seed: u64) -> Recorder {
    let mut recorder = Recorder::new(seed);
    recorder.prepare();
    for _ in 0..ROUNDS {
        let command = recorder.about_uploads();
        recorder.ask(actor("alpha", Role::Member), command);
        recorder.report();
        recorder.decide();
    }
    recorder
}

impl Recorder {
    fn about_uploads(&mut self) -> Command {
        let volume = self.a_volume();
        match self.draw(10) {
            0 | 1 => Command::CreateVolume(Box::new(CreateVolume {
                volume: VolumeId::from_uuid(self.fresh()),
                name: None,
                description: None,
                size: Some(self.a_size()),
                source: VolumeSource::Blank,
                volume_type: None,
                availability_zone: None,
                metadata: self.some_metadata(),
            })),
            2 => Command::AttachVolume(Box::new(AttachVolume {
                volume,
                attachment: AttachmentId::from_uuid(self.fresh()),
                instance: None,
                host: Some("compute-1".into()),
                mountpoint: "/dev/vdb".into(),
                mode: AttachMode::ReadWrite,
            })),
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
