//! Initiators in user space, as a hypervisor's are: QEMU's iSCSI driver, and libiscsi's tools.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

/// A host that connects with what the server told it.
#[derive(Clone, Debug)]
pub struct Initiator {
    pub name: String,
    pub portal: String,
    pub target: String,
    pub lun: u64,
    pub user: String,
    pub password: String,
}

fn text(info: &Value, name: &str) -> Result<String> {
    Ok(info[name].as_str().with_context(|| format!("no {name} in {info}"))?.to_owned())
}

impl Initiator {
    /// The host of this name, with an attachment's connection info.
    pub fn told(name: &str, info: &Value) -> Result<Self> {
        ensure!(info["auth_method"] == "CHAP", "{info}");
        Ok(Self {
            name: name.to_owned(),
            portal: text(info, "target_portal")?,
            target: text(info, "target_iqn")?,
            lun: info["target_lun"].as_u64().context("no LUN")?,
            user: text(info, "auth_username")?,
            password: text(info, "auth_password")?,
        })
    }

    fn image(&self) -> String {
        format!(
            "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={},file.lun={},\
             file.user={},file.password-secret=chap,file.initiator-name={}",
            self.portal, self.target, self.lun, self.user, self.name
        )
    }

    fn qemu(&self, program: &str, before: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(before).args(["--object", &format!("secret,id=chap,data={}", self.password)]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `qemu-io` commands on the disk.
    fn qemu_io(&self, readonly: bool, commands: &[&str]) -> Result<Output> {
        let mut command = self.qemu("qemu-io", &[]);
        if readonly {
            command.arg("-r");
        }
        command.arg("--image-opts");
        for one in commands {
            command.args(["-c", one]);
        }
        Ok(command.arg(self.image()).output()?)
    }

    /// Runs `qemu-io` commands that must go well.
    pub fn does(&self, commands: &[&str]) -> Result<()> {
        let output = self.qemu_io(false, commands)?;
        let said = said(&output);
        let is_well = output.status.success() && !said.contains("failed") && !said.contains("rror");
        ensure!(is_well, "{commands:?}: {said}");
        Ok(())
    }

    /// The same, reading only: a write-protected disk cannot be opened otherwise.
    pub fn reads(&self, commands: &[&str]) -> Result<()> {
        let output = self.qemu_io(true, commands)?;
        let said = said(&output);
        ensure!(output.status.success() && !said.contains("failed"), "{commands:?}: {said}");
        Ok(())
    }

    /// Tries `qemu-io` commands that must be refused, and says how.
    pub fn is_refused(&self, commands: &[&str]) -> Result<String> {
        let output = self.qemu_io(false, commands)?;
        let said = said(&output);
        let is_refused = !output.status.success() || said.contains("failed");
        ensure!(is_refused, "{commands:?} went well: {said}");
        Ok(said)
    }

    /// The size that a login sees now.
    pub fn bytes(&self) -> Result<u64> {
        let mut command = self.qemu("qemu-img", &["info", "--output", "json"]);
        let output = command.args(["--image-opts", &self.image()]).output()?;
        ensure!(output.status.success(), "{}", said(&output));
        let info: Value = serde_json::from_slice(&output.stdout)?;
        info["virtual-size"].as_u64().context("no size")
    }

    /// Begins to write, in one session that lasts.
    pub fn writes_on(&self) -> Result<Writer> {
        let mut command = self.qemu("qemu-io", &[]);
        command.args(["--image-opts", &self.image()]);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut commands = process.stdin.take().context("no input")?;
        let mut answers = BufReader::new(process.stdout.take().context("no output")?).lines();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let writing = std::thread::spawn(move || {
            let mut block = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                writeln!(commands, "write -P {WRITTEN} {}k 4k", block % 4096 * 4)?;
                // what it did, and how fast
                for _ in 0..2 {
                    let answer = answers.next().context("qemu-io has ended")??;
                    ensure!(!answer.contains("failed"), "block {block}: {answer}");
                }
                block += 1;
            }
            Ok(block)
        });
        Ok(Writer { process, is_over, writing })
    }

    fn libiscsi(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.env("LIBISCSI_CHAP_USERNAME", &self.user).env("LIBISCSI_CHAP_PASSWORD", &self.password);
        command.args(["-i", &self.name]).args(arguments).stdin(Stdio::null());
        Ok(command.output()?)
    }

    /// The serial number that the disk shows.
    pub fn serial(&self) -> Result<String> {
        let url = format!("iscsi://{}/{}/{}", self.portal, self.target, self.lun);
        let output = self.libiscsi("iscsi-inq", &["-e", "1", "-c", "128", &url])?;
        ensure!(output.status.success(), "{}", said(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let serial = said.lines().find_map(|line| line.strip_prefix("Unit Serial Number:["));
        Ok(serial.context(said.clone())?.trim_end_matches(']').trim().to_owned())
    }

    /// What a discovery shows to this host.
    pub fn discovers(&self) -> Result<String> {
        let output = self.libiscsi("iscsi-ls", &[&format!("iscsi://{}", self.portal)])?;
        Ok(said(&output))
    }
}

/// What [`Writer`] writes, into the first 16 MiB.
pub const WRITTEN: u8 = 90;

/// A host that writes until it is told to stop.
pub struct Writer {
    process: Child,
    is_over: Arc<AtomicBool>,
    writing: JoinHandle<Result<u64>>,
}

impl Writer {
    /// Ends it. Every write must have gone well.
    pub fn stop(self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        let written = self.writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        let output = self.process.wait_with_output()?;
        ensure!(output.status.success(), "{}", said(&output));
        written
    }
}

/// What a program printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
