//! The files of a directory, and what the plan does to them.
//!
//! A file is built as `<name>.partial`, made durable, renamed, and the rename made durable: under
//! its final name there is a complete file or none. All calls block.
//!
//! Each creation flushes its file and the directory by itself: concurrent flushes share a commit of
//! the file system's journal, and collecting them here first was measured to gain nothing.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, fchmod, fcntl_lock, flock, fstat,
    fsync, major, minor, openat, renameat, renameat_with, stat, statat, unlinkat,
};
use rustix::io::Errno;
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{BackendObject, Failure, FailureKind, is_unmanaged_snapshot};
use uuid::Uuid;

use super::copy;
use super::lock::Lock;
use super::loops::LoopDevices;

/// What a file is called while it is being made.
const PARTIAL: &str = ".partial";

/// What our objects' names begin with, and users' volumes first.
const PREFIXES: [&str; 4] = ["volume-", "snapshot-", "safety-", "temporary-"];

/// Sees every change to a directory's files, right after it was made.
///
/// Everywhere but in tests that is [`Nobody`]. A test of what a crash leaves behind has one that dies
/// between two changes.
pub trait Witness: Send + Sync {
    /// What has just been done, and to which file.
    fn changed(&self, what: &'static str, name: &str);
}

/// Sees nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Witness for Nobody {
    fn changed(&self, _what: &'static str, _name: &str) {}
}

/// An open directory with its lock.
pub struct Files {
    witness: Arc<dyn Witness>,
    path: PathBuf,
    directory: OwnedFd,
    mode: Mode,
    /// Probing for locks takes and frees them: two probes at once would see each other.
    probing: Mutex<()>,
    /// What has files open without a lock.
    loops: LoopDevices,
    pub lock: Lock,
}

/// Why a directory could not be opened.
pub enum Refusal {
    /// Somebody else holds the lock.
    Taken,
    /// The system says no.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// What was found at the start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Unfinished files that were removed.
    pub removed: usize,
    /// The lengths of all volumes together, in bytes.
    pub volume_bytes: u64,
}

impl Files {
    /// Makes the directory if need be, shows that it can be written, and takes its lock.
    pub fn open(
        path: &Path,
        file_mode: u32,
        loops: LoopDevices,
        witness: Arc<dyn Witness>,
    ) -> Result<Self, Refusal> {
        std::fs::create_dir_all(path)?;
        let directory =
            openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let lock = Lock::take(&directory)?;
        fsync(&directory)?;
        Ok(Self {
            witness,
            path: path.to_owned(),
            directory,
            mode: Mode::from_raw_mode(file_mode),
            probing: Mutex::default(),
            loops,
            lock,
        })
    }

    /// Removes what a crash left unfinished: nothing but our own `<name>.partial`.
    pub fn sweep(&self) -> io::Result<Sweep> {
        let mut sweep = Sweep::default();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.strip_suffix(PARTIAL).is_some_and(is_ours) {
                unlinkat(&self.directory, name, AtFlags::empty())?;
                sweep.removed = sweep.removed.saturating_add(1);
            } else if name.starts_with("volume-") && is_ours(name) {
                sweep.volume_bytes = sweep.volume_bytes.saturating_add(self.length(name)?.unwrap_or(0));
            }
        }
        if sweep.removed > 0 {
            fsync(&self.directory)?;
        }
        Ok(sweep)
    }

    /// Fails if the directory is no longer where it was opened: unmounted, removed or replaced.
    pub fn check_alive(&self) -> Result<(), Failure> {
        let gone = |what: &str| Failure::new(FailureKind::BackendUnavailable, what);
        let opened = fstat(&self.directory).map_err(|_| gone("the directory cannot be reached"))?;
        match stat(&self.path) {
            Ok(now) if (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino) => {
                self.lock.check(&self.directory).map_err(|error| failure(&"the directory", "work in", &error))
            }
            Ok(_) => Err(gone("the directory was replaced by another: is a mount missing?")),
            Err(Errno::NOENT) => Err(gone("the directory is missing")),
            Err(error) => Err(gone(&format!("the directory cannot be reached: {error}"))),
        }
    }

    /// The length of an object's file, nothing if there is none.
    pub fn observe(&self, object: BackendObject) -> Result<Option<u64>, Failure> {
        self.length(&object.to_string()).map_err(|error| failure(&object, "look at", &error))
    }

