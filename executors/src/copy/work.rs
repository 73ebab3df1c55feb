//! Volumes that are made of what other backends hold: of this process, or of others that lend it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tephra_domain::backend::{BORROWS, BackendDescription, LENDS};
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_journal::loans::Loans;

use super::borrower::Borrowed;
use super::{Copier, Progress, Source, Target};
use crate::backend::Backend;
use crate::image::{self, Images};

/// The backends of this process, each of which can be made to read from the others, and from what the
/// executors of other processes lend.
#[derive(Clone)]
pub struct Neighbours {
    copier: Copier,
    backends: BTreeMap<BackendName, Arc<dyn Backend>>,
    /// The way to executors of other processes.
    loans: Option<Arc<dyn Loans>>,
    /// Whether this process lends to them.
    lends: bool,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("backends", &self.backends.keys()).finish_non_exhaustive()
    }
}

impl Neighbours {
    /// These backends, which an executor of this process can read by itself.
    pub fn new(copier: Copier, backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        let named = |backend: Arc<dyn Backend>| (backend.name().clone(), backend);
        Self { copier, backends: backends.into_iter().map(named).collect(), loans: None, lends: false }
    }

    /// Borrows from executors of other processes, and perhaps lends to them.
    #[must_use]
    pub fn among_others(self, loans: Arc<dyn Loans>, lends: bool) -> Self {
        Self { loans: Some(loans), lends, ..self }
    }

    /// A backend's description, with what its executor can read and whether it lends.
    pub fn described(&self, description: BackendDescription) -> BackendDescription {
        let mut description = description.reading(self.backends.keys());
        let said = [(LENDS, self.lends), (BORROWS, self.loans.is_some())];
        let said = said.into_iter().filter(|(_, is_so)| *is_so);
        description.capabilities.extend(said.map(|(name, _)| (name.to_owned(), "True".to_owned())));
        description
    }

    async fn copy(
        &self,
        source: BackendObject,
        from: &PoolId,
        target: Target<'_>,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<(), Failure> {
        let volume = target.volume;
        let copier = self.copier.clone().telling(progress);
        let copied = match (self.backends.get(&from.backend), &self.loans) {
            (Some(backend), _) => {
                let content = backend.content(&from.pool, source).await?;
                copier.copy(Source::Here(&content), target).await?
            }
            (None, Some(loans)) => {
                let borrowed = Borrowed::begin(Arc::clone(loans), from.clone(), source).await?;
                let copied = copier.copy(Source::Lent(&borrowed), target).await;
                borrowed.give_back().await;
                copied?
            }
            (None, None) => {
                let message = format!("{source} is on {from}, and the executor of that backend is another");
                return Err(Failure::new(FailureKind::Unsupported, message));
            }
        };
        tracing::info!(%volume, %source, %from, ?copied, "copied from another pool");
        Ok(())
    }
}

/// Has an effect performed: by what it is about where that is more than the backend, and by the backend
/// otherwise. `progress` hears how far it has come, where it goes in stretches: of copies from other
/// backends. A conversion of an image is one run of `qemu-img`.
///
/// # Errors
/// Why it does not hold.
pub async fn act(
    backend: &dyn Backend,
    images: Option<&Images>,
    neighbours: Option<&Neighbours>,
    pool: &PoolName,
    effect: &Effect,
    progress: Option<Arc<dyn Progress>>,
) -> Result<(), Failure> {
    match (neighbours, effect) {
        (Some(neighbours), Effect::CopyVolume { volume, size, from, source }) => {
            let target = Target { backend, pool, volume: *volume, size: *size };
            neighbours.copy(*source, from, target, progress).await
        }
        (Some(_) | None, effect) => image::act(backend, images, pool, effect).await,
    }
}
