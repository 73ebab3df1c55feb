//! Volumes as sparse raw files in a directory: the `directory` backend, and on an NFS mount the
//! `nfs` backend.
//!
//! Files are named as Cinder names its objects (`volume-<id>`, `snapshot-<id>`), plus
//! `safety-<operation>` and `temporary-<operation>` for what lives as long as an operation. Nothing
//! else in the directory is ever touched.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::effect::{Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolName, ZoneName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;

use super::Backend;

/// Which of the two drivers serves a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A local file system.
    Directory,
    /// A mounted NFS export.
    Nfs {
        /// What is mounted there (`server:/path`), as clients will mount it too.
        export: String,
    },
}

/// A directory as a backend.
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// Unique in the deployment.
    pub name: BackendName,
    /// The host part of Cinder's `host@backend#pool`.
    pub host: String,
    /// Where the files are.
    pub directory: PathBuf,
    /// Local or NFS.
    pub driver: Driver,
    /// The zone that its volumes are in.
    pub availability_zone: ZoneName,
    /// Its only pool; mostly named as the backend, as Cinder does.
    pub pool: PoolName,
    /// How much more than the file system's size may be provisioned (Cinder's default: 20).
    pub max_over_subscription_ratio: f64,
    /// Per cent of the file system that is never given away.
    pub reserved_percentage: u8,
    /// Permission bits of new files.
    pub file_mode: u32,
    /// Whether the ledger may use `RevertToSnapshot`; without, it copies through a temporary volume.
    pub native_revert: bool,
}

impl DirectoryConfig {
    /// A local directory with every setting at its default: pool named as the backend, zone
    /// `nova`, ratio 20, nothing reserved, files for the owner alone, native revert.
    pub fn new(name: BackendName, host: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            pool: PoolName::new(name.as_str()),
            name,
            host: host.into(),
            directory: directory.into(),
            driver: Driver::Directory,
            availability_zone: ZoneName::new("nova"),
            max_over_subscription_ratio: 20.0,
            reserved_percentage: 0,
            file_mode: 0o600,
            native_revert: true,
        }
    }
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error("{directory} is served by another process, which holds its lock file")]
    Taken {
        /// The directory.
        directory: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("{directory} cannot be used for volumes: {source}")]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The backend.
pub struct DirectoryBackend {
    config: Arc<DirectoryConfig>,
}

impl DirectoryBackend {
    /// Makes the directory if need be, takes its lock, and sweeps away what a crash left unfinished.
    ///
    /// # Errors
    /// If another process serves the directory, or it cannot be written.
    pub fn open(config: DirectoryConfig) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Unusable { directory: config.directory.clone(), source };
        std::fs::create_dir_all(&config.directory).map_err(unusable)?;
        Ok(Self { config: Arc::new(config) })
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &DirectoryConfig {
        &self.config
    }
}

#[async_trait]
impl Backend for DirectoryBackend {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        BackendDescription {
            host: self.config.host.as_str().into(),
            driver: "directory".into(),
            availability_zone: self.config.availability_zone.clone(),
            pools: vec![self.config.pool.clone()],
            native_revert: self.config.native_revert,
            capabilities: BTreeMap::new(),
        }
    }

    async fn stats(&self, _now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        Ok(Vec::new())
    }

    async fn perform(&self, _pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Unsupported, effect.name()))
    }
}
