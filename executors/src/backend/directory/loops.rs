//! Files that loop devices of this host have open: they take no locks, whatever is mounted on them.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::stat;
use rustix::io::Errno;

/// What follows the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// The loop devices of this host, as sysfs shows them.
#[derive(Debug)]
pub struct LoopDevices {
    /// `/sys/block`, but for tests.
    devices: PathBuf,
}

/// A loop device with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    name: String,
    backing_file: PathBuf,
    /// Whether it takes writes.
    pub writes: bool,
}

impl fmt::Display for LoopDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/{}", self.name)
    }
}

impl LoopDevice {
    /// Whether its file is this one: by its name, which no two volumes share, and where its path leads
    /// anywhere here, and not only in another mount namespace, by device and inode. The kernel shows paths without
    /// links. Files of other names are not looked at: they may be where nobody answers.
    pub fn has(&self, name: &str, identity: (u64, u64)) -> bool {
        self.backing_file.file_name().is_some_and(|own| own == name)
            && stat(&self.backing_file).map_or(true, |found| (found.st_dev, found.st_ino) == identity)
    }
}

impl LoopDevices {
    /// Those that a directory of block devices shows.
    pub fn in_directory(devices: &Path) -> Self {
        Self { devices: devices.to_owned() }
    }

    /// All that have a file. None on a host without sysfs, which cannot have any. One that cannot be looked
    /// at is passed over: it may be anybody's.
    pub fn with_files(&self) -> io::Result<Vec<LoopDevice>> {
        let listed = match std::fs::read_dir(&self.devices) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut devices = Vec::new();
        for entry in listed {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if name.starts_with("loop") {
                match self.look(&name) {
                    Ok(device) => devices.extend(device),
                    Err(error) => tracing::warn!(device = name, %error, "a loop device cannot be looked at"),
                }
            }
        }
        Ok(devices)
    }

    fn look(&self, name: &str) -> io::Result<Option<LoopDevice>> {
        let read = |attribute: &str| match std::fs::read(self.devices.join(name).join(attribute)) {
            Ok(text) => Ok(Some(text.strip_suffix(b"\n").unwrap_or(&text).to_owned())),
            // it has no file, or has just lost it
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Ok(None),
            Err(error) => Err(error),
        };
        let Some(path) = read("loop/backing_file")? else { return Ok(None) };
        // another may have its name meanwhile, which is no business of this device
        if path.is_empty() || path.ends_with(DELETED) {
            return Ok(None);
        }
        let writes = read("ro")?.is_none_or(|read_only| read_only == b"0");
        Ok(Some(LoopDevice { name: name.to_owned(), backing_file: OsString::from_vec(path).into(), writes }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn device(root: &Path, name: &str, backing_file: Option<&[u8]>, read_only: &str) {
        let directory = root.join(name);
        std::fs::create_dir_all(directory.join("loop")).unwrap();
        std::fs::write(directory.join("ro"), format!("{read_only}\n")).unwrap();
        if let Some(path) = backing_file {
            std::fs::write(directory.join("loop/backing_file"), [path, b"\n"].concat()).unwrap();
        }
    }

    #[test]
    fn a_file_is_told_by_its_name_and_here_by_what_it_is_too_whatever_else_there_is() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("volume-1");
        std::fs::write(&file, "").unwrap();
        let found = std::fs::metadata(&file).unwrap();
        let identity = (found.dev(), found.ino());
        let path = file.display().to_string();
        let elsewhere = root.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("volume-1"), "").unwrap();
        let other = elsewhere.join("volume-1").display().to_string();
        let deleted = [path.as_bytes(), DELETED].concat();
        let devices = root.path().join("block");
        device(&devices, "loop0", Some(path.as_bytes()), "0");
        device(&devices, "loop1", Some(b"/seen/from/elsewhere/volume-1"), "1");
        device(&devices, "loop2", Some(other.as_bytes()), "0");
        device(&devices, "loop3", Some(&deleted), "0");
        device(&devices, "loop4", None, "0");
        device(&devices, "loop5", Some(b"/not/in/\xe9/utf-8.iso"), "0");
        // one whose attributes cannot be read
        std::fs::create_dir_all(devices.join("loop6/loop/backing_file")).unwrap();
        device(&devices, "sda", Some(path.as_bytes()), "0");
        let mut all = LoopDevices::in_directory(&devices).with_files().unwrap();
        all.sort_by_key(LoopDevice::to_string);
        let have: Vec<(String, bool, bool)> = all
            .iter()
            .map(|device| (device.to_string(), device.writes, device.has("volume-1", identity)))
            .collect();
        let expected = [
            ("/dev/loop0", true, true),
            ("/dev/loop1", false, true),
            ("/dev/loop2", true, false),
            ("/dev/loop5", true, false),
        ];
        assert_eq!(have, expected.map(|(name, writes, has)| (name.to_owned(), writes, has)));
        assert_eq!(LoopDevices::in_directory(&root.path().join("none")).with_files().unwrap(), []);
    }
}
