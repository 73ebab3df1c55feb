#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use tephra_domain::effect::{Failure, FailureKind};
use uuid::Uuid;

use super::super::header::Format;
use super::{ImageError, Limits, QemuImg, parse};
use crate::backend::Content;
use crate::process::{Launcher, Output, ProcessError, Program, Spawner};

proptest! {
    #[test]
    fn nonsense_from_qemu_img_is_an_error_or_a_disk_but_never_a_panic(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..512),
            "[{}\\[\\]:,\"a-z0-9 .-]{0,256}".prop_map(String::into_bytes),
        ]
    ) {
        if let Ok(info) = parse(&bytes) {
            info.is_whole(Path::new("/image"));
        }
    }
}

#[test]
fn a_changed_byte_anywhere_in_what_qemu_img_really_says_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", ""),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", ""),
        ("vdi", ""),
        ("vpc", ""),
        ("vhdx", ""),
    ] {
        let image = folder.path().join(format!("{format}-{}", options.len()));
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", format]);
        if !options.is_empty() {
            create.args(["-o", options]);
        }
        assert!(create.arg(&image).arg("8M").status().unwrap().success(), "{format} {options}");
        let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&image).output().unwrap();
        let said = info.stdout;
        assert!(parse(&said).is_ok(), "{format} {options}: {}", String::from_utf8_lossy(&said));
        for at in 0..said.len() {
            for byte in [0, b'"', b'{', b'-', b'9', 0xff] {
                let mut changed = said.clone();
                changed[at] = byte;
                if let Ok(info) = parse(&changed) {
                    info.is_whole(&image);
                }
            }
        }
    }
}

#[test]
fn what_qemu_img_says_is_read() {
    let info = parse(
        br#"{"virtual-size": 1048576, "filename": "i", "format": "qcow2", "actual-size": 9,
        "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}, "dirty-flag": false}"#,
    );
    assert_eq!(info.map(|info| info.virtual_size), Ok(1_048_576));
    for nonsense in ["", "{}", "[]", r#"{"virtual-size": -1, "format": "raw"}"#, "null", "{\"format\":"] {
        assert!(parse(nonsense.as_bytes()).is_err(), "{nonsense}");
    }
}

/// Fails the next program that it is asked to run.
struct Failing(Mutex<Option<ProcessError>>);

#[async_trait]
impl Launcher for Failing {
    async fn launch(&self, _: Program) -> Result<Output, ProcessError> {
        Err(self.0.lock().unwrap().take().unwrap())
    }
}

fn failing(error: ProcessError) -> QemuImg {
    QemuImg::new(Arc::new(Failing(Mutex::new(Some(error)))), Limits::default())
}

fn real() -> QemuImg {
    QemuImg::new(Arc::new(Spawner), Limits::default())
}

fn ended(code: Option<i32>, stderr: &str) -> ProcessError {
    ProcessError::Failed { program: "prlimit".to_owned(), code, stderr_tail: stderr.to_owned() }
}

fn timed_out() -> ProcessError {
    let time_limit = Duration::from_secs(7);
    ProcessError::TimedOut { program: "prlimit".to_owned(), time_limit, stderr_tail: String::new() }
}

fn place(location: &str) -> Content {
    Content { location: location.into() }
}

const RBD: &str = "rbd:volumes/volume-1:id=cinder:keyring=/etc/ceph/k";

/// What a failed run of `qemu-img convert` is put down to, with an image file that can be read.
async fn pouring(error: ProcessError) -> (bool, Failure) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = if let ProcessError::Failed { program, code, stderr_tail } = error {
        let stderr_tail = stderr_tail.replace("FILE", &file.path().to_string_lossy());
        ProcessError::Failed { program, code, stderr_tail }
    } else {
        error
    };
    let qemu_img = failing(error);
    let told = qemu_img.into_volume(Uuid::nil(), Format::Qcow2, file.path(), 1 << 20, &place(RBD)).await;
    let error = told.unwrap_err();
    (matches!(error, ImageError::Unacceptable { .. }), error.into())
}

