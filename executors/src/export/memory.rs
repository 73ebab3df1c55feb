//! Exports that are only remembered. A fake, for tests and the simulator.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{Export, Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, VolumeId};

use super::Exporter;

#[derive(Default)]
struct Daemon {
    life: u64,
    is_down: bool,
    exports: BTreeMap<AttachmentId, (PathBuf, Export)>,
}

/// The fake. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct MemoryExporter {
    daemon: Arc<Mutex<Daemon>>,
}

impl MemoryExporter {
    /// What is exported now, and from where.
    pub fn exports(&self) -> BTreeMap<AttachmentId, (PathBuf, Export)> {
        self.lock().exports.clone()
    }

    /// Loses all exports, as a daemon that is killed and started again.
    pub fn restart(&self) {
        let mut daemon = self.lock();
        daemon.life = daemon.life.saturating_add(1);
        daemon.exports.clear();
    }

    /// Says whether it answers.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    fn lock(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, Daemon>, Failure> {
        let daemon = self.lock();
        if daemon.is_down {
            return Err(Failure::new(FailureKind::BackendUnavailable, "the export daemon does not answer"));
        }
        Ok(daemon)
    }
}

#[async_trait]
impl Exporter for MemoryExporter {
    fn facts(&self) -> BTreeMap<String, String> {
        [("portal", "192.0.2.1:3260"), ("iqn_prefix", "iqn.2010-10.org.openstack:")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    async fn export(&self, source: &Path, _volume: VolumeId, export: &Export) -> Result<(), Failure> {
        self.up()?.exports.insert(export.attachment, (source.to_owned(), export.clone()));
        Ok(())
    }

    async fn unexport(&self, attachment: AttachmentId) -> Result<(), Failure> {
        self.up()?.exports.remove(&attachment);
        Ok(())
    }

    async fn is_written(&self, source: &Path) -> Result<bool, Failure> {
        let is_so =
            |(from, export): &(PathBuf, Export)| from == source && export.mode == AttachMode::ReadWrite;
        Ok(self.up()?.exports.values().any(is_so))
    }

    async fn incarnation(&self) -> Result<String, Failure> {
        Ok(self.up()?.life.to_string())
    }
}
