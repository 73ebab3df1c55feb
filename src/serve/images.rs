//! The image store of the configuration: for executors to work with, and for the api to look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use reqwest::ClientBuilder;
use serde_json::Value;
use tephra_api::images::{CatalogError, ImageCatalog};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::ids::ImageId;
use tephra_domain::image::ImageFacts;
use tephra_executors::image::convert::Limits;
use tephra_executors::image::glance::GlanceStore;
use tephra_executors::image::plain::{DirectoryStore, HttpsStore};
use tephra_executors::image::upload::Uploads;
use tephra_executors::image::{Image, ImageError, ImageStore, Images, ImagesConfig};
use tephra_executors::process::Spawner;
use uuid::Uuid;

use crate::config::{Config, ImagesSection, StoreKind};
use crate::failure::{CommandResult, Exit, WithExit as _};

/// How long a store may take.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// To let us in.
    connect: Duration,
    /// To say anything, or to take anything of a file.
    idle: Duration,
    /// To answer once it has a file: its own storage may have to put parts together.
    answer: Duration,
}

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    answer: Duration::from_secs(10 * 60),
};

/// What Glance says of every image; all else are properties of this one.
const NO_PROPERTIES: &[&str] = &[
    "created_at",
    "direct_url",
    "file",
    "locations",
    "os_hidden",
    "owner",
    "protected",
    "schema",
    "self",
    "stores",
    "tags",
    "updated_at",
    "virtual_size",
    "visibility",
];

/// The store, if one is configured.
///
/// # Errors
/// If its certificate or its address cannot be used.
pub fn open_store(config: &Config) -> CommandResult<Option<Arc<dyn ImageStore>>> {
    open_store_within(TIMEOUTS, config)
}

fn open_store_within(timeouts: Timeouts, config: &Config) -> CommandResult<Option<Arc<dyn ImageStore>>> {
    let section = &config.images;
    Ok(match section.store {
        None => None,
        Some(StoreKind::Directory) => {
            Some(Arc::new(DirectoryStore::new(section.directory.clone().unwrap_or_default())))
        }
        Some(StoreKind::Https) => {
            Some(Arc::new(HttpsStore::new(asking(timeouts, section)?, address(section)?)))
        }
        Some(StoreKind::Glance) => {
            let uploads = Uploads {
                client: built(client(timeouts, section)?)?,
                idle_limit: timeouts.idle,
                answer_limit: timeouts.answer,
            };
            let (client, token_file) = (asking(timeouts, section)?, section.token_file.clone());
            Some(Arc::new(GlanceStore::new(client, uploads, address(section)?, token_file)))
        }
    })
}

fn address(section: &ImagesSection) -> CommandResult<reqwest::Url> {
    section.url.as_deref().unwrap_or_default().parse().context("images.url is no address").exit(Exit::Usage)
}

/// For requests whose answer is what takes time.
fn asking(timeouts: Timeouts, section: &ImagesSection) -> CommandResult<reqwest::Client> {
    built(client(timeouts, section)?.read_timeout(timeouts.idle))
}

fn built(client: ClientBuilder) -> CommandResult<reqwest::Client> {
    client.build().context("cannot speak to the image store").exit(Exit::Usage)
}

fn client(timeouts: Timeouts, section: &ImagesSection) -> CommandResult<ClientBuilder> {
    let mut builder = reqwest::Client::builder().connect_timeout(timeouts.connect);
    if let Some(file) = &section.ca_file {
        let pem = std::fs::read(file)
            .with_context(|| format!("cannot read images.ca_file {}", file.display()))
            .exit(Exit::Usage)?;
        let certificate = reqwest::Certificate::from_pem(&pem)
            .with_context(|| format!("images.ca_file {} holds no certificate", file.display()))
            .exit(Exit::Usage)?;
        builder = builder.add_root_certificate(certificate);
    }
    Ok(builder)
}

/// What executors do with images.
///
/// # Errors
/// If the directory for conversions cannot be used.
pub fn open_worker(config: &Config, store: Arc<dyn ImageStore>) -> CommandResult<Arc<Images>> {
    let section = &config.images;
    let directory =
        section.conversion_directory.clone().unwrap_or_else(|| config.data_dir.join("conversion"));
    let limits = Limits {
        time_limit: Duration::from_secs(section.conversion_timeout_s),
        memory_bytes: section.conversion_memory_mib.saturating_mul(1 << 20),
    };
    let images =
        Images::open(store, Arc::new(Spawner), ImagesConfig { directory: directory.clone(), limits });
    let images = images.with_context(|| format!("cannot use {} for conversions", directory.display()));
    Ok(Arc::new(images.exit(Exit::Error)?))
}

/// Shows the images of a store to clients.
pub struct Catalog(pub Arc<dyn ImageStore>);

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

#[async_trait]
impl ImageCatalog for Catalog {
    async fn image(&self, id: Uuid, asker: &Actor) -> Result<ImageFacts, CatalogError> {
        let image = self.0.image(id).await.map_err(|error| match error {
            ImageError::NotFound(_) | ImageError::NotAuthorized(_) => CatalogError::NotFound,
            ImageError::Unavailable(_)
            | ImageError::Unacceptable { .. }
            | ImageError::Unsupported(_)
            | ImageError::Conversion { .. }
            | ImageError::Local { .. } => CatalogError::Unavailable(error.to_string()),
        })?;
        if may_use(&image, asker) { Ok(facts(&image)) } else { Err(CatalogError::NotFound) }
    }
}

/// We ask the store as ourselves, who may see everything: what others may see is decided here. An
/// image without a word about it is for everybody; a shared one is for its owner alone.
fn may_use(image: &Image, asker: &Actor) -> bool {
    let text = |name: &str| image.rest.get(name).and_then(Value::as_str);
    let is_open = matches!(text("visibility"), None | Some("public" | "community"));
    is_open || asker.role == Role::Admin || text("owner") == Some(asker.project.as_str())
}

/// What the ledger keeps of an image (Cinder's `volume_image_metadata`).
fn facts(image: &Image) -> ImageFacts {
    let mut metadata: BTreeMap<String, String> = image
        .rest
        .iter()
        .filter(|(name, _)| !NO_PROPERTIES.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let mut put = |name: &str, value: Option<String>| {
        metadata.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("image_id", Some(image.id.to_string()));
    put("image_name", image.name.clone());
    put("checksum", image.checksum.clone());
    put("container_format", image.container_format.clone());
    put("disk_format", image.disk_format.clone());
    put("min_disk", Some(image.min_disk.to_string()));
    put("min_ram", Some(image.min_ram.to_string()));
    put("size", image.size.map(|size| size.to_string()));
    ImageFacts {
        id: ImageId::from_uuid(image.id),
        status: image.status.as_str().into(),
        size_bytes: image.size,
        min_disk_gib: image.min_disk,
        metadata,
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
