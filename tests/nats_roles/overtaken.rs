//! Two executors of one backend: the first is held still in the middle of its work, the second does it,
//! users go on, and the first wakes up.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Deployment, Process};
use crate::invariants;
use crate::server::{Api, DEADLINE, Reply, until};
use crate::{accepted, create, status_becomes};

/// Enough that it is seen to be copied: a quarter of the volume.
const DATA_MIB: u64 = 256;
const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

/// The exit code of a process of which a part has died.
const ROLE_DIED: i32 = 7;

/// How often its files are looked at. Copying takes a hundred times as long.
const GLANCE: Duration = Duration::from_millis(1);

/// How often the executor may have been too quick to be held still at work.
const TRIES: u64 = 20;

/// One MiB of what `content` is.
fn stretch(content: u64, place: u64) -> Vec<u8> {
    let word = (content << 32 | place).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    word.to_le_bytes().repeat(MIB / 8)
}

fn write(path: &Path, content: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())?;
    for place in 0..DATA_MIB {
        file.write_all_at(&stretch(content, place), place * MIB as u64)?;
    }
    Ok(file.sync_all()?)
}

/// Insists on every byte of it.
fn check(path: &Path, content: u64) -> Result<()> {
    let name = path.display();
    let file = File::open(path).with_context(|| name.to_string())?;
    ensure!(file.metadata()?.len() == GIB, "{name} has {} bytes", file.metadata()?.len());
    let mut found = vec![0; MIB];
    for place in 0..GIB / MIB as u64 {
        file.read_exact_at(&mut found, place * MIB as u64)?;
        let wanted = if place < DATA_MIB { stretch(content, place) } else { vec![0; MIB] };
        ensure!(found == wanted, "{name} does not hold content {content} at {place} MiB");
    }
    Ok(())
}

/// Two volumes with a snapshot each, and whom they are asked of.
struct Story {
    api: Api,
    files: PathBuf,
    reverted: (String, String),
    copied: (String, String),
    copies: u64,
}

impl Story {
    async fn begin(deployment: &Deployment) -> Result<Self> {
        let (api, files) = (deployment.api(0, "user", "p")?, deployment.volumes());
        let mut made = Vec::new();
        for (name, content) in [("reverted", 1), ("copied", 2)] {
            let volume = create(&api, name).await?;
            status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
            write(&files.join(format!("volume-{volume}")), content)?;
            let body = json!({"snapshot": {"volume_id": volume}});
            let snapshot = accepted(&api, "/v3/snapshots", &format!("of-{name}"), &body).await?;
            let snapshot = snapshot["snapshot"]["id"].as_str().context("no id")?.to_owned();
            status_becomes(&api, &format!("/v3/snapshots/{snapshot}"), "snapshot", "available").await?;
            made.push((volume, snapshot));
        }
        let (Some(copied), Some(reverted)) = (made.pop(), made.pop()) else { unreachable!("two were made") };
        Ok(Self { api, files, reverted, copied, copies: 0 })
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.files.join(format!("volume-{id}"))
    }

    /// What it is called while it is being copied.
    fn unfinished(&self, id: &str) -> PathBuf {
        self.files.join(format!("volume-{id}.partial"))
    }

    async fn is_available(&self, id: &str) -> Result<()> {
        status_becomes(&self.api, &format!("/v3/volumes/{id}"), "volume", "available").await
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let path = format!("/v3/volumes/{id}");
        let deleted = self.api.send(Method::DELETE, &path, None, None).await?;
        ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
        until("it is gone", async || Ok(self.api.look(&path).await?.is_none().then_some(()))).await
    }

    /// Has one volume reverted and another made of a snapshot, and holds the executor still before it
    /// has finished copying either. Returns the new volume.
    async fn hold_at_work(&mut self, executor: &Process) -> Result<String> {
        for _ in 0..TRIES {
            let (reverted, snapshot) = &self.reverted;
            // what the revert is to take away
            write(&self.volume(reverted), 10 + self.copies)?;
            self.copies += 1;
            let key = format!("attempt-{}", self.copies);
            let revert = json!({"revert": {"snapshot_id": snapshot}});
            accepted(&self.api, &format!("/v3/volumes/{reverted}/action"), &key, &revert).await?;
            let begun = Instant::now();
            while !self.unfinished(reverted).exists() {
                ensure!(begun.elapsed() < DEADLINE, "the executor does not begin");
                tokio::time::sleep(GLANCE).await;
            }
            let body = json!({"volume": {"size": 1, "snapshot_id": self.copied.1}});
            let made = accepted(&self.api, "/v3/volumes", &format!("copy-{key}"), &body).await?;
            let made = made["volume"]["id"].as_str().context("no id")?.to_owned();
            let unfinished = [self.unfinished(reverted), self.unfinished(&made)];
            while unfinished[0].exists() && !unfinished[1].exists() {
                tokio::time::sleep(GLANCE).await;
            }
            executor.hold().await?;
            if unfinished.iter().all(|file| file.exists()) {
                return Ok(made);
            }
            executor.resume()?;
            self.is_available(reverted).await?;
            self.is_available(&made).await?;
            self.delete(&made).await?;
        }
        anyhow::bail!("the executor was too quick {TRIES} times")
    }

