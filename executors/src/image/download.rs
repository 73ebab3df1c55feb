//! An image's file, as it arrives: never longer than announced, and what was announced.

use std::path::Path;

use futures::{Stream, StreamExt as _};
use md5::{Digest as _, Md5};
use sha2::{Sha256, Sha512};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::store::{Image, ImageError};

/// The hash that a store gave for a file, being computed anew.
enum Hash {
    Sha512(Box<Sha512>),
    Sha256(Box<Sha256>),
    Md5(Box<Md5>),
}

impl Hash {
    /// By its name in Python's hashlib, as Glance gives it; nothing for one that is not known here.
    fn made_with(algorithm: &str) -> Option<Self> {
        match algorithm {
            "sha512" => Some(Self::Sha512(Box::default())),
            "sha256" => Some(Self::Sha256(Box::default())),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Md5(hash) => hash.update(bytes),
        }
    }

    fn hex(self) -> String {
        match self {
            Self::Sha512(hash) => hex::encode(hash.finalize()),
            Self::Sha256(hash) => hex::encode(hash.finalize()),
            Self::Md5(hash) => hex::encode(hash.finalize()),
        }
    }
}

/// Compares a file with what its store said of it.
pub struct Expected {
    image: Uuid,
    hash: Option<(Hash, String)>,
    size: Option<u64>,
    limit_bytes: u64,
    seen: u64,
}

impl Expected {
    /// What the store says of the image's file. A hash that cannot be computed here gives way to the
    /// older checksum (glanceclient's `--allow-md5-fallback`).
    ///
    /// # Errors
    /// If such a hash is the only one.
    pub fn of(image: &Image, limit_bytes: u64) -> Result<Self, ImageError> {
        let algorithm = image.os_hash_algo.as_deref().unwrap_or("an algorithm that it does not name");
        let newer = image.os_hash_value.clone().map(|value| (Hash::made_with(algorithm), value));
        let older = image.checksum.clone().map(|value| (Hash::Md5(Box::default()), value));
        let hash = match (newer, older) {
            (Some((Some(hash), value)), _) => Some((hash, value)),
            (Some((None, _)), None) => {
                let reason =
                    format!("its store gives a hash by {algorithm}, which cannot be checked, and no other");
                return Err(ImageError::unacceptable(image.id, reason));
            }
            (Some((None, _)), older) => {
                tracing::warn!(image = %image.id, algorithm, "its hash cannot be checked, only its MD5");
                older
            }
            (None, older) => older,
        };
        Ok(Self { image: image.id, hash, size: image.size, limit_bytes, seen: 0 })
    }

    /// Takes the next bytes in.
    ///
    /// # Errors
    /// If the file is longer than was announced, or than fits.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.limit_bytes {
            let reason =
                format!("its file is longer than {} bytes, which is all that fits", self.limit_bytes);
            return Err(ImageError::unacceptable(self.image, reason));
        }
        if let Some(size) = self.size.filter(|size| self.seen > *size) {
            let reason = format!("its file is longer than the {size} bytes that its store announces");
            return Err(ImageError::unacceptable(self.image, reason));
        }
        if let Some((hash, _)) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Says whether the file was what its store announced.
    ///
    /// # Errors
    /// If its length or its hash is another.
    pub fn finish(self) -> Result<(), ImageError> {
        if let Some(size) = self.size.filter(|size| self.seen != *size) {
            let reason = format!("its file has {} bytes, its store announces {size}", self.seen);
            return Err(ImageError::unacceptable(self.image, reason));
        }
        if let Some((hash, announced)) = self.hash {
            let found = hash.hex();
            if !found.eq_ignore_ascii_case(&announced) {
                let reason = format!("its file has the hash {found}, its store announces {announced}");
                return Err(ImageError::unacceptable(self.image, reason));
            }
        }
        Ok(())
    }
}

