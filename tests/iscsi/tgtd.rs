//! A tgtd of the test's own, and what it shows.

use std::fs::{File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::server::until;

/// The control port. The socket is the test's own, so it need not be.
const CONTROL: &str = "7";

/// The process.
pub struct Tgtd {
    directory: PathBuf,
    pub portal: String,
    process: Option<Child>,
}

impl Tgtd {
    /// One that keeps its socket and its log in `directory`. It does not run yet.
    pub fn new(directory: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let portal = format!("127.0.0.1:{port}");
        Ok(Self { directory: directory.to_owned(), portal, process: None })
    }

    /// What the server's configuration must say.
    pub fn section(&self) -> String {
        format!(
            "[backends.iscsi]\nportal = {:?}\ncontrol_port = {CONTROL}\nsocket = {:?}\n",
            self.portal,
            self.socket()
        )
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("tgtd")
    }

    pub async fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.join("tgtd.log"))?;
        let process = Command::new("tgtd")
            .args(["-f", "-C", CONTROL, "--iscsi", &format!("portal={}", self.portal)])
            .env("TGT_IPC_SOCKET", self.socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("tgtd: ./test iscsi installs it")?;
        self.process = Some(process);
        until("tgtd answers", async || {
            let is_up = TcpStream::connect(&self.portal).is_ok() && self.show("target").is_ok();
            Ok(is_up.then_some(()))
        })
        .await
    }

    /// kill -9. What it exported is forgotten.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("tgtd does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    fn show(&self, mode: &str) -> Result<String> {
        let output = Command::new("tgtadm")
            .args(["--control-port", CONTROL, "--lld", "iscsi", "--op", "show", "--mode", mode])
            .env("TGT_IPC_SOCKET", self.socket())
            .output()?;
        ensure!(output.status.success(), "tgtadm: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Names of its targets.
    pub fn targets(&self) -> Result<Vec<String>> {
        let shown = self.show("target")?;
        let heads = shown.lines().filter(|line| line.starts_with("Target "));
        Ok(heads.filter_map(|line| line.split_once(": ")).map(|(_, name)| name.to_owned()).collect())
    }

    /// What it shows of all targets.
    pub fn listing(&self) -> Result<String> {
        self.show("target")
    }

    /// Nothing is left on it: no target, and no account.
    pub fn ensure_empty(&self) -> Result<()> {
        let (targets, accounts) = (self.show("target")?, self.show("account")?);
        let left: Vec<&str> = accounts.lines().filter(|line| !line.starts_with("Account list")).collect();
        ensure!(targets.trim().is_empty() && left.is_empty(), "left behind: {targets} {left:?}");
        Ok(())
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        if self.process.is_some() && self.kill().is_err() {
            eprintln!("tgtd could not be killed");
        }
    }
}

/// A directory with a `tgtadm` that stops for ever before or after its n-th change, to have whoever
/// started it killed there.
pub struct Trap {
    directory: PathBuf,
}

impl Trap {
    /// One in `directory` that is not set.
    pub fn new(directory: &Path) -> Result<Self> {
        let trap = Self { directory: directory.join("trap") };
        std::fs::create_dir(&trap.directory)?;
        let script = format!(
            "#!/bin/bash\n\
             d={:?}\n\
             case \" $* \" in *' --op show '*) exec {2} \"$@\" ;; esac\n\
             [ -e \"$d/after\" ] || exec {2} \"$@\"\n\
             n=$(($(cat \"$d/changes\" 2>/dev/null || echo 0) + 1)); echo \"$n\" >\"$d/changes\"\n\
             [ \"$n\" -gt \"$(cat \"$d/after\")\" ] || exec {2} \"$@\"\n\
             echo \"$*\" >\"$d/caught.new\"; mv \"$d/caught.new\" \"$d/caught\"\n\
             {1}\n",
            trap.directory,
            "exec sleep 600",
            real_tgtadm()?.display(),
        );
        let program = trap.directory.join("tgtadm");
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        Ok(trap)
    }

    /// The search path that leads into it.
    pub fn path(&self) -> String {
        format!("{}:{}", self.directory.display(), std::env::var("PATH").unwrap_or_default())
    }

    /// From now on, the change after this many is the one that stops before it is made.
    pub fn set(&self, after: usize) -> Result<()> {
        self.clear()?;
        std::fs::write(self.directory.join("after"), after.to_string())?;
        Ok(())
    }

    /// Whether somebody is in it.
    pub fn has_caught(&self) -> bool {
        self.directory.join("caught").exists()
    }

    /// Lets everything pass again.
    pub fn clear(&self) -> Result<()> {
        for name in ["after", "changes", "caught"] {
            let path = self.directory.join(name);
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn real_tgtadm() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("tgtadm")).find(|at| at.exists());
    found.context("no tgtadm: ./test iscsi installs it")
}
