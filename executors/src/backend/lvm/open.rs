//! Finding the volume group, and finding or making the thin pool.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tephra_domain::effect::{Failure, FailureKind};

use super::plan::Settings;
use super::{LvmBackend, LvmConfig, Provisioning, name};
use crate::process::{Launcher, Program};

/// What a new thin pool takes of the free space, in per cent: the rest is for its metadata and
/// their spare, and for repairs (Cinder leaves as much).
const POOL_PERCENT: &str = "95%FREE";

/// Why a volume group cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error("the volume group {volume_group} is served by another process, which holds {lock}")]
    Taken {
        /// The volume group.
        volume_group: String,
        /// The lock file.
        lock: String,
    },
    /// The lock file cannot be made.
    #[error("the lock file {lock} cannot be made: {source}")]
    NoLock {
        /// The lock file.
        lock: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A name that lvm2 cannot have.
    #[error("{name:?} is no name for a volume group or a thin pool")]
    BadName {
        /// The name.
        name: String,
    },
    /// It is not there, or not whole.
    #[error("{0}")]
    Unusable(Failure),
    /// Its extents do not add up to whole GiB.
    #[error("the extents of {volume_group} are {extent_bytes} bytes each, which do not make whole GiB")]
    UnevenExtents {
        /// The volume group.
        volume_group: String,
        /// Their size.
        extent_bytes: u64,
    },
}

/// See [`LvmBackend::open`].
pub async fn open(config: LvmConfig, launcher: Arc<dyn Launcher>) -> Result<LvmBackend, OpenError> {
    for name in [&config.volume_group, &config.thin_pool] {
        if !name::is_possible(name) {
            return Err(OpenError::BadName { name: name.clone() });
        }
    }
    let lock = lock(&config)?;
    let settings = Settings { thin_pool: None, clear: config.volume_clear };
    let mut backend = LvmBackend { config, settings, launcher, _lock: lock };
    let vg = backend.vg().await.map_err(OpenError::Unusable)?;
    if vg.extent_bytes == 0 || !(1_u64 << 30).is_multiple_of(vg.extent_bytes) {
        let volume_group = backend.config.volume_group.clone();
        return Err(OpenError::UnevenExtents { volume_group, extent_bytes: vg.extent_bytes });
    }
    if is_thin(&backend, vg.volumes == 0).await.map_err(OpenError::Unusable)? {
        backend.settings.thin_pool = Some(backend.config.thin_pool.clone());
    }
    Ok(backend)
}

