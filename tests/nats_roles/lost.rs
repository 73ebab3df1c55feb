//! What is on NATS beside the ledger, lost altogether while everything runs.

use anyhow::Result;
use async_nats::jetstream;

use crate::{create, on_a_deployment, status_becomes};

#[tokio::test(flavor = "multi_thread")]
async fn work_orders_and_leases_that_are_lost_are_made_again_without_a_restart() -> Result<()> {
    on_a_deployment(1, async |deployment| {
        let api = deployment.api(0, "user", "lost")?;
        let context = jetstream::new(deployment.client().await?);
        for round in 0..2 {
            context.delete_stream("TEPHRA_WORK_main").await?;
            context.delete_key_value("TEPHRA_LEASE_main").await?;
            let volume = create(&api, &format!("lost-{round}")).await?;
            status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
        }
        Ok(())
    })
    .await
}
