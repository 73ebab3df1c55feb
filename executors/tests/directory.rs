//! What a directory backend does with what only a file system can do to it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, OperationId, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::Fingerprint;
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig, Nobody, OpenError, Witness};
use uuid::Uuid;

const NAMES: [&str; 4] = ["volume", "snapshot", "safety", "temporary"];

fn config(directory: &Path) -> DirectoryConfig {
    DirectoryConfig::new(BackendName::new("files"), "host", directory)
}

fn open(directory: &Path) -> DirectoryBackend {
    DirectoryBackend::open(config(directory)).unwrap()
}

fn volume(n: u128) -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
}

fn snapshot(n: u128) -> BackendObject {
    BackendObject::Snapshot {
        volume: volume(n).volume(),
        snapshot: SnapshotId::from_uuid(Uuid::from_u128(n)),
    }
}

fn create(volume: BackendObject) -> Effect {
    Effect::CreateVolume { volume, size: SizeGib::new(1).unwrap() }
}

async fn perform(backend: &DirectoryBackend, effect: Effect) -> Result<(), Failure> {
    backend.perform(&PoolName::new("files"), &effect).await
}

async fn refusal(backend: &DirectoryBackend, effect: Effect) -> FailureKind {
    perform(backend, effect).await.unwrap_err().kind
}

fn path(directory: &TempDir, object: BackendObject) -> PathBuf {
    directory.path().join(object.to_string())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".tephra.lock");
    names.sort();
    names
}

#[tokio::test]
async fn files_are_named_as_cinder_names_them_sparse_and_for_the_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let found = std::fs::metadata(path(&directory, volume(1))).unwrap();
    assert_eq!(names(directory.path()), ["volume-00000000-0000-0000-0000-000000000001"]);
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    assert_eq!(found.len(), 1 << 30);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
}

#[tokio::test]
async fn the_mode_of_new_files_is_the_configured_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = DirectoryConfig { file_mode: 0o666, ..config(directory.path()) };
    let backend = DirectoryBackend::open(config).unwrap();
    perform(&backend, create(volume(1))).await.unwrap();
    let mode = std::fs::metadata(path(&directory, volume(1))).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o666);
}

#[tokio::test]
async fn a_copy_keeps_holes() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let file = OpenOptions::new().write(true).open(path(&directory, volume(1))).unwrap();
    for megabyte in [0, 100, 900] {
        file.write_all_at(&vec![0xA5; 1 << 20], megabyte << 20).unwrap();
    }
    perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await.unwrap();
    let copy = path(&directory, snapshot(1));
    assert!(std::fs::metadata(&copy).unwrap().blocks() * 512 < 4 << 20);
    let original = Fingerprint::of_file(&path(&directory, volume(1))).unwrap();
    assert_eq!(Fingerprint::of_file(&copy).unwrap(), original);
}

#[tokio::test]
async fn a_start_sweeps_our_unfinished_files_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let id = Uuid::from_u128(5);
    for name in NAMES {
        std::fs::write(directory.path().join(format!("{name}-{id}.partial")), b"half").unwrap();
    }
    let kept = [
        "notes.partial".to_owned(),
        "volume-5.partial".to_owned(),
        format!("volume-{}.partial", id.simple()),
        format!("backup-{id}.partial"),
        format!("volume-{id}"),
        format!("volume-{id}.partial.old"),
    ];
    for name in &kept {
        std::fs::write(directory.path().join(name), b"kept").unwrap();
    }
    let _backend = open(directory.path());
    let mut expected = kept.to_vec();
    expected.sort();
    assert_eq!(names(directory.path()), expected);
}

#[tokio::test]
async fn undoing_a_create_takes_its_unfinished_file_too() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    std::fs::write(directory.path().join(format!("{}.partial", volume(1))), b"half").unwrap();
    perform(&backend, Effect::DeleteVolume { volume: volume(1) }).await.unwrap();
    assert!(names(directory.path()).is_empty());
}

#[test]
fn one_directory_is_served_by_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let second = DirectoryBackend::open(config(directory.path()));
    assert!(matches!(second, Err(OpenError::Taken { .. })), "{:?}", second.err());
    drop(first);
    open(directory.path());
}

