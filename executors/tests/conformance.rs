//! The conformance suite over every backend that needs nothing but this host, with kill -9 between
//! every two changes to files.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tephra_domain::backend::BackendDescription;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{BackendObject, Effect, Failure};
use tephra_domain::ids::{BackendName, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::conformance::across::{DirectoryEnd, check_copies, check_loan};
use tephra_executors::backend::conformance::interrupt::{Attempt, Interrupter, Tally};
use tephra_executors::backend::conformance::{BLOCK_BYTES, Bench, Fingerprint, check_all};
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig, Driver};
use tephra_executors::backend::memory::{MemoryBackend, MemoryConfig};
use tephra_executors::backend::{Backend, Content};
use tokio::sync::{RwLock, RwLockReadGuard};

const DIRECTORY: &str = "TEPHRA_ATTEMPT_DIRECTORY";
const EXPORT: &str = "TEPHRA_ATTEMPT_EXPORT";

/// A directory is served by one process. Here that is this one, but for the while in which others
/// attempt something and die.
struct Reopened {
    config: DirectoryConfig,
    description: BackendDescription,
    served: RwLock<Option<DirectoryBackend>>,
}

impl Reopened {
    fn open(config: DirectoryConfig) -> Self {
        let backend = DirectoryBackend::open(config.clone()).unwrap();
        Self { config, description: backend.description(), served: RwLock::new(Some(backend)) }
    }

    async fn backend(&self) -> RwLockReadGuard<'_, DirectoryBackend> {
        RwLockReadGuard::map(self.served.read().await, |served| served.as_ref().unwrap())
    }
}

#[async_trait]
impl Backend for Reopened {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        self.description.clone()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        self.backend().await.stats(now).await
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        self.backend().await.perform(pool, effect).await
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        self.backend().await.list(pool).await
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        true
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        self.backend().await.content(pool, object).await
    }
}

struct DirectoryBench {
    backend: Reopened,
    directory: TempDir,
    interrupter: Interrupter,
    tally: Tally,
    /// How often effects of one name are interrupted.
    most: u32,
}

impl DirectoryBench {
    fn new(most: u32, change: impl FnOnce(&mut DirectoryConfig)) -> Self {
        Self::below(&std::env::temp_dir(), most, change)
    }

    fn below(parent: &Path, most: u32, change: impl FnOnce(&mut DirectoryConfig)) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let mut config = DirectoryConfig::new(BackendName::new("files"), "host", directory.path());
        change(&mut config);
        let mut interrupter = Interrupter::new("an_attempt").env(DIRECTORY, directory.path());
        if let Driver::Nfs { export } = &config.driver {
            interrupter = interrupter.env(EXPORT, export);
        }
        let backend = Reopened::open(config);
        Self { backend, directory, interrupter, tally: Tally::default(), most }
    }

    fn path(&self, object: BackendObject) -> PathBuf {
        self.directory.path().join(object.to_string())
    }

    /// Everything there, but for the lock file.
    fn names(&self) -> Vec<String> {
        names_in(self.directory.path())
    }
}

/// What is attempted, until it dies, by the processes that the suite starts.
#[tokio::test]
#[ignore = "started by the other tests, to be killed"]
async fn an_attempt() {
    let Some(attempt) = Attempt::from_environment() else { return };
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut config = DirectoryConfig::new(BackendName::new("files"), "host", directory);
    if let Ok(export) = std::env::var(EXPORT) {
        config.driver = Driver::Nfs { export };
    }
    let backend = DirectoryBackend::open_before(config, attempt.witness()).unwrap();
    assert_eq!(backend.perform(&attempt.pool, &attempt.effect).await, Ok(()));
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".tephra.lock").collect()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[async_trait]
impl Bench for DirectoryBench {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    async fn write(&self, object: BackendObject, block: u64, content: &[u8]) {
        open(&self.path(object)).write_all_at(content, block * BLOCK_BYTES).unwrap();
    }

    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint> {
        let path = self.path(object);
        path.exists().then(|| Fingerprint::of_file(&path).unwrap())
    }

    async fn leave_interrupted(&self, effect: &Effect) {
        if self.tally.begin(self.most, effect) {
            let mut served = self.backend.served.write().await;
            *served = None;
            let died = self.interrupter.attempt_until_done(&self.backend.config.pool, effect).await;
            self.tally.died(effect, died);
            *served = Some(DirectoryBackend::open(self.backend.config.clone()).unwrap());
        }
        let partial = self.directory.path().join(format!("{}.partial", effect.target()));
        std::fs::write(partial, b"half of something else, longer than a block".repeat(1000)).unwrap();
    }

