#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tephra_domain::ids::{BackendName, SnapshotId, VolumeId};
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;
use crate::backend::directory::{DirectoryBackend, DirectoryConfig};
use crate::process::{Output, ProcessError, Program, Spawner};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn size(gib: u32) -> SizeGib {
    SizeGib::new(gib).unwrap()
}

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

/// Two directories, and what `qemu-img` is asked for.
struct Lab {
    directories: TempDir,
    from: DirectoryBackend,
    to: DirectoryBackend,
    watched: Arc<Watched>,
}

/// Runs programs, and does something to the world after one of them.
#[derive(Default)]
struct Watched {
    argvs: Mutex<Vec<Vec<OsString>>>,
    after_write: Mutex<Option<AfterWrite>>,
    stuck: Notify,
}

enum AfterWrite {
    /// The storage has something else than it was given.
    Lie(PathBuf, u64),
    /// Another process takes the directory over.
    TakeOver(PathBuf),
    /// Nobody hears of the end of this write, the n-th from now.
    Hang(usize),
}

fn is(argv: &[OsString], word: &str) -> bool {
    argv.iter().any(|found| found == word)
}

#[async_trait]
impl Launcher for Watched {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let argv = program.argv().to_vec();
        let is_write = is(&argv, "convert");
        self.argvs.lock().unwrap().push(argv);
        let output = Spawner.launch(program).await;
        let hangs = {
            let mut after = self.after_write.lock().unwrap();
            match &mut *after {
                Some(AfterWrite::Lie(path, at)) if is_write => {
                    File::options().write(true).open(path).unwrap().write_all_at(&[1], *at).unwrap();
                    false
                }
                Some(AfterWrite::TakeOver(directory)) if is_write => {
                    std::fs::write(directory.join(".tephra.lock"), b"somebody else's word, and a long one")
                        .unwrap();
                    false
                }
                Some(AfterWrite::Hang(left)) if is_write => {
                    *left -= 1;
                    *left == 0
                }
                Some(AfterWrite::Lie(..) | AfterWrite::TakeOver(_) | AfterWrite::Hang(_)) | None => false,
            }
        };
        if hangs {
            self.stuck.notify_one();
            std::future::pending::<()>().await;
        }
        output
    }
}

impl Lab {
    fn new() -> Self {
        let directories = tempfile::tempdir().unwrap();
        // a name that would end an option of qemu's
        let open = |name: &str| {
            let path = directories.path().join(name);
            DirectoryBackend::open(DirectoryConfig::new(BackendName::new("files"), "host", path)).unwrap()
        };
        let (from, to) = (open("from,here"), open("to,there"));
        Self { from, to, directories, watched: Arc::default() }
    }

    fn pool(&self) -> PoolName {
        self.to.config().pool.clone()
    }

    fn source_path(&self, object: BackendObject) -> PathBuf {
        self.directories.path().join("from,here").join(object.to_string())
    }

    fn target_path(&self, object: BackendObject) -> PathBuf {
        self.directories.path().join("to,there").join(object.to_string())
    }

    /// A source with a little data in every GiB, and a MiB of zeroes that are no hole.
    async fn source(&self, gib: u32) -> BackendObject {
        let source = volume();
        let create = Effect::CreateVolume { volume: source, size: size(gib) };
        self.from.perform(&self.pool(), &create).await.unwrap();
        let file = File::options().write(true).open(self.source_path(source)).unwrap();
        for n in 0..u64::from(gib) {
            file.write_all_at(&[u8::try_from(n + 1).unwrap(); 8192], n * GIB + 77 * MIB).unwrap();
            file.write_all_at(&vec![0; 1 << 20], n * GIB + 500 * MIB).unwrap();
        }
        file.write_all_at(&[0xee; 512], u64::from(gib) * GIB - 512).unwrap();
        source
    }

    async fn copy(&self, source: BackendObject, volume: BackendObject, gib: u32) -> Result<Copied, Failure> {
        self.copy_within(Limits::default(), source, volume, gib).await
    }

