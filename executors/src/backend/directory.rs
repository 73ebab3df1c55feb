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
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use tephra_domain::backend::{BackendDescription, ExportProtocol};
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolName, ZoneName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;
use tokio_util::sync::CancellationToken;

use self::files::{Files, Refusal};
pub use self::files::{Nobody, Witness};
use self::loops::LoopDevices;
use self::plan::{Action, Observed};
use super::{Backend, Content};
use crate::export;

pub(crate) mod copy;
mod files;
mod lock;
mod loops;
mod plan;

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
    /// Where the kernel shows this host's loop devices, which may have files open: `/sys/block`.
    pub block_devices: PathBuf,
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
            block_devices: PathBuf::from("/sys/block"),
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
    served: Arc<Served>,
}

/// What the blocking side needs.
struct Served {
    files: Files,
    /// The lengths of all volumes together, kept up to date instead of counted anew.
    volume_bytes: AtomicI64,
}

impl DirectoryBackend {
    /// Makes the directory if need be, takes its lock, and sweeps away what a crash left unfinished.
    ///
    /// # Errors
    /// If another process serves the directory, or it cannot be written.
    pub fn open(config: DirectoryConfig) -> Result<Self, OpenError> {
        Self::open_before(config, Arc::new(Nobody))
    }

    /// The same, before a witness of every change.
    ///
    /// # Errors
    /// As [`DirectoryBackend::open`].
    pub fn open_before(config: DirectoryConfig, witness: Arc<dyn Witness>) -> Result<Self, OpenError> {
        let directory = || config.directory.clone();
        let loops = LoopDevices::in_directory(&config.block_devices);
        let opened = Files::open(&config.directory, config.file_mode, loops, witness);
        let files = opened.map_err(|refusal| match refusal {
            Refusal::Taken => OpenError::Taken { directory: directory() },
            Refusal::Io(source) => OpenError::Unusable { directory: directory(), source },
        })?;
        let sweep = files.sweep().map_err(|source| OpenError::Unusable { directory: directory(), source })?;
        if sweep.removed > 0 {
            tracing::info!(backend = %config.name, files = sweep.removed, "removed what a crash left unfinished");
        }
        let volume_bytes = AtomicI64::new(signed(sweep.volume_bytes));
        Ok(Self { config: Arc::new(config), served: Arc::new(Served { files, volume_bytes }) })
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &DirectoryConfig {
        &self.config
    }

    fn capabilities(&self) -> BTreeMap<String, String> {
        let mut capabilities = super::capabilities(&self.config.name, self.config.driver.protocol());
        if let Driver::Nfs { export } = &self.config.driver {
            capabilities.insert("export".to_owned(), export.clone());
        }
        capabilities
    }

    /// How hosts that attach reach the files.
    fn how_to_reach(&self) -> Vec<(String, String)> {
        let directory = || self.absolute_directory().map(|path| path.display().to_string()).ok();
        match &self.config.driver {
            Driver::Nfs { export } => {
                export::capabilities(ExportProtocol::Nfs, [("share", export.clone())]).collect()
            }
            Driver::Directory => {
                let facts = directory().map(|directory| ("directory", directory));
                export::capabilities(ExportProtocol::Local, facts).collect()
            }
        }
    }

    fn absolute_directory(&self) -> Result<PathBuf, Failure> {
        std::path::absolute(&self.config.directory)
            .map_err(|error| Failure::new(FailureKind::BackendError, error.to_string()))
    }

    /// Runs something that blocks. It is told to stop when the caller no longer waits for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served, &dyn Fn() -> bool) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let served = Arc::clone(&self.served);
        let waiting = CancellationToken::new();
        let _stop_when_dropped = waiting.clone().drop_guard();
        match tokio::task::spawn_blocking(move || work(&served, &|| !waiting.is_cancelled())).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Failure::new(FailureKind::BackendUnavailable, "the executor is stopping")),
        }
    }
}

impl Driver {
    const fn name(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Nfs { .. } => "nfs",
        }
    }

    const fn protocol(&self) -> &'static str {
        match self {
            Self::Directory => "file",
            Self::Nfs { .. } => "nfs",
        }
    }
}

