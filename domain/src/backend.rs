//! Backends and their pools, as the ledger knows them.
//!
//! What a backend is, and whether operators let it be used, are events. How full it is changes all
//! the time and is soft state: it arrives as [`crate::scheduler::PoolStats`] with a command.

use std::collections::BTreeMap;

use crate::ids::{BackendName, PoolName, ZoneName};
use crate::units::Timestamp;

/// What an executor says about its backend when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendDescription {
    /// The host part of Cinder's `host@backend#pool`.
    pub host: Box<str>,
    /// Which driver: `directory`, `nfs`, `lvm`, `rbd`.
    pub driver: Box<str>,
    /// The zone that its volumes are in.
    pub availability_zone: ZoneName,
    /// Its pools.
    pub pools: Vec<PoolName>,
    /// Whether it reverts a volume to a snapshot by its own means.
    pub native_revert: bool,
    /// What volume types may ask for (`volume_backend_name`, `storage_protocol`, …).
    pub capabilities: BTreeMap<String, String>,
}

/// Prefix of the capabilities that say how volumes are reached: for answers to clients that attach,
/// and of no interest to volume types.
pub const EXPORT_PREFIX: &str = "export:";

/// Prefix of the capabilities that say which backends' objects the executor can read: those that the
/// same process serves. Of no interest to volume types either.
pub const READS_PREFIX: &str = "reads:";

/// The capability of a backend whose executor lends what it holds to be read by other executors.
pub const LENDS: &str = "loans:lends";

/// The capability of a backend whose executor can read what others lend.
pub const BORROWS: &str = "loans:borrows";

/// How servers reach volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportProtocol {
    /// Through a target of our own making.
    Iscsi,
    /// Straight from the Ceph cluster.
    Rbd,
    /// As a file of a mounted export.
    Nfs,
    /// As a file or device of the same host.
    Local,
}

impl ExportProtocol {
    /// The word for it in capabilities; Cinder's `driver_volume_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iscsi => "iscsi",
            Self::Rbd => "rbd",
            Self::Nfs => "nfs",
            Self::Local => "local",
        }
    }
}

impl BackendDescription {
    /// What it says about exports under a name.
    pub fn export(&self, name: &str) -> Option<&str> {
        self.capabilities.get(&format!("{EXPORT_PREFIX}{name}")).map(String::as_str)
    }

    /// Whether its executor can read by itself what is on a backend.
    pub fn reads(&self, backend: &BackendName) -> bool {
        self.capabilities.contains_key(&format!("{READS_PREFIX}{backend}"))
    }

    /// Whether its executor can read what the executor of another backend lends.
    pub fn borrows_from(&self, lender: &Self) -> bool {
        self.capabilities.contains_key(BORROWS) && lender.capabilities.contains_key(LENDS)
    }

    /// Says which backends its executor can read.
    #[must_use]
    pub fn reading<'a>(mut self, backends: impl IntoIterator<Item = &'a BackendName>) -> Self {
        let reads = backends.into_iter().map(|name| (format!("{READS_PREFIX}{name}"), "True".to_owned()));
        self.capabilities.extend(reads);
        self
    }

    /// How servers reach its volumes; nothing if they cannot.
    pub fn protocol(&self) -> Option<ExportProtocol> {
        let word = self.export("protocol")?;
        [ExportProtocol::Iscsi, ExportProtocol::Rbd, ExportProtocol::Nfs, ExportProtocol::Local]
            .into_iter()
            .find(|protocol| protocol.as_str() == word)
    }
}

/// What happens to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// An executor presented it, for the first time or changed.
    Registered(Box<BackendDescription>),
    /// New volumes may go there again.
    Enabled,
    /// No new volumes go there.
    Disabled {
        /// Why, if the operator said so.
        reason: Option<Box<str>>,
    },
    /// Nothing on it is changed, and no new volumes go there (Cinder's `freeze`).
    Frozen,
    /// It takes changes and new volumes again.
    Thawed,
}

/// What Cinder gives as the reason why a frozen backend is disabled.
pub const FROZEN_REASON: &str = "frozen";

/// A backend as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in the deployment.
    pub name: BackendName,
    /// What its executor says about it.
    pub description: BackendDescription,
    /// Whether new volumes may go there.
    pub enabled: bool,
    /// Whether changes on it are refused.
    pub frozen: bool,
    /// Why not enabled.
    pub disabled_reason: Option<Box<str>>,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
}

impl Backend {
    /// `host@backend`, as Cinder names the backend's service.
    pub fn service_host(&self) -> String {
        format!("{}@{}", self.description.host, self.name)
    }
}

/// What the ledger has placed on a pool: a fold over volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Number of volumes.
    pub volumes: i64,
    /// Their sizes together, in GiB.
    pub provisioned_gib: i64,
}