    /// How often each kind of event happened to a resource.
    async fn count(&self, admin: &Api, kind: &str, id: &str) -> Result<u64> {
        let page = admin.get(&format!("/ledger/v1/events?kind={kind}&limit=1000")).await?;
        let events = page["events"].as_array().context("no events")?;
        Ok(events.iter().filter(|event| event["resource"]["id"] == id).count() as u64)
    }
}

/// The files of volumes and snapshots, finished or not.
fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    let names =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<BTreeSet<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name != ".tephra.lock").collect())
}

async fn is_overtaken(deployment: &mut Deployment) -> Result<()> {
    let admin = deployment.api(0, "admin", "operators")?;
    let mut story = Story::begin(deployment).await?;
    let made = story.hold_at_work(&deployment.executor).await?;
    let reverted = story.reverted.0.clone();

    // As long as the first has the directory's lock, held still or not, nobody else comes in.
    let arguments = ["executor", "--config", &deployment.config_file()];
    let mut second = Process::new(deployment.directory(), "executor-second", &arguments);
    second.spawn()?;
    let code = second.ends().await?;
    ensure!(
        code == Some(1) && second.said().contains("is served by another process"),
        "{code:?}: {}",
        second.said()
    );

    // An NFS server gives the lock to another host when it has not heard of the first for its lease;
    // here its file is removed. The order's own lease runs out by itself.
    std::fs::remove_file(story.files.join(".tephra.lock"))?;
    second.spawn()?;
    let first = std::mem::replace(&mut deployment.executor, second);
    goes_on_without(first, &story, &reverted, &made).await?;

    invariants::come_to_rest(&admin).await?;
    let (asked, done) = (
        story.count(&admin, "VolumeRevertAccepted", &reverted).await?,
        story.count(&admin, "VolumeReverted", &reverted).await?,
    );
    ensure!(asked == story.copies && done == asked, "{done} of {asked} reverts ended, each once");
    let ended = story.count(&admin, "VolumeCreated", &made).await?;
    ensure!(ended == 1, "{made} was created {ended} times");
    let open: Value = admin.get("/ledger/v1/drift").await?;
    ensure!(open["pools"][0]["findings"].as_array().is_some_and(Vec::is_empty), "{open}");
    invariants::verifies(&admin).await
}

/// The second does what the first was at, users go on, and the first wakes up.
async fn goes_on_without(mut first: Process, story: &Story, reverted: &str, made: &str) -> Result<()> {
    story.is_available(reverted).await?;
    story.is_available(made).await?;
    check(&story.volume(reverted), 1)?;
    check(&story.volume(made), 2)?;
    write(&story.volume(reverted), 99)?;
    story.delete(made).await?;

    first.resume()?;
    let code = first.ends().await?;
    let said = first.said();
    ensure!(
        code == Some(ROLE_DIED) && said.contains("another process has taken the storage over"),
        "{code:?}: {said}"
    );

    let later = create(&story.api, "later").await?;
    story.is_available(&later).await?;
    check(&story.volume(reverted), 99)?;
    for (volume, content) in [(&story.reverted, 1), (&story.copied, 2)] {
        check(&story.files.join(format!("snapshot-{}", volume.1)), content)?;
    }
    let volumes = [reverted, &story.copied.0, &later].map(|id| format!("volume-{id}"));
    let snapshots = [&story.reverted.1, &story.copied.1].map(|id| format!("snapshot-{id}"));
    let wanted: BTreeSet<String> = volumes.into_iter().chain(snapshots).collect();
    let found = names_in(&story.files)?;
    ensure!(found == wanted, "there is {found:?}, the ledger has {wanted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_was_overtaken_at_work_destroys_nothing_when_it_wakes_up() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("executor").join("volumes");
    let backend =
        format!("[[backends]]\nname = \"directory\"\ndriver = \"directory\"\ndirectory = {files:?}\n");
    let mut deployment = Deployment::start_with(directory.path(), 1, 0, &backend).await?;
    let outcome = is_overtaken(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}