/// As an NFS server does that has not heard of the first host for too long, or somebody who removes the
/// lock's file: the second has the lock while the first still believes that it has it.
fn lose_lock(directory: &Path) {
    std::fs::remove_file(directory.join(".tephra.lock")).unwrap();
}

#[tokio::test]
async fn who_has_lost_the_directory_to_another_changes_nothing_in_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    perform(&first, create(volume(1))).await.unwrap();
    lose_lock(directory.path());
    let second = open(directory.path());
    let before = names(directory.path());
    for effect in [
        create(volume(2)),
        Effect::DeleteVolume { volume: volume(1) },
        Effect::ExtendVolume { volume: volume(1), to: SizeGib::new(2).unwrap() },
        Effect::CreateSnapshot { snapshot: snapshot(1) },
    ] {
        assert_eq!(refusal(&first, effect).await, FailureKind::BackendUnavailable);
    }
    assert!(first.stats(Timestamp(0)).await.is_err());
    assert_eq!(names(directory.path()), before);
    assert_eq!(std::fs::metadata(path(&directory, volume(1))).unwrap().len(), 1 << 30);
    assert!(first.is_taken_over() && !second.is_taken_over());
    perform(&second, create(volume(2))).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_another_has_got_without_a_new_file_is_lost_too() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    perform(&first, create(volume(1))).await.unwrap();
    assert!(!first.is_taken_over());
    // what a second host writes whose lock the first one's kernel knows nothing of
    std::fs::write(directory.path().join(".tephra.lock"), Uuid::from_u128(7).to_string()).unwrap();
    assert_eq!(refusal(&first, create(volume(2))).await, FailureKind::BackendUnavailable);
    assert!(first.is_taken_over());
    assert!(!path(&directory, volume(2)).exists());
}

/// Takes the directory over when the first has filled a copy, and is about to put it in its place.
struct Usurper {
    directory: PathBuf,
    second: Mutex<Option<DirectoryBackend>>,
}

impl Witness for Usurper {
    fn changed(&self, what: &'static str, name: &str) {
        let mut second = self.second.lock().unwrap();
        if what == "fill" && second.is_none() {
            lose_lock(&self.directory);
            *second = Some(DirectoryBackend::open_before(config(&self.directory), Arc::new(Nobody)).unwrap());
            // the second is at work on the same
            std::fs::write(self.directory.join(name), b"the second's").unwrap();
        }
    }
}

#[tokio::test]
async fn a_revert_during_which_the_directory_was_lost_takes_nobody_s_data() {
    let directory = tempfile::tempdir().unwrap();
    let prepared = open(directory.path());
    perform(&prepared, create(volume(1))).await.unwrap();
    perform(&prepared, Effect::CreateSnapshot { snapshot: snapshot(1) }).await.unwrap();
    drop(prepared);
    let usurper = Arc::new(Usurper { directory: directory.path().to_owned(), second: Mutex::default() });
    let first = DirectoryBackend::open_before(config(directory.path()), Arc::clone(&usurper) as _).unwrap();
    let file = OpenOptions::new().write(true).open(path(&directory, volume(1))).unwrap();
    file.write_all_at(b"written since", 0).unwrap();
    let written = Fingerprint::of_file(&path(&directory, volume(1))).unwrap();
    let revert = Effect::RevertToSnapshot { volume: volume(1), snapshot: snapshot(1) };
    assert_eq!(refusal(&first, revert).await, FailureKind::BackendUnavailable);
    assert!(first.is_taken_over());
    assert_eq!(Fingerprint::of_file(&path(&directory, volume(1))).unwrap(), written);
    let partial = directory.path().join(format!("{}.partial", volume(1)));
    assert_eq!(std::fs::read(partial).unwrap(), b"the second's");
}

#[test]
fn a_directory_that_cannot_be_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for unusable in [file.clone(), file.join("below"), PathBuf::from("/proc/no-such-place")] {
        let opened = DirectoryBackend::open(config(&unusable));
        assert!(matches!(opened, Err(OpenError::Unusable { .. })), "{}", unusable.display());
    }
}

