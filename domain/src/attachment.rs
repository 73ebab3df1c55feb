//! An attachment: one server's (or host's) use of a volume, and what may happen to it.
//!
//! It lives within its volume: how the volume is used is said by its attachments, and both change
//! in one commit. `reserved`, `attaching` and `attached` wait for a client, not for us, so no
//! operation is open on them; only making and removing an export is our work.
//!
//! Statuses are Cinder's (`VolumeAttachStatus`), with one difference: what clients see as
//! `attaching` is either [`AttachmentStatus::Connecting`], while an operation makes the export, or
//! [`AttachmentStatus::Attaching`], when the client may connect and is to say that it has.

#![allow(missing_docs, reason = "statuses, events and fields carry Cinder's own words")]

use crate::effect::{Export, Failure};
use crate::event::IllegalEvent;
use crate::ids::{AttachmentId, OperationId};
use crate::units::Timestamp;
use crate::volume::FailureRecord;

/// How many attachments a volume may have: a server that moves needs two, and what is done to all of
/// them at once must fit into one commit.
pub const MAX_ATTACHMENTS: u32 = 64;

/// Whether the server may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttachMode {
    ReadWrite,
    ReadOnly,
}

impl AttachMode {
    /// Cinder's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
        }
    }
}

/// What is known of the host that connects, as far as exports and answers need it (of os-brick's
/// connector properties).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connector {
    /// The host's name.
    pub host: Option<Box<str>>,
    /// Its iSCSI name.
    pub initiator: Option<Box<str>>,
    /// Its address.
    pub ip: Option<Box<str>>,
    /// Where the volume appears in the server.
    pub mountpoint: Option<Box<str>>,
    /// Whether it uses several paths.
    pub multipath: bool,
    /// Whether it insists on several paths.
    pub enforce_multipath: bool,
}

impl Connector {
    /// Whether both are the same host.
    pub fn is_same_host(&self, other: &Self) -> bool {
        self.host == other.host && self.initiator == other.initiator
    }
}

/// Where an attachment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachmentStatus {
    /// A client holds the volume, and has not yet said from which host it connects.
    Reserved,
    /// An operation is making the export.
    Connecting { operation: OperationId },
    /// The export is there; the client is to say that it has connected.
    Attaching,
    /// In use.
    Attached,
    /// An operation is removing the export. `from`: what it was before.
    Disconnecting { operation: OperationId, from: AttachmentState },
    /// The export could not be made.
    ErrorAttaching,
    /// The export could not be removed.
    ErrorDetaching,
}

/// [`AttachmentStatus`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttachmentState {
    /// No such attachment.
    Absent,
    Reserved,
    Connecting,
    Attaching,
    Attached,
    Disconnecting,
    ErrorAttaching,
    ErrorDetaching,
}

/// [`AttachmentEvent`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttachmentEventKind {
    Reserved,
    ConnectAccepted,
    Connected,
    ConnectFailed,
    Attached,
    Completed,
    DisconnectAccepted,
    Disconnected,
    DisconnectFailed,
    Deleted,
}

use AttachmentEventKind as K;
use AttachmentState as S;

/// Every status change that can happen. What is not here is refused by [`Attachment::apply`].
pub const TRANSITIONS: &[(AttachmentState, AttachmentEventKind, AttachmentState)] = &[
    (S::Absent, K::Reserved, S::Reserved),
    // a connector may come once more: the host has changed, or the first try failed
    (S::Reserved, K::ConnectAccepted, S::Connecting),
    (S::Attaching, K::ConnectAccepted, S::Connecting),
    (S::Attached, K::ConnectAccepted, S::Connecting),
    (S::ErrorAttaching, K::ConnectAccepted, S::Connecting),
    (S::Connecting, K::Connected, S::Attaching),
    (S::Connecting, K::ConnectFailed, S::ErrorAttaching),
    // the old way: os-attach names server and mode when all is done
    (S::Reserved, K::Attached, S::Attached),
    (S::Attaching, K::Attached, S::Attached),
    (S::Reserved, K::Completed, S::Attached),
    (S::Attaching, K::Completed, S::Attached),
    (S::Connecting, K::DisconnectAccepted, S::Disconnecting),
    (S::Attaching, K::DisconnectAccepted, S::Disconnecting),
    (S::Attached, K::DisconnectAccepted, S::Disconnecting),
    (S::ErrorAttaching, K::DisconnectAccepted, S::Disconnecting),
    (S::ErrorDetaching, K::DisconnectAccepted, S::Disconnecting),
    // what was to stay without its export is to go as well
    (S::Disconnecting, K::DisconnectAccepted, S::Disconnecting),
    // the old way: os-terminate_connection comes before os-detach
    (S::Disconnecting, K::Disconnected, S::Attached),
    (S::Disconnecting, K::DisconnectFailed, S::ErrorDetaching),
    // at once where there is no export, otherwise when it is gone
    (S::Disconnecting, K::Deleted, S::Absent),
    (S::Reserved, K::Deleted, S::Absent),
    (S::Attached, K::Deleted, S::Absent),
    (S::ErrorAttaching, K::Deleted, S::Absent),
];

