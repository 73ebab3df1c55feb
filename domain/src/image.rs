//! What the ledger must know of an image to decide about a volume made from it.

use std::collections::BTreeMap;

use crate::ids::ImageId;

/// An image, as its store showed it to whoever asked, at the moment of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Which.
    pub id: ImageId,
    /// `active` once its data is there.
    pub status: Box<str>,
    /// Bytes of its file; nothing if the store does not say.
    pub size_bytes: Option<u64>,
    /// GiB that a volume needs at least.
    pub min_disk_gib: u32,
    /// What the volume remembers of it (Cinder's `volume_image_metadata`).
    pub metadata: BTreeMap<String, String>,
}