#[tokio::test]
async fn a_directory_that_vanishes_is_unavailable_not_empty() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("volumes");
    let backend = open(&directory);
    perform(&backend, create(volume(1))).await.unwrap();
    std::fs::rename(&directory, parent.path().join("elsewhere")).unwrap();
    let unavailable = FailureKind::BackendUnavailable;
    let delete = || Effect::DeleteVolume { volume: volume(1) };
    assert_eq!(refusal(&backend, delete()).await, unavailable);
    assert_eq!(backend.stats(Timestamp(0)).await.unwrap_err().kind, unavailable);

    // an empty directory in its place is what a missing mount looks like
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(refusal(&backend, delete()).await, unavailable);
    assert_eq!(refusal(&backend, create(volume(2))).await, unavailable);
    std::fs::remove_dir(&directory).unwrap();
    std::fs::rename(parent.path().join("elsewhere"), &directory).unwrap();
    perform(&backend, delete()).await.unwrap();
}

#[tokio::test]
async fn a_link_in_the_place_of_a_volume_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    let outside = tempfile::NamedTempFile::new().unwrap();
    outside.as_file().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink(outside.path(), path(&directory, volume(1))).unwrap();
    for effect in [
        create(volume(1)),
        Effect::ExtendVolume { volume: volume(1), to: SizeGib::new(2).unwrap() },
        Effect::CreateSnapshot { snapshot: snapshot(1) },
        Effect::DeleteVolume { volume: volume(1) },
    ] {
        assert_eq!(refusal(&backend, effect).await, FailureKind::BackendError);
    }
    assert_eq!(outside.as_file().metadata().unwrap().len(), 1 << 30);
}

#[tokio::test]
async fn a_snapshot_that_lost_its_end_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await.unwrap();
    OpenOptions::new().write(true).open(path(&directory, snapshot(1))).unwrap().set_len(12_345).unwrap();
    let revert = Effect::RevertToSnapshot { volume: volume(1), snapshot: snapshot(1) };
    let failure = perform(&backend, revert).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ObjectMissing);
    assert!(failure.message.contains("12345 bytes"), "{}", failure.message);
    assert_eq!(names(directory.path()).len(), 2);
}

#[tokio::test]
async fn a_size_that_no_file_system_has_is_unsupported_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    let size = SizeGib::new(SizeGib::MAX).unwrap();
    let result = perform(&backend, Effect::CreateVolume { volume: volume(1), size }).await;
    match result {
        // a file system that has such files
        Ok(()) => assert_eq!(names(directory.path()).len(), 1),
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::Unsupported, "{failure}");
            assert!(names(directory.path()).is_empty());
        }
    }
}

#[tokio::test]
async fn a_volume_that_is_written_elsewhere_is_not_copied_without_a_reflink() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let user = File::open(path(&directory, volume(1))).unwrap();
    rustix::fs::flock(&user, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    match perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await {
        // a reflink is of one moment, whoever writes
        Ok(()) => assert_eq!(names(directory.path()).len(), 2),
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::Busy);
            assert_eq!(names(directory.path()).len(), 1);
        }
    }
}

/// A host with one loop device, as sysfs shows it.
fn with_loop_device(directory: &tempfile::TempDir, file: &Path, read_only: bool) -> DirectoryConfig {
    let block_devices = directory.path().join("block");
    let device = block_devices.join("loop7");
    std::fs::create_dir_all(device.join("loop")).unwrap();
    std::fs::write(device.join("loop/backing_file"), format!("{}\n", file.display())).unwrap();
    std::fs::write(device.join("ro"), format!("{}\n", u8::from(read_only))).unwrap();
    DirectoryConfig { block_devices, ..config(&directory.path().join("volumes")) }
}

