//! An order that keeps coming back: the executor that has it says so where it can be scraped.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::{self, AckKind};
use futures::{StreamExt, TryStreamExt};

use crate::deployment::{Process, free_address};
use crate::server::until;
use crate::{create, on_a_deployment, status_becomes};

/// From this delivery on an order is in trouble.
const TROUBLED_AFTER: usize = 10;

/// What an executor shows of itself.
async fn shown(address: &str, path: &str) -> Result<Option<(u16, String)>> {
    let Ok(answer) = reqwest::get(format!("http://{address}{path}")).await else { return Ok(None) };
    Ok(Some((answer.status().as_u16(), answer.text().await?)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_alone_shows_its_health_and_counts_orders_that_keep_coming_back() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let api = deployment.api(0, "user", "p")?;
        deployment.executor.kill()?;
        let volume = create(&api, "in trouble").await?;
        // Somebody takes its order and gives it back, again and again.
        let stream = jetstream::new(deployment.client().await?).get_stream("TEPHRA_WORK_main").await?;
        let names: Vec<String> = stream.consumer_names().try_collect().await?;
        let consumer = stream.get_consumer::<Config>(names.first().context("a consumer")?).await;
        let consumer = consumer.map_err(anyhow::Error::from_boxed)?;
        for _ in 1..TROUBLED_AFTER {
            let mut order = consumer.stream().max_messages_per_batch(1).messages().await?;
            let order = order.next().await.context("an order")??;
            order.ack_with(AckKind::Nak(None)).await.map_err(anyhow::Error::from_boxed)?;
        }

        let listen = free_address()?;
        let common = std::fs::read_to_string(deployment.config_file())?;
        let config = deployment.directory().join("executor.toml");
        std::fs::write(&config, format!("{common}\n[monitor]\nlisten = \"{listen}\"\n"))?;
        let config = config.display().to_string();
        let mut executor =
            Process::new(deployment.directory(), "executor", &["executor", "--config", &config]);
        executor.spawn()?;
        let counted = until("it is counted", async || {
            let Some((200, text)) = shown(&listen, "/metrics").await? else { return Ok(None) };
            Ok(text.lines().find(|line| line.starts_with("tephra_orders_troubled_total{")).map(str::to_owned))
        })
        .await?;
        ensure!(counted.contains("backend=\"directory\"") && counted.ends_with(" 1"), "{counted}");
        status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;

        let alive = shown(&listen, "/healthz").await?.context("no answer")?;
        ensure!(alive.0 == 200, "{alive:?}");
        let ready = until("it is ready", async || {
            Ok(shown(&listen, "/readyz").await?.filter(|(code, _)| *code == 200))
        })
        .await?;
        ensure!(ready.1.contains("executor directory"), "{ready:?}");
        // And while it waits for servers it is alive, but not ready.
        executor.stop().await?;
        deployment.nats("kill", 1)?;
        executor.spawn()?;
        let waiting = until("it answers", async || shown(&listen, "/readyz").await).await?;
        ensure!(waiting.0 == 503 && waiting.1.contains("not all roles have started"), "{waiting:?}");
        ensure!(shown(&listen, "/healthz").await?.is_some_and(|(code, _)| code == 200), "it is not alive");
        executor.stop().await
    })
    .await
}