    /// The length of a file that is none of ours, nothing if there is none.
    pub fn observe_name(&self, name: &str) -> Result<Option<u64>, Failure> {
        if !is_plain(name) {
            let message = format!("{name:?} is not the name of a file in the directory");
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        self.length(name).map_err(|error| failure(&name, "look at", &error))
    }

    /// Every file but what is ours alone: the lock, unfinished copies, hidden files.
    pub fn list(&self) -> Result<Vec<FoundObject>, Failure> {
        let seen = || -> io::Result<Vec<FoundObject>> {
            let locked = locked_files()?;
            let loops = self.loops.with_files()?;
            let mut found = Vec::new();
            for entry in Dir::read_from(&self.directory)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                if !is_plain(name) || name.strip_suffix(PARTIAL).is_some_and(is_ours) {
                    continue;
                }
                let file = match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(file) => file,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                };
                if FileType::from_raw_mode(file.st_mode) != FileType::RegularFile {
                    continue;
                }
                let is_locked = locked.contains(&(major(file.st_dev), minor(file.st_dev), file.st_ino));
                let identity = (file.st_dev, file.st_ino);
                found.push(FoundObject {
                    kind: kind_of(name),
                    name: name.into(),
                    bytes: u64::try_from(file.st_size).unwrap_or(0),
                    in_use: is_locked || loops.iter().any(|device| device.has(name, identity)),
                });
            }
            Ok(found)
        };
        seen().map_err(|error| failure(&"the directory", "list", &error))
    }

    /// Gives a file another name that nobody has, unless somebody uses the file.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.refuse_if_used(from, "rename")?;
        let renamed = || {
            self.publish(from, to, Publish::New)?;
            self.sync_directory(to)
        };
        renamed().map_err(|error| failure(&from, "rename", &error))
    }

    /// Size and free space of the file system, in bytes.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let figures = rustix::fs::fstatvfs(&self.directory)?;
        let unit = figures.f_frsize;
        Ok((figures.f_blocks.saturating_mul(unit), figures.f_bavail.saturating_mul(unit)))
    }

    /// Makes what is there durable, or that nothing is there.
    pub fn make_durable(&self, object: BackendObject) -> Result<(), Failure> {
        let durable = || {
            match self.open_file(&object.to_string(), OFlags::RDONLY) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            fsync(&self.directory).map_err(io::Error::from)
        };
        durable().map_err(|error| failure(&object, "make durable", &error))
    }

    /// A new file of zeroes.
    pub fn create_blank(&self, object: BackendObject, bytes: u64) -> Result<(), Failure> {
        self.build(object, Publish::New, |file| {
            file.set_len(bytes)?;
            self.witness.changed("set the length of", &object.to_string());
            Ok(())
        })
    }

    /// A new file with the data of another, zeroes beyond.
    pub fn create_copy(
        &self,
        object: BackendObject,
        source: BackendObject,
        bytes: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let from = self.open_source(source)?;
        self.build(object, Publish::New, |file| self.fill(&from, file, bytes, go_on))
    }

    /// The data of another file in the place of what is there, at one stroke.
    pub fn replace_by_copy(
        &self,
        object: BackendObject,
        source: BackendObject,
        bytes: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        self.refuse_if_used(&object.to_string(), "change")?;
        let from = self.open_source(source)?;
        self.build(object, Publish::Replace, |file| self.fill(&from, file, bytes, go_on))
    }

    /// More zeroes at the end. Also of a file that is in use: its user sees it grow.
    pub fn lengthen(&self, object: BackendObject, bytes: u64) -> Result<(), Failure> {
        let lengthened = || {
            let name = object.to_string();
            let file = self.open_file(&name, OFlags::RDWR)?;
            file.set_len(bytes)?;
            self.witness.changed("lengthen", &name);
            file.sync_all()?;
            self.witness.changed("sync", &name);
            Ok(())
        };
        lengthened().map_err(|error| failure(&object, "extend", &error))
    }

    /// Takes zeroes off the end, and nothing but zeroes.
    pub fn cut_zeroes(&self, object: BackendObject, bytes: u64) -> Result<(), Failure> {
        self.refuse_if_used(&object.to_string(), "change")?;
        let cut = || {
            let name = object.to_string();
            let file = self.open_file(&name, OFlags::RDWR)?;
            if copy::has_data(&file, bytes, file.metadata()?.len())? {
                return Ok(false);
            }
            self.lock.check(&self.directory)?;
            file.set_len(bytes)?;
            self.witness.changed("shorten", &name);
            file.sync_all()?;
            self.witness.changed("sync", &name);
            Ok(true)
        };
        match cut().map_err(|error| failure(&object, "shrink", &error))? {
            true => Ok(()),
            false => {
                let message = format!("{object} holds data beyond {bytes} bytes; nothing was cut off");
                Err(Failure::new(FailureKind::Mismatch, message))
            }
        }
    }

    /// No file of that name, finished or not.
    pub fn remove(&self, object: BackendObject) -> Result<(), Failure> {
        self.refuse_if_used(&object.to_string(), "change")?;
        let name = object.to_string();
        let removed = || {
            self.unlink(&name)?;
            self.unlink(&format!("{name}{PARTIAL}"))?;
            self.sync_directory(&name)
        };
        removed().map_err(|error| failure(&object, "delete", &error))
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
                Ok(Some(u64::try_from(found.st_size).unwrap_or(0)))
            }
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_file(&self, name: &str, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.directory, name, flags, Mode::empty())?))
    }

    fn open_source(&self, object: BackendObject) -> Result<Source, Failure> {
        match self.open_file(&object.to_string(), OFlags::RDONLY) {
            Ok(file) => Ok(Source { object, file }),
            Err(error) => Err(failure(&object, "read", &error)),
        }
    }

    fn fill(&self, from: &Source, to: &File, bytes: u64, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let name = from.object.to_string();
        if copy::reflink(&from.file, to)? {
            self.witness.changed("share the blocks of", &name);
            return to.set_len(bytes);
        }
        // without a reflink the copy takes time, and must not be of something that changes
        if let Some(user) = self.user(&name, For::Reading)? {
            return Err(user.into());
        }
        to.set_len(bytes)?;
        copy::copy_sparse(&from.file, to, from.file.metadata()?.len(), &|| {
            self.witness.changed("copy the next part of", &name);
            go_on()
        })
    }

    /// Builds a file under its partial name and gives it its final one. Leaves nothing on failure.
    fn build(
        &self,
        object: BackendObject,
        publish: Publish,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let name = object.to_string();
        let partial = format!("{name}{PARTIAL}");
        let built = || {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(openat(&self.directory, &partial, flags, self.mode)?);
            self.witness.changed("create", &partial);
            fchmod(&file, self.mode)?;
            fill(&file)?;
            self.witness.changed("fill", &partial);
            file.sync_all()?;
            self.witness.changed("sync", &partial);
            self.publish(&partial, &name, publish)?;
            self.sync_directory(&name)
        };
        built().map_err(|error| {
            // one of that name may be another process's by now
            if self.lock.check(&self.directory).is_ok()
                && let Err(left) = self.unlink(&partial)
            {
                tracing::warn!(file = partial, error = %left, "an unfinished file stays until the next start");
            }
            failure(&object, "write", &error)
        })
    }

    fn publish(&self, partial: &str, name: &str, publish: Publish) -> io::Result<()> {
        // building it may have taken long
        self.lock.check(&self.directory)?;
        let renamed = match publish {
            Publish::New => {
                match renameat_with(&self.directory, partial, &self.directory, name, RenameFlags::NOREPLACE) {
                    // NFS cannot; that nothing is there has been seen under the volume's lock
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        renameat(&self.directory, partial, &self.directory, name)
                    }
                    done => done,
                }
            }
            Publish::Replace => renameat(&self.directory, partial, &self.directory, name),
        };
        renamed?;
        self.witness.changed("rename to", name);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => {
                self.witness.changed("unlink", name);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// After a change to a name.
    fn sync_directory(&self, name: &str) -> io::Result<()> {
        fsync(&self.directory)?;
        self.witness.changed("sync the directory of", name);
        Ok(())
    }

    fn refuse_if_used(&self, name: &str, doing: &str) -> Result<(), Failure> {
        match self.user(name, For::Changing) {
            Ok(None) => Ok(()),
            Ok(Some(user)) => Err(failure(&name, doing, &user.into())),
            Err(error) => Err(failure(&name, "look at", &error)),
        }
    }

    /// Who is in the way of that, as far as this host can tell: whoever holds a lock on the file, of `flock`
    /// or of `fcntl` (as QEMU does), and loop devices, which hold none. Our own locks are taken one after
    /// the other and freed at once, because over NFS both are one kind.
    fn user(&self, name: &str, purpose: For) -> io::Result<Option<User>> {
        let _alone = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match self.open_file(name, OFlags::RDWR) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let flock_as = match purpose {
            For::Reading => FlockOperation::NonBlockingLockShared,
            For::Changing => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, flock_as) {
            Ok(()) => flock(&file, FlockOperation::Unlock)?,
            Err(Errno::WOULDBLOCK) => return Ok(Some(User::HasLock)),
            Err(error) => return Err(error.into()),
        }
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => fcntl_lock(&file, FlockOperation::Unlock)?,
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(Some(User::HasLock)),
            Err(error) => return Err(error.into()),
        }
        let found = fstat(&file)?;
        let mut loops = self.loops.with_files()?.into_iter();
        let device = loops.find(|device| {
            (device.writes || purpose == For::Changing) && device.has(name, (found.st_dev, found.st_ino))
        });
        Ok(device.map(|device| User::Loop { device: device.to_string() }))
    }
}

