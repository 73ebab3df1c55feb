//! A history of volumes that servers take, use and let go, the new way and the old one.

use tephra_domain::actor::Role;
use tephra_domain::attachment::{AttachMode, Connector};
use tephra_domain::command::{Command, CreateAttachment};
use tephra_domain::ids::{AttachmentId, VolumeId};

use super::Recorder;

const ROUNDS: usize = 900;

/// The history of a seed.
pub fn record_attached(seed: u64) -> Recorder {
    Recorder::of(seed, ROUNDS, |recorder| {
        let command = recorder.about_attachments();
        let role = if matches!(command, Command::DetachAll { .. }) { Role::Admin } else { Role::Member };
        (role, command)
    })
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
            0 => self.a_new_volume(),
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
            11 => self.an_attach(volume, "compute-2"),
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
