//! `qemu-img`, bounded: it gets so much time, memory and processor as an honest image needs, a file
//! that was looked at before, and the format that it is to read, never a guess.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tephra_domain::effect::FailureKind;
use uuid::Uuid;

use super::header::{self, Format, HEAD_BYTES, TAIL_BYTES};
use super::store::ImageError;
use super::vdi;
use crate::backend::Content;
use crate::copy::{DIFFERENT, End, escaped};
use crate::process::{Launcher, ProcessError, Program};

/// Bounds on a run of `qemu-img` (Cinder's: 1 GiB and 30 s for a look; a conversion maps more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a conversion may take.
    pub time_limit: Duration,
    /// Bytes of memory that it may map.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_limit: Duration::from_secs(3600), memory_bytes: 2 << 30 }
    }
}

const LOOK_TIME_LIMIT: Duration = Duration::from_secs(30);
const LOOK_STDOUT_LIMIT_BYTES: usize = 1 << 20;

/// What qemu rounds the length of a disk up to.
const SECTOR_BYTES: u64 = 512;

/// How `qemu-img check` says that a format has nothing to check, and that space is lost but no data.
const NOT_CHECKABLE: i32 = 63;
const ONLY_LEAKS: i32 = 3;

/// What `qemu-img info --output=json` says.
#[derive(Debug, Deserialize)]
struct Info {
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    #[serde(rename = "backing-filename")]
    backing_filename: Option<String>,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

#[derive(Debug, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

/// What a format says of itself: for VMDK the files that it is made of, for qcow2 the one that its
/// data are in.
#[derive(Debug, Default, Deserialize)]
struct SpecificData {
    #[serde(default)]
    extents: Vec<Extent>,
    #[serde(rename = "data-file")]
    data_file: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Extent {
    filename: String,
}

impl Info {
    /// Whether it is made of this one file.
    fn is_whole(&self, file: &Path) -> bool {
        let data = self.specific.as_ref().map(|specific| &specific.data);
        let others = data.is_some_and(|data| {
            data.data_file.is_some() || data.extents.iter().any(|extent| Path::new(&extent.filename) != file)
        });
        self.backing_filename.is_none() && !others
    }
}

/// Runs `qemu-img`.
#[derive(Clone)]
pub struct QemuImg {
    launcher: Arc<dyn Launcher>,
    limits: Limits,
}

impl QemuImg {
    /// Runs it through a launcher, within limits.
    pub fn new(launcher: Arc<dyn Launcher>, limits: Limits) -> Self {
        Self { launcher, limits }
    }

    fn program(&self, time_limit: Duration) -> Program {
        Program::new("prlimit", time_limit)
            .arg(format!("--as={}", self.limits.memory_bytes))
            .arg(format!("--cpu={}", time_limit.as_secs().max(1)))
            .arg("qemu-img")
    }

    /// Looks at an image's file and says how large a disk it is, in bytes.
    ///
    /// # Errors
    /// If it is not what it is declared as, needs another file, or cannot be read.
    pub async fn look(&self, image: Uuid, declared: Format, file: &Path) -> Result<u64, ImageError> {
        let (head, tail) =
            ends(file).map_err(|source| ImageError::local("the image cannot be read", source))?;
        header::vet(declared, &head, &tail)
            .map_err(|refusal| ImageError::unacceptable(image, refusal.to_string()))?;
        let info = self
            .program(LOOK_TIME_LIMIT)
            .args(["info", "--output=json", "-f", declared.driver(), "--"])
            .arg(file)
            .stdout_limit_bytes(LOOK_STDOUT_LIMIT_BYTES);
        let output = self.launcher.launch(info).await.map_err(|error| unlooked(image, file, &error))?;
        let info = parse(&output.stdout).map_err(|reason| ImageError::unacceptable(image, reason))?;
        if info.format != declared.driver() || info.encrypted || !info.is_whole(file) {
            return Err(ImageError::unacceptable(image, "it is encrypted, or is not what it says"));
        }
        self.check(image, declared, file).await?;
        Ok(info.virtual_size)
    }

    /// Makes sure that nothing of an image is missing: where a file has lost its end, qemu reads
    /// zeroes.
    async fn check(&self, image: Uuid, declared: Format, file: &Path) -> Result<(), ImageError> {
        let incomplete = || ImageError::unacceptable(image, "it is damaged, or its end is missing");
        if declared == Format::Vdi && !has_all_blocks(file)? {
            return Err(incomplete());
        }
        let check = self
            .program(self.limits.time_limit)
            .args(["check", "-q", "-f", declared.driver(), "--"])
            .arg(file);
        match self.launcher.launch(check).await {
            Ok(_) => Ok(()),
            Err(ProcessError::Failed { code: Some(NOT_CHECKABLE | ONLY_LEAKS), .. }) => Ok(()),
            Err(ProcessError::Failed { code: Some(code), stderr_tail, .. })
                if !NOT_RUN.contains(&code) && !wants_memory(&stderr_tail) =>
            {
                Err(incomplete())
            }
            Err(error) => Err(unlooked(image, file, &error)),
        }
    }