/// What nobody else may have a file open for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Reading it piece by piece: others may read it, too.
    Reading,
    /// Changing it under everybody's feet.
    Changing,
}

/// Somebody who has a file open.
enum User {
    HasLock,
    Loop { device: String },
}

impl From<User> for io::Error {
    fn from(user: User) -> Self {
        match user {
            User::HasLock => Errno::BUSY.into(),
            User::Loop { device } => {
                Self::new(io::ErrorKind::ResourceBusy, format!("{device} of this host has it open"))
            }
        }
    }
}

struct Source {
    object: BackendObject,
    file: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    New,
    Replace,
}

/// Whether a name is one that we give, and nothing that merely looks like it.
fn is_ours(name: &str) -> bool {
    PREFIXES.iter().filter_map(|prefix| name.strip_prefix(prefix)).any(|id| {
        let mut text = Uuid::encode_buffer();
        Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().encode_lower(&mut text) == id)
    })
}

/// Whether a name can be that of a file in the directory that is not ours alone.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && !name.contains('\0')
}

/// Files do not say what they are: ours do by their names, and others stand by themselves.
fn kind_of(name: &str) -> FoundKind {
    let is_snapshot = ["snapshot-", "safety-"].iter().any(|prefix| name.starts_with(prefix)) && is_ours(name);
    if is_snapshot || is_unmanaged_snapshot(name) {
        FoundKind::Snapshot { of: None }
    } else {
        FoundKind::Volume
    }
}