    async fn copy_within(
        &self,
        limits: Limits,
        source: BackendObject,
        volume: BackendObject,
        gib: u32,
    ) -> Result<Copied, Failure> {
        let copier = Copier::new(Arc::clone(&self.watched) as Arc<dyn Launcher>, limits);
        let content = self.from.content(&self.pool(), source).await?;
        let pool = &self.pool();
        copier.copy(Source::Here(&content), Target { backend: &self.to, pool, volume, size: size(gib) }).await
    }

    fn assert_same(&self, source: BackendObject, volume: BackendObject, gib: u32) {
        let (source, target) = (self.source_path(source), self.target_path(volume));
        assert_eq!(target.metadata().unwrap().len(), u64::from(gib) * GIB);
        // beyond the shorter one it wants zeroes
        let mut compare = Command::new("qemu-img");
        let output = compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(source).arg(target).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    fn runs(&self, word: &str) -> usize {
        self.watched.argvs.lock().unwrap().iter().filter(|argv| is(argv, word)).count()
    }
}

#[tokio::test]
async fn a_copy_is_exact_and_as_sparse_as_its_source() {
    let lab = Lab::new();
    let source = lab.source(2).await;
    for gib in [2, 3] {
        let target = volume();
        let stretches = usize::try_from(gib).unwrap();
        assert_eq!(lab.copy(source, target, gib).await, Ok(Copied { written: stretches, found: 0 }));
        lab.assert_same(source, target, gib);
        let taken = lab.target_path(target).metadata().unwrap().blocks() * 512;
        assert!(taken < MIB, "the zeroes take space: {taken}");
    }
}

#[tokio::test]
async fn a_repeated_copy_writes_nothing() {
    let lab = Lab::new();
    let (source, target) = (lab.source(2).await, volume());
    lab.copy(source, target, 3).await.unwrap();
    assert_eq!(lab.copy(source, target, 3).await, Ok(Copied { written: 0, found: 3 }));
    lab.assert_same(source, target, 3);
}

#[tokio::test]
async fn a_copy_that_was_killed_goes_on_where_it_was() {
    let lab = Arc::new(Lab::new());
    let (source, target) = (lab.source(4).await, volume());
    *lab.watched.after_write.lock().unwrap() = Some(AfterWrite::Hang(3));
    let killed = tokio::spawn({
        let lab = Arc::clone(&lab);
        async move { lab.copy(source, target, 4).await }
    });
    lab.watched.stuck.notified().await;
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    // half of the third stretch: not all that qemu-img wrote has arrived
    let file = File::options().write(true).open(lab.target_path(target)).unwrap();
    file.write_all_at(&[0; 8192], 2 * GIB + 77 * MIB).unwrap();
    file.write_all_at(&[9; 100], 2 * GIB + 600 * MIB).unwrap();

    *lab.watched.after_write.lock().unwrap() = None;
    assert_eq!(lab.copy(source, target, 4).await, Ok(Copied { written: 2, found: 2 }));
    lab.assert_same(source, target, 4);
    assert_eq!((lab.runs("convert"), lab.runs("sync")), (5, 1));
    // what the first attempt left beyond the source's data is a hole again
    let taken = lab.target_path(target).metadata().unwrap().blocks() * 512;
    assert!(taken < MIB, "the zeroes take space: {taken}");
}

#[tokio::test]
async fn nothing_that_an_earlier_copy_left_is_taken_for_this_ones() {
    let lab = Lab::new();
    let (first, second, target) = (lab.source(2).await, lab.source(2).await, volume());
    let file = File::options().write(true).open(lab.source_path(second)).unwrap();
    file.write_all_at(b"another", GIB + 5).unwrap();
    lab.copy(first, target, 2).await.unwrap();
    assert_eq!(lab.copy(second, target, 2).await, Ok(Copied { written: 1, found: 1 }));
    lab.assert_same(second, target, 2);
    // deleted and made again
    lab.to.perform(&lab.pool(), &Effect::delete(target)).await.unwrap();
    let create = Effect::CreateVolume { volume: target, size: size(2) };
    lab.to.perform(&lab.pool(), &create).await.unwrap();
    assert_eq!(lab.copy(second, target, 2).await, Ok(Copied { written: 2, found: 0 }));
    lab.assert_same(second, target, 2);
}

#[tokio::test]
async fn a_storage_that_changes_what_it_is_given_is_found_out() {
    let lab = Lab::new();
    let source = lab.source(2).await;
    for at in [GIB / 2, GIB + 77 * MIB + 8191, 3 * GIB - 1] {
        let target = volume();
        *lab.watched.after_write.lock().unwrap() = Some(AfterWrite::Lie(lab.target_path(target), at));
        let failure = lab.copy(source, target, 3).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Mismatch, "{failure}");
        assert!(failure.message.contains("does not hold what was copied into it"), "{failure}");
    }
}