/// Whether `event` may lead from one status to the other.
pub fn is_transition(from: AttachmentState, event: AttachmentEventKind, to: AttachmentState) -> bool {
    TRANSITIONS.contains(&(from, event, to))
}

impl AttachmentState {
    /// All of them.
    pub const ALL: &[Self] = &[
        S::Absent,
        S::Reserved,
        S::Connecting,
        S::Attaching,
        S::Attached,
        S::Disconnecting,
        S::ErrorAttaching,
        S::ErrorDetaching,
    ];

    /// A word of its own for each; what clients see is [`AttachmentState::wire_name`].
    pub const fn as_str(self) -> &'static str {
        match self {
            S::Absent => "deleted",
            S::Reserved => "reserved",
            S::Connecting => "connecting",
            S::Attaching => "attaching",
            S::Attached => "attached",
            S::Disconnecting => "disconnecting",
            S::ErrorAttaching => "error_attaching",
            S::ErrorDetaching => "error_detaching",
        }
    }

    /// Cinder's word for it.
    pub const fn wire_name(self) -> &'static str {
        match self {
            S::Connecting => "attaching",
            S::Disconnecting => "detaching",
            S::Absent | S::Reserved | S::Attaching | S::Attached | S::ErrorAttaching | S::ErrorDetaching => {
                self.as_str()
            }
        }
    }

    /// Whether an operation must be open on an attachment in this status, and never otherwise.
    pub const fn is_transitional(self) -> bool {
        match self {
            S::Connecting | S::Disconnecting => true,
            S::Absent | S::Reserved | S::Attaching | S::Attached | S::ErrorAttaching | S::ErrorDetaching => {
                false
            }
        }
    }
}

impl AttachmentStatus {
    /// The status without its data.
    pub const fn state(&self) -> AttachmentState {
        match self {
            Self::Reserved => S::Reserved,
            Self::Connecting { .. } => S::Connecting,
            Self::Attaching => S::Attaching,
            Self::Attached => S::Attached,
            Self::Disconnecting { .. } => S::Disconnecting,
            Self::ErrorAttaching => S::ErrorAttaching,
            Self::ErrorDetaching => S::ErrorDetaching,
        }
    }

    /// The operation that owns a transitional status.
    pub const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Connecting { operation } | Self::Disconnecting { operation, .. } => Some(*operation),
            Self::Reserved
            | Self::Attaching
            | Self::Attached
            | Self::ErrorAttaching
            | Self::ErrorDetaching => None,
        }
    }
}

/// What happens to an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachmentEvent {
    /// A client holds the volume.
    Reserved {
        instance: Option<Box<str>>,
        mode: Option<AttachMode>,
    },
    /// The export is to be made for this host.
    ConnectAccepted {
        operation: OperationId,
        connector: Connector,
        mode: AttachMode,
    },
    /// The export is there.
    Connected,
    /// `restored`: certainly nothing of the export is left.
    ConnectFailed {
        operation: OperationId,
        failure: Failure,
        restored: bool,
    },
    /// The client says that it has connected, and what (os-attach).
    Attached {
        instance: Option<Box<str>>,
        host: Option<Box<str>>,
        mountpoint: Option<Box<str>>,
        mode: AttachMode,
    },
    /// The client says that it has connected (os-complete).
    Completed,
    /// The export is to be removed.
    DisconnectAccepted {
        operation: OperationId,
    },
    /// The export is gone, the attachment stays until the client detaches.
    Disconnected,
    DisconnectFailed {
        operation: OperationId,
        failure: Failure,
    },
    /// It is over.
    Deleted,
}

impl AttachmentEvent {
    /// The event without its data.
    pub const fn kind(&self) -> AttachmentEventKind {
        match self {
            Self::Reserved { .. } => K::Reserved,
            Self::ConnectAccepted { .. } => K::ConnectAccepted,
            Self::Connected => K::Connected,
            Self::ConnectFailed { .. } => K::ConnectFailed,
            Self::Attached { .. } => K::Attached,
            Self::Completed => K::Completed,
            Self::DisconnectAccepted { .. } => K::DisconnectAccepted,
            Self::Disconnected => K::Disconnected,
            Self::DisconnectFailed { .. } => K::DisconnectFailed,
            Self::Deleted => K::Deleted,
        }
    }

