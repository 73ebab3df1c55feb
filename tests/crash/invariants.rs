//! What must hold once everything has come to rest: the acknowledged commands, the server's
//! answers, its ledger and the files on disk all say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::files;
use crate::lane::Lane;
use crate::server::{Api, Interrupted, until};

/// Waits until no operation is open and no debt is owed: what was interrupted has been finished.
pub async fn come_to_rest(admin: &Api) -> Result<()> {
    until("every operation ended and every debt was paid", async || {
        let open = admin.get("/ledger/v1/operations?status=open").await?;
        let debts = admin.get("/ledger/v1/debts").await?;
        let at_rest = rows(&open, "operations")?.is_empty() && rows(&debts, "debts")?.is_empty();
        Ok(at_rest.then_some(()))
    })
    .await
}

fn rows<'a>(body: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    body[name].as_array().with_context(|| format!("no {name} in {body}"))
}

fn text<'a>(row: &'a Value, name: &str) -> Result<&'a str> {
    row[name].as_str().with_context(|| format!("no {name} in {row}"))
}

/// Checks everything about every lane.
pub async fn check(
    lanes: &[Lane],
    history: &mut History,
    admin: &Api,
    lane_apis: &[Api],
    files: &Path,
) -> Result<()> {
    history.catch_up(admin).await?;
    let mut wanted_files = BTreeSet::new();
    for (lane, api) in lanes.iter().zip(lane_apis) {
        answers_match(lane, api).await.with_context(|| lane.project.clone())?;
        usage_matches(lane, admin).await.with_context(|| lane.project.clone())?;
        ledger_has_each_once(lane, history).with_context(|| lane.project.clone())?;
        for volume in &lane.volumes {
            let mut objects = vec![(format!("volume-{}", volume.id), volume.size_gib, volume.content)];
            for snapshot in &volume.snapshots {
                objects.push((format!("snapshot-{}", snapshot.id), snapshot.size_gib, snapshot.content));
            }
            for (name, size_gib, content) in objects {
                files::check(&files.join(&name), size_gib, content)
                    .with_context(|| format!("{}: of volume {}", lane.project, volume.id))?;
                wanted_files.insert(name);
            }
        }
    }
    let found = names_in(files)?;
    ensure!(
        found == wanted_files,
        "orphans: {:?}, missing: {:?}",
        found.difference(&wanted_files).collect::<Vec<_>>(),
        wanted_files.difference(&found).collect::<Vec<_>>()
    );
    verifies(admin).await
}

/// The ledger verifies.
pub async fn verifies(admin: &Api) -> Result<()> {
    verified(admin).await.map(drop)
}

/// The ledger verifies, and this is what was found. A log that cannot be read just now (its servers
/// are still electing) is not one that was tampered with: that is asked again.
pub async fn verified(admin: &Api) -> Result<Value> {
    let report = until("the log can be read", async || match admin.get("/ledger/v1/verify").await {
        Ok(report) if report["intact"].is_null() => Ok(None),
        Ok(report) => Ok(Some(report)),
        Err(error) if error.is::<Interrupted>() => Ok(None),
        Err(error) => Err(error),
    })
    .await?;
    ensure!(report["intact"] == Value::Bool(true), "the ledger does not verify: {report}");
    Ok(report)
}

/// The file by which a directory belongs to one process.
const LOCK: &str = ".tephra.lock";