#[tokio::test]
async fn a_volume_that_cannot_be_filled_is_not_the_images_fault() {
    let writing = |why: &str| ended(Some(1), &format!("qemu-img: error while writing at byte 65536: {why}"));
    for (error, kind, word) in [
        (writing("No space left on device"), FailureKind::NoSpace, "No space left"),
        (writing("Disk quota exceeded"), FailureKind::NoSpace, "quota"),
        (writing("Input/output error"), FailureKind::BackendError, "Input/output error"),
        (writing("Connection timed out"), FailureKind::TimedOut, "timed out"),
        (
            ended(Some(1), &format!("qemu-img: Could not open '{RBD}': error connecting: Permission denied")),
            FailureKind::BackendError,
            "Could not open 'the volume'",
        ),
        (ended(None, ""), FailureKind::BackendError, "ended by a signal"),
        (timed_out(), FailureKind::TimedOut, "not done within 7 s"),
        (
            ended(Some(127), "prlimit: failed to execute qemu-img: No such file or directory"),
            FailureKind::BackendUnavailable,
            "cannot be run on this executor's host",
        ),
        (
            ProcessError::NotFound { program: "prlimit".to_owned() },
            FailureKind::BackendUnavailable,
            "prlimit is not installed",
        ),
    ] {
        let (blames_image, failure) = pouring(error).await;
        assert!(!blames_image, "{failure}");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(word) && !failure.message.contains("keyring"), "{failure}");
    }
}

#[tokio::test]
async fn an_image_whose_data_cannot_be_read_is() {
    for stderr in [
        "qemu-img: error while reading at byte 0: Input/output error",
        "qemu-img: Could not open 'FILE': Image is corrupt",
    ] {
        let (blames_image, failure) = pouring(ended(Some(1), stderr)).await;
        assert!(blames_image, "{failure}");
        assert_eq!(failure.kind, FailureKind::Mismatch, "{failure}");
        assert!(failure.message.contains("its data cannot be read"), "{failure}");
    }
}

#[tokio::test]
async fn an_image_file_that_is_lost_here_is_this_machines_fault() {
    let qemu_img = failing(ended(Some(1), "qemu-img: error while reading at byte 0: Input/output error"));
    let gone = Path::new("/no/such/file");
    let error = qemu_img.into_volume(Uuid::nil(), Format::Raw, gone, 1 << 20, &place(RBD)).await.unwrap_err();
    assert_eq!(Failure::from(error).kind, FailureKind::BackendError);
}

#[tokio::test]
async fn an_upload_that_fails_never_blames_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = &folder.path().join("volume-1.image");
    for (error, kind, words) in [
        (
            ended(Some(1), "qemu-img: error while reading at byte 0: Input/output error"),
            FailureKind::BackendError,
            "the volume could not be read",
        ),
        (
            ended(Some(1), &format!("qemu-img: Could not open '{RBD}': No such file or directory")),
            FailureKind::BackendError,
            "the volume could not be read: Could not open 'the volume'",
        ),
        (
            ended(Some(1), "qemu-img: error while writing at byte 0: No space left on device"),
            FailureKind::NoSpace,
            "the image's file could not be made",
        ),
        (timed_out(), FailureKind::TimedOut, "not done within 7 s"),
        (ended(None, ""), FailureKind::BackendError, "ended by a signal"),
    ] {
        let told = failing(error).from_volume(&place(RBD), Format::Qcow2, file).await;
        let failure = Failure::from(told.unwrap_err());
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
    let nowhere = folder.path().join("none/volume-1.image");
    let failure = Failure::from(real().from_volume(&place(RBD), Format::Raw, &nowhere).await.unwrap_err());
    assert!(failure.message.starts_with("the image's file could not be made"), "{failure}");
}

/// What a storage does with what it is given, though nobody hears of it.
enum Loses {
    /// All that is written.
    Everything(PathBuf),
    /// A byte that was to be another.
    Byte(PathBuf, u64),
    /// What it has at the last flush.
    TheLastFlush,
}

#[async_trait]
impl Launcher for Loses {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let is = |word: &str| program.argv().iter().any(|found| found == word);
        let (is_write, is_sync) = (is("convert"), is("sync"));
        let open = |path: &Path| std::fs::File::options().write(true).open(path).unwrap();
        match self {
            Self::TheLastFlush if is_sync => {
                return Err(ended(Some(1), "sync: error syncing '/volume': Input/output error"));
            }
            Self::Everything(_) | Self::Byte(..) | Self::TheLastFlush => {}
        }
        let output = program.run().await?;
        match self {
            Self::Everything(path) if is_write => {
                let file = open(path);
                let length = file.metadata().unwrap().len();
                file.set_len(0).unwrap();
                file.set_len(length).unwrap();
            }
            Self::Byte(path, at) if is_write => {
                std::os::unix::fs::FileExt::write_all_at(&open(path), &[0xff], *at).unwrap();
            }
            Self::Everything(_) | Self::Byte(..) | Self::TheLastFlush => {}
        }
        Ok(output)
    }
}

