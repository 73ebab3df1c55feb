//! What no commit can hold: the client is told so at once, and nobody else notices.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::server::{Api, Reply};
use crate::{accepted, create, invariants, on_a_deployment, status_becomes};

/// Extra specs for a request of about a hundred KiB: a request may have little more.
fn specs(number: usize) -> Value {
    let specs: BTreeMap<String, String> =
        (0..350).map(|n| (format!("spec:{number}-{n}"), "v".repeat(255))).collect();
    json!({"extra_specs": specs})
}

async fn count_of_specs(api: &Api, path: &str) -> Result<usize> {
    let shown = api.get(path).await?;
    Ok(shown["extra_specs"].as_object().context("no extra specs")?.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_no_commit_can_hold_is_answered_400_and_nothing_is_stuck() -> Result<()> {
    on_a_deployment(0, async |deployment| {
        let admin = deployment.api(0, "admin", "operators")?;
        let body = json!({"volume_type": {"name": "heavy"}});
        let made = match admin.send(Method::POST, "/v3/types", Some("type"), Some(&body)).await? {
            Reply::Answer(200, made) => made,
            other @ (Reply::Answer(..) | Reply::Silence) => bail!("{other:?}"),
        };
        let id = made["volume_type"]["id"].as_str().context("no id")?.to_owned();
        let path = format!("/v3/types/{id}/extra_specs");
        // An event has all specs of its type: each request adds to it, until one is too many.
        let mut taken = 0;
        let refused = loop {
            let key = format!("specs-{taken}");
            match admin.send(Method::POST, &path, Some(&key), Some(&specs(taken))).await? {
                Reply::Answer(200, _) => taken += 1,
                Reply::Answer(400, body) => break body,
                other @ (Reply::Answer(..) | Reply::Silence) => bail!("after {taken}: {other:?}"),
            }
            ensure!(taken < 20, "two megabytes are taken");
        };
        ensure!(taken > 1, "{refused}");
        let said = refused["badRequest"]["message"].as_str().context("no message")?;
        ensure!(said.contains("more than can be changed at once"), "{said}");
        // Asked again, elsewhere too, it is refused again; and nothing of it is there.
        for number in 0..2 {
            let api = deployment.api(number, "admin", "operators")?;
            let again =
                api.send(Method::POST, &path, Some(&format!("specs-{taken}")), Some(&specs(taken))).await?;
            ensure!(matches!(again, Reply::Answer(400, _)), "api {number}: {again:?}");
            ensure!(count_of_specs(&api, &path).await? == taken * 350, "api {number}");
        }
        // What fits is taken, also beside what does not.
        let user = deployment.api(1, "user", "p")?;
        let too_many = specs(taken);
        let (beside, large) =
            tokio::join!(create(&user, "beside"), admin.send(Method::POST, &path, None, Some(&too_many)));
        ensure!(matches!(large?, Reply::Answer(400, _)), "it is taken now");
        status_becomes(&user, &format!("/v3/volumes/{}", beside?), "volume", "available").await?;
        let small = json!({"extra_specs": {"one": "more"}});
        let added = admin.send(Method::POST, &path, None, Some(&small)).await?;
        ensure!(matches!(added, Reply::Answer(200, _)), "{added:?}");
        let body = json!({"volume": {"size": 1, "volume_type": "heavy"}});
        accepted(&user, "/v3/volumes", "of the type", &body).await?;
        invariants::come_to_rest(&admin).await?;
        ensure!(count_of_specs(&admin, &path).await? == taken * 350 + 1, "one was added");
        invariants::verifies(&admin).await
    })
    .await
}
