//! Volume groups to test on, and ways to their data behind the backend's back.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, OperationId, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::SizeGib;
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::{BLOCK_BYTES, Fingerprint};
use tephra_executors::backend::lvm::{LvmBackend, LvmConfig, OpenError, Provisioning};
use tephra_executors::process::{Launcher, Spawner};
use uuid::Uuid;

/// Runs a program that must succeed, and returns what it printed.
pub fn run<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> String {
    let (succeeded, text) = try_run(argv);
    assert!(succeeded, "{text}");
    text
}

/// Runs a program: whether it succeeded, and what it said.
pub fn try_run<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> (bool, String) {
    let mut argv = argv.into_iter();
    let mut command = Command::new(argv.next().unwrap());
    let output = command.args(argv).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A disk for a volume group: a sparse file behind a loop device. Gone when this is dropped.
pub struct Disk {
    file: PathBuf,
    pub device: String,
}

impl Disk {
    /// Under the directory that the guest has for them.
    pub fn new(gib: u64) -> Self {
        let directory = std::env::var_os("TEPHRA_LVM_DISKS").expect("run by ./test lvm");
        let file = PathBuf::from(directory).join(Uuid::new_v4().to_string());
        File::create(&file).unwrap().set_len(gib << 30).unwrap();
        let file_name = file.to_str().unwrap();
        let device = run(["losetup", "--direct-io=on", "--find", "--show", file_name]).trim().to_owned();
        Self { file, device }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        try_run(["losetup", "--detach", &self.device]);
        drop(std::fs::remove_file(&self.file));
    }
}

/// A volume group on a disk of its own. Gone, with everything in it, when this is dropped.
pub struct Group {
    pub name: String,
    pub disk: Disk,
}

impl Group {
    pub fn new(name: &str, gib: u64) -> Self {
        let disk = Disk::new(gib);
        run(["vgcreate", "-y", name, &disk.device]);
        // until udev has had its way with the new group, it may activate whatever is in it
        run(["udevadm", "settle"]);
        Self { name: name.to_owned(), disk }
    }

    pub fn config(&self, provisioning: Provisioning) -> LvmConfig {
        let config = LvmConfig::new(BackendName::new("lvm"), "host", &*self.name);
        LvmConfig { provisioning, lock_directory: std::env::temp_dir(), ..config }
    }

    pub async fn open(&self, provisioning: Provisioning) -> LvmBackend {
        self.open_with(self.config(provisioning)).await.unwrap()
    }

    pub async fn open_with(&self, config: LvmConfig) -> Result<LvmBackend, OpenError> {
        LvmBackend::open(config, Arc::new(Spawner) as Arc<dyn Launcher>).await
    }

    /// `volume group/logical volume`.
    pub fn path(&self, object: BackendObject) -> String {
        format!("{}/{}", self.name, lv(object))
    }

    /// The names of all logical volumes but the pool's.
    pub fn lvs(&self) -> Vec<String> {
        let printed = run(["lvs", "--noheadings", "-o", "lv_name", "-S", "lv_attr!~\"^t\"", &self.name]);
        let mut names: Vec<String> = printed.split_whitespace().map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        try_run(["vgimport", &self.name]);
        try_run(["vgremove", "-ff", "-y", &self.name]);
    }
}

pub fn lv(object: BackendObject) -> String {
    let name = object.to_string();
    if name.starts_with("snapshot") { format!("_{name}") } else { name }
}

pub fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

pub fn snapshot_of(volume: BackendObject) -> BackendObject {
    let snapshot = SnapshotId::from_uuid(Uuid::new_v4());
    BackendObject::Snapshot { volume: volume.volume(), snapshot }
}

pub fn safety_of(volume: BackendObject) -> BackendObject {
    let operation = OperationId::from_uuid(Uuid::new_v4());
    BackendObject::SafetySnapshot { volume: volume.volume(), operation }
}

pub const ONE: SizeGib = SizeGib::new(1).unwrap();
pub const TWO: SizeGib = SizeGib::new(2).unwrap();

pub fn create(volume: BackendObject) -> Effect {
    Effect::CreateVolume { volume, size: ONE }
}

pub async fn perform(backend: &LvmBackend, effect: Effect) -> Result<(), Failure> {
    backend.perform(&PoolName::new("lvm"), &effect).await
}

pub async fn done(backend: &LvmBackend, effect: Effect) {
    assert_eq!(perform(backend, effect.clone()).await, Ok(()), "{effect:?}");
}

/// The effect fails like this; what it says.
pub async fn refused(backend: &LvmBackend, effect: Effect, kind: FailureKind) -> String {
    let failure = perform(backend, effect.clone()).await.expect_err(&format!("{effect:?}"));
    assert_eq!(failure.kind, kind, "{effect:?}: {failure}");
    failure.message.into()
}

pub fn write(backend: &LvmBackend, object: BackendObject, block: u64, content: &[u8]) {
    let mut device = OpenOptions::new().write(true).open(backend.device(object)).unwrap();
    device.write_all_at(content, block * BLOCK_BYTES).unwrap();
    device.flush().unwrap();
    device.sync_all().unwrap();
}

/// What is in it; nothing if it is not there. A thin snapshot gets a device for as long as it takes.
pub fn fingerprint(backend: &LvmBackend, object: BackendObject) -> Option<Fingerprint> {
    with_device(backend, object, |path| Fingerprint::of_device(path).unwrap())
}

/// What is at its beginning, in its middle and at its end, which is where the suite writes.
pub fn glance(backend: &LvmBackend, object: BackendObject) -> Option<Fingerprint> {
    const NEAR: u64 = 8 << 20;
    let is_near = |at: u64, bytes: u64| at < NEAR || at.abs_diff(bytes / 2) < NEAR || at + NEAR >= bytes;
    with_device(backend, object, |path| Fingerprint::of_device_where(path, is_near).unwrap())
}

fn with_device<T>(backend: &LvmBackend, object: BackendObject, read: impl Fn(&Path) -> T) -> Option<T> {
    let path = backend.device(object);
    let passing = !path.exists();
    let name = format!("{}/{}", backend.config().volume_group, lv(object));
    if passing && !try_run(["lvchange", "-y", "-ay", "-K", &name]).0 {
        return None;
    }
    let found = read(&path);
    if passing {
        // as the backend does it: udev is not to activate it again
        run(["lvchange", "-y", "-an", "--config", "global/event_activation=0", &name]);
    }
    Some(found)
}