    /// Writes an image's disk of so many bytes into a volume that is there already. It is on the storage
    /// when this returns, and has been compared with the image there.
    ///
    /// # Errors
    /// [`ImageError::Unacceptable`] if the image's data makes no sense, which shows only now where it
    /// is compressed; [`ImageError::Conversion`] if the volume cannot be written, or not in time, or
    /// does not hold what was written.
    pub async fn into_volume(
        &self,
        image: Uuid,
        format: Format,
        file: &Path,
        disk_bytes: u64,
        volume: &Content,
    ) -> Result<(), ImageError> {
        let end = End::of(volume).await;
        // -n: the volume is there
        let convert = self
            .program(self.limits.time_limit)
            .args(["convert", "-n", "-t", end.write_cache(), "-f", format.driver(), "-O", "raw", "--"])
            .arg(file)
            .arg(&volume.location);
        let run = Run { image: file, volume: &volume.location };
        let Err(error) = self.launcher.launch(convert).await else {
            return self.prove(&run, format, disk_bytes, &end).await;
        };
        match &error {
            ProcessError::Failed { stderr_tail, .. } if run.could_not_read(stderr_tail, file.as_os_str()) => {
                // the file is ours by now: if all of it can be read, it is what it holds that cannot
                readable_to_its_end(file).await?;
                Err(ImageError::unacceptable(
                    image,
                    format!("its data cannot be read: {}", run.said(stderr_tail)),
                ))
            }
            ProcessError::Failed { .. }
            | ProcessError::TimedOut { .. }
            | ProcessError::TooMuchOutput { .. }
            | ProcessError::NotFound { .. }
            | ProcessError::Broken { .. } => Err(run.failed("the volume could not be filled", &error)),
        }
    }

    /// `qemu-img convert` ends with success whatever the last flush came to: the data is made durable by
    /// somebody who says so if it cannot be, and read back.
    async fn prove(
        &self,
        run: &Run<'_>,
        format: Format,
        disk_bytes: u64,
        end: &End<'_>,
    ) -> Result<(), ImageError> {
        if let Some(path) = end.path() {
            let sync = Program::new("sync", self.limits.time_limit).arg(path);
            let synced = self.launcher.launch(sync).await;
            synced.map_err(|error| run.failed("the volume could not be made durable", &error))?;
        }
        let mut image = OsString::from(format!("driver={},file.driver=file,file.filename=", format.driver()));
        image.push(escaped(run.image.as_os_str()));
        // beyond the image's end a volume holds what it was made with
        let written = disk_bytes.next_multiple_of(SECTOR_BYTES);
        let compare = self
            .program(self.limits.time_limit)
            .args(["compare", "-q", "--image-opts"])
            .arg(image)
            .arg(end.beginning(written));
        match self.launcher.launch(compare).await {
            Ok(_) => Ok(()),
            Err(ProcessError::Failed { code: Some(DIFFERENT), .. }) => Err(ImageError::Conversion {
                kind: FailureKind::BackendError,
                reason: "the volume could not be filled: it does not hold what was written into it"
                    .to_owned(),
            }),
            Err(error) => Err(run.failed("the volume could not be compared with its image", &error)),
        }
    }

