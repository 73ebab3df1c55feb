//! The conformance suite, with kill -9 after every command that changes something.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, Effect};
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::across::{DirectoryEnd, check_copies, check_loan};
use tephra_executors::backend::conformance::interrupt::{Attempt, Interrupter, Tally};
use tephra_executors::backend::conformance::{BLOCK_BYTES, Bench, Fingerprint, check_all};
use tephra_executors::backend::rbd::{self, CloneFormat, RbdBackend, RbdConfig};
use tephra_executors::process::Spawner;

use super::lab::{Lab, pool};
use super::leftovers::delete_everything;

const CONF: &str = "TEPHRA_ATTEMPT_CEPH_CONF";
const KEYRING: &str = "TEPHRA_ATTEMPT_CEPH_KEYRING";
const FORMAT: &str = "TEPHRA_ATTEMPT_CLONE_FORMAT";

struct RbdBench {
    lab: Lab,
    backend: RbdBackend,
    interrupter: Interrupter,
    tally: Tally,
    /// How often effects of one name are interrupted.
    most: u32,
}

impl RbdBench {
    fn new(lab: Lab, format: &str, change: impl FnOnce(&mut RbdConfig)) -> Self {
        let mut config = lab.config();
        change(&mut config);
        let backend = RbdBackend::new(config, std::sync::Arc::new(Spawner));
        let interrupter = Interrupter::new("conformance::an_attempt")
            .env(CONF, lab.path("ceph.conf"))
            .env(KEYRING, lab.path("cinder.keyring"))
            .env(FORMAT, format);
        Self { lab, backend, interrupter, tally: Tally::from_environment(), most: u32::MAX }
    }
}

#[tokio::test]
#[ignore = "started by the other tests, for every attempt that dies"]
async fn an_attempt() {
    let Some(attempt) = Attempt::from_environment() else { return };
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let format = if std::env::var(FORMAT).unwrap() == "1" { CloneFormat::V1 } else { CloneFormat::V2 };
    let config = RbdConfig {
        ceph_conf: path(CONF),
        keyring: Some(path(KEYRING)),
        clone_format: Some(format),
        ..RbdConfig::new(tephra_domain::ids::BackendName::new("attempt"), "host", pool())
    };
    let backend = RbdBackend::new(config, attempt.launcher(rbd::changes));
    backend.perform(&attempt.pool, &attempt.effect).await.unwrap();
}

#[async_trait]
impl Bench for RbdBench {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    async fn write(&self, object: BackendObject, block: u64, content: &[u8]) {
        let mut pattern = tempfile::NamedTempFile::new().unwrap();
        pattern.write_all(content).unwrap();
        let (file, at, bytes) = (pattern.path().display(), block * BLOCK_BYTES, content.len());
        let write = format!("write -s {file} {at} {bytes}");
        assert!(self.lab.qemu_io(object).args(["-c", &write]).status().unwrap().success());
    }

    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint> {
        let exported = self.lab.export(object)?;
        let (bytes, blocks) = parse_diff(&exported);
        Some(Fingerprint::of_blocks(bytes, blocks.iter().map(|(block, content)| (*block, &**content))))
    }

    async fn leave_interrupted(&self, effect: &Effect) {
        self.tally.interrupt(self.most, &self.interrupter, &pool(), effect).await;
    }

    async fn occupy(&self, object: BackendObject) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(self.lab.open(object)))
    }

    fn volumes_at_once(&self) -> usize {
        8
    }
}

/// The size and the blocks of a stream of `rbd export-diff`, version 1.
pub fn parse_diff(stream: &[u8]) -> (u64, BTreeMap<u64, Vec<u8>>) {
    let mut rest = stream.strip_prefix(b"rbd diff v1\n").unwrap();
    let mut take = |bytes: usize| {
        let (taken, after) = rest.split_at(bytes);
        rest = after;
        taken
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let (mut size, mut blocks) = (0, BTreeMap::new());
    loop {
        match take(1)[0] {
            b'f' | b't' => {
                let length = number(take(4)) as usize;
                take(length);
            }
            b's' => size = number(take(8)),
            b'w' => {
                let (offset, length) = (number(take(8)), number(take(8)));
                let mut data = take(length as usize);
                let mut at = offset;
                while !data.is_empty() {
                    let within = (at % BLOCK_BYTES) as usize;
                    let (part, after) = data.split_at(data.len().min(BLOCK_BYTES as usize - within));
                    // most of what is exported is zeroes around what was written
                    if part.iter().any(|byte| *byte != 0) {
                        let block =
                            blocks.entry(at / BLOCK_BYTES).or_insert_with(|| vec![0; BLOCK_BYTES as usize]);
                        block[within..within + part.len()].copy_from_slice(part);
                    }
                    at += part.len() as u64;
                    data = after;
                }
            }
            b'z' => drop(take(16)),
            b'e' => return (size, blocks),
            other => panic!("an unknown record {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn the_rbd_backend_conforms_with_clones_of_version_1() {
    // the lab lets old clients in, so that is what the cluster decides on
    let bench = RbdBench::new(Lab::start(), "1", |_| {});
    check_all(&bench).await;
    bench.tally.check(true);
    delete_everything(&bench.lab, &bench.backend).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn the_rbd_backend_conforms_with_clones_of_version_2() {
    let lab = Lab::start();
    lab.admin("ceph osd set-require-min-compat-client mimic --yes-i-really-mean-it");
    let bench = RbdBench::new(lab, "2", |config| config.native_revert = false);
    check_all(&bench).await;
    bench.tally.check(false);
    delete_everything(&bench.lab, &bench.backend).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn data_goes_between_a_cluster_and_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let files = DirectoryEnd::open(directory.path()).unwrap();
    let bench = RbdBench { most: 0, ..RbdBench::new(Lab::start(), "1", |_| {}) };
    check_copies(&bench, &files).await;
    check_copies(&files, &bench).await;
    check_copies(&bench, &bench).await;
    check_loan(&bench, &files).await;
    check_loan(&files, &bench).await;
    delete_everything(&bench.lab, &bench.backend).await;
}
