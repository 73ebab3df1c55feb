//! The roles as processes of their own over NATS: what one host does, several do together, and the
//! death or the silence of any of them loses nothing and leaves nothing stuck.

#[path = "../crash/files.rs"]
mod files;
#[path = "../crash/invariants.rs"]
mod invariants;
#[path = "../crash/lane.rs"]
mod lane;
#[path = "../crash/server.rs"]
#[allow(dead_code, reason = "the process of a server on one machine is for the crash test alone")]
mod server;

mod absent;
mod backends;
mod bench;
mod chaos;
mod deployment;
mod journal;
mod lending;
mod linearizable;
mod lost;
mod moved;
mod operator_mode;
mod overtaken;
mod partition;
mod proxy;
mod public_events;
mod refused;
mod secured;
mod shared;
mod takeover;
mod tls;
mod too_large;
mod troubled;
mod unavailable;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::server::{Api, Reply, until};

/// Runs a test over a deployment; if it fails, everybody's last words say why.
async fn on_a_deployment(
    standbys: usize,
    test: impl AsyncFnOnce(&mut Deployment) -> Result<()>,
) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start(directory.path(), 1, standbys).await?;
    let outcome = test(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

/// Has a command accepted: until it is known that it was.
async fn accepted(api: &Api, path: &str, key: &str, body: &Value) -> Result<Value> {
    until("the command is accepted", async || {
        match api.send(Method::POST, path, Some(key), Some(body)).await? {
            Reply::Answer(202, body) => Ok(Some(body)),
            Reply::Silence => Ok(None),
            Reply::Answer(code, body) => bail!("{path} was answered {code} {body}"),
        }
    })
    .await
}

async fn create(api: &Api, key: &str) -> Result<String> {
    let made = accepted(api, "/v3/volumes", key, &json!({"volume": {"size": 1, "name": key}})).await?;
    Ok(made["volume"]["id"].as_str().context("no id")?.to_owned())
}

async fn status_becomes(api: &Api, path: &str, kind: &str, wanted: &str) -> Result<()> {
    until(&format!("{path} is {wanted}"), async || {
        let Some(shown) = api.look(path).await.ok().flatten() else { return Ok(None) };
        let failed = shown[kind]["status"].as_str().is_some_and(|status| status.starts_with("error"));
        ensure!(!failed, "{path} has failed: {shown}");
        Ok((shown[kind]["status"] == wanted).then_some(()))
    })
    .await
}

/// Waits until a volume finds its place: the sequencer has heard of a pool too, not only the api.
/// Until then volumes end in error, as they should where there is no room.
async fn volumes_are_placed(api: &Api) -> Result<()> {
    until("a volume finds its place", async || {
        let path = format!("/v3/volumes/{}", create(api, &uuid::Uuid::new_v4().to_string()).await?);
        let status = until("the volume is made or not", async || {
            let Some(shown) = api.look(&path).await.ok().flatten() else { return Ok(None) };
            Ok(shown["volume"]["status"].as_str().filter(|status| *status != "creating").map(str::to_owned))
        })
        .await?;
        let deleted = api.send(Method::DELETE, &path, None, None).await?;
        ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
        until("it is gone again", async || Ok(api.look(&path).await?.is_none().then_some(()))).await?;
        Ok((status == "available").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn either_api_takes_commands_and_each_shows_what_was_written_at_once() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let (one, two) = (deployment.api(0, "user", "p")?, deployment.api(1, "user", "p")?);
        let volume = create(&one, "first").await?;
        let path = format!("/v3/volumes/{volume}");
        ensure!(one.look(&path).await?.is_some(), "an api shows its own write");
        ensure!(two.look(&path).await?.is_some(), "a linearizable read shows another's write");
        status_becomes(&two, &path, "volume", "available").await?;
        ensure!(deployment.volumes().join(format!("volume-{volume}")).exists(), "the file is there");

        let body = json!({"snapshot": {"volume_id": volume}});
        let snapshot = accepted(&two, "/v3/snapshots", "second", &body).await?;
        let id = snapshot["snapshot"]["id"].as_str().context("no id")?.to_owned();
        status_becomes(&one, &format!("/v3/snapshots/{id}"), "snapshot", "available").await?;
        let revert = json!({"revert": {"snapshot_id": id}});
        accepted(&one, &format!("{path}/action"), "third", &revert).await?;
        status_becomes(&two, &path, "volume", "available").await?;
        let deleted = two.send(Method::DELETE, &format!("{path}?cascade=true"), None, None).await?;
        ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
        until("the volume is gone", async || Ok(one.look(&path).await?.is_none().then_some(()))).await?;
        invariants::come_to_rest(&deployment.api(0, "admin", "operators")?).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_shows_a_writer_what_it_wrote_there_without_being_asked_to() -> Result<()> {
    const WRITERS: usize = 4;
    const COMMANDS: usize = 50;
    on_a_deployment(0, async |deployment| {
        let admin = deployment.api(0, "admin", "operators")?;
        let plenty = json!({"quota_set": {"volumes": -1, "gigabytes": -1}});
        admin.put("/v3/os-quota-sets/p", &plenty).await?;
        let writing = (0..WRITERS).map(|writer| {
            let api = deployment.api(writer % 2, "user", "p").map(Api::without_consistency);
            async move {
                let api = api?;
                for number in 0..COMMANDS {
                    let volume = create(&api, &format!("{writer}-{number}")).await?;
                    let path = format!("/v3/volumes/{volume}");
                    ensure!(api.look(&path).await?.is_some(), "{path} was written here and is not shown");
                    let renamed = json!({"volume": {"name": "another"}});
                    api.put(&path, &renamed).await?;
                    ensure!(api.get(&path).await?["volume"]["name"] == "another", "{path} has its old name");
                }
                anyhow::Ok(())
            }
        });
        futures::future::try_join_all(writing).await?;
        invariants::come_to_rest(&admin).await
    })
    .await
}

/// Creates volumes through both apis in turn, with keys, while `disturb` does something; then asks
/// all of it again elsewhere. Each must be there once, under the id that was answered.
async fn commands_happen_once_while(
    deployment: &mut Deployment,
    disturb: impl AsyncFnOnce(&mut Deployment) -> Result<()>,
) -> Result<()> {
    const COMMANDS: usize = 60;
    let apis = [deployment.api(0, "user", "p")?, deployment.api(1, "user", "p")?];
    let admin = deployment.api(0, "admin", "operators")?;
    let plenty = json!({"quota_set": {"volumes": -1, "gigabytes": -1}});
    admin.put("/v3/os-quota-sets/p", &plenty).await?;
    let asking = tokio::spawn({
        let apis = apis.clone();
        async move {
            let mut ids = Vec::new();
            for number in 0..COMMANDS {
                ids.push(create(&apis[number % 2], &format!("key-{number}")).await?);
            }
            anyhow::Ok(ids)
        }
    });
    until("some commands were taken", async || {
        let listed = admin.look("/v3/volumes?all_tenants=1").await?;
        Ok(listed.filter(|body| body["volumes"].as_array().is_some_and(|rows| rows.len() > COMMANDS / 6)))
    })
    .await?;
    disturb(deployment).await?;
    let ids = asking.await??;
    for (number, id) in ids.iter().enumerate() {
        let repeated = create(&apis[(number + 1) % 2], &format!("key-{number}")).await?;
        ensure!(repeated == *id, "key-{number} was answered {id}, then {repeated}");
    }
    invariants::come_to_rest(&admin).await?;
    for api in &apis {
        let listed = api.get("/v3/volumes/detail").await?;
        let rows = listed["volumes"].as_array().context("no volumes")?;
        ensure!(rows.len() == COMMANDS, "{} volumes of {COMMANDS} commands", rows.len());
        let all_are_well = rows.iter().all(|row| row["status"] == "available");
        ensure!(all_are_well, "not all are available: {listed}");
        let is_listed = |id: &String| rows.iter().any(|row| row["id"] == id.as_str());
        ensure!(ids.iter().all(is_listed), "not all that was answered is listed");
    }
    invariants::verifies(&admin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_sequencer_and_every_command_happens_once() -> Result<()> {
    on_a_deployment(1, async |deployment| {
        commands_happen_once_while(deployment, async |deployment| {
            let leader = deployment.leader_other_than(None).await?;
            let killed_at = Instant::now();
            deployment.sequencers[leader].kill()?;
            deployment.leader_other_than(Some(leader)).await?;
            println!("failover after kill -9: {} ms", killed_at.elapsed().as_millis());
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_held_still_is_fenced_when_it_goes_on() -> Result<()> {
    on_a_deployment(1, async |deployment| {
        commands_happen_once_while(deployment, async |deployment| {
            let leader = deployment.leader_other_than(None).await?;
            deployment.sequencers[leader].pause()?;
            deployment.leader_other_than(Some(leader)).await?;
            deployment.sequencers[leader].resume()?;
            until("the old leader has noticed", async || {
                Ok((!deployment.sequencers[leader].is_leading()).then_some(()))
            })
            .await
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_killed_at_work_finishes_it_after_its_restart() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        commands_happen_once_while(deployment, async |deployment| {
            deployment.executor.kill()?;
            deployment.executor.spawn()
        })
        .await
    })
    .await
}
