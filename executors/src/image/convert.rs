//! `qemu-img`, bounded: it gets so much time, memory and processor as an honest image needs, a file
//! that was looked at before, and the format that it is to read, never a guess.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::header::{self, Format, HEAD_BYTES, TAIL_BYTES};
use super::store::ImageError;
use crate::backend::Content;
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
        let output = self.launcher.launch(info).await.map_err(|error| bad(image, &error))?;
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
        let check = self
            .program(self.limits.time_limit)
            .args(["check", "-q", "-f", declared.driver(), "--"])
            .arg(file);
        match self.launcher.launch(check).await {
            Ok(_) => Ok(()),
            Err(ProcessError::Failed { code: Some(NOT_CHECKABLE | ONLY_LEAKS), .. }) => Ok(()),
            Err(ProcessError::Failed { .. }) => {
                Err(ImageError::unacceptable(image, "it is damaged, or its end is missing"))
            }
            Err(error) => Err(bad(image, &error)),
        }
    }

    /// Writes an image's disk into a volume that is there already, and sees to it that it is on the
    /// storage when this returns.
    ///
    /// # Errors
    /// If the image cannot be read to its end, or the volume not be written.
    pub async fn into_volume(
        &self,
        image: Uuid,
        format: Format,
        file: &Path,
        volume: &Content,
    ) -> Result<(), ImageError> {
        // -n: the volume is there. writeback, so that the flush at the end is one: the default,
        // "unsafe", leaves it out.
        let convert = self
            .program(self.limits.time_limit)
            .args(["convert", "-n", "-t", "writeback", "-f", format.driver(), "-O", "raw", "--"])
            .arg(file)
            .arg(&volume.location);
        self.launcher.launch(convert).await.map_err(|error| bad(image, &error))?;
        Ok(())
    }

    /// Writes a volume's data into a new image file.
    ///
    /// # Errors
    /// If the volume cannot be read, or the file not be written.
    pub async fn from_volume(
        &self,
        image: Uuid,
        volume: &Content,
        format: Format,
        file: &Path,
    ) -> Result<(), ImageError> {
        let convert = self
            .program(self.limits.time_limit)
            .args(["convert", "-t", "writeback", "-f", "raw", "-O", format.driver(), "--"])
            .arg(&volume.location)
            .arg(file);
        self.launcher.launch(convert).await.map_err(|error| bad(image, &error))?;
        Ok(())
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

/// A run that failed: on a full disk that is nobody's lie.
fn bad(image: Uuid, error: &ProcessError) -> ImageError {
    match error {
        ProcessError::Failed { stderr_tail, .. } if stderr_tail.contains("No space left") => {
            ImageError::local("qemu-img", std::io::ErrorKind::StorageFull.into())
        }
        ProcessError::Failed { .. } => ImageError::unacceptable(image, error.to_string()),
        ProcessError::TimedOut { .. } => ImageError::unacceptable(image, "converting it takes too long"),
        ProcessError::TooMuchOutput { .. } => ImageError::unacceptable(image, "it says too much of itself"),
        ProcessError::NotFound { .. } | ProcessError::Broken { .. } => {
            ImageError::local("qemu-img", std::io::Error::other(error.to_string()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::parse;

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
}
