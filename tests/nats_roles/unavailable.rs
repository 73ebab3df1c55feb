//! While nobody decides: what clients are told, what they can still read, and that what they ask
//! again happens once.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::on_a_deployment;
use crate::server::{DEADLINE, Reply, until};
use crate::{accepted, create, status_becomes};

/// A request as a plain client sends it: no wish for the newest state, no second try.
fn plain(deployment: &Deployment, number: usize, method: Method, path: &str) -> Result<RequestBuilder> {
    as_somebody(deployment, number, "user:p", method, path)
}

fn as_somebody(
    deployment: &Deployment,
    number: usize,
    token: &str,
    method: Method,
    path: &str,
) -> Result<RequestBuilder> {
    let client = Client::builder().timeout(DEADLINE).build()?;
    let url = format!("{}{path}", deployment.urls[number]);
    Ok(client.request(method, url).header("X-Auth-Token", token))
}

async fn create_with_key(deployment: &Deployment, number: usize, key: &str) -> Result<Response> {
    let body = json!({"volume": {"size": 1, "name": key}});
    Ok(plain(deployment, number, Method::POST, "/v3/volumes")?
        .header("Idempotency-Key", key)
        .json(&body)
        .send()
        .await?)
}

fn id_of(made: &Value) -> Result<&str> {
    made["volume"]["id"].as_str().with_context(|| format!("no id in {made}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sequencer_commands_are_answered_503_with_retry_after_and_reads_go_on() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let first = create_with_key(deployment, 0, "before").await?;
        ensure!(first.status() == 202, "{first:?}");
        let first: Value = first.json().await?;
        let volume = format!("/v3/volumes/{}", id_of(&first)?);
        status_becomes(&deployment.api(0, "user", "p")?, &volume, "volume", "available").await?;

        deployment.sequencers[0].kill()?;
        for (number, key) in [(0, "meanwhile"), (1, "before")] {
            let refused = create_with_key(deployment, number, key).await?;
            ensure!(refused.status() == 503, "{key} was answered {refused:?}");
            let retry_after = refused.headers().get("Retry-After").context("no Retry-After")?.to_str()?;
            ensure!(retry_after.parse::<u32>()? > 0, "{retry_after}");
            let body: Value = refused.json().await?;
            ensure!(body["serviceUnavailable"]["code"] == 503, "{body}");
        }
        for number in 0..2 {
            for path in [volume.as_str(), "/v3/volumes/detail"] {
                let read = plain(deployment, number, Method::GET, path)?.send().await?;
                ensure!(read.status() == 200, "api {number}, {path}: {read:?}");
            }
            let latest = deployment.api(number, "user", "p")?.get(&volume).await?;
            ensure!(latest["volume"]["status"] == "available", "{latest}");
            let ready = plain(deployment, number, Method::GET, "/readyz")?.send().await?;
            ensure!(ready.status() == 503, "{ready:?}");
            let ready: Value = ready.json().await?;
            ensure!(ready["checks"]["sequencer"]["ok"] == false, "{ready}");
            ensure!(ready["checks"]["log"]["ok"] == true, "{ready}");
        }

        deployment.sequencers[0].spawn()?;
        let body = json!({"volume": {"size": 1, "name": "meanwhile"}});
        let api = deployment.api(1, "user", "p")?;
        let once = accepted(&api, "/v3/volumes", "meanwhile", &body).await?;
        for number in 0..2 {
            let again: Value = create_with_key(deployment, number, "meanwhile").await?.json().await?;
            ensure!(id_of(&again)? == id_of(&once)?, "{once} became {again}");
            let repeated: Value = create_with_key(deployment, number, "before").await?.json().await?;
            ensure!(id_of(&repeated)? == id_of(&first)?, "{first} became {repeated}");
        }
        let listed = api.get("/v3/volumes").await?;
        ensure!(listed["volumes"].as_array().map(Vec::len) == Some(2), "{listed}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_without_servers_is_no_verdict() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let volume = create(&deployment.api(0, "user", "p")?, "one").await?;
        let admin = deployment.api(0, "admin", "operators")?;
        crate::invariants::verifies(&admin).await?;
        deployment.nats("kill", 1)?;
        // A log that cannot be read is not one that was edited.
        let asked = as_somebody(deployment, 0, "admin:operators", Method::GET, "/ledger/v1/verify")?;
        let unread = asked.send().await?;
        ensure!(unread.status() == 503, "{unread:?}");
        ensure!(unread.headers().contains_key("Retry-After"), "{unread:?}");
        deployment.nats("resume", 1)?;
        crate::invariants::verifies(&admin).await?;
        until("the volume is shown", async || {
            let api = deployment.api(1, "user", "p")?;
            Ok(match api.send(Method::GET, &format!("/v3/volumes/{volume}"), None, None).await? {
                Reply::Answer(200, body) => Some(body),
                Reply::Answer(..) | Reply::Silence => None,
            })
        })
        .await
        .map(drop)
    })
    .await
}
