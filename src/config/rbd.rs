//! `[backends.rbd]`: pools of a Ceph cluster.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tephra_domain::ids::PoolName;
use tephra_executors::backend::rbd::{CloneFormat, RbdConfig};
use uuid::Uuid;

/// The keys of a backend with the driver `rbd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RbdSection {
    /// Ceph's pools, each a pool of the backend.
    pub pools: Vec<String>,
    /// Ceph's user, without `client.`.
    #[serde(default = "default_user")]
    pub user: String,
    /// Ceph's configuration.
    #[serde(default = "default_ceph_conf")]
    pub ceph_conf: PathBuf,
    /// The user's keyring. Default: where Ceph's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<PathBuf>,
    /// The cluster's name. Default: Ceph's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How many ancestors a clone may have before it gets data of its own.
    #[serde(default = "default_max_clone_depth")]
    pub max_clone_depth: u32,
    /// Whether a volume made from a snapshot gets data of its own at once.
    #[serde(default)]
    pub flatten_volume_from_snapshot: bool,
    /// What libvirt knows the user's key by on the hosts that attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_uuid: Option<String>,
    /// 1 or 2. Default: as the cluster does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_format: Option<u8>,
    /// How long deleted volumes stay in the trash, in seconds.
    #[serde(default)]
    pub deferred_deletion_s: u64,
    /// How long the cluster may not answer, in seconds.
    #[serde(default = "default_command_timeout_s")]
    pub command_timeout_s: u64,
    /// How long a delete waits for somebody who has the image open, in seconds.
    #[serde(default = "default_watcher_wait_s")]
    pub watcher_wait_s: u64,
    /// Between searches for what crashes left behind, in seconds.
    #[serde(default = "default_sweep_interval_s")]
    pub sweep_interval_s: u64,
}

fn default_user() -> String {
    "cinder".to_owned()
}

fn default_ceph_conf() -> PathBuf {
    PathBuf::from("/etc/ceph/ceph.conf")
}

const fn default_max_clone_depth() -> u32 {
    5
}

const fn default_command_timeout_s() -> u64 {
    30
}

const fn default_watcher_wait_s() -> u64 {
    35
}

const fn default_sweep_interval_s() -> u64 {
    600
}

impl RbdSection {
    /// The key that cannot be meant so, and why.
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        let bad_pool = |pool: &String| pool.is_empty() || pool.contains(['/', '@', '#']);
        let repeats = self
            .pools
            .iter()
            .enumerate()
            .any(|(at, pool)| self.pools.iter().skip(at + 1).any(|it| it == pool));
        let checks = [
            ("pools", self.pools.is_empty(), "names at least one pool"),
            (
                "pools",
                self.pools.iter().any(bad_pool),
                "a pool's name is not empty and has no `/`, `@` or `#`",
            ),
            ("pools", repeats, "names a pool twice"),
            ("user", self.user.is_empty() || self.user.starts_with("client."), "the name after `client.`"),
            (
                "secret_uuid",
                self.secret_uuid.as_deref().is_some_and(|secret| Uuid::parse_str(secret).is_err()),
                "must be a UUID",
            ),
            ("clone_format", self.clone_format.is_some_and(|it| !(1..=2).contains(&it)), "must be 1 or 2"),
            // figures and listings wait half a minute: a cluster that is slower is as good as down
            ("command_timeout_s", !(1..=50).contains(&self.command_timeout_s), "must be between 1 and 50"),
            ("sweep_interval_s", self.sweep_interval_s == 0, "must be at least 1"),
        ];
        checks.into_iter().find(|(_, refused, _)| *refused).map(|(key, _, reason)| (key, reason))
    }

    /// Sets what this section says.
    pub fn apply(&self, config: RbdConfig) -> RbdConfig {
        RbdConfig {
            pools: self.pools.iter().map(|pool| PoolName::new(&**pool)).collect(),
            user: self.user.clone(),
            ceph_conf: self.ceph_conf.clone(),
            keyring: self.keyring.clone(),
            cluster: self.cluster.clone(),
            max_clone_depth: self.max_clone_depth,
            flatten_volume_from_snapshot: self.flatten_volume_from_snapshot,
            secret_uuid: self.secret_uuid.clone(),
            clone_format: self.clone_format.map(|it| if it == 1 { CloneFormat::V1 } else { CloneFormat::V2 }),
            deferred_deletion: Duration::from_secs(self.deferred_deletion_s),
            command_timeout: Duration::from_secs(self.command_timeout_s),
            watcher_wait: Duration::from_secs(self.watcher_wait_s),
            sweep_interval: Duration::from_secs(self.sweep_interval_s),
            ..config
        }
    }
}

#[cfg(test)]
impl RbdSection {
    /// With every key that can be left out.
    pub fn with_every_key() -> Self {
        Self {
            pools: vec!["volumes".to_owned()],
            user: default_user(),
            ceph_conf: default_ceph_conf(),
            keyring: Some(PathBuf::new()),
            cluster: Some(String::new()),
            max_clone_depth: default_max_clone_depth(),
            flatten_volume_from_snapshot: false,
            secret_uuid: Some(String::new()),
            clone_format: Some(2),
            deferred_deletion_s: 0,
            command_timeout_s: default_command_timeout_s(),
            watcher_wait_s: default_watcher_wait_s(),
            sweep_interval_s: default_sweep_interval_s(),
        }
    }
}