/// Whether new volumes are thin. Makes the thin pool if they are to be: one in which a write that
/// finds no room fails at once, with what programs and guests know as a full disk. By default the
/// kernel holds it back for a minute, and with it every command of lvm2 that has to flush.
async fn is_thin(backend: &LvmBackend, is_empty: bool) -> Result<bool, Failure> {
    let LvmConfig { volume_group, thin_pool, provisioning, .. } = &backend.config;
    if *provisioning == Provisioning::Thick {
        return Ok(false);
    }
    let found = backend.lvs(Some(format!("lv_name=\"{thin_pool}\""))).await?;
    match found.first() {
        Some(lv) if lv.is_thin_pool() && !lv.gives_zeroes() => {
            let pool = format!("{volume_group}/{thin_pool}");
            let message = format!(
                "the thin pool {pool} gives space out with what it held: deletes and copies count on zeroes, \
                 which `lvchange -Zy {pool}` makes it give"
            );
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        Some(lv) if lv.is_thin_pool() => {
            warn_if_it_waits_when_full(backend).await?;
            return Ok(true);
        }
        Some(_) => {
            let message = format!("{thin_pool} is no thin pool");
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        None if *provisioning == Provisioning::Auto && !is_empty => return Ok(false),
        None => {}
    }
    let make = Program::new("lvcreate", backend.config.command_time_limit).stopped_gently();
    let make =
        make.args(["-y", "-T", "-Zy", "-l", POOL_PERCENT, "--errorwhenfull", "y", "--addtag", name::OURS]);
    backend.run(make.arg(format!("{volume_group}/{thin_pool}"))).await?;
    tracing::info!(backend = %backend.config.name, volume_group, thin_pool, "made the thin pool");
    Ok(true)
}

/// A pool that was there is as its owner wants it, who may have something that lets it grow in time.
async fn warn_if_it_waits_when_full(backend: &LvmBackend) -> Result<(), Failure> {
    let LvmConfig { volume_group, thin_pool, .. } = &backend.config;
    let waits = format!("lv_name=\"{thin_pool}\" && lv_when_full=\"queue\"");
    if !backend.lvs(Some(waits)).await?.is_empty() {
        tracing::warn!(
            backend = %backend.config.name,
            "once {volume_group}/{thin_pool} is full, whoever writes to it waits for the kernel's no_space_timeout, \
             commands of lvm2 too; `lvchange --errorwhenfull y {volume_group}/{thin_pool}` has writes fail at once"
        );
    }
    Ok(())
}

fn lock(config: &LvmConfig) -> Result<File, OpenError> {
    let path = config.lock_directory.join(format!("tephra-lvm-{}.lock", config.volume_group));
    let shown = path.display().to_string();
    let made = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = made.map_err(|source| OpenError::NoLock { lock: shown.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(OpenError::Taken { volume_group: config.volume_group.clone(), lock: shown })
        }
        Err(error) => Err(OpenError::NoLock { lock: shown, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use serde_json::Value;
    use tephra_domain::ids::BackendName;

    use super::*;
    use crate::process::{Output, ProcessError};

    /// A host with the group of `recorded/vgs.json`, and perhaps with a thin pool.
    #[derive(Default)]
    struct Host {
        /// The attributes of the pool.
        pool: Option<&'static str>,
        ran: Mutex<Vec<String>>,
    }

    impl Host {
        fn pool_row(&self) -> String {
            let mut recorded: Value = serde_json::from_slice(include_bytes!("recorded/thin.json")).unwrap();
            let rows = recorded["report"][0]["lv"].as_array_mut().unwrap();
            rows.retain(|row| row["lv_name"] == "vg-pool" && self.pool.is_some());
            for row in rows {
                row["lv_attr"] = self.pool.unwrap().into();
            }
            recorded.to_string()
        }
    }

    #[async_trait]
    impl Launcher for Host {
        async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
            let words: Vec<String> =
                program.argv().iter().map(|word| word.to_string_lossy().into_owned()).collect();
            let stdout = match &*words[0] {
                "vgs" => include_str!("recorded/vgs.json").to_owned(),
                "lvs" => self.pool_row(),
                _ => {
                    self.ran.lock().unwrap().push(words.join(" "));
                    String::new()
                }
            };
            Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
        }
    }

    async fn opened(host: &Arc<Host>) -> Result<LvmBackend, OpenError> {
        let directory = tempfile::tempdir().unwrap();
        let config = LvmConfig {
            provisioning: Provisioning::Thin,
            lock_directory: directory.path().to_owned(),
            ..LvmConfig::new(BackendName::new("lvm"), "host", "vg")
        };
        open(config, Arc::clone(host) as Arc<dyn Launcher>).await
    }

    #[tokio::test]
    async fn a_pool_of_ours_fails_writes_when_it_is_full() {
        let host = Arc::new(Host::default());
        assert!(opened(&host).await.unwrap().is_thin());
        let made = "lvcreate -y -T -Zy -l 95%FREE --errorwhenfull y --addtag tephra vg/vg-pool";
        assert_eq!(*host.ran.lock().unwrap(), [made]);
    }

    #[tokio::test]
    async fn a_pool_that_is_there_is_taken_as_it_is() {
        let host = Arc::new(Host { pool: Some("twi-aotz--"), ..Host::default() });
        assert!(opened(&host).await.unwrap().is_thin());
        assert_eq!(*host.ran.lock().unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_pool_that_gives_space_out_as_it_is_is_refused() {
        let host = Arc::new(Host { pool: Some("twi-aot---"), ..Host::default() });
        let Err(OpenError::Unusable(failure)) = opened(&host).await else {
            unreachable!("it gives out what others wrote")
        };
        assert_eq!(failure.kind, FailureKind::Mismatch);
        assert!(failure.message.contains("`lvchange -Zy vg/vg-pool`"), "{failure}");
    }
}
