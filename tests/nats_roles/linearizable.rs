//! An api that provably stands before a write: what it says by itself is old, and what it is asked to
//! say with `consistency=linearizable` never is.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::on_a_deployment;
use crate::proxy::Proxy;
use crate::server::{DEADLINE, until};
use crate::{accepted, create, status_becomes};

/// The api that falls behind, and a volume.
struct Behind {
    client: Client,
    url: String,
    volume: String,
}

impl Behind {
    async fn get(&self, path: &str) -> Result<Response> {
        let request = self.client.get(format!("{}{path}", self.url));
        Ok(request.header("X-Auth-Token", "user:p").send().await?)
    }

    /// What a plain read shows as the volume's name.
    async fn plain_name(&self) -> Result<Value> {
        let answer = self.get(&format!("/v3/volumes/{}", self.volume)).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(answer.json::<Value>().await?["volume"]["name"].take())
    }

    /// Whether its own views stand before what it knows to be decided, as it says itself.
    async fn says_that_it_is_behind(&self) -> Result<bool> {
        let ready: Value = self.get("/readyz").await?.json().await?;
        let (log, decided, views) =
            (&ready["checks"]["log"], &ready["checks"]["sequencer"], &ready["checks"]["views"]);
        ensure!(log["ok"] == true && decided["ok"] == true, "all else comes through: {ready}");
        let detail = views["detail"].as_str().context("no detail")?;
        ensure!((views["ok"] == true) != detail.contains(", behind "), "{ready}");
        Ok(views["ok"] == false)
    }

    /// Asks for the newest state in each way that there is. Whoever has it shows all that was written
    /// under `name`; whoever has not says 503 and when to ask again.
    async fn newest(&self, name: &str) -> Result<Newest> {
        let (one, all) = (format!("/v3/volumes/{}", self.volume), "/v3/volumes/detail");
        let in_query = format!("{one}?consistency=linearizable");
        let listed = format!("{all}?limit=10&consistency=linearizable");
        let in_header = self.client.get(format!("{}{one}", self.url));
        let in_header =
            in_header.header("X-Auth-Token", "user:p").header("X-Tephra-Consistency", "linearizable").send();
        let (in_query, listed, in_header) = tokio::join!(self.get(&in_query), self.get(&listed), in_header);
        let mut shown = 0;
        for answer in [in_query?, listed?, in_header?] {
            if answer.status() == 503 {
                let retry_after = answer.headers().get("Retry-After").context("no Retry-After")?.to_str()?;
                ensure!(retry_after.parse::<u32>()? > 0, "{retry_after}");
                let body: Value = answer.json().await?;
                ensure!(body["serviceUnavailable"]["code"] == 503, "{body}");
                continue;
            }
            ensure!(answer.status() == 200, "{answer:?}");
            let body: Value = answer.json().await?;
            let volume = body.get("volume").unwrap_or(&body["volumes"][0]);
            ensure!(volume["name"] == name, "{name} was acknowledged elsewhere, and this is shown: {body}");
            shown += 1;
        }
        Ok(match shown {
            0 => Newest::NotYet,
            3 => Newest::Shown,
            _ => Newest::InPart,
        })
    }

