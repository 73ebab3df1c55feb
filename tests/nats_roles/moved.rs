//! A ledger that is moved to NATS and back by what the guide says, and served in each place: the same
//! answers, the same files, and work goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Nats, Process, free_address, program};
use crate::server::{Api, Reply, until};
use crate::{accepted, create, files, invariants, status_becomes};

/// The guide, and the unit that its commands start and stop.
const GUIDE: &str = include_str!("../../docs/deployment.md");
const UNIT: &str = include_str!("../../deploy/systemd/tephra.service");

/// The guide's commands, one block each: there, back, and the start after it.
fn blocks_of_the_guide() -> Result<[Vec<&'static str>; 3]> {
    let (_, section) = GUIDE.split_once("## Moving a ledger").context("no such section")?;
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let mut is_within = false;
    for line in section.lines() {
        match (line.strip_prefix("    "), is_within) {
            (Some(command), true) => blocks.last_mut().context("no block")?.push(command),
            (Some(command), false) => blocks.push(vec![command]),
            (None, _) => {}
        }
        is_within = line.starts_with("    ");
    }
    let count = blocks.len();
    blocks.try_into().map_err(|_| anyhow::Error::msg(format!("the guide has {count} blocks of commands")))
}

/// The machine of the guide, in a directory.
struct Machine {
    process: Process,
    nats: Nats,
    config: PathBuf,
    data: PathBuf,
    listen: String,
}

impl Machine {
    fn new(directory: &Path) -> Result<Self> {
        let nats = Nats::start(&directory.join("nats"), 1)?;
        let (config, data) = (directory.join("tephra.toml"), directory.join("tephra"));
        let start = UNIT
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/tephra "))
            .context("no start")?;
        let start = start.replace("/etc/tephra/tephra.toml", &config.display().to_string());
        let arguments: Vec<&str> = start.split(' ').collect();
        let process = Process::exactly(directory, "tephra", &arguments);
        Ok(Self { process, nats, config, data, listen: free_address()? })
    }

    /// Writes the configuration, with the ledger on NATS or not.
    fn configure(&self, is_on_nats: bool) -> Result<()> {
        let mut text = format!("listen = {:?}\ndata_dir = {:?}\n", self.listen, self.data);
        if is_on_nats {
            text += &format!("[nats]\nservers = {:?}\nservers_sync = true\n", self.nats.servers);
        }
        Ok(std::fs::write(&self.config, text)?)
    }

    /// Does what the guide says. Returns what a copy says of itself, if one was made.
    async fn follow(&mut self, commands: &[&str]) -> Result<Option<Value>> {
        let mut copied = None;
        for command in commands {
            match *command {
                "systemctl stop tephra" => self.process.stop().await?,
                "systemctl start tephra" => {
                    self.process.spawn()?;
                    let api = self.api("admin")?;
                    until("it is ready", async || Ok(api.look("/readyz").await.ok().flatten())).await?;
                }
                other => copied = Some(self.run(other)?),
            }
        }
        Ok(copied)
    }

