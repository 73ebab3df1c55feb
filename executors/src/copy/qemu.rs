//! The runs of `qemu-img` that a copy is made of, word for word, and what their failures mean.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use tephra_domain::effect::{Failure, FailureKind};

use super::borrower::Access;
use super::key::{CREDENTIALS, Endpoint};
use super::lender::export_name;
use super::stretch::{Origin, Stretch};
use crate::backend::Content;
use crate::image::convert::{NOT_RUN, kind_of, last_line};
use crate::process::{Launcher, ProcessError, Program};

/// Bounds on a run of `qemu-img`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a run may take however little it copies.
    pub start_limit: Duration,
    /// What it must copy or compare in a second, or the storage is taken to hang.
    pub least_bytes_per_second: u64,
    /// Bytes of memory that it may map.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { start_limit: Duration::from_secs(120), least_bytes_per_second: 2 << 20, memory_bytes: 2 << 30 }
    }
}

impl Limits {
    fn of(&self, bytes: u64) -> Duration {
        let seconds = bytes / self.least_bytes_per_second.max(1);
        self.start_limit.saturating_add(Duration::from_secs(seconds))
    }
}

const INFO_STDOUT_LIMIT_BYTES: usize = 1 << 20;

/// How `qemu-img compare` says that two images differ.
pub(crate) const DIFFERENT: i32 = 1;

/// What is known of the target where nothing was written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    /// It holds zeroes: none need be written.
    Zeroes,
    /// It may hold anything: zeroes are written, or the storage told to make some.
    Unknown,
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

/// One end of a copy.
#[derive(Clone)]
pub struct End<'a> {
    place: Place<'a>,
    /// Whether it is read and written past whatever is kept of it in memory.
    is_direct: bool,
}

#[derive(Clone)]
enum Place<'a> {
    /// A program of this host reaches it by its location.
    Here(&'a Content),
    /// Another executor lends it.
    Lent(Arc<Access>),
}

impl<'a> End<'a> {
    /// Looks what kind of place it is.
    pub async fn of(content: &'a Content) -> Self {
        let path = PathBuf::from(&content.location);
        let is_direct = is_rbd(content)
            || tokio::task::spawn_blocking(move || opens_directly(&path)).await.is_ok_and(|it| it);
        Self { place: Place::Here(content), is_direct }
    }

    /// What another executor lends, which looks after the cache itself.
    pub const fn lent(access: Arc<Access>) -> Self {
        Self { place: Place::Lent(access), is_direct: false }
    }

    /// The cache mode under which `qemu-img` reports whatever is not written. It closes its target with
    /// a flush of which nobody hears whether it failed, so nothing may depend on that one: what is
    /// written directly is refused at once, and of anything else each write is flushed by itself.
    pub const fn write_cache(&self) -> &'static str {
        if self.is_direct { "none" } else { "writethrough" }
    }

    /// Its first bytes, for `--image-opts`.
    pub fn beginning(&self, length: u64) -> OsString {
        self.options(Some(Stretch { start: 0, length, origin: Origin::Source }))
    }

    /// All of it, for `--image-opts`.
    pub fn whole(&self) -> OsString {
        self.options(None)
    }

    /// The path to what the host's kernel keeps pages of; nothing for what a library reaches by itself.
    pub fn path(&self) -> Option<&'a Path> {
        match self.place {
            Place::Here(content) if !is_rbd(content) => Some(Path::new(&content.location)),
            Place::Here(_) | Place::Lent(_) => None,
        }
    }

    fn options(&self, stretch: Option<Stretch>) -> OsString {
        let mut options = OsString::from("driver=raw");
        if let Some(Stretch { start, length, .. }) = stretch {
            options.push(format!(",offset={start},size={length}"));
        }
        if self.is_direct {
            // what another device changed under it is in no page that the kernel keeps for this one, and
            // what never reached the storage may be in one
            options.push(",cache.direct=on");
        }
        match &self.place {
            Place::Here(content) => {
                if is_rbd(content) {
                    options.push(",file.driver=rbd");
                }
                options.push(",file.filename=");
                options.push(escaped(&content.location));
            }
            Place::Lent(access) => {
                let Access { loan, id, .. } = &**access;
                options.push(format!(
                    ",file.driver=nbd,file.server.type=inet,file.server.host={},file.server.port={}",
                    loan.host, loan.port
                ));
                options.push(format!(",file.export={},file.tls-creds={CREDENTIALS}", export_name(*id)));
            }
        }
        options
    }

    /// What a program needs to be told before it can reach the place.
    fn objects(&self) -> Vec<OsString> {
        match &self.place {
            Place::Here(_) => Vec::new(),
            Place::Lent(access) => vec!["--object".into(), access.keys.object(Endpoint::Client)],
        }
    }

    /// How programs speak of it.
    fn location(&self) -> OsString {
        match &self.place {
            Place::Here(content) => content.location.clone(),
            Place::Lent(access) => format!("{}:{}", access.loan.host, access.loan.port).into(),
        }
    }
}