/// Pours an image of 1 MiB into a file of 2 MiB.
async fn pour_into(path: &Path, launcher: Arc<dyn Launcher>) -> Result<(), Failure> {
    let (_folder, image) = compressed();
    std::fs::File::create(path).unwrap().set_len(2 << 20).unwrap();
    let target = Content { location: path.as_os_str().to_owned() };
    let pouring = QemuImg::new(launcher, Limits::default());
    let poured = pouring.into_volume(Uuid::nil(), Format::Qcow2, &image, 1 << 20, &target).await;
    poured.map_err(Failure::from)
}

#[tokio::test]
async fn data_that_is_lost_without_a_word_is_missed_before_anybody_believes_in_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a,volume");
    for (loses, word) in [
        (Loses::Everything(path.clone()), "does not hold what was written"),
        (Loses::Byte(path.clone(), 0), "does not hold what was written"),
        (Loses::Byte(path.clone(), (1 << 20) - 1), "does not hold what was written"),
        (Loses::TheLastFlush, "could not be made durable: sync: error syncing '/volume': Input/output"),
    ] {
        let failure = pour_into(&path, Arc::new(loses)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BackendError, "another backend may do better: {failure}");
        assert!(failure.message.contains(word), "{failure}");
    }
    pour_into(&path, Arc::new(Spawner)).await.unwrap();
    pour_into(&path, Arc::new(Loses::Byte(path.clone(), 1 << 20))).await.unwrap();
}

#[tokio::test]
async fn file_systems_with_and_without_direct_writes_are_poured_into() {
    for directory in ["/dev/shm", "/tmp", "/var/tmp"] {
        let Ok(folder) = tempfile::tempdir_in(directory) else { continue };
        pour_into(&folder.path().join("volume"), Arc::new(Spawner)).await.unwrap();
    }
}

fn qemu_img(words: &[&str], files: &[&Path]) {
    let output = Command::new("qemu-img").args(words).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with a compressed qcow2 of noise.
fn compressed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (disk, image) = (folder.path().join("disk"), folder.path().join("image"));
    let words: Vec<u8> = (0..1_u32 << 18).flat_map(|word| (word / 3).to_le_bytes()).collect();
    std::fs::write(&disk, words).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2"], &[&disk, &image]);
    (folder, image)
}

#[tokio::test]
async fn what_the_real_qemu_img_says_is_put_down_to_the_right_side() {
    let (folder, image) = compressed();
    let nowhere = folder.path().join("nowhere");
    let missing = Content { location: nowhere.clone().into_os_string() };
    let error = real().into_volume(Uuid::nil(), Format::Qcow2, &image, 1 << 20, &missing).await.unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.kind, FailureKind::BackendError, "{failure}");
    assert!(failure.message.contains("'the volume'"), "{failure}");

    let error = real().from_volume(&missing, Format::Qcow2, &folder.path().join("new")).await.unwrap_err();
    assert!(error.to_string().starts_with("the volume could not be read"), "{error}");

    // what is compressed is not looked into by `qemu-img check`
    let mut bytes = std::fs::read(&image).unwrap();
    let end = bytes.len();
    bytes[end - 20_000..end - 10_000].fill(0xa5);
    std::fs::write(&image, bytes).unwrap();
    let target = folder.path().join("target");
    std::fs::File::create(&target).unwrap().set_len(1 << 20).unwrap();
    let target = Content { location: target.into_os_string() };
    real().look(Uuid::nil(), Format::Qcow2, &image).await.unwrap();
    let error = real().into_volume(Uuid::nil(), Format::Qcow2, &image, 1 << 20, &target).await.unwrap_err();
    assert!(matches!(error, ImageError::Unacceptable { .. }), "{error}");
}

#[tokio::test]
async fn a_host_without_qemu_img_is_not_the_images_fault() {
    let (_folder, image) = compressed();
    let error = ended(Some(127), "prlimit: failed to execute qemu-img: No such file or directory");
    let error = failing(error).look(Uuid::nil(), Format::Qcow2, &image).await.unwrap_err();
    assert_eq!(Failure::from(error).kind, FailureKind::BackendUnavailable);
}
