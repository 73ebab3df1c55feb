//! What the api asks of an image store: to see an image before a volume is made of it.

use async_trait::async_trait;
use tephra_domain::actor::Actor;
use tephra_domain::image::ImageFacts;
use uuid::Uuid;

use crate::error::Fault;
use crate::state::AppState;

/// Why an image cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is none, or it is not for whoever asks.
    #[error("no such image, or not for the asker")]
    NotFound,
    /// The store does not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// Shows images.
#[async_trait]
pub trait ImageCatalog: std::fmt::Debug + Send + Sync {
    /// An image that the asker may use.
    ///
    /// # Errors
    /// If there is none, or the store does not answer.
    async fn image(&self, id: Uuid, asker: &Actor) -> Result<ImageFacts, CatalogError>;
}

impl AppState {
    /// The image that a client refers to: by its id, or by an address that ends with it, as Nova
    /// writes them (`_image_uuid_from_ref` of Cinder).
    ///
    /// # Errors
    /// 400 if there is no such image for this asker; 503 if its store does not answer.
    pub async fn image(&self, reference: &str, asker: &Actor) -> Result<ImageFacts, Fault> {
        let Some(catalog) = &self.settings.images else {
            return Err(Fault::bad_request("Creating a volume from an image needs an image store."));
        };
        let unknown = || Fault::bad_request("Invalid image identifier or unable to access requested image.");
        let id = reference.rsplit('/').next().and_then(|id| Uuid::parse_str(id).ok()).ok_or_else(unknown)?;
        catalog.image(id, asker).await.map_err(|error| match error {
            CatalogError::NotFound => unknown(),
            CatalogError::Unavailable(reason) => {
                tracing::warn!(%reason, image = %id, "the image store does not answer");
                Fault::unavailable("The image store is not available at the moment. Please try again.")
            }
        })
    }
}