impl Served {
    fn perform(&self, effect: &Effect, go_on: &dyn Fn() -> bool) -> Result<(), Failure> {
        self.files.check_alive()?;
        let target = effect.target();
        let source = plan::source_of(effect);
        let before = self.files.observe(target)?;
        let observed = Observed {
            target: before,
            source: source.map(|object| self.files.observe(object)).transpose()?.flatten(),
            outside: effect.outside_name().map(|name| self.files.observe_name(name)).transpose()?.flatten(),
        };
        let action = plan::plan(effect, observed)?;
        self.act(target, source, effect.outside_name().unwrap_or_default(), action, go_on)?;
        if let BackendObject::Volume(_) = target {
            self.count(before, action);
        }
        Ok(())
    }

    fn act(
        &self,
        target: BackendObject,
        source: Option<BackendObject>,
        outside: &str,
        action: Action,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        // plans with a copy are made from effects with a source
        let source = source.unwrap_or(target);
        match action {
            Action::Nothing => Ok(()),
            Action::MakeDurable => self.files.make_durable(target),
            Action::CreateBlank { bytes } => self.files.create_blank(target, bytes),
            Action::CreateCopy { bytes } => self.files.create_copy(target, source, bytes, go_on),
            Action::ReplaceByCopy { bytes } => self.files.replace_by_copy(target, source, bytes, go_on),
            Action::Lengthen { bytes } => self.files.lengthen(target, bytes),
            Action::CutZeroes { bytes } => self.files.cut_zeroes(target, bytes),
            Action::Remove => self.files.remove(target),
            Action::TakeOver { bytes } => {
                self.files.rename(outside, &target.to_string())?;
                self.files.lengthen(target, bytes)
            }
            Action::GiveUp => self.files.rename(&target.to_string(), outside),
        }
    }

    fn count(&self, before: Option<u64>, action: Action) {
        let before = before.unwrap_or(0);
        let after = match action {
            Action::Nothing | Action::MakeDurable => before,
            Action::CreateBlank { bytes }
            | Action::CreateCopy { bytes }
            | Action::ReplaceByCopy { bytes }
            | Action::Lengthen { bytes }
            | Action::CutZeroes { bytes }
            | Action::TakeOver { bytes } => bytes,
            Action::Remove | Action::GiveUp => 0,
        };
        self.volume_bytes.fetch_add(signed(after).saturating_sub(signed(before)), Ordering::Relaxed);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for the scheduler; file systems are below 2^53 KiB")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[async_trait]
impl Backend for DirectoryBackend {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        BackendDescription {
            host: self.config.host.as_str().into(),
            driver: self.config.driver.name().into(),
            availability_zone: self.config.availability_zone.clone(),
            pools: vec![self.config.pool.clone()],
            native_revert: self.config.native_revert,
            capabilities: self.capabilities().into_iter().chain(self.how_to_reach()).collect(),
        }
    }

    fn is_taken_over(&self) -> bool {
        self.served.files.lock.is_lost()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let (total, free) = self
            .blocking(|served, _| {
                served.files.check_alive()?;
                served.files.space().map_err(|error| {
                    Failure::new(
                        FailureKind::BackendUnavailable,
                        format!("no figures of the file system: {error}"),
                    )
                })
            })
            .await?;
        let provisioned = u64::try_from(self.served.volume_bytes.load(Ordering::Relaxed)).unwrap_or(0);
        Ok(vec![PoolStats {
            pool: super::pool_id(&self.config.name, &self.config.pool),
            is_up: true,
            total_gib: gib(total),
            free_gib: gib(free),
            provisioned_gib: gib(provisioned),
            max_over_subscription_ratio: self.config.max_over_subscription_ratio,
            reserved_percentage: self.config.reserved_percentage,
            thin: true,
            capabilities: self.capabilities(),
            reported_at: now,
        }])
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        if *pool != self.config.pool {
            let message = format!("{} has no pool {pool}", self.config.name);
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        let effect = effect.clone();
        self.blocking(move |served, go_on| served.perform(&effect, go_on)).await
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        if *pool != self.config.pool {
            let message = format!("{} has no pool {pool}", self.config.name);
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        let path = self.config.directory.join(object.to_string());
        self.blocking(move |served, _| {
            served.files.check_alive()?;
            let is_there = served.files.observe(object)?.is_some();
            let missing = || Failure::new(FailureKind::ObjectMissing, format!("{object} is not there"));
            is_there.then_some(Content { location: path.into() }).ok_or_else(missing)
        })
        .await
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        true
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        if *pool != self.config.pool {
            let message = format!("{} has no pool {pool}", self.config.name);
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        self.blocking(|served, _| {
            served.files.check_alive()?;
            served.files.list()
        })
        .await
    }
}
