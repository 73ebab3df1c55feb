//! On Ceph.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tephra_domain::ids::{BackendName, PoolName};
use tephra_executors::backend::rbd::{CloneFormat, RbdBackend, RbdConfig, changes};
use tephra_executors::process::Launcher;

use crate::image::OneImage;
use crate::sabotage::{Fault, Saboteur};
use crate::stage::{Operation, Storage, image_content, unwind};

/// A cluster of the test's own.
struct Lab(TempDir);

impl Lab {
    fn start() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        assert!(lab.script().arg("start").status().unwrap().success());
        lab
    }

    fn script(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../labs/ceph-lab"));
        command.env("CEPH_LAB_DIR", self.0.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Images and what is in the trash, as the cluster's administrator sees them.
    fn everything(&self) -> Vec<String> {
        let mut everything = Vec::new();
        for words in [&["ls"][..], &["trash", "ls", "--all"]] {
            let mut command = Command::new("rbd");
            command.arg("--conf").arg(self.path("ceph.conf")).args(words).args(["--pool", "volumes"]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "rbd {words:?}: {}", String::from_utf8_lossy(&output.stderr));
            everything.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
        }
        everything
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.script().arg("destroy").stdin(Stdio::null()).stderr(Stdio::null()).status());
    }
}

/// What a lost answer does once, a death does.
const FAULTS: &[(Fault, bool)] =
    &[(Fault::Fails, false), (Fault::Fails, true), (Fault::AnswerLost, true), (Fault::Dies, false)];

async fn unwinds(operations: &[Operation], format: CloneFormat) {
    let lab = Lab::start();
    let saboteur = Arc::new(Saboteur::new(changes));
    let config = RbdConfig {
        ceph_conf: lab.path("ceph.conf"),
        keyring: Some(lab.path("cinder.keyring")),
        clone_format: Some(format),
        watcher_wait: Duration::from_secs(5),
        ..RbdConfig::new(BackendName::new("one"), "host", PoolName::new("volumes"))
    };
    let backend = RbdBackend::new(config, Arc::clone(&saboteur) as Arc<dyn Launcher>);
    let image = OneImage::new(Arc::clone(&saboteur) as Arc<dyn Launcher>, &image_content());
    let storage = Storage {
        backend: &backend,
        saboteur: &saboteur,
        image: &image,
        pool: PoolName::new("volumes"),
        everything: &|| lab.everything(),
        shows_snapshots: false,
        looks_everywhere: true,
    };
    for operation in operations {
        let faults = unwind(&storage, *operation, FAULTS).await;
        println!("{operation:?} with clones of {format:?}: {faults} faults");
        assert!(faults >= FAULTS.len(), "{operation:?} has no commands");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_revert_on_ceph_unwinds_from_every_command() {
    unwinds(&[Operation::Revert, Operation::RevertByCopying], CloneFormat::V2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_create_on_ceph_unwinds_from_every_command() {
    let operations = [Operation::Create, Operation::CreateFromSnapshot, Operation::CreateFromVolume];
    unwinds(&operations, CloneFormat::V1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_image_that_is_poured_into_ceph_unwinds_from_every_command() {
    unwinds(&[Operation::CreateFromImage], CloneFormat::V2).await;
}
