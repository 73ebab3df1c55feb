//! Making volumes reachable for the hosts that attach them.
//!
//! A backend whose volumes every host reaches by itself (RBD, NFS, a directory of the same host)
//! needs none of this: its description says how, and the effects are done once the volume is there.
//! For the others, [`Exporting`] puts an [`Exporter`] before the backend: it performs the effects
//! about exports, once the backend has made the volume ready, and leaves all others to the backend.
//!
//! A file that hosts write to must not be copied piece by piece: the copy would hold what the volume
//! never held. Daemons take no locks on files that a backend could see, so [`Exporting`] takes them
//! for them while it has one copied ([`copying`]).
//!
//! * [`tgt`]: iSCSI targets by tgtd, one for each attachment.
//! * [`memory`]: exports that are only remembered, for tests and the simulator.
//! * [`conformance`]: what every exporter must show.

pub mod conformance;
mod copying;
pub mod memory;
pub mod tgt;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tephra_domain::backend::{BackendDescription, EXPORT_PREFIX, ExportProtocol};
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{BackendObject, Effect, Export, Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, BackendName, PoolName, VolumeId};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};

use self::copying::Copies;
use crate::backend::{Backend, Content};
use crate::runner::limits::EffectLimits;

/// Makes and removes exports. Idempotent, like a backend: it looks first, and a crash at any point
/// is repaired by the same call again.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// What clients must know of all its exports, by [`tephra_domain::backend`]'s names without
    /// their prefix.
    fn facts(&self) -> BTreeMap<String, String>;

    /// The volume whose data is at `source` can be reached by one host, in its present size.
    async fn export(&self, source: &Path, volume: VolumeId, export: &Export) -> Result<(), Failure>;

    /// Nobody reaches anything through this attachment any more.
    async fn unexport(&self, attachment: AttachmentId) -> Result<(), Failure>;

    /// Whether any host may write to the data at `source` through an export, whole or half made. Who
    /// cannot tell says yes.
    async fn is_written(&self, _source: &Path) -> Result<bool, Failure> {
        Ok(true)
    }

    /// Names the present life of whatever holds the exports: after a restart, which loses them, it
    /// is another one.
    async fn incarnation(&self) -> Result<String, Failure>;
}

/// A backend behind an exporter.
pub struct Exporting {
    backend: Arc<dyn Backend>,
    exporter: Arc<dyn Exporter>,
    copies: Copies,
}

impl Exporting {
    /// Puts the exporter before the backend.
    pub fn new(backend: Arc<dyn Backend>, exporter: Arc<dyn Exporter>) -> Self {
        Self { backend, exporter, copies: Copies::of_files() }
    }

    /// The same for a backend whose volumes are no files. Nothing here waits for a thread then, and a
    /// simulated run can be repeated.
    pub fn in_memory(backend: Arc<dyn Backend>, exporter: Arc<dyn Exporter>) -> Self {
        Self { backend, exporter, copies: Copies::of_memory() }
    }

    async fn source(&self, pool: &PoolName, object: BackendObject) -> Result<PathBuf, Failure> {
        let Content { location } = self.backend.content(pool, object).await?;
        std::path::absolute(&location)
            .map_err(|error| Failure::new(FailureKind::Unsupported, error.to_string()))
    }

    /// Has the backend copy what a volume holds now.
    async fn copy_of(&self, pool: &PoolName, volume: BackendObject, effect: &Effect) -> Result<(), Failure> {
        // one that is not there is for the backend to refuse
        let Ok(source) = self.source(pool, volume).await else {
            return self.backend.perform(pool, effect).await;
        };
        // whoever does not answer may well be at work
        let is_written = self.exporter.is_written(&source).await.unwrap_or(true);
        let copying = self.copies.begin(&source, is_written).await?;
        let performed = self.backend.perform(pool, effect).await;
        copying.end().await;
        performed
    }
}

/// The capability that says how volumes are reached, and others that belong to it.
pub(crate) fn capabilities<'a>(
    protocol: ExportProtocol,
    facts: impl IntoIterator<Item = (&'a str, String)>,
) -> impl Iterator<Item = (String, String)> {
    let facts: Vec<_> =
        facts.into_iter().map(|(name, value)| (format!("{EXPORT_PREFIX}{name}"), value)).collect();
    std::iter::once((format!("{EXPORT_PREFIX}protocol"), protocol.as_str().to_owned())).chain(facts)
}

#[async_trait]
impl Backend for Exporting {
    fn name(&self) -> &BackendName {
        self.backend.name()
    }

    fn description(&self) -> BackendDescription {
        let mut description = self.backend.description();
        description.capabilities.retain(|name, _| !name.starts_with(EXPORT_PREFIX));
        let facts = self.exporter.facts();
        let facts = facts.iter().map(|(name, value)| (name.as_str(), value.clone()));
        description.capabilities.extend(capabilities(ExportProtocol::Iscsi, facts));
        description.capabilities.insert("storage_protocol".to_owned(), "iSCSI".to_owned());
        description
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let mut stats = self.backend.stats(now).await?;
        for pool in &mut stats {
            pool.capabilities.insert("storage_protocol".to_owned(), "iSCSI".to_owned());
        }
        Ok(stats)
    }

    fn is_taken_over(&self) -> bool {
        self.backend.is_taken_over()
    }

    fn is_shared(&self) -> bool {
        self.backend.is_shared()
    }

    fn limits(&self) -> EffectLimits {
        self.backend.limits()
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        match effect {
            Effect::ExportVolume { volume, export } => {
                // what an attempt has left half-done on the volume is finished before a host writes to it
                self.backend.perform(pool, effect).await?;
                let source = self.source(pool, *volume).await?;
                self.copies.refuse_if_copied(&source).await?;
                self.exporter.export(&source, volume.volume(), export).await
            }
            Effect::UnexportVolume { attachment, .. } => self.exporter.unexport(*attachment).await,
            Effect::CreateSnapshot { snapshot } => {
                self.copy_of(pool, BackendObject::Volume(snapshot.volume()), effect).await
            }
            Effect::CloneVolume { source, .. } => self.copy_of(pool, *source, effect).await,
            Effect::CreateVolume { .. }
            | Effect::CreateVolumeFromImage { .. }
            | Effect::UploadImage { .. }
            | Effect::RemoveImage { .. }
            | Effect::CreateVolumeFromSnapshot { .. }
            | Effect::CopyVolume { .. }
            | Effect::DeleteVolume { .. }
            | Effect::ExtendVolume { .. }
            | Effect::ShrinkVolume { .. }
            | Effect::DeleteSnapshot { .. }
            | Effect::RevertToSnapshot { .. }
            | Effect::OverwriteVolume { .. }
            | Effect::Verify { .. }
            | Effect::Adopt { .. }
            | Effect::Disown { .. } => self.backend.perform(pool, effect).await,
        }
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        self.backend.new_volumes_hold_zeroes()
    }

    async fn zero_beyond(&self, pool: &PoolName, volume: BackendObject, bytes: u64) -> Result<(), Failure> {
        self.backend.zero_beyond(pool, volume, bytes).await
    }

    async fn clone_image(
        &self,
        pool: &PoolName,
        volume: BackendObject,
        size: SizeGib,
        locations: &[String],
    ) -> Result<bool, Failure> {
        self.backend.clone_image(pool, volume, size, locations).await
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        self.backend.list(pool).await
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        self.backend.content(pool, object).await
    }

    fn exporter(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::clone(&self.exporter))
    }
}