#[tokio::test]
async fn a_source_that_is_missing_cut_short_or_too_large_makes_no_volume() {
    let lab = Lab::new();
    let (source, target) = (lab.source(2).await, volume());
    let kind = |copied: Result<Copied, Failure>| copied.unwrap_err().kind;
    assert_eq!(kind(lab.copy(source, target, 1).await), FailureKind::Mismatch);
    assert_eq!(kind(lab.copy(volume(), target, 1).await), FailureKind::ObjectMissing);
    let of = source.volume();
    let snapshot = BackendObject::Snapshot { volume: of, snapshot: SnapshotId::from_uuid(Uuid::new_v4()) };
    assert_eq!(kind(lab.copy(snapshot, target, 2).await), FailureKind::ObjectMissing);
    File::options().write(true).open(lab.source_path(source)).unwrap().set_len(2 * GIB - 512).unwrap();
    assert_eq!(kind(lab.copy(source, target, 2).await), FailureKind::ObjectMissing);
    assert!(!lab.target_path(target).exists());
}

#[tokio::test]
async fn a_target_of_another_size_is_never_replaced() {
    let lab = Lab::new();
    let (source, target) = (lab.source(1).await, volume());
    let create = Effect::CreateVolume { volume: target, size: size(2) };
    lab.to.perform(&lab.pool(), &create).await.unwrap();
    assert_eq!(lab.copy(source, target, 1).await.unwrap_err().kind, FailureKind::Mismatch);
    assert_eq!(lab.runs("convert"), 0);
}

#[tokio::test]
async fn what_a_machine_has_open_is_busy() {
    let lab = Lab::new();
    let (source, target) = (lab.source(1).await, volume());
    // as a running machine has it
    let mut machine = Command::new("qemu-io");
    machine.args(["-f", "raw"]).arg(lab.source_path(source));
    let mut machine = machine.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut prompt = [0; 1];
    std::io::Read::read_exact(machine.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let failure = lab.copy(source, target, 1).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy, "{failure}");
    let directories = lab.directories.path().to_string_lossy().into_owned();
    assert!(!failure.message.contains(&directories), "{failure}");
    drop(machine.stdin.take());
    machine.wait().unwrap();
    lab.copy(source, target, 1).await.unwrap();
}

#[tokio::test]
async fn every_run_has_its_bounds() {
    let lab = Lab::new();
    let (source, target) = (lab.source(1).await, volume());
    let tight = Limits {
        start_limit: Duration::from_micros(1),
        least_bytes_per_second: u64::MAX,
        ..Limits::default()
    };
    let failure = lab.copy_within(tight, source, target, 1).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut, "{failure}");
    let small = Limits { memory_bytes: 8 << 20, ..Limits::default() };
    assert!(lab.copy_within(small, source, target, 1).await.is_err());
    let argvs = lab.watched.argvs.lock().unwrap();
    assert!(argvs.iter().all(|argv| argv[0] == "prlimit"), "{argvs:?}");
}

#[tokio::test]
async fn nothing_more_is_written_once_another_process_has_the_storage() {
    let lab = Lab::new();
    let (source, target) = (lab.source(3).await, volume());
    let directory = lab.directories.path().join("to,there");
    *lab.watched.after_write.lock().unwrap() = Some(AfterWrite::TakeOver(directory));
    lab.copy(source, target, 3).await.unwrap_err();
    assert!(lab.to.is_taken_over());
    assert_eq!(lab.runs("convert"), 1);
}
