//! Two executors, each with a backend of its own: what one holds becomes a volume of the other, each way,
//! with NATS and a port between them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Deployment, Process};
use crate::server::{Api, Reply, until};
use crate::{accepted, invariants, status_becomes};

const LENDING: &str = "[lending]\naddress = \"127.0.0.1\"\n";

/// Where the two backends have their files.
fn files(deployment: &Deployment, backend: &str) -> PathBuf {
    match backend {
        "directory" => deployment.volumes(),
        other => deployment.directory().join(other),
    }
}

async fn second_executor(deployment: &Deployment) -> Result<Process> {
    let common = std::fs::read_to_string(deployment.config_file())?;
    let directory = files(deployment, "second");
    let backend =
        format!("[[backends]]\nname = \"second\"\ndriver = \"directory\"\ndirectory = {directory:?}\n");
    let config = deployment.directory().join("second.toml");
    std::fs::write(&config, format!("{common}\n{backend}"))?;
    let config = config.display().to_string();
    let mut executor = Process::new(deployment.directory(), "second", &["executor", "--config", &config]);
    executor.spawn()?;
    Ok(executor)
}

/// A volume of a type that only one backend meets, on that backend; again until the sequencer has heard
/// of its pool.
async fn made(api: &Api, deployment: &Deployment, on: &str, key: &str, source: &Value) -> Result<String> {
    until(&format!("{key} is made on {on}"), async || {
        let mut volume = json!({"size": 2, "name": key, "volume_type": on});
        for (name, value) in source.as_object().into_iter().flatten() {
            volume[name] = value.clone();
        }
        let key = uuid::Uuid::new_v4().to_string();
        let made = accepted(api, "/v3/volumes", &key, &json!({ "volume": volume })).await?;
        let id = made["volume"]["id"].as_str().context("no id")?.to_owned();
        let shown = until("it is made or not", async || {
            let Some(shown) = api.look(&format!("/v3/volumes/{id}")).await.ok().flatten() else {
                return Ok(None);
            };
            Ok(Some(shown).filter(|shown| shown["volume"]["status"] != "creating"))
        })
        .await?;
        if shown["volume"]["status"] == "error" {
            let deleted = api.send(Method::DELETE, &format!("/v3/volumes/{id}"), None, None).await?;
            ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
            return Ok(None);
        }
        ensure!(files(deployment, on).join(format!("volume-{id}")).exists(), "{shown} is elsewhere");
        Ok(Some(id))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_executor_holds_becomes_a_volume_of_another_executor() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start_with(directory.path(), 1, 0, LENDING).await?;
    let outcome = copies(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

/// Large enough that its stretches, holes all of them, take a while.
const LONG_COPY_GIB: u64 = 32;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_shows_how_far_a_copy_of_an_executor_is_while_it_goes_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start_with(directory.path(), 1, 0, LENDING).await?;
    let outcome = a_long_copy(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

async fn a_long_copy(deployment: &mut Deployment) -> Result<()> {
    let mut second = second_executor(deployment).await?;
    make_types(&deployment.api(0, "admin", "p")?).await?;
    let api = deployment.api(0, "user", "p")?;
    for on in ["directory", "second"] {
        // the sequencer has heard of both
        made(&api, deployment, on, &format!("of {on}"), &Value::Null).await?;
    }
    let large = json!({"size": LONG_COPY_GIB});
    let source = made(&api, deployment, "directory", "source", &large).await?;
    let copy = json!({"volume": {"size": LONG_COPY_GIB, "volume_type": "second", "source_volid": source}});
    let copy = accepted(&api, "/v3/volumes", "a long copy", &copy).await?;
    let copy = copy["volume"]["id"].as_str().context("no id")?.to_owned();
    let path = format!("/ledger/v1/operations?resource=volume:{copy}");
    // the other api, which has no executor in its process either
    let other = deployment.api(1, "user", "p")?;
    let shown = until("how far it is shows", async || {
        let operation = other.get(&path).await?["operations"][0].clone();
        ensure!(operation["status"] == "open", "it ended without a word: {operation}");
        Ok(operation["progress"].as_object().cloned())
    })
    .await?;
    ensure!(shown["total_bytes"] == LONG_COPY_GIB << 30, "{shown:?}");
    let last = AtomicU64::new(0);
    let ended = until("the copy has ended", async || {
        let operation = other.get(&path).await?["operations"][0].clone();
        if let Some(done) = operation["progress"]["done_bytes"].as_u64() {
            let before = last.swap(done, Ordering::Relaxed);
            ensure!(done >= before, "it went back from {before}: {operation}");
        }
        Ok((operation["status"] != "open").then_some(operation))
    })
    .await?;
    ensure!(ended["status"] == "completed" && ended.get("progress").is_none(), "{ended}");
    second.stop().await
}

/// A type for each backend, which that one alone meets.
async fn make_types(admin: &Api) -> Result<()> {
    for backend in ["directory", "second"] {
        let body = json!({"volume_type": {"name": backend, "extra_specs": {"volume_backend_name": backend}}});
        let made = admin.send(Method::POST, "/v3/types", None, Some(&body)).await?;
        ensure!(matches!(made, Reply::Answer(200, _)), "{made:?}");
    }
    Ok(())
}

async fn copies(deployment: &mut Deployment) -> Result<()> {
    let mut second = second_executor(deployment).await?;
    make_types(&deployment.api(0, "admin", "p")?).await?;
    let api = deployment.api(0, "user", "p")?;
    for (from, to) in [("directory", "second"), ("second", "directory")] {
        let source = made(&api, deployment, from, &format!("of {from}"), &Value::Null).await?;
        let file =
            File::options().write(true).open(files(deployment, from).join(format!("volume-{source}")))?;
        file.write_all_at(from.as_bytes(), (2 << 30) - 4096)?;
        let snapshot = json!({"snapshot": {"volume_id": source}});
        let snapshot = accepted(&api, "/v3/snapshots", &format!("snapshot of {from}"), &snapshot).await?;
        let snapshot = snapshot["snapshot"]["id"].as_str().context("no id")?.to_owned();
        status_becomes(&api, &format!("/v3/snapshots/{snapshot}"), "snapshot", "available").await?;

        for origin in [json!({"source_volid": source}), json!({"snapshot_id": snapshot})] {
            let copy = made(&api, deployment, to, "copy", &origin).await?;
            let file = File::open(files(deployment, to).join(format!("volume-{copy}")))?;
            let mut found = vec![0; from.len()];
            file.read_exact_at(&mut found, (2 << 30) - 4096)?;
            ensure!(found == from.as_bytes(), "{origin} on {to} holds {found:?}");
        }
    }
    invariants::come_to_rest(&deployment.api(0, "admin", "operators")?).await?;
    second.stop().await
}
