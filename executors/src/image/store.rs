//! Where images are: what a store must do, and what is known of an image.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::image::NewImage;
use uuid::Uuid;

/// An image, as Glance v2 shows it (`GET /v2/images/{id}`). What is not named here is in `rest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: Uuid,
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// `active` once its data is there.
    pub status: String,
    /// Bytes of its file.
    #[serde(default)]
    pub size: Option<u64>,
    /// GiB that a volume needs at least.
    #[serde(default)]
    pub min_disk: u32,
    /// MiB that a server needs at least.
    #[serde(default)]
    pub min_ram: u32,
    /// How the file is to be read: `raw`, `qcow2`, …
    #[serde(default)]
    pub disk_format: Option<String>,
    /// `bare`, unless the disk is wrapped in something.
    #[serde(default)]
    pub container_format: Option<String>,
    /// MD5 of the file, in hexadecimal.
    #[serde(default)]
    pub checksum: Option<String>,
    /// What `os_hash_value` was made with: `sha512`, mostly.
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    /// The file's hash, in hexadecimal.
    #[serde(default)]
    pub os_hash_value: Option<String>,
    /// All else that the store says, properties among them.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Image {
    /// Where the store keeps its file, as far as it says: `locations` of a Glance that shows several,
    /// otherwise its `direct_url`.
    pub fn locations(&self) -> Vec<String> {
        let text = |url: &Value| url.as_str().map(ToOwned::to_owned);
        let several = self.rest.get("locations").and_then(Value::as_array).into_iter().flatten();
        let several: Vec<String> = several.filter_map(|location| text(location.get("url")?)).collect();
        if several.is_empty() {
            self.rest.get("direct_url").and_then(text).into_iter().collect()
        } else {
            several
        }
    }
}

/// Why a store did not do what was asked. Holds no secret and no address.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such image, or it is not to be seen.
    #[error("Image {0} could not be found.")]
    NotFound(Uuid),
    /// The store does not let us.
    #[error("Not authorized for image {0}.")]
    NotAuthorized(Uuid),
    /// The store cannot be reached, or answers with an error of its own.
    #[error("the image store does not answer: {0}")]
    Unavailable(String),
    /// What the store says of the image, or its file, is not so.
    #[error("Image {image} is unacceptable: {reason}")]
    Unacceptable {
        /// Which.
        image: Uuid,
        /// What is wrong.
        reason: String,
    },
    /// Stores of this kind cannot do that.
    #[error("the image store cannot {0}")]
    Unsupported(&'static str),
    /// Filling a volume, or reading one, failed for a reason that is not the image's.
    #[error("{reason}")]
    Conversion {
        /// On which it rests whether it is tried again.
        kind: FailureKind,
        /// For people.
        reason: String,
    },
    /// The local side failed.
    #[error("{what}: {source}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl ImageError {
    /// An image that is not what it should be.
    pub fn unacceptable(image: Uuid, reason: impl Into<String>) -> Self {
        Self::Unacceptable { image, reason: reason.into() }
    }

    /// A failure of the local file system.
    pub const fn local(what: &'static str, source: std::io::Error) -> Self {
        Self::Local { what, source }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::NotFound(_) => FailureKind::ObjectMissing,
            ImageError::NotAuthorized(_) | ImageError::Unacceptable { .. } => FailureKind::Mismatch,
            ImageError::Unavailable(_) => FailureKind::BackendUnavailable,
            ImageError::Unsupported(_) => FailureKind::Unsupported,
            ImageError::Conversion { kind, .. } => *kind,
            ImageError::Local { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                FailureKind::NoSpace
            }
            ImageError::Local { .. } => FailureKind::BackendError,
        };
        Self::new(kind, error.to_string())
    }
}

/// Keeps images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// What is known of an image.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; if the store does not answer.
    async fn image(&self, id: Uuid) -> Result<Image, ImageError>;

    /// Writes an image's file to a path, at most `limit_bytes`, and compares it with the size and
    /// the hash that the store gave for it.
    ///
    /// # Errors
    /// [`ImageError::Unacceptable`] if they differ; if the store does not answer.
    async fn fetch(&self, image: &Image, to: &Path, limit_bytes: u64) -> Result<(), ImageError>;

    /// Makes an image of a file. If it is there already, with its data, nothing happens.
    ///
    /// # Errors
    /// If the store does not take it.
    async fn publish(&self, image: &NewImage, from: &Path) -> Result<(), ImageError>;

    /// Makes sure that there is no such image.
    ///
    /// # Errors
    /// If the store does not answer, or does not let us.
    async fn remove(&self, id: Uuid) -> Result<(), ImageError>;
}
