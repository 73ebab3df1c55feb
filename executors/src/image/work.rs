//! An image into a volume, and a volume into an image.
//!
//! A volume is filled in place. Nobody sees it before its operation has ended, an attempt that died is
//! begun anew over what it left, and the ledger lets nobody declare a volume filled whose creation
//! never completed: no half-written volume is ever taken for a whole one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::PoolName;
use tephra_domain::image::NewImage;
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::convert::{Limits, QemuImg};
use super::header::Format;
use super::store::{Image, ImageError, ImageStore};
use crate::backend::Backend;
use crate::process::Launcher;

/// How images are worked on.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// Where files lie while they are converted (Cinder's `image_conversion_dir`). Ours alone: what
    /// is in it at the start is swept away.
    pub directory: PathBuf,
    /// Bounds on a conversion.
    pub limits: Limits,
}

/// Does the work.
pub struct Images {
    store: Arc<dyn ImageStore>,
    qemu_img: QemuImg,
    directory: PathBuf,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A file that goes when it is no longer looked at.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary file stays behind");
        }
    }
}

impl Images {
    /// Prepares the directory, and sweeps away what a crash left there.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(
        store: Arc<dyn ImageStore>,
        launcher: Arc<dyn Launcher>,
        config: ImagesConfig,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.directory)?;
        for entry in std::fs::read_dir(&config.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "image") {
                std::fs::remove_file(path)?;
            }
        }
        let qemu_img = QemuImg::new(launcher, config.limits);
        Ok(Self { store, qemu_img, directory: config.directory })
    }

    fn temporary(&self, object: BackendObject) -> Temporary {
        Temporary(self.directory.join(format!("{object}.image")))
    }

    /// A volume of this size exists and holds the image's disk, zeroes beyond.
    ///
    /// # Errors
    /// If the image is not there or not acceptable, or the backend fails.
    pub async fn create_volume(
        &self,
        backend: &dyn Backend,
        pool: &PoolName,
        volume: BackendObject,
        size: SizeGib,
        image: Uuid,
    ) -> Result<(), Failure> {
        let image = self.store.image(image).await?;
        let format = readable(&image)?;
        // the bytes of the image are to be those of the volume
        if image.disk_format.as_deref() == Some("raw")
            && backend.clone_image(pool, volume, size, &image.locations()).await?
        {
            return Ok(());
        }
        let file = self.temporary(volume);
        self.store.fetch(&image, &file.0, size.bytes()).await?;
        let disk_bytes = self.qemu_img.look(image.id, format, &file.0).await?;
        if disk_bytes > size.bytes() {
            let reason = format!("its disk has {disk_bytes} bytes, more than a volume of {size} GiB");
            return Err(ImageError::unacceptable(image.id, reason).into());
        }
        backend.perform(pool, &Effect::CreateVolume { volume, size }).await?;
        backend.zero_beyond(pool, volume, disk_bytes).await?;
        let content = backend.content(pool, volume).await?;
        self.qemu_img.into_volume(image.id, format, &file.0, disk_bytes, &content).await?;
        Ok(())
    }

    /// The image exists and holds the volume's data.
    ///
    /// # Errors
    /// If the volume cannot be read, or the store does not take the image.
    pub async fn upload_volume(
        &self,
        backend: &dyn Backend,
        pool: &PoolName,
        volume: BackendObject,
        image: &NewImage,
    ) -> Result<(), Failure> {
        let format = Format::declared(&image.disk_format).ok_or_else(|| {
            Failure::new(FailureKind::Unsupported, format!("no image is written as {}", image.disk_format))
        })?;
        let content = backend.content(pool, volume).await?;
        let file = self.temporary(volume);
        self.qemu_img.from_volume(&content, format, &file.0).await?;
        self.store.publish(image, &file.0).await?;
        Ok(())
    }

    /// The image is not there.
    ///
    /// # Errors
    /// If the store does not let go of it.
    pub async fn remove(&self, image: Uuid) -> Result<(), Failure> {
        Ok(self.store.remove(image).await?)
    }

    /// Where its files lie meanwhile.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Has an effect performed: by the image side where it is about an image, by the backend otherwise.
///
/// # Errors
/// Why it does not hold.
pub async fn act(
    backend: &dyn Backend,
    images: Option<&Images>,
    pool: &PoolName,
    effect: &Effect,
) -> Result<(), Failure> {
    match (images, effect) {
        (Some(images), Effect::CreateVolumeFromImage { volume, size, image }) => {
            images.create_volume(backend, pool, *volume, *size, image.as_uuid()).await
        }
        (Some(images), Effect::UploadImage { volume, image }) => {
            images.upload_volume(backend, pool, *volume, image).await
        }
        (Some(images), Effect::RemoveImage { image, .. }) => images.remove(image.as_uuid()).await,
        (Some(_) | None, effect) => backend.perform(pool, effect).await,
    }
}

/// The format to read an image in, if it can be read at all.
fn readable(image: &Image) -> Result<Format, ImageError> {
    if image.status != "active" {
        return Err(ImageError::unacceptable(image.id, format!("it is {}, not active", image.status)));
    }
    // qemu reads zeroes where a file has lost its end: somebody has to say where that is
    if image.size.is_none() && image.checksum.is_none() && image.os_hash_value.is_none() {
        return Err(ImageError::unacceptable(image.id, "its store gives neither its size nor a hash of it"));
    }
    if let Some(container) = image.container_format.as_deref().filter(|format| *format != "bare") {
        return Err(ImageError::unacceptable(image.id, format!("its container format is {container}")));
    }
    let declared = image.disk_format.as_deref().unwrap_or_default();
    Format::declared(declared)
        .ok_or_else(|| ImageError::unacceptable(image.id, format!("its disk format is {declared:?}")))
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