/// The files of this host that somebody has locked, by device and inode. Looking at the kernel's
/// list disturbs nobody, whereas trying a lock can keep a starting QEMU from its disk.
fn locked_files() -> io::Result<BTreeSet<(u32, u32, u64)>> {
    let list = match std::fs::read_to_string("/proc/locks") {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    Ok(list.lines().filter_map(locked_file).collect())
}

/// `1: FLOCK  ADVISORY  WRITE 708 fd:01:263571 0 EOF`
fn locked_file(line: &str) -> Option<(u32, u32, u64)> {
    let mut parts = line.split_whitespace().find(|word| word.matches(':').count() == 2)?.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some((major, minor, parts.next()?.parse().ok()?))
}

/// What an error of the operating system means for the ledger.
fn failure(object: &dyn Display, doing: &str, error: &io::Error) -> Failure {
    let kind = match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => FailureKind::NoSpace,
        Some(Errno::BUSY | Errno::TXTBSY) => FailureKind::Busy,
        Some(Errno::NOENT) => FailureKind::ObjectMissing,
        Some(Errno::FBIG) => FailureKind::Unsupported,
        Some(Errno::EXIST) => FailureKind::Mismatch,
        Some(Errno::STALE | Errno::NOTCONN | Errno::NODEV | Errno::HOSTDOWN | Errno::HOSTUNREACH) => {
            FailureKind::BackendUnavailable
        }
        Some(Errno::TIMEDOUT) => FailureKind::TimedOut,
        Some(_) => FailureKind::BackendError,
        None if error.kind() == io::ErrorKind::ResourceBusy => FailureKind::Busy,
        None if error.kind() == io::ErrorKind::UnexpectedEof => FailureKind::ObjectMissing,
        None if error.kind() == io::ErrorKind::Interrupted => FailureKind::BackendUnavailable,
        None => FailureKind::BackendError,
    };
    let message = match kind {
        FailureKind::Busy if error.raw_os_error().is_some() => {
            format!("cannot {doing} {object}: somebody uses it")
        }
        FailureKind::Busy
        | FailureKind::ObjectMissing
        | FailureKind::NoSpace
        | FailureKind::TimedOut
        | FailureKind::BackendUnavailable
        | FailureKind::Unsupported
        | FailureKind::Mismatch
        | FailureKind::BackendError
        | FailureKind::NoValidBackend
        | FailureKind::NotAttempted => format!("cannot {doing} {object}: {error}"),
    };
    Failure::new(kind, message)
}
