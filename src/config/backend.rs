//! `[[backends]]`: where volumes live.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DEFAULT_BACKEND, IscsiSection, LvmSection, RbdSection, is_reserved, refuse};
use crate::failure::CommandResult;

/// One of `[[backends]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Unique; the middle part of Cinder's `host@backend#pool`.
    pub name: String,
    /// What kind of storage it is.
    pub driver: Driver,
    /// Where the volumes' files are. Default: `<data_dir>/volumes`, for one backend at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// `nfs`: the export that clients mount, `server:/path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// The zone that its volumes are in.
    #[serde(default = "default_zone")]
    pub availability_zone: String,
    /// How much more may be promised than there is (thin provisioning).
    #[serde(default = "default_over_subscription")]
    pub max_over_subscription_ratio: f64,
    /// Per cent of the capacity that new volumes leave alone.
    #[serde(default)]
    pub reserved_percentage: u8,
    /// Whether a revert swaps files; otherwise it copies, as on storage that cannot.
    #[serde(default = "default_native_revert")]
    pub native_revert: bool,
    /// Effects performed at a time.
    #[serde(default = "default_parallelism")]
    pub parallelism: usize,
    /// `lvm`: its volume group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lvm: Option<LvmSection>,
    /// `rbd`: its pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rbd: Option<RbdSection>,
    /// Exports volumes over iSCSI, by a tgtd on the executor's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<IscsiSection>,
}

fn default_zone() -> String {
    "nova".to_owned()
}

const fn default_over_subscription() -> f64 {
    20.0
}

const fn default_native_revert() -> bool {
    true
}

const fn default_parallelism() -> usize {
    16
}

impl BackendConfig {
    /// The backend of a server that was not told of any.
    pub fn default_directory() -> Self {
        Self {
            name: DEFAULT_BACKEND.to_owned(),
            driver: Driver::Directory,
            directory: None,
            export: None,
            availability_zone: default_zone(),
            max_over_subscription_ratio: default_over_subscription(),
            reserved_percentage: 0,
            native_revert: default_native_revert(),
            parallelism: default_parallelism(),
            lvm: None,
            rbd: None,
            iscsi: None,
        }
    }
}

/// Kinds of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Files in a directory of this machine.
    Directory,
    /// Files in a directory that clients mount over NFS.
    Nfs,
    /// Logical volumes of lvm2.
    Lvm,
    /// Images of a Ceph cluster.
    Rbd,
}

/// Checks what types cannot.
///
/// # Errors
/// [`crate::failure::Exit::Usage`], with the key.
pub fn check_backend(backend: &BackendConfig, key: &impl Fn(&str) -> String) -> CommandResult {
    if backend.name.is_empty() || backend.name.len() > 64 || backend.name.contains(is_reserved) {
        let reason = "1 to 64 characters; no blanks, `@`, `#` or `/`: it is part of `host@backend#pool`";
        return Err(refuse(&key("name"), reason));
    }
    if backend.availability_zone.is_empty() || backend.availability_zone.len() > 255 {
        return Err(refuse(&key("availability_zone"), "1 to 255 characters"));
    }
    let ratio = backend.max_over_subscription_ratio;
    if !ratio.is_finite() || ratio < 1.0 {
        return Err(refuse(&key("max_over_subscription_ratio"), "must be 1 or more"));
    }
    if backend.reserved_percentage > 100 {
        return Err(refuse(&key("reserved_percentage"), "must be between 0 and 100"));
    }
    if backend.parallelism == 0 {
        return Err(refuse(&key("parallelism"), "must be at least 1"));
    }
    check_lvm(backend, key)?;
    check_rbd(backend, key)?;
    check_iscsi(backend, key)?;
    match (backend.driver, &backend.export) {
        (Driver::Nfs, None) => Err(refuse(&key("export"), "the driver `nfs` needs it: `server:/path`")),
        (Driver::Directory | Driver::Lvm | Driver::Rbd, Some(_)) => {
            Err(refuse(&key("export"), "only for the driver `nfs`"))
        }
        (Driver::Nfs, Some(export)) if !export.contains(":/") => {
            Err(refuse(&key("export"), "must be of the form `server:/path`"))
        }
        (Driver::Nfs, Some(_)) | (Driver::Directory | Driver::Lvm | Driver::Rbd, None) => Ok(()),
    }
}

fn check_lvm(backend: &BackendConfig, key: &impl Fn(&str) -> String) -> CommandResult {
    let (refused, reason) = match (backend.driver, &backend.lvm) {
        (Driver::Lvm, None) => {
            ("lvm".to_owned(), "the driver `lvm` needs [backends.lvm] with a volume_group")
        }
        (Driver::Directory | Driver::Nfs | Driver::Rbd, Some(_)) => {
            ("lvm".to_owned(), "only for the driver `lvm`")
        }
        (Driver::Lvm, Some(_)) if backend.directory.is_some() => {
            ("directory".to_owned(), "only for the drivers `directory` and `nfs`")
        }
        (Driver::Lvm, Some(lvm)) => match lvm.refused() {
            Some((name, reason)) => (format!("lvm.{name}"), reason),
            None => return Ok(()),
        },
        (Driver::Directory | Driver::Nfs | Driver::Rbd, None) => return Ok(()),
    };
    Err(refuse(&key(&refused), reason))
}

fn check_rbd(backend: &BackendConfig, key: &impl Fn(&str) -> String) -> CommandResult {
    let (refused, reason) = match (backend.driver, &backend.rbd) {
        (Driver::Rbd, None) => ("rbd".to_owned(), "the driver `rbd` needs [backends.rbd] with its pools"),
        (Driver::Directory | Driver::Nfs | Driver::Lvm, Some(_)) => {
            ("rbd".to_owned(), "only for the driver `rbd`")
        }
        (Driver::Rbd, Some(_)) if backend.directory.is_some() => {
            ("directory".to_owned(), "only for the drivers `directory` and `nfs`")
        }
        (Driver::Rbd, Some(rbd)) => match rbd.refused() {
            Some((name, reason)) => (format!("rbd.{name}"), reason),
            None => return Ok(()),
        },
        (Driver::Directory | Driver::Nfs | Driver::Lvm, None) => return Ok(()),
    };
    Err(refuse(&key(&refused), reason))
}

fn check_iscsi(backend: &BackendConfig, key: &impl Fn(&str) -> String) -> CommandResult {
    let Some(iscsi) = &backend.iscsi else { return Ok(()) };
    let (refused, reason) = match backend.driver {
        Driver::Nfs => {
            ("iscsi".to_owned(), "clients mount what the driver `nfs` keeps; it is not exported besides")
        }
        Driver::Rbd => (
            "iscsi".to_owned(),
            "clients reach what the driver `rbd` keeps by themselves; it is not exported besides",
        ),
        Driver::Directory | Driver::Lvm => match iscsi.refused() {
            Some((name, reason)) => (format!("iscsi.{name}"), reason),
            None => return Ok(()),
        },
    };
    Err(refuse(&key(&refused), reason))
}