#[tokio::test]
async fn a_volume_that_a_loop_device_has_open_is_in_use_although_nobody_locks_it() {
    for read_only in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("volumes").join(volume(1).to_string());
        let config = with_loop_device(&directory, &file, read_only);
        let backend = DirectoryBackend::open(config).unwrap();
        perform(&backend, create(volume(1))).await.unwrap();
        perform(&backend, create(volume(2))).await.unwrap();
        let reflinks = copies_at_one_stroke(directory.path());
        let taken = perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await;
        // what nobody writes can be copied piece by piece
        assert_eq!(taken.is_ok(), reflinks || read_only, "{taken:?}");
        let deleted = perform(&backend, Effect::DeleteVolume { volume: volume(1) }).await;
        for failure in taken.err().into_iter().chain(deleted.err()) {
            assert_eq!(failure.kind, FailureKind::Busy);
            assert!(failure.message.contains("/dev/loop7 of this host has it open"), "{failure}");
        }
        let listed = backend.list(&PoolName::new("files")).await.unwrap();
        let used: Vec<&str> = listed.iter().filter(|found| found.in_use).map(|found| &*found.name).collect();
        assert_eq!(used, [volume(1).to_string()]);
        perform(&backend, Effect::DeleteVolume { volume: volume(2) }).await.unwrap();
        std::fs::remove_dir_all(directory.path().join("block/loop7")).unwrap();
        perform(&backend, Effect::DeleteVolume { volume: volume(1) }).await.unwrap();
    }
}

/// Whether the file system there has reflinks.
fn copies_at_one_stroke(directory: &Path) -> bool {
    let [from, to] = ["reflink-from", "reflink-to"].map(|name| {
        let path = directory.join(name);
        std::fs::write(&path, [7; 4096]).unwrap();
        File::options().write(true).read(true).open(path).unwrap()
    });
    rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}

/// Detached when it is dropped.
struct Loop(String);