    /// Asks until all of it is there; what comes before must not be old.
    async fn comes_up(&self, name: &str) -> Result<()> {
        until("the newest state is shown", async || {
            Ok((self.newest(name).await? == Newest::Shown).then_some(()))
        })
        .await?;
        ensure!(self.plain_name().await? == name, "whoever has shown it shows it to everybody");
        ensure!(!self.says_that_it_is_behind().await?, "it has come up");
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Newest {
    Shown,
    InPart,
    NotYet,
}

/// Writes through an api that is not behind.
async fn rename(deployment: &Deployment, volume: &str, name: &str) -> Result<()> {
    let body = json!({"volume": {"name": name}});
    deployment.api(0, "user", "p")?.put(&format!("/v3/volumes/{volume}"), &body).await
}

async fn with_one_behind(test: impl AsyncFnOnce(&Deployment, &Proxy, &Behind) -> Result<()>) -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let proxy = Proxy::before(deployment.server_address(0)).await?;
        let far = deployment.start_far_api(&format!("nats://{}", proxy.address)).await?;
        let volume = create(&deployment.api(0, "user", "p")?, "old").await?;
        let path = format!("/v3/volumes/{volume}");
        status_becomes(&deployment.api(far, "user", "p")?, &path, "volume", "available").await?;
        let client = Client::builder().timeout(DEADLINE).build()?;
        let behind = Behind { client, url: deployment.urls[far].clone(), volume };
        behind.comes_up("old").await?;
        test(deployment, &proxy, &behind).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_no_block_comes_to_does_not_answer_with_the_old_state_when_asked_for_the_newest()
-> Result<()> {
    with_one_behind(async |deployment, proxy, behind| {
        proxy.hold_blocks();
        rename(deployment, &behind.volume, "new").await?;
        ensure!(behind.says_that_it_is_behind().await?, "it stands before the write");
        ensure!(behind.plain_name().await? == "old", "a plain read shows where it stands");
        ensure!(behind.newest("new").await? == Newest::NotYet, "nobody can know what is not there");
        // Nothing has come up meanwhile, or the answers above would prove nothing.
        ensure!(behind.says_that_it_is_behind().await? && behind.plain_name().await? == "old");

        // Whoever asks while it is behind and has not been given up on is answered when it has come up.
        rename(deployment, &behind.volume, "newer").await?;
        let (asked, healed) = tokio::join!(behind.newest("newer"), async {
            ensure!(behind.plain_name().await? == "old", "it is still behind");
            proxy.heal();
            anyhow::Ok(())
        });
        healed?;
        println!("asked before the way was free: {:?}", asked?);
        behind.comes_up("newer").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_cut_off_says_so_when_asked_for_the_newest_state() -> Result<()> {
    with_one_behind(async |deployment, proxy, behind| {
        proxy.cut();
        rename(deployment, &behind.volume, "new").await?;
        ensure!(behind.plain_name().await? == "old", "a plain read shows where it stands");
        ensure!(behind.newest("new").await? == Newest::NotYet, "it cannot ask how far the ledger is");
        ensure!(behind.plain_name().await? == "old", "it still stands there");
        proxy.heal();
        behind.comes_up("new").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_elsewhere_is_not_shown_by_an_api_that_is_behind() -> Result<()> {
    with_one_behind(async |deployment, proxy, behind| {
        proxy.hold_blocks();
        let near = deployment.api(0, "user", "p")?;
        let path = format!("/v3/volumes/{}", behind.volume);
        let body = json!({"snapshot": {"volume_id": behind.volume}});
        let snapshot = accepted(&near, "/v3/snapshots", "kept", &body).await?;
        let id = snapshot["snapshot"]["id"].as_str().context("no id")?;
        status_becomes(&near, &format!("/v3/snapshots/{id}"), "snapshot", "available").await?;
        let deleted = near.send(reqwest::Method::DELETE, &format!("{path}?cascade=true"), None, None).await?;
        ensure!(matches!(deleted, crate::server::Reply::Answer(202, _)), "{deleted:?}");
        until("the volume is gone", async || Ok(near.look(&path).await?.is_none().then_some(()))).await?;

        ensure!(behind.plain_name().await? == "old", "a plain read still shows it");
        let newest = behind.get(&format!("{path}?consistency=linearizable")).await?;
        ensure!(newest.status() == 503, "{newest:?}");
        let listed = behind.get("/v3/volumes?consistency=linearizable").await?;
        ensure!(listed.status() == 503, "{listed:?}");
        proxy.heal();
        until("it is gone here too", async || {
            let newest = behind.get(&format!("{path}?consistency=linearizable")).await?;
            ensure!([404, 503].contains(&newest.status().as_u16()), "{newest:?}");
            Ok((newest.status() == 404).then_some(()))
        })
        .await
    })
    .await
}