/// Writes what arrives to a new file, and keeps it only if it is what was announced.
///
/// # Errors
/// If it is not, if it stops arriving, or cannot be written.
pub async fn save<E: std::fmt::Display>(
    mut bytes: impl Stream<Item = Result<impl AsRef<[u8]>, E>> + Unpin,
    mut expected: Expected,
    to: &Path,
) -> Result<(), ImageError> {
    let mut file = tokio::fs::File::create(to)
        .await
        .map_err(|source| ImageError::local("the image's file cannot be made", source))?;
    let written = |source| ImageError::local("the image's file cannot be written", source);
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| ImageError::Unavailable(format!("its file broke off: {error}")))?;
        expected.take(chunk.as_ref())?;
        file.write_all(chunk.as_ref()).await.map_err(written)?;
    }
    file.flush().await.map_err(written)?;
    expected.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use super::{Expected, Image, save};
    use uuid::Uuid;

    fn image(size: Option<u64>, hash: Option<(&str, &str)>, md5: Option<&str>) -> Image {
        Image {
            id: Uuid::nil(),
            name: None,
            status: "active".to_owned(),
            size,
            min_disk: 0,
            min_ram: 0,
            disk_format: None,
            container_format: None,
            checksum: md5.map(ToOwned::to_owned),
            os_hash_algo: hash.map(|(algorithm, _)| algorithm.to_owned()),
            os_hash_value: hash.map(|(_, value)| value.to_owned()),
            rest: BTreeMap::new(),
        }
    }

    async fn save_abc(image: &Image, limit_bytes: u64) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let chunks = futures::stream::iter([Ok::<_, String>(b"ab".to_vec()), Ok(b"c".to_vec())]);
        let expected = Expected::of(image, limit_bytes).map_err(|error| error.to_string())?;
        let saved = save(chunks, expected, &folder.path().join("f")).await;
        saved.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_file_that_is_what_was_announced_is_kept() {
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        save_abc(&image(Some(3), Some(("sha256", sha256)), None), 3).await.unwrap();
        save_abc(&image(Some(3), None, Some("900150983CD24FB0D6963F7D28E17F72")), 9).await.unwrap();
        save_abc(&image(None, None, None), 9).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_is_refused_with_what_is_wrong() {
        for (image, limit_bytes, reason) in [
            (image(Some(2), None, None), 9, "longer than the 2 bytes"),
            (image(Some(4), None, None), 9, "has 3 bytes, its store announces 4"),
            (image(None, None, None), 2, "longer than 2 bytes, which is all that fits"),
            (image(None, Some(("sha256", "00")), None), 9, "its store announces 00"),
            (image(None, Some(("sha512", "00")), None), 9, "its store announces 00"),
            (image(None, None, Some("00")), 9, "its store announces 00"),
        ] {
            let error = save_abc(&image, limit_bytes).await.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn a_hash_that_cannot_be_checked_is_no_check() {
        let unknown = Some(("sha3_512", "00"));
        let refused = |error: &String| error.contains("sha3_512, which cannot be checked, and no other");
        for size in [None, Some(3)] {
            let error = save_abc(&image(size, unknown, None), 9).await.unwrap_err();
            assert!(refused(&error), "{error}");
        }
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        save_abc(&image(None, unknown, Some(md5)), 9).await.unwrap();
        let error = save_abc(&image(None, unknown, Some("01")), 9).await.unwrap_err();
        assert!(error.contains("its store announces 01"), "{error}");
        let unnamed = Image { os_hash_algo: None, ..image(None, Some(("", "00")), None) };
        let error = save_abc(&unnamed, 9).await.unwrap_err();
        assert!(error.contains("which cannot be checked"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_breaks_off_is_the_stores_failure() {
        let folder = tempfile::tempdir().unwrap();
        let chunks = futures::stream::iter([Ok(b"ab".to_vec()), Err("reset".to_owned())]);
        let expected = Expected::of(&image(None, None, None), 9).unwrap();
        let error = save(chunks, expected, &folder.path().join("f")).await.unwrap_err();
        assert_eq!(error.to_string(), "the image store does not answer: its file broke off: reset");
    }
}
