//! What a deployment says of a Ceph cluster.

use std::path::PathBuf;
use std::time::Duration;

use tephra_domain::ids::{BackendName, PoolName, ZoneName};

use super::cli;
use super::plan::CloneFormat;
use crate::runner::limits::EffectLimits;

/// A Ceph cluster as a backend.
#[derive(Clone, Debug)]
pub struct RbdConfig {
    /// Unique in the deployment.
    pub name: BackendName,
    /// The host part of Cinder's `host@backend#pool`.
    pub host: String,
    /// Ceph's pools, each one of the backend's.
    pub pools: Vec<PoolName>,
    /// Ceph's user, without `client.`.
    pub user: String,
    /// Ceph's configuration.
    pub ceph_conf: PathBuf,
    /// The user's keyring, if the configuration does not say where it is.
    pub keyring: Option<PathBuf>,
    /// The cluster's name, if it has one.
    pub cluster: Option<String>,
    /// The zone that its volumes are in.
    pub availability_zone: ZoneName,
    /// How much more than a pool's size may be provisioned (Cinder's default: 20).
    pub max_over_subscription_ratio: f64,
    /// Per cent of a pool that is never given away.
    pub reserved_percentage: u8,
    /// Whether the ledger may use `RevertToSnapshot` (a rollback); without, it copies.
    pub native_revert: bool,
    /// How many ancestors a clone may have before it gets data of its own (Cinder's default: 5).
    /// 0 gives every clone its own.
    pub max_clone_depth: u32,
    /// Whether a volume made from a snapshot gets data of its own at once.
    pub flatten_volume_from_snapshot: bool,
    /// What libvirt knows the user's key by, on hosts that attach (Cinder's `rbd_secret_uuid`).
    pub secret_uuid: Option<String>,
    /// Which clones are made; nothing to do as the cluster does.
    pub clone_format: Option<CloneFormat>,
    /// How long deleted volumes stay in the trash, from where an operator can restore them.
    pub deferred_deletion: Duration,
    /// How long the cluster may not answer.
    pub command_timeout: Duration,
    /// How long a delete waits for somebody who has the image open. A client that crashed is
    /// forgotten by the cluster after 30 seconds.
    pub watcher_wait: Duration,
    /// Between searches for what crashes left behind, and for what may leave the trash.
    pub sweep_interval: Duration,
}

impl RbdConfig {
    /// One pool with every setting at its default: user `cinder`, `/etc/ceph/ceph.conf`, clones up
    /// to five deep, nothing deferred, 30 s for a command.
    pub fn new(name: BackendName, host: impl Into<String>, pool: PoolName) -> Self {
        Self {
            name,
            host: host.into(),
            pools: vec![pool],
            user: "cinder".to_owned(),
            ceph_conf: PathBuf::from("/etc/ceph/ceph.conf"),
            keyring: None,
            cluster: None,
            availability_zone: ZoneName::new("nova"),
            max_over_subscription_ratio: 20.0,
            reserved_percentage: 0,
            native_revert: true,
            max_clone_depth: 5,
            flatten_volume_from_snapshot: false,
            secret_uuid: None,
            clone_format: None,
            deferred_deletion: Duration::ZERO,
            command_timeout: Duration::from_secs(30),
            watcher_wait: Duration::from_secs(35),
            sweep_interval: Duration::from_secs(10 * 60),
        }
    }

    /// Every command has a time limit of its own, at which its effect fails. An effect may take as
    /// long as all of its commands together, and as it waits for whoever has the image open. Of any
    /// kind: what a killed attempt has left may have to be removed first.
    pub fn limits(&self) -> EffectLimits {
        let quick = cli::quick_limit(self).saturating_mul(MOST_COMMANDS);
        let long = cli::DATA_LIMIT.saturating_mul(MOST_PASSES);
        let all = quick.saturating_add(long).saturating_add(self.watcher_wait);
        EffectLimits { metadata: all, resize: all, remove: all, copy: all, ..EffectLimits::default() }
    }
}

/// More quick commands than any effect needs: the longest chain of ancestors, twice over.
const MOST_COMMANDS: u32 = 128;

/// How often an effect may touch all data of an image: a clone grows and gets data of its own, and
/// what a deleted one was made from is freed with it.
const MOST_PASSES: u32 = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_effect_may_take_as_long_as_its_commands() {
        let config = RbdConfig {
            command_timeout: Duration::from_secs(50),
            watcher_wait: Duration::from_secs(600),
            ..RbdConfig::new(BackendName::new("rbd"), "host", PoolName::new("volumes"))
        };
        let limits = config.limits();
        let quick = cli::quick_limit(&config);
        // a create that finds the remains of another: look, make, remove, make
        assert!(limits.metadata >= cli::DATA_LIMIT + quick * 3);
        assert!(limits.remove >= cli::DATA_LIMIT + config.watcher_wait + quick * 4);
        assert!(limits.resize >= cli::DATA_LIMIT + quick && limits.copy >= cli::DATA_LIMIT * 2);
    }
}
