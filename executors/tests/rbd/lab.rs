//! A cluster of a test's own, and ways to it behind the backend's back.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tephra_domain::effect::{BackendObject, Effect};
use tephra_domain::ids::{BackendName, OperationId, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::SizeGib;
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::process::Spawner;
use uuid::Uuid;

pub const POOL: &str = "volumes";
pub const ONE: SizeGib = SizeGib::new(1).unwrap();

/// Running until it is dropped.
pub struct Lab {
    directory: TempDir,
}

impl Lab {
    /// In memory: what it holds survives everything but the end of its daemons.
    pub fn start() -> Self {
        Self::start_on("memstore")
    }

    pub fn start_on(store: &str) -> Self {
        let lab = Self { directory: tempfile::tempdir().unwrap() };
        assert!(lab.script().env("CEPH_LAB_STORE", store).arg("start").status().unwrap().success());
        lab
    }

    fn script(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../labs/ceph-lab"));
        command.env("CEPH_LAB_DIR", self.directory.path());
        command
    }

    pub fn restart(&self) {
        assert!(self.script().arg("start").status().unwrap().success());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> RbdConfig {
        RbdConfig {
            ceph_conf: self.path("ceph.conf"),
            keyring: Some(self.path("cinder.keyring")),
            command_timeout: Duration::from_secs(20),
            watcher_wait: Duration::from_secs(1),
            ..RbdConfig::new(BackendName::new("ceph"), "host", pool())
        }
    }

    pub fn backend(&self) -> RbdBackend {
        RbdBackend::new(self.config(), Arc::new(Spawner))
    }

    /// Runs a command as the cluster's administrator, and gives what it printed.
    pub fn admin(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let output = Command::new(words[0])
            .arg("--conf")
            .arg(self.path("ceph.conf"))
            .args(&words[1..])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `rbd` prints, which need be no text.
    pub fn admin_bytes(&self, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new("rbd");
        command.arg("--conf").arg(self.path("ceph.conf")).arg("--no-progress");
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub fn export(&self, object: BackendObject) -> Option<Vec<u8>> {
        let mut command = Command::new("rbd");
        command.arg("--conf").arg(self.path("ceph.conf")).args(["export-diff", "--no-progress"]);
        let output = command.arg(spec(object)).arg("-").output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// Sends a signal to a daemon (`mon.a`, `mgr.x`, `osd.0`).
    pub fn signal(&self, daemon: &str, signal: &str) {
        let pid = self.script().args(["pid", daemon]).output().unwrap().stdout;
        let pid = String::from_utf8(pid).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
    }

    pub fn qemu_io(&self, object: BackendObject) -> Command {
        let mut command = Command::new("qemu-io");
        let conf = self.path("ceph.conf");
        command.args(["-f", "raw"]).arg(format!("rbd:{}:conf={}", spec(object), conf.display()));
        command.stdout(Stdio::null());
        command
    }

    /// Somebody who has the volume open, until it is dropped.
    pub fn open(&self, object: BackendObject) -> Open {
        let child = self.qemu_io(object).stdin(Stdio::piped()).spawn().unwrap();
        let open = Open(child);
        until("the image is open", || {
            self.admin(&format!("rbd status {}", spec(object))).contains("watcher=")
        });
        open
    }

    /// Somebody who has written to the volume and has it open, until it is dropped.
    pub fn open_and_write(&self, object: BackendObject, write: &str) -> Open {
        let mut child = self.qemu_io(object).stdin(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{write}").unwrap();
        let open = Open(child);
        until("the image is written to", || {
            self.admin(&format!("rbd lock ls {}", spec(object))).contains("exclusive lock")
        });
        open
    }

    /// Everything that is left in the pool: images, trash, and objects of none.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = self.admin("rbd ls --pool volumes").lines().map(str::to_owned).collect();
        left.extend(self.admin("rbd trash ls --all --pool volumes").lines().map(str::to_owned));
        let objects = self.admin("rados ls --pool volumes");
        let of_images = ["rbd_data.", "rbd_header.", "rbd_id.", "rbd_object_map."];
        let of_images = |object: &&str| of_images.iter().any(|prefix| object.starts_with(prefix));
        left.extend(objects.lines().filter(of_images).map(str::to_owned));
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.script().arg("destroy").stdin(Stdio::null()).stderr(Stdio::null()).status());
    }
}

/// Has an image open.
pub struct Open(Child);

impl Drop for Open {
    fn drop(&mut self) {
        // the end of its input makes it close the image, where killing would leave a watcher behind
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

pub fn pool() -> PoolName {
    PoolName::new(POOL)
}

pub fn spec(object: BackendObject) -> String {
    if object.is_snapshot() {
        format!("{POOL}/{}@{object}", BackendObject::Volume(object.volume()))
    } else {
        format!("{POOL}/{object}")
    }
}

pub fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

pub fn snapshot_of(volume: BackendObject) -> BackendObject {
    BackendObject::Snapshot { volume: volume.volume(), snapshot: SnapshotId::from_uuid(Uuid::new_v4()) }
}

pub fn safety_of(volume: BackendObject) -> BackendObject {
    BackendObject::SafetySnapshot {
        volume: volume.volume(),
        operation: OperationId::from_uuid(Uuid::new_v4()),
    }
}

pub fn create(volume: BackendObject) -> Effect {
    Effect::CreateVolume { volume, size: ONE }
}

/// Waits for a condition.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
