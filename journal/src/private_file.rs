//! Files that only their owner can read.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// What the owner may do, and nobody else.
const MODE: u32 = 0o600;

/// Makes sure that `path` is a file that only its owner can read, whatever the umask and its
/// directory let others do. There is an empty one if there was none.
///
/// # Errors
/// If it cannot be made or changed.
pub fn make_private(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(MODE).open(path)?;
    let is_private = file.metadata()?.permissions().mode() & 0o077 == 0;
    if is_private { Ok(()) } else { file.set_permissions(Permissions::from_mode(MODE)) }
}