    async fn occupy(&self, object: BackendObject) -> Option<Box<dyn Any + Send>> {
        let file = open(&self.path(object));
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        Some(Box::new(file))
    }
}

struct MemoryBench(MemoryBackend);

#[async_trait]
impl Bench for MemoryBench {
    fn backend(&self) -> &dyn Backend {
        &self.0
    }

    async fn write(&self, object: BackendObject, block: u64, content: &[u8]) {
        assert!(self.0.write_block(object, block, content));
    }

    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint> {
        let found = self.0.object(object)?;
        let blocks = found.blocks.iter().map(|(block, content)| (*block, &**content));
        Some(Fingerprint::of_blocks(found.size.bytes(), blocks))
    }

    async fn leave_interrupted(&self, _effect: &Effect) {}

    async fn occupy(&self, object: BackendObject) -> Option<Box<dyn Any + Send>> {
        struct Occupied(MemoryBackend, BackendObject);
        impl Drop for Occupied {
            fn drop(&mut self) {
                self.0.set_in_use(self.1, false);
            }
        }
        self.0.set_in_use(object, true);
        Some(Box::new(Occupied(self.0.clone(), object)))
    }
}

#[tokio::test]
async fn the_directory_backend_conforms() {
    let bench = DirectoryBench::new(2, |_| {});
    check_all(&bench).await;
    bench.tally.check(true);

    // what interrupted attempts left and nobody tried again is gone at the next start
    assert!(bench.names().iter().any(|name| name.ends_with(".partial")));
    let DirectoryBench { backend, directory, .. } = bench;
    let config = backend.config.clone();
    drop(backend);
    let _again = DirectoryBackend::open(config).unwrap();
    let left = names_in(directory.path());
    assert!(!left.is_empty() && !left.iter().any(|name| name.ends_with(".partial")), "{left:?}");
}

#[tokio::test]
async fn the_directory_backend_without_native_revert_conforms() {
    let bench = DirectoryBench::new(1, |config| config.native_revert = false);
    assert!(!bench.backend.description().native_revert);
    check_all(&bench).await;
    bench.tally.check(false);
}

#[tokio::test]
async fn the_nfs_backend_conforms() {
    let bench = DirectoryBench::new(1, |config| {
        config.driver = Driver::Nfs { export: "filer.example:/export/volumes".to_owned() };
    });
    let description = bench.backend.description();
    assert_eq!(&*description.driver, "nfs");
    assert_eq!(description.capabilities["storage_protocol"], "nfs");
    assert_eq!(description.capabilities["export"], "filer.example:/export/volumes");
    check_all(&bench).await;
    bench.tally.check(true);
}

/// Where a server's export is mounted for the tests.
const MOUNT: &str = "TEPHRA_NFS_MOUNT";

#[tokio::test]
#[ignore = "needs a mount of a real server: ./test conform"]
async fn nfs_on_a_mount_conforms() {
    let mount = PathBuf::from(std::env::var_os(MOUNT).expect("run by ./test conform"));
    let bench = DirectoryBench::below(&mount, 1, |config| {
        config.driver = Driver::Nfs { export: "127.0.0.1:/".to_owned() };
    });
    check_all(&bench).await;
    bench.tally.check(true);
    let files = tempfile::tempdir().unwrap();
    let files = DirectoryEnd::open(files.path()).unwrap();
    for (from, into) in [(&bench as &dyn Bench, &files as &dyn Bench), (&files, &bench)] {
        check_copies(from, into).await;
    }
}

#[tokio::test]
async fn the_memory_backend_conforms() {
    check_all(&MemoryBench(MemoryBackend::new(MemoryConfig::new("memory")))).await;
}

#[tokio::test]
async fn the_memory_backend_without_native_revert_conforms() {
    let config = MemoryConfig { native_revert: false, ..MemoryConfig::new("memory") };
    check_all(&MemoryBench(MemoryBackend::new(config))).await;
}

#[tokio::test]
async fn data_goes_from_one_directory_into_another() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (DirectoryEnd::open(one.path()).unwrap(), DirectoryEnd::open(other.path()).unwrap());
    check_copies(&one, &other).await;
    check_loan(&one, &other).await;
}
