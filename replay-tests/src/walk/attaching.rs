//! What clients ask of attachments, both ways at once, and what happens to export daemons.

use tephra_domain::actor::{Actor, Role};
use tephra_domain::attachment::{AttachMode, Connector};
use tephra_domain::command::{AttachVolume, Command, CreateAttachment};
use tephra_domain::decide::Verdict;
use tephra_domain::event::Event;
use tephra_domain::ids::{AttachmentId, BackendName, VolumeId};
use tephra_domain::operation::OperationEvent;
use tephra_domain::operations::OperationKind;

use super::Walk;
use crate::world::{PROJECT, actor};

/// Few, so that they meet.
const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];

/// The volume whose export an event says is to be restored.
fn restored(event: &Event) -> Option<VolumeId> {
    let Event::Operation(_, OperationEvent::Opened { kind, .. }) = event else { return None };
    if let OperationKind::ExportRestore(lost) = kind {
        Some(lost.volume)
    } else if let OperationKind::AttachmentDisconnect(left) = kind {
        Some(left.volume)
    } else {
        None
    }
}

impl Walk {
    /// Somebody attaches, detaches, or does something that makes no sense now.
    pub(super) fn attach_or_detach(&mut self) {
        let Some(volume) = self.any_volume() else { return };
        let command = match self.random.u8(0..16) {
            0..=3 => {
                let connector = self.random.bool().then(|| self.any_host());
                Command::CreateAttachment(Box::new(CreateAttachment {
                    volume,
                    attachment: AttachmentId::from_uuid(self.world.fresh()),
                    instance: self.any_server(),
                    mode: self.any_mode(),
                    connector,
                    connector_mode: self.any_mode(),
                }))
            }
            4 | 5 => {
                let Some((volume, attachment)) = self.any_attachment() else { return };
                Command::UpdateAttachment {
                    volume,
                    attachment,
                    connector: self.any_host(),
                    mode: self.any_mode(),
                }
            }
            6 | 7 => {
                let Some((volume, attachment)) = self.any_attachment() else { return };
                Command::CompleteAttachment { volume, attachment }
            }
            8 => {
                let Some((volume, attachment)) = self.any_attachment() else { return };
                Command::DeleteAttachment { volume, attachment }
            }
            9 => Command::ReserveVolume { volume },
            10 => Command::UnreserveVolume { volume },
            11 => {
                if self.random.bool() {
                    Command::BeginDetaching { volume }
                } else {
                    Command::RollDetaching { volume }
                }
            }
            12 => Command::InitializeConnection {
                volume,
                attachment: AttachmentId::from_uuid(self.world.fresh()),
                connector: self.any_host(),
                mode: self.any_mode(),
            },
            13 => {
                let connector = self.random.bool().then(|| self.any_host());
                Command::TerminateConnection { volume, connector }
            }
            14 => Command::AttachVolume(Box::new(AttachVolume {
                volume,
                attachment: AttachmentId::from_uuid(self.world.fresh()),
                instance: self.any_server(),
                host: self.any_host().host,
                mountpoint: "/dev/vdb".into(),
                mode: self.any_mode().unwrap_or(AttachMode::ReadWrite),
            })),
            _ => return self.detach(volume),
        };
        self.submit(actor(PROJECT, Role::Member), &command);
    }

    fn detach(&mut self, volume: VolumeId) {
        let force = self.random.bool();
        let attachment = self.any_attachment().map(|(_, attachment)| attachment);
        let command = match self.random.u8(0..4) {
            0 => Command::DetachAll { volume },
            1 => Command::DetachVolume { volume, attachment, force },
            _ => Command::DetachVolume { volume, attachment: None, force },
        };
        self.submit(actor(PROJECT, Role::Admin), &command);
    }

    /// Every export daemon dies and starts again, and its executor asks for what it has lost.
    pub(super) fn lose_exports(&mut self) {
        self.world.storage.exports.clear();
        for backend in ["one", "two", "three"] {
            let mut after = None;
            loop {
                let restore = Command::RestoreExports { backend: BackendName::new(backend), after };
                let Verdict::Accepted { commit, .. } = self.world.submit_as(Actor::system(), &restore) else {
                    break;
                };
                let last = commit.events.iter().rev().find_map(restored);
                assert!(last.is_some(), "{commit:?} restores nothing");
                after = last;
            }
        }
    }

    fn any_host(&mut self) -> Connector {
        let host = self.random.choice(HOSTS).unwrap_or_default();
        Connector { host: Some(host.into()), ..Connector::default() }
    }

    fn any_server(&mut self) -> Option<Box<str>> {
        (self.random.u8(0..4) != 0).then(|| format!("server-{}", self.random.u8(0..3)).into())
    }

    fn any_mode(&mut self) -> Option<AttachMode> {
        self.random.choice([None, Some(AttachMode::ReadWrite), Some(AttachMode::ReadOnly)]).flatten()
    }

    fn any_attachment(&mut self) -> Option<(VolumeId, AttachmentId)> {
        let volumes = self.world.ledger.volumes.sorted();
        let all: Vec<_> = volumes
            .into_iter()
            .flat_map(|(id, volume)| volume.attachments.iter().map(|attachment| (*id, attachment.id)))
            .collect();
        self.random.choice(all)
    }
}