    const fn target(&self) -> AttachmentState {
        match self {
            Self::Reserved { .. } => S::Reserved,
            Self::ConnectAccepted { .. } => S::Connecting,
            Self::Connected => S::Attaching,
            Self::ConnectFailed { .. } => S::ErrorAttaching,
            Self::Attached { .. } | Self::Completed | Self::Disconnected => S::Attached,
            Self::DisconnectAccepted { .. } => S::Disconnecting,
            Self::DisconnectFailed { .. } => S::ErrorDetaching,
            Self::Deleted => S::Absent,
        }
    }
}

/// An attachment as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub id: AttachmentId,
    pub status: AttachmentStatus,
    /// The server, if it is one that has an id.
    pub instance: Option<Box<str>>,
    /// The host that has connected.
    pub host: Option<Box<str>>,
    pub mountpoint: Option<Box<str>>,
    /// Nothing until somebody says it, as in Cinder.
    pub mode: Option<AttachMode>,
    /// There as long as an export is, or may be.
    pub connector: Option<Connector>,
    pub created_at: Timestamp,
    /// When the export was there, or, without one, when the client said that it had connected
    /// (Cinder's `attach_time`).
    pub attached_at: Option<Timestamp>,
    /// The last operation on it that failed.
    pub last_failure: Option<Box<FailureRecord>>,
}

impl Attachment {
    /// The attachment that [`AttachmentEvent::Reserved`] brings about.
    pub fn reserved(
        id: AttachmentId,
        at: Timestamp,
        instance: Option<Box<str>>,
        mode: Option<AttachMode>,
    ) -> Self {
        Self {
            id,
            status: AttachmentStatus::Reserved,
            instance,
            host: None,
            mountpoint: None,
            mode,
            connector: None,
            created_at: at,
            attached_at: None,
            last_failure: None,
        }
    }

    /// Whether its export exists, or may.
    pub const fn has_export(&self) -> bool {
        self.connector.is_some()
    }

    /// The export as an executor must make it; nothing as long as no host is known.
    pub fn export(&self) -> Option<Export> {
        let connector = self.connector.as_ref()?;
        let mode = self.mode.unwrap_or(AttachMode::ReadWrite);
        Some(Export::of(self.id, connector, mode))
    }

    /// Takes one event in. `Ok(false)` says that the attachment is gone with it.
    ///
    /// # Errors
    /// [`IllegalEvent`] if [`TRANSITIONS`] has no such change: the history is not a history.
    pub fn apply(&mut self, at: Timestamp, event: &AttachmentEvent) -> Result<bool, IllegalEvent> {
        let from = self.status.state();
        if !is_transition(from, event.kind(), event.target()) {
            return Err(IllegalEvent {
                resource: self.id.to_string(),
                state: from.as_str(),
                event: format!("{:?}", event.kind()),
            });
        }
        match event {
            AttachmentEvent::Reserved { .. } | AttachmentEvent::Deleted => return Ok(false),
            AttachmentEvent::ConnectAccepted { operation, connector, mode } => {
                self.status = AttachmentStatus::Connecting { operation: *operation };
                self.mode = Some(*mode);
                if connector.host.is_some() {
                    self.host.clone_from(&connector.host);
                }
                if connector.mountpoint.is_some() {
                    self.mountpoint.clone_from(&connector.mountpoint);
                }
                self.connector = Some(connector.clone());
            }
            AttachmentEvent::Connected => {
                self.status = AttachmentStatus::Attaching;
                self.attached_at = Some(at);
            }
            AttachmentEvent::ConnectFailed { operation, failure, restored } => {
                self.status = AttachmentStatus::ErrorAttaching;
                self.record(*operation, at, failure);
                if *restored {
                    self.connector = None;
                }
            }
            AttachmentEvent::Attached { instance, host, mountpoint, mode } => {
                self.status = AttachmentStatus::Attached;
                self.instance.clone_from(instance);
                if host.is_some() {
                    self.host.clone_from(host);
                }
                self.mountpoint.clone_from(mountpoint);
                self.mode = Some(*mode);
                self.attached_at = Some(at);
            }
            AttachmentEvent::Completed => {
                self.status = AttachmentStatus::Attached;
                self.attached_at = self.attached_at.or(Some(at));
            }
            AttachmentEvent::DisconnectAccepted { operation } => {
                let before = if let AttachmentStatus::Disconnecting { from, .. } = self.status {
                    Some(from)
                } else {
                    None
                };
                let from = before.unwrap_or(from);
                self.status = AttachmentStatus::Disconnecting { operation: *operation, from };
            }
            AttachmentEvent::Disconnected => {
                self.status = AttachmentStatus::Attached;
                self.connector = None;
            }
            AttachmentEvent::DisconnectFailed { operation, failure } => {
                self.status = AttachmentStatus::ErrorDetaching;
                self.record(*operation, at, failure);
            }
        }
        Ok(true)
    }

    fn record(&mut self, operation: OperationId, at: Timestamp, failure: &Failure) {
        self.last_failure = Some(Box::new(FailureRecord { operation, at, failure: failure.clone() }));
    }
}
