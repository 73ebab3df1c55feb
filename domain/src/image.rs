//! What the ledger must know of an image to decide about a volume made from it.

use std::collections::BTreeMap;

use crate::ids::{ImageId, ProjectId};

/// An image that is to be made of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its id, chosen before anything is sent, so that sending twice makes one image.
    pub id: ImageId,
    /// Whose it is.
    pub owner: ProjectId,
    /// For people.
    pub name: Box<str>,
    /// How its file is written: `raw`, `qcow2`, …
    pub disk_format: Box<str>,
    /// `bare`, mostly.
    pub container_format: Box<str>,
    /// `private`, `public`, `shared` or `community`; nothing for the store's default.
    pub visibility: Option<Box<str>>,
    /// Whether it must be unprotected before it can be deleted.
    pub protected: bool,
    /// Its other properties.
    pub properties: BTreeMap<String, String>,
}

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
