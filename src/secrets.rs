//! The deployment's master key: where it is, and its first making.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tephra_journal::secrets::{MASTER_KEY_BYTES, MasterKey};

use crate::config::Config;
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};

/// The key's file in the data directory of a server that is all on one machine.
const KEY_FILE: &str = "master.key";

/// Permission bits that let others than the owner read the key.
const OTHERS: u32 = 0o077;

/// The master key: from the configured file; on one machine otherwise from the data directory,
/// where it is made if it is not there. Nothing over NATS if no file is configured: every process
/// would make its own, and no password would be right.
///
/// # Errors
/// [`Exit::Usage`] for a file that others can read or that holds no key.
pub fn master_key(config: &Config) -> CommandResult<Option<MasterKey>> {
    match &config.secrets.master_key_file {
        Some(path) => read(path).map(Some),
        None if config.nats.is_used() => Ok(None),
        None => {
            let path = config.data_dir.join(KEY_FILE);
            match make(&path) {
                Ok(()) => tracing::info!(file = %path.display(), "made a master key"),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let cannot = format!("cannot make the master key {}", path.display());
                    return Err(anyhow::Error::from(error).context(cannot).into());
                }
            }
            read(&path).map(Some)
        }
    }
}

/// Makes a key: whole or not at all, for its owner alone.
fn make(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let mut bytes = [0; MASTER_KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let unfinished: PathBuf = path.with_extension("key.unfinished");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(hex::encode(bytes).as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

fn read(path: &Path) -> CommandResult<MasterKey> {
    let cannot = || format!("cannot read the master key {}", path.display());
    let mut file = File::open(path).with_context(cannot).exit(Exit::Usage)?;
    let mode = file.metadata().with_context(cannot).exit(Exit::Usage)?.permissions().mode();
    if mode & OTHERS != 0 {
        let refused = format!("the master key {} can be read by others", path.display());
        return Err(CommandError::new(Exit::Usage, refused).hint("chmod 600 makes it its owner's alone"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(cannot).exit(Exit::Usage)?;
    let mut bytes = [0; MASTER_KEY_BYTES];
    if hex::decode_to_slice(text.trim(), &mut bytes).is_err() {
        // what is there instead is not said: it may be half a key
        let refused = format!("{} does not hold 64 hexadecimal digits", path.display());
        return Err(CommandError::new(Exit::Usage, refused));
    }
    Ok(MasterKey::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data_dir: &Path) -> Config {
        Config { data_dir: data_dir.to_owned(), ..Config::default() }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = master_key(&config(dir.path())).unwrap();
        assert_eq!(first, master_key(&config(dir.path())).unwrap());
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(first, master_key(&config(other.path())).unwrap());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused_without_being_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        std::fs::write(&path, "half a secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = |expected: &str| {
            let error = master_key(&config(dir.path())).unwrap_err();
            let message = format!("{:#}", error.cause);
            assert!(message.contains(expected) && !message.contains("half a secret"), "{message}");
        };
        refused("can be read by others");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        refused("does not hold 64 hexadecimal digits");
    }
}
