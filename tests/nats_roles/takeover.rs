//! How long nobody decides commands: from the last renewal of a leader's lease until another has it.
//!
//! It is counted in renewals of another lease of the same length, in the order in which the bucket took
//! them. No clock is looked at, so a machine that is slow is slow for both.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::kv::Watch;
use futures::StreamExt;
use serde_json::Value;

use crate::create;
use crate::deployment::{Deployment, Process};
use crate::proxy::Proxy;
use crate::server::until;

/// Its parts are long even on a busy machine.
const PATIENT_LEASE_MS: u64 = 10_000;

/// A lease that is held is renewed so often in its length.
const RENEWALS_A_LEASE: u64 = 3;

const NEAR: usize = 0;

/// What was written of the sequencer's lease, as it was written.
struct Leases {
    written: Watch,
    holder: String,
    last: u64,
}

impl Leases {
    async fn follow(deployment: &Deployment) -> Result<Self> {
        let context = jetstream::new(deployment.client().await?);
        let bucket = context.get_key_value("TEPHRA_LEASE_main").await?;
        let written = bucket.watch_with_history("sequencer").await?;
        let mut leases = Self { written, holder: String::new(), last: 0 };
        (leases.holder, leases.last) = leases.next().await?;
        Ok(leases)
    }

    /// Who wrote next, and the number of it in the bucket.
    async fn next(&mut self) -> Result<(String, u64)> {
        let entry = self.written.next().await.context("the bucket says nothing more")??;
        let lease: Value = serde_json::from_slice(&entry.value)?;
        Ok((lease["id"].as_str().context("a holder")?.to_owned(), entry.revision))
    }

    /// Waits until another has it. Returns what else was written into the bucket since its last renewal.
    async fn others_written_until_taken_over(&mut self) -> Result<u64> {
        loop {
            let (holder, number) = self.next().await?;
            let before = std::mem::replace(&mut self.last, number);
            if holder != self.holder {
                self.holder = holder;
                return Ok(number - before - 1);
            }
        }
    }

    async fn is_taken_over_in_time(&mut self, way: &str) -> Result<()> {
        let renewals = self.others_written_until_taken_over().await?;
        println!("{way}: taken over after {renewals} renewals of another lease");
        ensure!(renewals > 0, "{way}: nothing was counted");
        ensure!(renewals <= 2 * RENEWALS_A_LEASE, "{way}: taken over after {renewals} renewals of another");
        Ok(())
    }
}

/// How often a sequencer has begun to wait for its turn.
fn stands_by(sequencer: &Process) -> usize {
    sequencer.said().matches("standing by, up with the log").count()
}

async fn stands_by_again(sequencer: &Process, before: usize) -> Result<()> {
    until("a sequencer stands by", async || Ok((stands_by(sequencer) > before).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_within_two_leases_from_a_leader_that_was_killed_cut_off_or_held_still()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start_leased(directory.path(), 1, 0, PATIENT_LEASE_MS, "").await?;
    let outcome = take_over_each_time(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

async fn take_over_each_time(deployment: &mut Deployment) -> Result<()> {
    deployment.start_publishers(1)?;
    until("events are published", async || Ok(deployment.publishers[0].is_publishing().then_some(())))
        .await?;
    let proxy = Proxy::before(deployment.server_address(0)).await?;
    let far = deployment.start_far_sequencer(&format!("nats://{}", proxy.address))?;
    stands_by_again(&deployment.sequencers[far], 0).await?;
    let mut leases = Leases::follow(deployment).await?;
    let api = deployment.api(0, "user", "p")?;

    ensure!(deployment.leader_other_than(None).await? == NEAR, "the one that was there first leads");
    let before = stands_by(&deployment.sequencers[NEAR]);
    deployment.sequencers[NEAR].kill()?;
    leases.is_taken_over_in_time("killed").await?;
    create(&api, "after a death").await?;
    deployment.sequencers[NEAR].spawn()?;
    stands_by_again(&deployment.sequencers[NEAR], before).await?;

    ensure!(deployment.leader_other_than(None).await? == far, "who took over leads");
    let before = stands_by(&deployment.sequencers[far]);
    proxy.cut();
    leases.is_taken_over_in_time("cut off").await?;
    create(&api, "after a partition").await?;
    proxy.heal();
    stands_by_again(&deployment.sequencers[far], before).await?;

    ensure!(deployment.leader_other_than(None).await? == NEAR, "who took over leads");
    deployment.sequencers[NEAR].hold().await?;
    leases.is_taken_over_in_time("held still").await?;
    create(&api, "after a silence").await?;
    deployment.sequencers[NEAR].resume()?;
    until("the old leader knows", async || Ok((!deployment.sequencers[NEAR].is_leading()).then_some(())))
        .await
}
