//! Volumes that are made of what other backends of this process hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};

use super::{Copier, Target};
use crate::backend::Backend;
use crate::image::{self, Images};

/// The backends of this process, each of which can be made to read from the others.
#[derive(Clone)]
pub struct Neighbours {
    copier: Copier,
    backends: BTreeMap<BackendName, Arc<dyn Backend>>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("backends", &self.backends.keys()).finish_non_exhaustive()
    }
}

impl Neighbours {
    /// These backends, which are all that an executor of this process can read.
    pub fn new(copier: Copier, backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        let named = |backend: Arc<dyn Backend>| (backend.name().clone(), backend);
        Self { copier, backends: backends.into_iter().map(named).collect() }
    }

    /// What can be read.
    pub fn names(&self) -> impl Iterator<Item = &BackendName> {
        self.backends.keys()
    }

    async fn copy(&self, source: BackendObject, from: &PoolId, target: Target<'_>) -> Result<(), Failure> {
        let Some(backend) = self.backends.get(&from.backend) else {
            let message = format!("{source} is on {from}, and the executor of that backend is another");
            return Err(Failure::new(FailureKind::Unsupported, message));
        };
        let content = backend.content(&from.pool, source).await?;
        let volume = target.volume;
        let copied = self.copier.copy(&content, target).await?;
        tracing::info!(%volume, %source, %from, ?copied, "copied from another pool");
        Ok(())
    }
}

/// Has an effect performed: by what it is about where that is more than the backend, and by the backend
/// otherwise.
///
/// # Errors
/// Why it does not hold.
pub async fn act(
    backend: &dyn Backend,
    images: Option<&Images>,
    neighbours: Option<&Neighbours>,
    pool: &PoolName,
    effect: &Effect,
) -> Result<(), Failure> {
    match (neighbours, effect) {
        (Some(neighbours), Effect::CopyVolume { volume, size, from, source }) => {
            let target = Target { backend, pool, volume: *volume, size: *size };
            neighbours.copy(*source, from, target).await
        }
        (Some(_) | None, effect) => image::act(backend, images, pool, effect).await,
    }
}
