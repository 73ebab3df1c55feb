//! `[images]`: where images are, and how volumes are made of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::refuse;
use crate::failure::CommandResult;

/// `[images]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesSection {
    /// What kind of store it is. Nothing: volumes are not made of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKind>,
    /// `glance`: its endpoint, before `/v2`. `https`: the address that files are behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `directory`: where the files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// `glance`: a file with the token to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The certificate that vouches for the store, if the machine's do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Where files lie while they are converted. Default: `<data_dir>/conversion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversion_directory: Option<PathBuf>,
    /// How long a conversion may take, in seconds.
    pub conversion_timeout_s: u64,
    /// How much memory a conversion may map, in MiB.
    pub conversion_memory_mib: u64,
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            store: None,
            url: None,
            directory: None,
            token_file: None,
            ca_file: None,
            conversion_directory: None,
            conversion_timeout_s: 3600,
            conversion_memory_mib: 2048,
        }
    }
}

/// Kinds of image stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Glance v2.
    Glance,
    /// Files in a directory of this machine.
    Directory,
    /// Files behind an https address.
    Https,
}

impl ImagesSection {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`crate::failure::Exit::Usage`], with the key.
    pub fn check(&self) -> CommandResult {
        if self.store == Some(StoreKind::Directory) && self.directory.is_none() {
            return Err(refuse("images.directory", "a store of kind `directory` needs one"));
        }
        let scheme = |scheme: &str| self.url.as_deref().is_some_and(|url| url.starts_with(scheme));
        match self.store {
            // a Glance on the same machine may do without; a token then never leaves it
            Some(StoreKind::Glance) if !scheme("http://") && !scheme("https://") => {
                Err(refuse("images.url", "must begin with http:// or https://"))
            }
            Some(StoreKind::Https) if !scheme("https://") => {
                Err(refuse("images.url", "must begin with https://"))
            }
            Some(StoreKind::Glance | StoreKind::Https | StoreKind::Directory) | None => Ok(()),
        }
    }
}