    fn run(&self, command: &str) -> Result<Value> {
        let command =
            command.strip_prefix("sudo -u tephra tephra ").context("neither the unit nor tephra")?;
        let command = command
            .replace("/etc/tephra/tephra.toml", &self.config.display().to_string())
            .replace("/var/lib/tephra", &self.data.display().to_string())
            .replace("nats://n1:4222", &self.nats.servers.join(","));
        let output = Command::new(program()).args(command.split(' ')).arg("--json").output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Verifies the journal of the data directory, and that the views follow from it.
    fn verified(&self) -> Result<Value> {
        self.run("sudo -u tephra tephra verify --data-dir /var/lib/tephra")
    }

    fn api(&self, user: &str) -> Result<Api> {
        Api::replica(&format!("http://{}", self.listen), user, "p")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }
}

/// What there is.
struct Things {
    volume: String,
    snapshot: String,
    copy: String,
    volume_type: String,
}

async fn posted(api: &Api, path: &str, body: Value) -> Result<Value> {
    match api.send(Method::POST, path, None, Some(&body)).await? {
        Reply::Answer(200..=202, body) => Ok(body),
        other @ (Reply::Answer(..) | Reply::Silence) => anyhow::bail!("{path}: {other:?}"),
    }
}

fn id_of(body: &Value, kind: &str) -> Result<String> {
    Ok(body[kind]["id"].as_str().with_context(|| format!("no id in {body}"))?.to_owned())
}

async fn is_available(api: &Api, kind: &str, id: &str) -> Result<()> {
    status_becomes(api, &format!("/v3/{kind}s/{id}"), kind, "available").await
}

/// Asks for the volume that is kept: once made, it is the same whoever asks again under its key.
async fn keep(user: &Api) -> Result<String> {
    let metadata = json!({"for": "ever"});
    let body = json!({"volume": {"size": 1, "name": "kept", "volume_type": "fast", "metadata": metadata}});
    id_of(&accepted(user, "/v3/volumes", "kept", &body).await?, "volume")
}

/// Some of everything that a ledger has.
async fn make_things(machine: &Machine) -> Result<Things> {
    let (user, admin) = (machine.api("user")?, machine.api("admin")?);
    let made = json!({"volume_type": {"name": "fast", "extra_specs": {"vendor_name": "Tephra"}}});
    let volume_type = id_of(&posted(&admin, "/v3/types", made).await?, "volume_type")?;
    admin.put("/v3/os-quota-sets/p", &json!({"quota_set": {"volumes": 7, "gigabytes": 70}})).await?;
    let volume = keep(&user).await?;
    is_available(&user, "volume", &volume).await?;
    files::overwrite(&machine.file(&format!("volume-{volume}")), 0, 5)?;
    let body = json!({"snapshot": {"volume_id": volume, "name": "then"}});
    let snapshot = id_of(&accepted(&user, "/v3/snapshots", "then", &body).await?, "snapshot")?;
    is_available(&user, "snapshot", &snapshot).await?;
    let body = json!({"volume": {"size": 2, "name": "copy", "snapshot_id": snapshot}});
    let copy = id_of(&accepted(&user, "/v3/volumes", "copy", &body).await?, "volume")?;
    is_available(&user, "volume", &copy).await?;
    files::overwrite(&machine.file(&format!("volume-{copy}")), 5, 6)?;
    let attachment = json!({"attachment": {"volume_uuid": copy, "instance_uuid": uuid::Uuid::new_v4()}});
    posted(&user, "/v3/attachments", attachment).await?;
    let gone = create(&user, "gone").await?;
    is_available(&user, "volume", &gone).await?;
    let deleted = user.send(Method::DELETE, &format!("/v3/volumes/{gone}"), None, None).await?;
    ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
    invariants::come_to_rest(&admin).await?;
    Ok(Things { volume, snapshot, copy, volume_type })
}

/// All that is told of it, by path.
async fn answers(machine: &Machine, things: &Things) -> Result<BTreeMap<String, Value>> {
    let Things { volume, snapshot, copy, volume_type } = things;
    let (user, admin) = (machine.api("user")?, machine.api("admin")?);
    let mut answers = BTreeMap::new();
    for path in [
        "/v3/volumes/detail".to_owned(),
        "/v3/snapshots/detail".to_owned(),
        "/v3/attachments/detail".to_owned(),
        "/v3/limits".to_owned(),
        "/v3/types".to_owned(),
        format!("/v3/volumes/{volume}"),
        format!("/v3/volumes/{copy}"),
        format!("/v3/volumes/{volume}/metadata"),
        format!("/v3/snapshots/{snapshot}"),
    ] {
        answers.insert(path.clone(), user.get(&path).await?);
    }
    for path in [
        "/v3/volumes/detail?all_tenants=1".to_owned(),
        "/v3/os-quota-sets/p?usage=true".to_owned(),
        format!("/v3/types/{volume_type}"),
        format!("/v3/types/{volume_type}/extra_specs"),
        format!("/ledger/v1/history/volume/{volume}"),
        format!("/ledger/v1/history/snapshot/{snapshot}"),
        "/ledger/v1/operations?limit=1000".to_owned(),
    ] {
        answers.insert(path.clone(), admin.get(&path).await?);
    }
    Ok(answers)
}

async fn events(machine: &Machine) -> Result<Vec<Value>> {
    let page = machine.api("admin")?.get("/ledger/v1/events?limit=1000").await?;
    ensure!(page["next"].is_null(), "there are more events than one page has");
    Ok(page["events"].as_array().context("no events")?.clone())
}

/// The same answers as before, and nothing of the past is another.
async fn tells_the_same(
    machine: &Machine,
    things: &Things,
    before: &BTreeMap<String, Value>,
    past: &[Value],
) -> Result<()> {
    for (path, now) in answers(machine, things).await? {
        ensure!(now == before[&path], "{path}: {} became {now}", before[&path]);
    }
    ensure!(events(machine).await?.starts_with(past), "the past is another");
    ensure!(keep(&machine.api("user")?).await? == things.volume, "a command was forgotten");
    invariants::verifies(&machine.api("admin")?).await
}

/// What was there can be worked with, and new things can be made. Leaves everything but the new volume as
/// it was.
async fn works(machine: &Machine, things: &Things, name: &str) -> Result<String> {
    let user = machine.api("user")?;
    let file = machine.file(&format!("volume-{}", things.volume));
    files::check(&file, 1, 5)?;
    files::check(&machine.file(&format!("snapshot-{}", things.snapshot)), 1, 5)?;
    files::check(&machine.file(&format!("volume-{}", things.copy)), 2, 6)?;
    files::overwrite(&file, 5, 7)?;
    let revert = json!({"revert": {"snapshot_id": things.snapshot}});
    let action = format!("/v3/volumes/{}/action", things.volume);
    accepted(&user, &action, &format!("revert-{name}"), &revert).await?;
    is_available(&user, "volume", &things.volume).await?;
    files::check(&file, 1, 5)?;
    let new = create(&user, name).await?;
    is_available(&user, "volume", &new).await?;
    files::check(&machine.file(&format!("volume-{new}")), 1, 0)?;
    invariants::come_to_rest(&machine.api("admin")?).await?;
    Ok(new)
}

async fn moves_there_and_back(machine: &mut Machine) -> Result<()> {
    let [there, back, start] = blocks_of_the_guide()?;
    machine.configure(false)?;
    machine.follow(&start).await?;
    let things = make_things(machine).await?;
    let (before, past) = (answers(machine, &things).await?, events(machine).await?);

    machine.configure(true)?;
    let copied = machine.follow(&there).await?.context("nothing was copied")?;
    ensure!(machine.process.said().contains("cell main on nats://"), "the ledger is on NATS");
    tells_the_same(machine, &things, &before, &past).await?;
    let on_nats = works(machine, &things, "on-nats").await?;

    let (before, past) = (answers(machine, &things).await?, events(machine).await?);
    let returned = machine.follow(&back).await?.context("nothing was copied")?;
    let brought = returned["copied_blocks"].as_u64().context("no count")?;
    let new =
        returned["blocks"].as_u64().context("no count")? - copied["blocks"].as_u64().context("no count")?;
    ensure!(brought == new && new > 0, "{copied}, then {returned}: what was there needs no copying");
    machine.configure(false)?;
    let verified = machine.verified()?;
    for key in ["hash", "blocks", "position"] {
        ensure!(verified[key] == returned[key], "{key}: {returned} became {verified}");
    }
    machine.follow(&start).await?;
    tells_the_same(machine, &things, &before, &past).await?;
    files::check(&machine.file(&format!("volume-{on_nats}")), 1, 0)?;
    works(machine, &things, "at-home-again").await?;
    machine.process.stop().await?;
    machine.verified()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_moved_as_the_guide_says_is_served_in_each_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut machine = Machine::new(directory.path())?;
    let outcome = moves_there_and_back(&mut machine).await;
    if outcome.is_err() {
        eprintln!("{}", machine.process.said());
    }
    outcome
}
