//! A Ceph cluster of a test's own, by `labs/ceph-lab`; it ends with the test.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// The directory that it is in.
pub struct Lab(pub PathBuf);

impl Lab {
    pub fn start(directory: PathBuf) -> Result<Self> {
        let lab = Self(directory);
        ensure!(lab.script().arg("start").status()?.success(), "the lab does not start");
        Ok(lab)
    }

    pub fn script(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/labs/ceph-lab"));
        command.env("CEPH_LAB_DIR", &self.0);
        command
    }

    pub fn conf(&self) -> PathBuf {
        self.0.join("ceph.conf")
    }

    pub fn keyring(&self, user: &str) -> PathBuf {
        self.0.join(format!("{user}.keyring"))
    }

    /// A backend's part of a configuration.
    pub fn backend(&self, name: &str, user: &str, pools: &[&str]) -> String {
        let (conf, keyring) = (self.conf(), self.keyring(user));
        format!(
            "[[backends]]\nname = {name:?}\ndriver = \"rbd\"\n[backends.rbd]\npools = {pools:?}\n\
             user = {user:?}\nceph_conf = {conf:?}\nkeyring = {keyring:?}\n"
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.script().arg("destroy").stdin(Stdio::null()).stderr(Stdio::null()).status());
    }
}
