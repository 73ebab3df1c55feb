//! The key of a loan, where the programs at both ends read it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tempfile::TempDir;
use tephra_domain::effect::{Failure, FailureKind};

/// Whom the key is of: both ends say the same.
const USER: &str = "tephra";

/// The name under which a program's other options speak of its credentials.
pub const CREDENTIALS: &str = "loan";

/// The group `ffdhe2048` of RFC 7919, from which QEMU's servers take their parts of session keys. Without it each
/// looks for primes of its own before it serves anything, which takes up to seconds.
const DH_PARAMETERS: &str = include_str!("dh-params.pem");

/// A directory of its owner alone that holds the key, gone with this.
#[derive(Debug)]
pub struct KeyDirectory(TempDir);

/// Which end a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// It lends.
    Server,
    /// It borrows.
    Client,
}

impl KeyDirectory {
    /// Writes the key down.
    pub async fn make(key: &str) -> Result<Self, Failure> {
        let line = format!("{USER}:{key}\n");
        let made = tokio::task::spawn_blocking(move || {
            let directory = tempfile::Builder::new().prefix("tephra-loan-").tempdir()?;
            // these names are what QEMU looks for
            let path = directory.path().join("keys.psk");
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(line.as_bytes())?;
            std::fs::write(directory.path().join("dh-params.pem"), DH_PARAMETERS)?;
            Ok::<_, std::io::Error>(Self(directory))
        });
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::BackendError,
                format!("the key of a loan cannot be written down: {why}"),
            )
        };
        match made.await {
            Ok(made) => made.map_err(|error| failed(&error)),
            Err(_) => Err(Failure::new(FailureKind::BackendUnavailable, "the executor is stopping")),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The credentials, for `--object`.
    pub fn object(&self, end: Endpoint) -> std::ffi::OsString {
        let (endpoint, user) = match end {
            Endpoint::Server => ("server", String::new()),
            Endpoint::Client => ("client", format!(",username={USER}")),
        };
        let mut object = std::ffi::OsString::from(format!(
            "tls-creds-psk,id={CREDENTIALS},endpoint={endpoint}{user},dir="
        ));
        object.push(super::escaped(self.0.path().as_os_str()));
        object
    }
}