impl Loop {
    /// Nothing, with the reason, where the host lets nobody make one.
    fn on(file: &Path, options: &[&str]) -> Result<Self, String> {
        let made = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output();
        let made = made.map_err(|error| format!("losetup cannot be started: {error}"))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned());
        }
        Ok(Self(String::from_utf8_lossy(&made.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

#[tokio::test]
async fn a_volume_on_a_real_loop_device_is_in_use_until_it_is_detached() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let attached = match Loop::on(&path(&directory, volume(1)), &[]) {
        Ok(attached) => attached,
        Err(reason) => {
            println!("skipped: no loop device on this host: {reason}");
            return;
        }
    };
    let delete = Effect::DeleteVolume { volume: volume(1) };
    let refused = perform(&backend, delete.clone()).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Busy);
    assert!(refused.message.contains(&attached.0), "{refused}");
    let taken = perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await;
    match taken {
        Ok(()) => assert!(copies_at_one_stroke(directory.path())),
        Err(failure) => assert_eq!(failure.kind, FailureKind::Busy),
    }
    drop(attached);
    // the kernel lets go of the file when whoever looks at the device has closed it (udev)
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(failure) = perform(&backend, delete.clone()).await {
        assert!(std::time::Instant::now() < deadline, "{failure}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// QEMU locks single bytes of its images with `fcntl`, and such locks are seen by other processes
/// only.
#[tokio::test]
async fn a_volume_that_qemu_has_open_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(directory.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let mut qemu = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 0 4k", "-c", "sleep 60000"])
        .arg(path(&directory, volume(1)))
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io is installed (qemu-utils)");
    // it has the volume open once it has written
    let blank = Fingerprint::of_blocks(1 << 30, []);
    while Fingerprint::of_file(&path(&directory, volume(1))).unwrap() == blank {
        assert!(qemu.try_wait().unwrap().is_none(), "qemu-io ended");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let delete = Effect::DeleteVolume { volume: volume(1) };
    let while_open = perform(&backend, delete.clone()).await;
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert_eq!(while_open.unwrap_err().kind, FailureKind::Busy);
    perform(&backend, delete).await.unwrap();
}

#[tokio::test]
async fn the_figures_are_the_file_systems_and_follow_the_volumes() {
    let directory = tempfile::tempdir().unwrap();
    let provisioned = |pools: Vec<tephra_domain::scheduler::PoolStats>| pools[0].provisioned_gib;
    let backend = open(directory.path());
    assert_eq!(provisioned(backend.stats(Timestamp(0)).await.unwrap()), 0.0);
    perform(&backend, create(volume(1))).await.unwrap();
    perform(&backend, create(volume(2))).await.unwrap();
    perform(&backend, Effect::CreateSnapshot { snapshot: snapshot(1) }).await.unwrap();
    perform(&backend, Effect::ExtendVolume { volume: volume(2), to: SizeGib::new(5).unwrap() })
        .await
        .unwrap();
    assert_eq!(provisioned(backend.stats(Timestamp(0)).await.unwrap()), 6.0);
    perform(&backend, Effect::DeleteVolume { volume: volume(1) }).await.unwrap();
    assert_eq!(provisioned(backend.stats(Timestamp(0)).await.unwrap()), 5.0);
    drop(backend);
    let stats = open(directory.path()).stats(Timestamp(7)).await.unwrap();
    assert_eq!(provisioned(stats.clone()), 5.0);
    assert!(stats[0].thin && stats[0].total_gib > stats[0].free_gib && stats[0].free_gib > 0.0);
    assert_eq!(stats[0].reported_at, Timestamp(7));
}

/// A program that only root may run; somebody else asks sudo, which must not ask back.
fn as_root(program: &str) -> Command {
    if rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

/// A tmpfs of 8 MiB, unmounted when dropped.
struct SmallFileSystem(TempDir);

impl SmallFileSystem {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size=8m,uid={}", rustix::process::getuid().as_raw());
        let mounted =
            as_root("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "no tmpfs can be mounted, as root or with sudo"
        );
        Self(directory)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let unmounted = as_root("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.path().display());
    }
}

#[tokio::test]
async fn a_full_file_system_is_no_space_and_keeps_what_there_was() {
    let small = SmallFileSystem::mount();
    let backend = open(small.0.path());
    perform(&backend, create(volume(1))).await.unwrap();
    let file = OpenOptions::new().write(true).open(path(&small.0, volume(1))).unwrap();
    file.write_all_at(&vec![1; 6 << 20], 0).unwrap();
    let before = Fingerprint::of_file(&path(&small.0, volume(1))).unwrap();
    drop(file);

    let full = Effect::CreateSnapshot { snapshot: snapshot(1) };
    assert_eq!(refusal(&backend, full).await, FailureKind::NoSpace);
    let operation = OperationId::from_uuid(Uuid::from_u128(9));
    let safety = BackendObject::SafetySnapshot { volume: volume(1).volume(), operation };
    assert_eq!(refusal(&backend, Effect::CreateSnapshot { snapshot: safety }).await, FailureKind::NoSpace);
    assert_eq!(names(small.0.path()), [volume(1).to_string()]);
    assert_eq!(Fingerprint::of_file(&path(&small.0, volume(1))).unwrap(), before);
    drop(backend);
}

#[tokio::test]
async fn a_foreign_file_is_listed_and_taken_over_filled_up_to_whole_gib() {
    let world = tempfile::tempdir().unwrap();
    let backend = open(world.path());
    let pool = PoolName::new("files");
    let half = 3 * (1u64 << 29);
    let file = File::create(world.path().join("legacy.img")).unwrap();
    file.set_len(half).unwrap();
    file.write_all_at(b"kept", 4096).unwrap();
    std::fs::create_dir(world.path().join("a-directory")).unwrap();

    let listed = backend.list(&pool).await.unwrap();
    let seen: Vec<_> = listed.iter().map(|found| (&*found.name, found.bytes, found.in_use)).collect();
    assert_eq!(seen, [("legacy.img", half, false)]);

    let object = volume(1);
    let size = SizeGib::new(2).unwrap();
    let adopt = Effect::Adopt { object, from: "legacy.img".into(), size: Some(size) };
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(backend.list(&pool).await.unwrap().iter().all(|found| found.in_use));
    let refused = backend.perform(&pool, &adopt).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Busy);
    drop(file);

    backend.perform(&pool, &adopt).await.unwrap();
    let path = world.path().join(object.to_string());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size.bytes());
    let mut kept = [0; 4];
    File::open(&path).unwrap().read_exact_at(&mut kept, 4096).unwrap();
    assert_eq!(&kept, b"kept");
    assert_eq!(provisioned_gib(&backend).await, 2.0);

    for outside in ["../escape", "", ".tephra.lock", "a/b"] {
        let adopt = Effect::Adopt { object, from: outside.into(), size: Some(size) };
        let refused = backend.perform(&pool, &adopt).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::ObjectMissing, "{outside}");
    }
}

async fn provisioned_gib(backend: &DirectoryBackend) -> f64 {
    backend.stats(Timestamp(1)).await.unwrap().iter().map(|stats| stats.provisioned_gib).sum()
}
