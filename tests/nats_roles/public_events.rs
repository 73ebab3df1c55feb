//! What programs that are not Tephra's read: each event of the ledger, once and in its order.

use anyhow::{Context, Result, anyhow, ensure};
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::{self, consumer::AckPolicy};
use futures::StreamExt;
use serde_json::Value;

use crate::deployment::{Deployment, Process, free_address};
use crate::server::{Api, until};
use crate::{create, on_a_deployment};

const STREAM: &str = "TEPHRA_EVENTS";

/// The place and the kind of an event, and what it is about.
type Place = (String, String, Value);

fn place_of(event: &Value) -> Result<Place> {
    let text = |name: &str| -> Result<String> {
        Ok(event[name].as_str().with_context(|| format!("no {name} in {event}"))?.to_owned())
    };
    Ok((text("sequence")?, text("kind")?, event["resource"].clone()))
}

/// All events of the ledger.
async fn of_the_ledger(admin: &Api) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut after = 0;
    loop {
        let page = admin.get(&format!("/ledger/v1/events?after={after}&limit=1000")).await?;
        for event in page["events"].as_array().context("events")? {
            places.push(place_of(event)?);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(places),
        }
    }
}

/// The first `count` messages of the stream, and that each says its own number.
async fn of_the_stream(context: &jetstream::Context, count: usize) -> Result<Vec<Place>> {
    let config = PullConfig { ack_policy: AckPolicy::None, ..PullConfig::default() };
    let consumer = context.create_consumer_on_stream(config, STREAM).await?;
    let mut messages = consumer.messages().await?;
    let mut places = Vec::new();
    while places.len() < count {
        let message = messages.next().await.context("the stream has ended")??;
        let number = places.len() + 1;
        let event: Value = serde_json::from_slice(&message.payload)?;
        let info = message.info().map_err(|error| anyhow!("message {number}: {error}"))?;
        ensure!(info.stream_sequence == number as u64, "a gap before message {number}");
        ensure!(event["sequence"] == format!("{number:020}"), "message {number} is {event}");
        let place = place_of(&event["data"])?;
        ensure!(event["id"] == place.0.as_str(), "message {number} is {event}");
        places.push(place);
    }
    Ok(places)
}

/// The stream has exactly what the ledger has, as soon as everything has come to rest.
pub async fn are_those_of_the_ledger(deployment: &Deployment) -> Result<()> {
    let admin = deployment.api(0, "admin", "operators")?;
    let context = jetstream::new(deployment.client().await?);
    let happened = until("all events are published", async || {
        let happened = of_the_ledger(&admin).await?;
        let Ok(stream) = context.get_stream(STREAM).await else { return Ok(None) };
        let published = usize::try_from(stream.cached_info().state.messages)?;
        ensure!(published <= happened.len(), "{published} published of {}", happened.len());
        Ok((published == happened.len()).then_some(happened))
    })
    .await?;
    let published = of_the_stream(&context, happened.len()).await?;
    for (number, (published, happened)) in published.iter().zip(&happened).enumerate() {
        ensure!(published == happened, "event {} was published as {published:?}: {happened:?}", number + 1);
    }
    println!("{} events, each published once and in its place", happened.len());
    Ok(())
}

/// What `/readyz` of a process says about one of its roles, as soon as it is this.
async fn says(api: &Api, role: &str, ok: bool, words: &str) -> Result<()> {
    until(&format!("{role} says {words}"), async || {
        let Some(ready) = api.look("/readyz").await.ok().flatten() else { return Ok(None) };
        let said = &ready["roles"][role];
        let has_said = said["ok"] == ok && said["detail"].as_str().is_some_and(|said| said.contains(words));
        // Whatever becomes of events, requests are served.
        Ok((has_said && ready["status"] == "ready").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_says_how_each_of_its_roles_is_doing() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let config = deployment.config_file();
        let mut apis = Vec::new();
        let mut processes = Vec::new();
        for name in ["first", "second"] {
            let listen = free_address()?;
            let roles = "api,events,sequencer";
            let arguments = ["serve", "--roles", roles, "--listen", &listen, "--config", &config];
            let mut process = Process::new(deployment.directory(), name, &arguments);
            process.spawn()?;
            let api = Api::replica(&format!("http://{listen}"), "admin", "operators")?;
            says(&api, "sequencer", true, "standing by").await?;
            let turn = if name == "first" { "published " } else { "standing by" };
            says(&api, "events", true, turn).await?;
            processes.push(process);
            apis.push(api);
        }
        let happened = of_the_ledger(&apis[0]).await?.len();
        says(&apis[0], "events", true, &format!("published {happened} events")).await?;
        deployment.sequencers[0].kill()?;
        until("one of the two decides commands", async || {
            let mut deciding = 0;
            for api in &apis {
                let Some(ready) = api.look("/readyz").await.ok().flatten() else { return Ok(None) };
                let said = ready["roles"]["sequencer"]["detail"].as_str().unwrap_or_default();
                deciding += usize::from(said.starts_with("deciding commands"));
            }
            Ok((deciding == 1).then_some(()))
        })
        .await?;
        // Somebody writes into the stream: then nothing more is published, and that is said.
        let context = jetstream::new(deployment.client().await?);
        context.publish("tephra.event.a.b.c.d", "not ours".into()).await?.await?;
        create(&deployment.api(0, "user", "p")?, "one more").await?;
        says(&apis[0], "events", false, "was not published by Tephra").await
    })
    .await
}
