//! One client's load, and what it knows: everything that the server has acknowledged.
//!
//! Lanes run at the same time, each in a project of its own, so that each knows for certain what
//! must come of its commands. Nothing here fails on purpose but the server's life: so every command
//! that was accepted must end well, whatever was killed meanwhile.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::files;
use crate::server::{Api, Interrupted, Reply};

/// Volumes of a lane, at most.
const VOLUMES: usize = 6;
/// Snapshots of a volume, at most.
const SNAPSHOTS: usize = 3;
const LARGEST_GIB: u64 = 4;

pub struct Volume {
    pub id: String,
    pub size_gib: u64,
    pub content: u64,
    pub snapshots: Vec<Snapshot>,
    /// How often each was acknowledged.
    pub extends: usize,
    pub reverts: usize,
    /// Volumes that were made from this one, as long as they may still be reading it.
    readers: Vec<String>,
    /// Snapshots that were dropped, as long as they may still be there.
    leaving: Vec<String>,
}

pub struct Snapshot {
    pub id: String,
    pub size_gib: u64,
    pub content: u64,
}

/// A command, on volumes and snapshots by their place in the lane.
#[derive(Clone, Copy, Debug)]
enum Act {
    Create { size_gib: u64 },
    CreateFrom { volume: usize, snapshot: usize, size_gib: u64 },
    Clone { volume: usize, size_gib: u64 },
    Snapshot { volume: usize },
    Extend { volume: usize, size_gib: u64 },
    Revert { volume: usize },
    DropSnapshot { volume: usize, snapshot: usize },
    Drop { volume: usize },
}

pub struct Lane {
    pub project: String,
    pub volumes: Vec<Volume>,
    /// Volumes that must be gone, with what was acknowledged of them.
    pub dropped: Vec<Volume>,
    /// Likewise snapshots, also those of volumes that were dropped.
    pub dropped_snapshots: Vec<Snapshot>,
    pub acknowledged: usize,
    /// A command whose answer was lost, with its idempotency key.
    pending: Option<(Act, String)>,
    files: PathBuf,
    rng: Rng,
    last_content: u64,
}

impl Lane {
    pub fn new(number: u64, files: PathBuf, rng: Rng) -> Self {
        Self {
            project: format!("lane-{number}"),
            volumes: Vec::new(),
            dropped: Vec::new(),
            dropped_snapshots: Vec::new(),
            acknowledged: 0,
            pending: None,
            files,
            rng,
            // contents of different lanes never meet
            last_content: number << 32,
        }
    }