/// Everything else in the directory, in its subdirectories too.
fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(names_in(&entry.path())?);
        } else if entry.file_name() != LOCK {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The lists hold exactly the live resources, all at rest and well, in their right sizes.
async fn answers_match(lane: &Lane, api: &Api) -> Result<()> {
    let mut wanted = BTreeMap::new();
    for volume in &lane.volumes {
        wanted.insert(volume.id.as_str(), volume.size_gib);
        wanted.extend(volume.snapshots.iter().map(|snapshot| (snapshot.id.as_str(), snapshot.size_gib)));
    }
    let mut listed = BTreeMap::new();
    for kind in ["volumes", "snapshots"] {
        let body = api.get(&format!("/v3/{kind}/detail")).await?;
        for row in rows(&body, kind)? {
            ensure!(text(row, "status")? == "available", "not well: {row}");
            let twice = listed.insert(text(row, "id")?.to_owned(), row["size"].as_u64().unwrap_or(0));
            ensure!(twice.is_none(), "listed twice: {row}");
        }
    }
    let listed_ids: BTreeMap<&str, u64> = listed.iter().map(|(id, size)| (id.as_str(), *size)).collect();
    ensure!(listed_ids == wanted, "listed {listed_ids:?}, acknowledged {wanted:?}");
    Ok(())
}

/// Usage is the sum over what lives.
async fn usage_matches(lane: &Lane, admin: &Api) -> Result<()> {
    let body = admin.get(&format!("/v3/os-quota-sets/{}?usage=true", lane.project)).await?;
    let in_use = |name: &str| body["quota_set"][name]["in_use"].as_u64().context("no usage");
    let snapshots = || lane.volumes.iter().flat_map(|volume| &volume.snapshots);
    let volume_gib: u64 = lane.volumes.iter().map(|volume| volume.size_gib).sum();
    let snapshot_gib: u64 = snapshots().map(|snapshot| snapshot.size_gib).sum();
    let used = (in_use("volumes")?, in_use("snapshots")?, in_use("gigabytes")?);
    let alive = (lane.volumes.len() as u64, snapshots().count() as u64, volume_gib + snapshot_gib);
    ensure!(used == alive, "usage {used:?}, alive {alive:?}");
    Ok(())
}

/// How often each kind of event happened to each resource: all that has been read of the ledger.
#[derive(Default)]
pub struct History {
    counts: BTreeMap<(String, String), usize>,
    read: u64,
}

impl History {
    /// Reads what is new.
    async fn catch_up(&mut self, admin: &Api) -> Result<()> {
        loop {
            let page = admin.get(&format!("/ledger/v1/events?after={}&limit=1000", self.read)).await?;
            for event in rows(&page, "events")? {
                let key = (text(&event["resource"], "id")?.to_owned(), text(event, "kind")?.to_owned());
                *self.counts.entry(key).or_default() += 1;
                self.read = event["position"].as_u64().context("no position")?;
            }
            match page["next"].as_u64() {
                Some(next) => self.read = self.read.max(next),
                None => return Ok(()),
            }
        }
    }

    fn count(&self, id: &str, kind: &str) -> usize {
        self.counts.get(&(id.to_owned(), kind.to_owned())).copied().unwrap_or(0)
    }
}

/// Each acknowledged command is in the ledger exactly once, the repeated ones too, and so is its good
/// end. What is gone by now was made and changed as often as what is still there.
fn ledger_has_each_once(lane: &Lane, history: &History) -> Result<()> {
    let happened = |id: &str, kind: &str, times: usize| {
        let found = history.count(id, kind);
        ensure!(found == times, "{kind} of {id}: {found} in the ledger, {times} acknowledged");
        Ok(())
    };
    let live = lane.volumes.iter().map(|volume| (volume, 0));
    for (volume, deletions) in live.chain(lane.dropped.iter().map(|volume| (volume, 1))) {
        for (kind, times) in [
            ("VolumeCreateAccepted", 1),
            ("VolumeCreated", 1),
            ("VolumeExtendAccepted", volume.extends),
            ("VolumeExtended", volume.extends),
            ("VolumeRevertAccepted", volume.reverts),
            ("VolumeReverted", volume.reverts),
            ("VolumeDeleteAccepted", deletions),
            ("VolumeDeleted", deletions),
        ] {
            happened(&volume.id, kind, times)?;
        }
    }
    let live = lane.volumes.iter().flat_map(|volume| &volume.snapshots).map(|snapshot| (snapshot, 0));
    for (snapshot, deletions) in live.chain(lane.dropped_snapshots.iter().map(|snapshot| (snapshot, 1))) {
        for (kind, times) in
            [("SnapshotCreateAccepted", 1), ("SnapshotCreated", 1), ("SnapshotDeleted", deletions)]
        {
            happened(&snapshot.id, kind, times)?;
        }
    }
    Ok(())
}