fn is_rbd(content: &Content) -> bool {
    content.location.as_encoded_bytes().starts_with(b"rbd:")
}

/// Whether reads and writes can go past what the kernel keeps: of devices always, of files where the
/// file system lets them.
fn opens_directly(path: &Path) -> bool {
    open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// In these options a comma begins the next one; two are one.
pub(crate) fn escaped(location: &OsStr) -> OsString {
    let mut escaped = OsString::new();
    let mut rest = location.as_encoded_bytes();
    while let Some(comma) = rest.iter().position(|byte| *byte == b',') {
        let (before, after) = rest.split_at(comma.saturating_add(1));
        escaped.push(as_os(before));
        escaped.push(",");
        rest = after;
    }
    escaped.push(as_os(rest));
    escaped
}

fn as_os(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Both ends of a copy, and who runs it.
pub struct Runs<'a> {
    pub launcher: &'a Arc<dyn Launcher>,
    pub limits: Limits,
    pub source: End<'a>,
}

impl Runs<'_> {
    fn qemu_img(&self, command: &str, bytes: u64) -> Program {
        let time_limit = self.limits.of(bytes);
        Program::new("prlimit", time_limit)
            .arg(format!("--as={}", self.limits.memory_bytes))
            .arg(format!("--cpu={}", time_limit.as_secs().max(1)))
            .args(["qemu-img", command])
            .args(self.source.objects())
    }

    /// How long the source is, in bytes.
    pub async fn length(&self) -> Result<u64, Failure> {
        let program = self
            .qemu_img("info", 0)
            .args(["--output=json", "--image-opts"])
            .arg(self.source.options(None))
            .stdout_limit_bytes(INFO_STDOUT_LIMIT_BYTES);
        let output = self.launcher.launch(program).await;
        let output = output.map_err(|error| self.failed("the source could not be read", &error, None))?;
        let info: Result<Info, _> = serde_json::from_slice(&output.stdout);
        info.map(|info| info.virtual_size).map_err(|error| {
            let message = format!("qemu-img says of the source what makes no sense: {error}");
            Failure::new(FailureKind::BackendError, message)
        })
    }

    fn origin(&self, stretch: Stretch) -> OsString {
        match stretch.origin {
            Origin::Source => self.source.options(Some(stretch)),
            Origin::Zeroes => format!("driver=null-co,read-zeroes=on,size={}", stretch.length).into(),
        }
    }

    /// The target holds the stretch afterwards; without holes where those of the source are only if
    /// the storage cannot make any.
    pub async fn write(&self, stretch: Stretch, target: &End<'_>, blank: Blank) -> Result<(), Failure> {
        // -n: the target is there
        let program = self.qemu_img("convert", stretch.length).args(["-n", "-t", target.write_cache()]);
        let program = match blank {
            Blank::Zeroes => program.arg("--target-is-zero"),
            Blank::Unknown => program,
        };
        let program = program
            .args(["--image-opts", "--target-image-opts"])
            .arg(self.origin(stretch))
            .arg(target.options(Some(stretch)));
        match self.launcher.launch(program).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("the data could not be copied", &error, Some(target))),
        }
    }

    /// Whether the target holds the stretch, byte for byte.
    pub async fn is_there(&self, stretch: Stretch, target: &End<'_>) -> Result<bool, Failure> {
        let program = self
            .qemu_img("compare", stretch.length)
            .args(["-q", "--image-opts"])
            .arg(self.origin(stretch))
            .arg(target.options(Some(stretch)));
        match self.launcher.launch(program).await {
            Ok(_) => Ok(true),
            Err(ProcessError::Failed { code: Some(DIFFERENT), .. }) => Ok(false),
            Err(error) => Err(self.failed("the copy could not be compared", &error, Some(target))),
        }
    }

    /// What the kernel has of the target is on the storage: also what an attempt wrote that died.
    pub async fn make_durable(&self, target: &End<'_>, bytes: u64) -> Result<(), Failure> {
        let Some(path) = target.path() else { return Ok(()) };
        let program = Program::new("sync", self.limits.of(bytes)).arg(path);
        match self.launcher.launch(program).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("the copy could not be made durable", &error, Some(target))),
        }
    }

    /// What went wrong, without paths and addresses.
    fn failed(&self, what: &str, error: &ProcessError, target: Option<&End<'_>>) -> Failure {
        let (kind, why) = match error {
            ProcessError::Failed { code: Some(code), stderr_tail, .. } if NOT_RUN.contains(code) => {
                (FailureKind::BackendUnavailable, last_line(stderr_tail).to_owned())
            }
            ProcessError::NotFound { .. } => (FailureKind::BackendUnavailable, error.to_string()),
            ProcessError::Failed { code: None, .. } => {
                (FailureKind::BackendError, "qemu-img was ended by a signal".to_owned())
            }
            ProcessError::Failed { stderr_tail, .. } => {
                let line = last_line(stderr_tail).to_owned();
                let ends = [(Some(&self.source), "the source"), (target, "the volume")];
                let said = ends.into_iter().fold(line, |line, (end, name)| {
                    end.map_or(line.clone(), |end| end.without_location(&line, name))
                });
                (busy(stderr_tail).unwrap_or_else(|| kind_of(stderr_tail)), said)
            }
            ProcessError::TimedOut { time_limit, .. } => {
                (FailureKind::TimedOut, format!("not done within {} s", time_limit.as_secs_f64()))
            }
            ProcessError::TooMuchOutput { .. } | ProcessError::Broken { .. } => {
                (FailureKind::BackendError, error.to_string())
            }
        };
        Failure::new(kind, format!("{what}: {why}"))
    }
}

