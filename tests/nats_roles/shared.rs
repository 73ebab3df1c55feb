//! Two executors of one Ceph pool: the first is held still between two commands of a revert, the second
//! does it, a guest writes, and the first wakes up. Needs Ceph: `./test ceph` installs it and runs this.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

#[path = "../ceph/lab.rs"]
mod lab;

use self::lab::Lab;
use crate::deployment::{Deployment, Process};
use crate::server::{Api, until};
use crate::{accepted, create, invariants, status_becomes};

const POOL: &str = "volumes";
const DATA_MIB: u64 = 64;

/// Where `rbd` really is, whatever is before it in the `PATH` of a process.
const RBD: &str = "/usr/bin/rbd";

impl Lab {
    /// Runs a command of `qemu-io` on a volume, as its user's guest would.
    fn guest(&self, volume: &str, command: &str) -> Result<()> {
        let image = format!("rbd:{POOL}/volume-{volume}:conf={}", self.conf().display());
        let output = Command::new("qemu-io").args(["-f", "raw", &image, "-c", command]).output()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !said.contains("failed"), "{command}: {said}");
        Ok(())
    }

    fn write(&self, volume: &str, content: u8) -> Result<()> {
        self.guest(volume, &format!("write -P {content} 0 {DATA_MIB}M"))
    }

    fn check(&self, volume: &str, content: u8) -> Result<()> {
        self.guest(volume, &format!("read -P {content} 0 {DATA_MIB}M"))
    }
}

/// An `rbd` that waits where a revert looks for the last time who has the volume open.
struct Waits {
    programs: PathBuf,
    is_there: PathBuf,
    may_go: PathBuf,
}

impl Waits {
    fn new(directory: &Path) -> Result<Self> {
        let programs = directory.join("programs");
        std::fs::create_dir(&programs)?;
        let waits = Self { is_there: directory.join("is-there"), may_go: directory.join("may-go"), programs };
        let program = waits.programs.join("rbd");
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' status '*)\n  : > {is_there}\n  \
             until [ -e {may_go} ]; do sleep 0.05; done;;\nesac\nexec {RBD} \"$@\"\n",
            is_there = waits.is_there.display(),
            may_go = waits.may_go.display(),
        );
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        Ok(waits)
    }

    fn path(&self) -> Result<String> {
        let path = std::env::var("PATH").context("no PATH")?;
        Ok(format!("{}:{path}", self.programs.display()))
    }
}

async fn volume_with_snapshot(api: &Api, lab: &Lab) -> Result<(String, String)> {
    let volume = create(api, "reverted").await?;
    status_becomes(api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
    lab.write(&volume, 1)?;
    let body = json!({"snapshot": {"volume_id": volume}});
    let snapshot = accepted(api, "/v3/snapshots", "snapshot", &body).await?;
    let snapshot = snapshot["snapshot"]["id"].as_str().context("no id")?.to_owned();
    status_becomes(api, &format!("/v3/snapshots/{snapshot}"), "snapshot", "available").await?;
    Ok((volume, snapshot))
}

async fn is_fenced(deployment: &mut Deployment, lab: &Lab) -> Result<()> {
    let api = deployment.api(0, "user", "p")?;
    let (volume, snapshot) = volume_with_snapshot(&api, lab).await?;
    lab.write(&volume, 2)?;
    deployment.executor.stop().await?;
    let waits = Waits::new(deployment.directory())?;
    let arguments = ["executor", "--config", &deployment.config_file()];
    let mut first = Process::new(deployment.directory(), "executor-first", &arguments);
    first.environment.push(("PATH".to_owned(), waits.path()?));
    first.spawn()?;

    let revert = json!({"revert": {"snapshot_id": snapshot}});
    accepted(&api, &format!("/v3/volumes/{volume}/action"), "revert", &revert).await?;
    until("the revert looks who has the volume", async || Ok(waits.is_there.exists().then_some(()))).await?;
    first.hold().await?;
    // its answer is there when the executor wakes up, and what comes next is the rollback
    std::fs::write(&waits.may_go, "")?;

    deployment.executor.spawn()?;
    status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
    lab.check(&volume, 1)?;
    lab.write(&volume, 3)?;

    first.resume()?;
    until("the first lets the order go", async || Ok(first.said().contains("it is let go").then_some(())))
        .await?;
    // whatever it had begun is done when it has stopped
    first.stop().await?;
    lab.check(&volume, 3).context("the first went on with its revert")?;
    invariants::come_to_rest(&deployment.api(0, "admin", "operators")?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_executor_that_lost_its_order_in_the_middle_of_a_revert_takes_nothing_from_whoever_wrote_since()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::start(directory.path().join("ceph"))?;
    let mut deployment =
        Deployment::start_with(directory.path(), 1, 0, &lab.backend("ceph", "cinder", &[POOL])).await?;
    let outcome = is_fenced(&mut deployment, &lab).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
        let first = std::fs::read_to_string(directory.path().join("executor-first.log"));
        eprintln!("{}", first.unwrap_or_default());
    }
    outcome
}
