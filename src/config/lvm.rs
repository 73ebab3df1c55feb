//! `[backends.lvm]`: a volume group of lvm2.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tephra_executors::backend::lvm::{Clear, LvmConfig, Provisioning};

/// The keys of a backend with the driver `lvm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LvmSection {
    /// The volume group.
    pub volume_group: String,
    /// How new volumes get their space.
    #[serde(default)]
    pub provisioning: ProvisioningWord,
    /// The thin pool. Default: `<volume_group>-pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin_pool: Option<String>,
    /// What happens to the data of thick volumes and snapshots that are deleted.
    #[serde(default)]
    pub volume_clear: ClearWord,
    /// `zero`: how much at the beginning, in MiB; 0 for all.
    #[serde(default)]
    pub volume_clear_size_mib: u64,
    /// How long one command of lvm2 may take, in seconds.
    #[serde(default = "default_command_time_limit_s")]
    pub command_time_limit_s: u64,
    /// How long copying, clearing or merging one volume may take, in seconds.
    #[serde(default = "default_copy_time_limit_s")]
    pub copy_time_limit_s: u64,
}

const fn default_command_time_limit_s() -> u64 {
    120
}

const fn default_copy_time_limit_s() -> u64 {
    24 * 60 * 60
}

/// How new volumes get their space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProvisioningWord {
    /// All of it at once.
    Thick,
    /// From a thin pool.
    Thin,
    /// By what is there.
    #[default]
    Auto,
}

/// What happens to deleted data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClearWord {
    /// It is overwritten.
    #[default]
    Zero,
    /// Nothing.
    None,
    /// The disks forget it.
    Discard,
}

impl LvmSection {
    /// The key that cannot be meant so, and why.
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        let checks = [
            ("volume_group", self.volume_group.is_empty(), "must not be empty"),
            ("thin_pool", self.thin_pool.as_ref().is_some_and(String::is_empty), "must not be empty"),
            (
                "volume_clear_size_mib",
                self.volume_clear != ClearWord::Zero && self.volume_clear_size_mib > 0,
                "only for volume_clear = \"zero\"",
            ),
            ("volume_clear_size_mib", self.volume_clear_size_mib > u64::MAX >> 20, "is too large"),
            ("command_time_limit_s", self.command_time_limit_s == 0, "must be at least 1"),
            ("copy_time_limit_s", self.copy_time_limit_s == 0, "must be at least 1"),
        ];
        checks.into_iter().find(|(_, refused, _)| *refused).map(|(key, _, reason)| (key, reason))
    }

    /// Sets what this section says.
    pub fn apply(&self, config: LvmConfig) -> LvmConfig {
        LvmConfig {
            provisioning: match self.provisioning {
                ProvisioningWord::Thick => Provisioning::Thick,
                ProvisioningWord::Thin => Provisioning::Thin,
                ProvisioningWord::Auto => Provisioning::Auto,
            },
            thin_pool: self.thin_pool.clone().unwrap_or_else(|| config.thin_pool.clone()),
            volume_clear: match (self.volume_clear, self.volume_clear_size_mib) {
                (ClearWord::Zero, 0) => Clear::Zero { limit_mib: None },
                (ClearWord::Zero, limit) => Clear::Zero { limit_mib: Some(limit) },
                (ClearWord::None, _) => Clear::None,
                (ClearWord::Discard, _) => Clear::Discard,
            },
            command_time_limit: Duration::from_secs(self.command_time_limit_s),
            copy_time_limit: Duration::from_secs(self.copy_time_limit_s),
            ..config
        }
    }
}