impl End<'_> {
    fn without_location(&self, line: &str, name: &str) -> String {
        let options = self.whole().to_string_lossy().into_owned();
        let line = &match options.split_once(',').map(|(_, options)| options) {
            // these say where it is in other words
            Some(options) if line.contains(options) => {
                let before = line.split(options).next().unwrap_or_default();
                let start = before.rfind("driver=raw").unwrap_or(before.len());
                line.replace(options, "").replacen(before.get(start..).unwrap_or_default(), name, 1)
            }
            Some(_) | None => line.to_owned(),
        };
        let location = self.location();
        let quoted = line.replace(&*escaped(&location).to_string_lossy(), name);
        let quoted = quoted.replace(&*location.to_string_lossy(), name);
        // the options before the location say nothing to anybody
        match (quoted.find("driver=raw"), quoted.find(name)) {
            (Some(start), Some(end)) if start < end => {
                let (before, after) = (quoted.get(..start), quoted.get(end..));
                format!("{}{}", before.unwrap_or_default(), after.unwrap_or_default())
            }
            _ => quoted,
        }
    }
}

/// `qemu-img` and a running qemu exclude each other by locks on the file.
fn busy(stderr: &str) -> Option<FailureKind> {
    let is_locked =
        stderr.contains("Is another process using the image") || stderr.contains("Failed to lock byte");
    is_locked.then_some(FailureKind::Busy)
}