    /// Writes a volume's data into a new image file.
    ///
    /// # Errors
    /// [`ImageError::Conversion`] if the volume cannot be read, or the file not be written, or not in
    /// time; [`ImageError::Local`] if the file cannot be made, or is not on its disk in the end.
    pub async fn from_volume(&self, volume: &Content, format: Format, file: &Path) -> Result<(), ImageError> {
        let unmade = |source| ImageError::local("the image's file could not be made", source);
        // open before anything is written: whoever opens it later may not hear of a write that failed
        let made = tokio::fs::File::create(file).await.map_err(unmade)?;
        let convert = self
            .program(self.limits.time_limit)
            .args(["convert", "-t", "writeback", "-f", "raw", "-O", format.driver(), "--"])
            .arg(&volume.location)
            .arg(file);
        let Err(error) = self.launcher.launch(convert).await else {
            return made.sync_all().await.map_err(unmade);
        };
        let run = Run { image: file, volume: &volume.location };
        let what = match &error {
            ProcessError::Failed { stderr_tail, .. } if run.could_not_read(stderr_tail, &volume.location) => {
                "the volume could not be read"
            }
            ProcessError::Failed { .. }
            | ProcessError::TimedOut { .. }
            | ProcessError::TooMuchOutput { .. }
            | ProcessError::NotFound { .. }
            | ProcessError::Broken { .. } => "the image's file could not be made",
        };
        Err(run.failed(what, &error))
    }
}

fn parse(json: &[u8]) -> Result<Info, String> {
    serde_json::from_slice(json).map_err(|error| format!("qemu-img says what makes no sense: {error}"))
}

fn ends(file: &Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut file = std::fs::File::open(file)?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES as u64).read_to_end(&mut tail)?;
    Ok((head, tail))
}

/// Whether a VDI is as long as its map of blocks says.
fn has_all_blocks(file: &Path) -> Result<bool, ImageError> {
    let unread = |source| ImageError::local("the image cannot be read", source);
    let file = std::fs::File::open(file).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    match vdi::end_of_blocks(&file) {
        Ok(end) => Ok(end <= length),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(unread(error)),
    }
}

/// What `prlimit`, the loader and a shell end with if `qemu-img` did not even begin.
pub(crate) const NOT_RUN: &[i32] = &[126, 127];

/// A look at an image that came to nothing. It reads nothing but the image, within bounds that are
/// far above what an honest one needs.
fn unlooked(image: Uuid, file: &Path, error: &ProcessError) -> ImageError {
    let too_much = "looking at it takes more memory or processor time than it may";
    match error {
        ProcessError::Failed { code: Some(code), stderr_tail, .. } if NOT_RUN.contains(code) => {
            not_run(stderr_tail)
        }
        ProcessError::Failed { code: None, .. } => ImageError::unacceptable(image, too_much),
        ProcessError::Failed { stderr_tail, .. } if wants_memory(stderr_tail) => {
            ImageError::unacceptable(image, too_much)
        }
        ProcessError::Failed { stderr_tail, .. } => {
            let said = last_line(stderr_tail).replace(&*file.to_string_lossy(), "it");
            ImageError::unacceptable(image, format!("qemu-img cannot make sense of it: {said}"))
        }
        ProcessError::TimedOut { .. } => ImageError::unacceptable(image, "looking at it takes too long"),
        ProcessError::TooMuchOutput { .. } => ImageError::unacceptable(image, "it says too much of itself"),
        ProcessError::NotFound { .. } | ProcessError::Broken { .. } => not_run(&error.to_string()),
    }
}

fn not_run(reason: &str) -> ImageError {
    ImageError::Conversion {
        kind: FailureKind::BackendUnavailable,
        reason: format!("qemu-img cannot be run on this executor's host: {}", last_line(reason)),
    }
}

fn wants_memory(stderr: &str) -> bool {
    stderr.contains("Cannot allocate memory") || stderr.contains("Could not allocate")
}

/// Both ends of a conversion, as `qemu-img` names them in its complaints.
struct Run<'a> {
    image: &'a Path,
    volume: &'a OsStr,
}

impl Run<'_> {
    /// Whether a complaint is about reading, where `source` is what was read.
    fn could_not_read(&self, stderr: &str, source: &OsStr) -> bool {
        let unopened = format!("Could not open '{}'", source.to_string_lossy());
        stderr.contains("error while reading") || stderr.contains(&unopened)
    }

    /// The complaint, without paths and addresses.
    fn said(&self, stderr: &str) -> String {
        let line = last_line(stderr);
        let line = line.replace(&*self.image.to_string_lossy(), "the image");
        line.replace(&*self.volume.to_string_lossy(), "the volume")
    }

    /// A conversion that failed for a reason which is not the image's.
    fn failed(&self, what: &str, error: &ProcessError) -> ImageError {
        let (kind, why) = match error {
            ProcessError::Failed { code: Some(code), stderr_tail, .. } if NOT_RUN.contains(code) => {
                return not_run(stderr_tail);
            }
            ProcessError::NotFound { .. } => return not_run(&error.to_string()),
            ProcessError::Failed { code: None, .. } => (FailureKind::BackendError, ENDED.to_owned()),
            ProcessError::Failed { stderr_tail, .. } => (kind_of(stderr_tail), self.said(stderr_tail)),
            ProcessError::TimedOut { time_limit, .. } => {
                (FailureKind::TimedOut, format!("not done within {} s", time_limit.as_secs_f64()))
            }
            ProcessError::TooMuchOutput { .. } | ProcessError::Broken { .. } => {
                (FailureKind::BackendError, error.to_string())
            }
        };
        ImageError::Conversion { kind, reason: format!("{what}: {why}") }
    }
}

const ENDED: &str = "qemu-img was ended by a signal; its bounds are those of [images]";

pub(crate) fn kind_of(stderr: &str) -> FailureKind {
    if stderr.contains("No space left") || stderr.contains("Disk quota exceeded") {
        FailureKind::NoSpace
    } else if stderr.contains("timed out") {
        FailureKind::TimedOut
    } else {
        FailureKind::BackendError
    }
}

pub(crate) fn last_line(stderr: &str) -> &str {
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.strip_prefix("qemu-img: ").unwrap_or(line)
}

/// Reads a file of ours, so that a disk that fails is not taken for an image that makes no sense.
async fn readable_to_its_end(file: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::local("the image cannot be read", source);
    let mut file = tokio::fs::File::open(file).await.map_err(failed)?;
    tokio::io::copy(&mut file, &mut tokio::io::sink()).await.map_err(failed)?;
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