    /// Goes on until the server is gone.
    pub async fn run(&mut self, api: &Api) -> Result<()> {
        loop {
            match self.turn(api).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.is::<Interrupted>() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Repeats the command whose answer was lost, under its key, until it is known what it was.
    pub async fn resolve(&mut self, api: &Api) -> Result<()> {
        if let Some((act, key)) = self.pending.clone() {
            let answered = self.perform(api, act, key).await.with_context(|| format!("repeating {act:?}"))?;
            ensure!(answered, Interrupted);
            self.pending = None;
        }
        Ok(())
    }

    async fn turn(&mut self, api: &Api) -> Result<bool> {
        let act = self.choose();
        let Some(act) = act else { return Ok(true) };
        if !self.is_free(api, act).await? {
            return Ok(true);
        }
        let key = Uuid::new_v4().to_string();
        self.perform(api, act, key).await
    }

    /// Draws something to do. Nothing if what was drawn does not make sense now.
    fn choose(&mut self) -> Option<Act> {
        let room = self.volumes.len() < VOLUMES;
        if self.volumes.is_empty() {
            return Some(Act::Create { size_gib: 1 });
        }
        let volume = self.rng.usize(..self.volumes.len());
        let chosen = &self.volumes[volume];
        let larger = |size: u64, rng: &mut Rng| (size + rng.u64(0..2)).min(LARGEST_GIB);
        let any_snapshot = (!chosen.snapshots.is_empty()).then(|| self.rng.usize(..chosen.snapshots.len()));
        match self.rng.u8(..16) {
            0 | 1 => room.then_some(Act::Create { size_gib: 1 + u64::from(self.rng.bool()) }),
            2 | 3 => {
                let snapshot = any_snapshot.filter(|_| room)?;
                let size_gib = larger(chosen.snapshots[snapshot].size_gib, &mut self.rng);
                Some(Act::CreateFrom { volume, snapshot, size_gib })
            }
            4 | 5 => room.then(|| Act::Clone { volume, size_gib: larger(chosen.size_gib, &mut self.rng) }),
            6..=8 => (chosen.snapshots.len() < SNAPSHOTS).then_some(Act::Snapshot { volume }),
            9 => (chosen.size_gib < LARGEST_GIB)
                .then_some(Act::Extend { volume, size_gib: chosen.size_gib + 1 }),
            10..=12 => {
                let latest = chosen.snapshots.last()?;
                (latest.size_gib == chosen.size_gib).then_some(Act::Revert { volume })
            }
            13 | 14 => Some(Act::DropSnapshot { volume, snapshot: any_snapshot? }),
            _ => Some(Act::Drop { volume }),
        }
    }

    /// Whether nothing is going on with what a command is about. A volume that is at rest gets new
    /// content now and then.
    async fn is_free(&mut self, api: &Api, act: Act) -> Result<bool> {
        let (volume, snapshots) = match act {
            Act::Create { .. } => return Ok(true),
            Act::CreateFrom { volume, snapshot, .. } | Act::DropSnapshot { volume, snapshot } => {
                (volume, vec![snapshot])
            }
            Act::Revert { volume } | Act::Drop { volume } => {
                (volume, (0..self.volumes[volume].snapshots.len()).collect())
            }
            Act::Clone { volume, .. } | Act::Snapshot { volume } | Act::Extend { volume, .. } => {
                (volume, vec![])
            }
        };
        let known = &mut self.volumes[volume];
        if status(api, "volume", &known.id).await?.as_deref() != Some("available") {
            return Ok(false);
        }
        for snapshot in snapshots {
            if status(api, "snapshot", &known.snapshots[snapshot].id).await?.as_deref() != Some("available") {
                return Ok(false);
            }
        }
        if matches!(act, Act::Revert { .. } | Act::Drop { .. }) {
            // a snapshot that is being deleted is still its volume's, perhaps its latest
            while let Some(snapshot) = known.leaving.last() {
                if status(api, "snapshot", snapshot).await?.is_some() {
                    return Ok(false);
                }
                known.leaving.pop();
            }
        }
        if self.rng.u8(..3) == 0 && known.is_read_by_nobody(api).await? {
            self.last_content += 1;
            let path = self.files.join(format!("volume-{}", known.id));
            files::overwrite(&path, known.content, self.last_content)?;
            known.content = self.last_content;
        }
        Ok(true)
    }

    fn request(&self, act: Act) -> (Method, String, Option<Value>) {
        let volume_path = |volume: usize| format!("/v3/volumes/{}", self.volumes[volume].id);
        let action = |volume: usize, body| (Method::POST, volume_path(volume) + "/action", Some(body));
        let create = |body: Value| (Method::POST, "/v3/volumes".to_owned(), Some(json!({ "volume": body })));
        match act {
            Act::Create { size_gib } => create(json!({"size": size_gib})),
            Act::CreateFrom { volume, snapshot, size_gib } => {
                create(json!({"size": size_gib, "snapshot_id": self.volumes[volume].snapshots[snapshot].id}))
            }
            Act::Clone { volume, size_gib } => {
                create(json!({"size": size_gib, "source_volid": self.volumes[volume].id}))
            }
            Act::Snapshot { volume } => {
                let body = json!({"snapshot": {"volume_id": self.volumes[volume].id}});
                (Method::POST, "/v3/snapshots".to_owned(), Some(body))
            }
            Act::Extend { volume, size_gib } => action(volume, json!({"os-extend": {"new_size": size_gib}})),
            Act::Revert { volume } => {
                let latest = self.volumes[volume].snapshots.last().map(|snapshot| &snapshot.id);
                action(volume, json!({"revert": {"snapshot_id": latest}}))
            }
            Act::DropSnapshot { volume, snapshot } => {
                let path = format!("/v3/snapshots/{}", self.volumes[volume].snapshots[snapshot].id);
                (Method::DELETE, path, None)
            }
            Act::Drop { volume } => (Method::DELETE, volume_path(volume) + "?cascade=true", None),
        }
    }

    /// Sends a command and takes its answer into what is known. False if there was no answer.
    async fn perform(&mut self, api: &Api, act: Act, key: String) -> Result<bool> {
        let (method, path, body) = self.request(act);
        let is_delete = method == Method::DELETE;
        match api.send(method, &path, Some(&key), body.as_ref()).await? {
            Reply::Silence => {
                self.pending = Some((act, key));
                return Ok(false);
            }
            Reply::Answer(202, body) => self.learn(act, &body)?,
            // A delete has no key: repeated, it finds its work under way or done.
            Reply::Answer(404 | 400, _) if is_delete && self.is_going(api, act).await? => {
                self.learn(act, &Value::Null)?;
            }
            Reply::Answer(code, body) => bail!("{act:?} ({path}) was answered {code} {body}"),
        }
        self.acknowledged += 1;
        Ok(true)
    }

    async fn is_going(&self, api: &Api, act: Act) -> Result<bool> {
        let status = match act {
            Act::Drop { volume } => status(api, "volume", &self.volumes[volume].id).await?,
            Act::DropSnapshot { volume, snapshot } => {
                status(api, "snapshot", &self.volumes[volume].snapshots[snapshot].id).await?
            }
            Act::Create { .. }
            | Act::CreateFrom { .. }
            | Act::Clone { .. }
            | Act::Snapshot { .. }
            | Act::Extend { .. }
            | Act::Revert { .. } => bail!("{act:?} is no delete"),
        };
        Ok(status.is_none_or(|status| status == "deleting"))
    }

    fn learn(&mut self, act: Act, body: &Value) -> Result<()> {
        let made = |kind: &str| -> Result<String> {
            Ok(body[kind]["id"].as_str().with_context(|| format!("no id in {body}"))?.to_owned())
        };
        match act {
            Act::Create { size_gib } => self.volumes.push(Volume::new(made("volume")?, size_gib, 0)),
            Act::CreateFrom { volume, snapshot, size_gib } => {
                let content = self.volumes[volume].snapshots[snapshot].content;
                self.volumes.push(Volume::new(made("volume")?, size_gib, content));
            }
            Act::Clone { volume, size_gib } => {
                let id = made("volume")?;
                self.volumes[volume].readers.push(id.clone());
                let content = self.volumes[volume].content;
                self.volumes.push(Volume::new(id, size_gib, content));
            }
            Act::Snapshot { volume } => {
                let volume = &mut self.volumes[volume];
                let snapshot =
                    Snapshot { id: made("snapshot")?, size_gib: volume.size_gib, content: volume.content };
                volume.snapshots.push(snapshot);
            }
            Act::Extend { volume, size_gib } => {
                self.volumes[volume].size_gib = size_gib;
                self.volumes[volume].extends += 1;
            }
            Act::Revert { volume } => {
                let volume = &mut self.volumes[volume];
                volume.content = volume.snapshots.last().context("a revert without a snapshot")?.content;
                volume.reverts += 1;
            }
            Act::DropSnapshot { volume, snapshot } => {
                let volume = &mut self.volumes[volume];
                let snapshot = volume.snapshots.remove(snapshot);
                volume.leaving.push(snapshot.id.clone());
                self.dropped_snapshots.push(snapshot);
            }
            Act::Drop { volume } => {
                let mut volume = self.volumes.remove(volume);
                self.dropped_snapshots.append(&mut volume.snapshots);
                self.dropped.push(volume);
            }
        }
        Ok(())
    }
}

impl Volume {
    const fn new(id: String, size_gib: u64, content: u64) -> Self {
        Self {
            id,
            size_gib,
            content,
            snapshots: Vec::new(),
            extends: 0,
            reverts: 0,
            readers: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Whether no snapshot or volume is being made from it.
    async fn is_read_by_nobody(&mut self, api: &Api) -> Result<bool> {
        for snapshot in &self.snapshots {
            if status(api, "snapshot", &snapshot.id).await?.is_some_and(|status| status == "creating") {
                return Ok(false);
            }
        }
        while let Some(reader) = self.readers.last() {
            if status(api, "volume", reader).await?.is_some_and(|status| status == "creating") {
                return Ok(false);
            }
            self.readers.pop();
        }
        Ok(true)
    }
}

/// The status of a volume or snapshot, nothing if there is none.
async fn status(api: &Api, kind: &str, id: &str) -> Result<Option<String>> {
    let shown = api.look(&format!("/v3/{kind}s/{id}")).await?;
    Ok(shown.and_then(|shown| Some(shown[kind]["status"].as_str()?.to_owned())))
}
