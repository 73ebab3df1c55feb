//! A history of volumes that servers take, use and let go, the new way and the old one.

use tephra_domain::actor::Role;
use tephra_domain::attachment::{AttachMode, Connector};
use tephra_domain::command::{AttachVolume, Command, CreateAttachment, CreateVolume};
use tephra_domain::ids::{AttachmentId, VolumeId};
use tephra_domain::volume::VolumeSource;

use super::{Recorder, actor};

const ROUNDS: usize = 900;

/// The history of a seed.
pub fn record_attached(seed: u64) -> Recorder {
    let mut recorder = Recorder::new(seed);
    recorder.prepare();
    for _ in 0..ROUNDS {
        let command = recorder.about_attachments();
        let role = if matches!(command, Command::DetachAll { .. }) { Role::Admin } else { Role::Member };
        recorder.ask(actor("alpha", role), command);
        recorder.report();
        recorder.decide();
    }
    recorder
}

impl Recorder {
    fn a_connector(&mut self) -> Connector {
        let host = self.draw(3);
        Connector {
            host: Some(format!("compute-{host}").into()),
            initiator: Some(format!("iqn.1993-08.org.debian:01:{host}").into()),
            ip: Some(format!("192.0.2.{host}").into()),
            mountpoint: None,
            multipath: host == 1,
            enforce_multipath: false,
        }
    }

    fn an_attachment(&mut self, volume: VolumeId) -> AttachmentId {
        let held = self.core.ledger().volumes.get(&volume);
        let known = held.and_then(|volume| volume.attachments.last().map(|one| one.id));
        known.unwrap_or_else(|| AttachmentId::from_uuid(self.fresh()))
    }

    fn about_attachments(&mut self) -> Command {
        let volume = self.a_volume();
        let attachment = self.an_attachment(volume);
        match self.draw(18) {
            0 => Command::CreateVolume(Box::new(CreateVolume {
                volume: VolumeId::from_uuid(self.fresh()),
                name: None,
                description: None,
                size: Some(self.a_size()),
                source: VolumeSource::Blank,
                volume_type: None,
                availability_zone: None,
                metadata: self.some_metadata(),
            })),
            1..=5 => Command::CreateAttachment(Box::new(CreateAttachment {
                volume,
                attachment: AttachmentId::from_uuid(self.fresh()),
                instance: Some("server".into()),
                mode: Some(AttachMode::ReadWrite),
                connector: (self.draw(2) == 0).then(|| self.a_connector()),
                connector_mode: None,
            })),
            6 => {
                let connector = self.a_connector();
                Command::UpdateAttachment { volume, attachment, connector, mode: None }
            }
            7 | 8 => Command::CompleteAttachment { volume, attachment },
            9 => Command::DeleteAttachment { volume, attachment },
            10 => Command::ReserveVolume { volume },
            11 => Command::AttachVolume(Box::new(AttachVolume {
                volume,
                attachment: AttachmentId::from_uuid(self.fresh()),
                instance: None,
                host: Some("compute-2".into()),
                mountpoint: "/dev/vdb".into(),
                mode: AttachMode::ReadWrite,
            })),
            12 => {
                let connector = self.a_connector();
                let attachment = AttachmentId::from_uuid(self.fresh());
                Command::InitializeConnection { volume, attachment, connector, mode: None }
            }
            13 | 14 => Command::TerminateConnection { volume, connector: None },
            15 => Command::BeginDetaching { volume },
            16 => Command::DetachVolume { volume, attachment: Some(attachment), force: false },
            _ => Command::DetachAll { volume },
        }
    }
}
