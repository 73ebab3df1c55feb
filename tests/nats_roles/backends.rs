//! Backends that come and go: what their executor is asked over NATS, and what waits for it.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::server::{Api, Reply, until};
use crate::{accepted, create, status_becomes};

/// Soon, so that the test is: executors speak every five seconds.
const LIMITS: &str = "[limits]\nservice_down_time_s = 12\n";

async fn drift(api: &Api) -> Result<Value> {
    api.look("/ledger/v1/drift").await?.context("no drift is shown")
}

fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = report["pools"][0]["findings"].as_array().into_iter().flatten();
    findings.map(|finding| (text(finding, "finding"), text(finding, "name"))).collect()
}

async fn volume_service(api: &Api) -> Result<Value> {
    let services =
        api.look("/v3/os-services?binary=cinder-volume").await?.context("no services are shown")?;
    Ok(services["services"][0].clone())
}

async fn service_becomes(api: &Api, state: &str) -> Result<()> {
    until(&format!("the executor is {state}"), async || {
        let service = volume_service(api).await.ok();
        Ok(service.filter(|service| service["state"] == state).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_is_asked_what_it_has_and_its_absence_is_shown_and_waited_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start_with(directory.path(), 1, 0, LIMITS).await?;
    let outcome = comes_and_goes(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

async fn comes_and_goes(deployment: &mut Deployment) -> Result<()> {
    let api = deployment.api(0, "admin", "operators")?;
    let kept = create(&api, "kept").await?;
    status_becomes(&api, &format!("/v3/volumes/{kept}"), "volume", "available").await?;
    ensure!(findings(&drift(&api).await?).is_empty(), "nothing differs yet");

    // a file that somebody left there is seen by the api of another process, and taken over
    File::create(deployment.volumes().join("legacy.img"))?.set_len(3 << 29)?;
    let report = drift(&api).await?;
    ensure!(findings(&report) == [("unknown".to_owned(), "legacy.img".to_owned())], "{report}");
    let host = volume_service(&api).await?["host"].as_str().context("a service has a host")?.to_owned();
    let body = json!({ "volume": { "host": host, "ref": { "source-name": "legacy.img" } } });
    let taken = accepted(&api, "/v3/manageable_volumes", "take", &body).await?;
    let taken = taken["volume"]["id"].as_str().context("no id")?.to_owned();
    status_becomes(&api, &format!("/v3/volumes/{taken}"), "volume", "available").await?;
    let length = std::fs::metadata(deployment.volumes().join(format!("volume-{taken}")))?.len();
    ensure!(length == 2 << 30, "filled up to whole GiB: {length}");
    ensure!(findings(&drift(&api).await?).is_empty(), "nothing differs any more");

    deployment.executor.kill()?;
    service_becomes(&api, "down").await?;
    let report = drift(&api).await?;
    ensure!(report["pools"][0]["state"] == "down" && report["unseen"] == 1, "{report}");
    let unplaced = create(&api, "unplaced").await?;
    until("what no executor can take is in error", async || {
        let shown = api.look(&format!("/v3/volumes/{unplaced}")).await?.unwrap_or_default();
        Ok((shown["volume"]["status"] == "error").then_some(()))
    })
    .await?;
    let deleted = api.send(Method::DELETE, &format!("/v3/volumes/{kept}"), None, None).await?;
    ensure!(matches!(deleted, Reply::Answer(202, _)), "the deletion waits for the executor");
    let open = api.look("/ledger/v1/operations?status=open").await?.context("no operations are shown")?;
    let waiting = &open["operations"][0];
    let why = waiting["waits_for_backend"]["why"].as_str().unwrap_or_default();
    ensure!(waiting["operation"] == "volume_delete" && why.contains("down"), "{open}");

    deployment.executor.spawn()?;
    service_becomes(&api, "up").await?;
    until("what waited is done", async || {
        let open = api.look("/ledger/v1/operations?status=open").await?.unwrap_or_default();
        Ok(open["operations"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    ensure!(!deployment.volumes().join(format!("volume-{kept}")).exists(), "the volume is deleted");
    ensure!(findings(&drift(&api).await?).is_empty(), "nothing differs");
    Ok(())
}
