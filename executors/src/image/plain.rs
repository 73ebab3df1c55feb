//! Images without Glance: for each a file `<id>.json`, which says what Glance would say of it, and
//! the file with its data, which the first names as `file` (by default `<id>`). In a directory, or
//! behind an https address, from where they can only be read.

use std::io;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use tephra_domain::image::NewImage;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::download::{Expected, save};
use super::store::{Image, ImageError, ImageStore};

/// What a description may be long, in bytes.
const DESCRIPTION_LIMIT_BYTES: usize = 1 << 20;

/// Images in a directory.
pub struct DirectoryStore {
    directory: PathBuf,
}

/// Images behind an address.
pub struct HttpsStore {
    client: Client,
    base: Url,
}

fn read(id: Uuid, description: &[u8]) -> Result<Image, ImageError> {
    let image: Image = serde_json::from_slice(description)
        .map_err(|error| ImageError::unacceptable(id, format!("its description cannot be read: {error}")))?;
    if image.id == id {
        Ok(image)
    } else {
        Err(ImageError::unacceptable(id, "its description is that of another image"))
    }
}

/// The name of an image's file: one name, beside the description.
fn file_name(image: &Image) -> Result<String, ImageError> {
    let name = match image.rest.get("file") {
        Some(Value::String(name)) => name.clone(),
        Some(_) | None => image.id.to_string(),
    };
    let mut parts = Path::new(&name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(name),
        _ => Err(ImageError::unacceptable(image.id, "its file is not beside its description")),
    }
}

impl DirectoryStore {
    /// The images in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn description(&self, id: Uuid) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }
}

fn found(id: Uuid, what: &'static str, error: io::Error) -> ImageError {
    if error.kind() == io::ErrorKind::NotFound {
        ImageError::NotFound(id)
    } else {
        ImageError::local(what, error)
    }
}

#[async_trait]
impl ImageStore for DirectoryStore {
    async fn image(&self, id: Uuid) -> Result<Image, ImageError> {
        let description = tokio::fs::read(self.description(id)).await;
        read(id, &description.map_err(|error| found(id, "the image's description cannot be read", error))?)
    }

    async fn fetch(&self, image: &Image, to: &Path, limit_bytes: u64) -> Result<(), ImageError> {
        let file = tokio::fs::File::open(self.directory.join(file_name(image)?)).await;
        let file = file.map_err(|error| found(image.id, "the image cannot be read", error))?;
        save(ReaderStream::with_capacity(file, 1 << 20), Expected::of(image, limit_bytes)?, to).await
    }

    async fn publish(&self, image: &NewImage, from: &Path) -> Result<(), ImageError> {
        let failed = |source| ImageError::local("the image cannot be stored", source);
        if tokio::fs::try_exists(self.description(image.id.as_uuid())).await.map_err(failed)? {
            return Ok(());
        }
        let (directory, from, image) = (self.directory.clone(), from.to_owned(), image.clone());
        let stored = tokio::task::spawn_blocking(move || store(&directory, &image, &from)).await;
        stored.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }

    async fn remove(&self, id: Uuid) -> Result<(), ImageError> {
        // the description first: without it there is no image
        for path in [self.description(id), self.directory.join(id.to_string())] {
            match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::local("the image cannot be removed", error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Stores an image's file and then its description, each whole or not at all.
fn store(directory: &Path, image: &NewImage, from: &Path) -> io::Result<()> {
    use sha2::{Digest as _, Sha512};

    let id = image.id.as_uuid();
    let mut file = std::fs::File::open(from)?;
    let mut hash = Sha512::new();
    let size = io::copy(&mut file, &mut hash)?;
    put(directory, &id.to_string(), |to| std::fs::copy(from, to).map(drop))?;
    let mut description = json!({
        "id": id, "name": image.name, "status": "active", "size": size, "owner": image.owner.as_str(),
        "disk_format": image.disk_format, "container_format": image.container_format,
        "visibility": image.visibility.as_deref().unwrap_or("private"), "protected": image.protected,
        "os_hash_algo": "sha512", "os_hash_value": hex::encode(hash.finalize()),
    });
    if let Some(fields) = description.as_object_mut() {
        fields.extend(image.properties.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    }
    put(directory, &format!("{id}.json"), |to| std::fs::write(to, description.to_string()))
}

fn put(directory: &Path, name: &str, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}.part"));
    write(&unfinished)?;
    std::fs::File::open(&unfinished)?.sync_all()?;
    std::fs::rename(&unfinished, directory.join(name))?;
    std::fs::File::open(directory)?.sync_all()
}

impl HttpsStore {
    /// The images behind an address; a slash at its end is added where it is missing.
    pub fn new(client: Client, base: Url) -> Self {
        Self { client, base }
    }

    async fn get(&self, id: Uuid, name: &str) -> Result<reqwest::Response, ImageError> {
        let mut url = self.base.clone();
        let Ok(mut parts) = url.path_segments_mut() else {
            return Err(ImageError::Unavailable("its address has no path".to_owned()));
        };
        parts.pop_if_empty().push(name);
        drop(parts);
        let response = self.client.get(url).send().await.map_err(unanswered)?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(ImageError::NotFound(id)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ImageError::NotAuthorized(id)),
            status => Err(ImageError::Unavailable(format!("it says {status}"))),
        }
    }
}

/// An error of the connection, without the address, which may hold a secret.
pub(super) fn unanswered(error: reqwest::Error) -> ImageError {
    ImageError::Unavailable(error.without_url().to_string())
}

/// A body that is read whole, if it is not too long.
pub(super) async fn whole(response: reqwest::Response) -> Result<Vec<u8>, ImageError> {
    use futures::StreamExt as _;

    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(unanswered)?);
        if body.len() > DESCRIPTION_LIMIT_BYTES {
            return Err(ImageError::Unavailable("its answer is too long".to_owned()));
        }
    }
    Ok(body)
}

#[async_trait]
impl ImageStore for HttpsStore {
    async fn image(&self, id: Uuid) -> Result<Image, ImageError> {
        let response = self.get(id, &format!("{id}.json")).await?;
        read(id, &whole(response).await?)
    }

    async fn fetch(&self, image: &Image, to: &Path, limit_bytes: u64) -> Result<(), ImageError> {
        let response = self.get(image.id, &file_name(image)?).await?;
        let bytes = Box::pin(response.bytes_stream());
        save(bytes, Expected::of(image, limit_bytes)?, to).await
    }

    async fn publish(&self, _: &NewImage, _: &Path) -> Result<(), ImageError> {
        Err(ImageError::Unsupported("take images: it can only be read"))
    }

    async fn remove(&self, _: Uuid) -> Result<(), ImageError> {
        Err(ImageError::Unsupported("give up images: it can only be read"))
    }
}

#[cfg(test)]
#[path = "https_tests.rs"]
mod https_tests;
#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
