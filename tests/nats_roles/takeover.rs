//! How long nobody decides commands: from the last renewal of a leader's lease until another has it, and
//! until the first command is acknowledged.
//!
//! It is counted in renewals of another lease of the same length, in the order in which the bucket took
//! them. No clock is looked at, so a machine that is slow is slow for both.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::kv::{Store, Watch};
use futures::StreamExt;
use serde_json::Value;

use crate::create;
use crate::deployment::{Deployment, Process};
use crate::proxy::Proxy;
use crate::server::{Api, until};

/// Its parts are long even on a busy machine.
const PATIENT_LEASE_MS: u64 = 10_000;

/// A lease that is held is renewed so often in its length.
const RENEWALS_A_LEASE: usize = 3;

const NEAR: usize = 0;

/// The lease that is counted by; the sequencer's is the only other.
const OTHER: &str = "events";

/// What was written of the leases, as it was written.
struct Leases {
    bucket: Store,
    written: Watch,
    holder: String,
    /// Where our lease was written last.
    renewed_last: u64,
    /// The other lease's renewals, by their numbers in the bucket.
    others: Vec<u64>,
}

impl Leases {
    async fn follow(deployment: &Deployment) -> Result<Self> {
        let context = jetstream::new(deployment.client().await?);
        let bucket = context.get_key_value("TEPHRA_LEASE_main").await?;
        let written = bucket.watch_all().await?;
        let mut leases = Self { bucket, written, holder: String::new(), renewed_last: 0, others: Vec::new() };
        while leases.holder.is_empty() {
            leases.next().await?;
        }
        Ok(leases)
    }

    /// Takes in what was written next. If our lease has changed hands with it: says where the one before
    /// wrote it last.
    async fn next(&mut self) -> Result<Option<u64>> {
        let entry = self.written.next().await.context("the bucket says nothing more")??;
        if entry.key == OTHER {
            self.others.push(entry.revision);
            return Ok(None);
        }
        let lease: Value = serde_json::from_slice(&entry.value)?;
        let holder = lease["id"].as_str().context("a holder")?;
        let is_another = !self.holder.is_empty() && self.holder != holder;
        holder.clone_into(&mut self.holder);
        let before = std::mem::replace(&mut self.renewed_last, entry.revision);
        Ok(is_another.then_some(before))
    }

    /// How often the other lease has been renewed since the last renewal of ours by who had it, until
    /// another took it over. Then it is asked for a command; until that is acknowledged, likewise.
    async fn count(&mut self, api: &Api, key: &str) -> Result<(usize, usize)> {
        let since = loop {
            if let Some(before) = self.next().await? {
                break before;
            }
        };
        let taken_over = self.renewed_last;
        create(api, key).await?;
        let now = self.bucket.entry(OTHER).await?.context("the other lease")?.revision;
        while self.others.last().is_none_or(|last| *last < now) {
            self.next().await?;
        }
        let renewals =
            |until: u64| self.others.iter().filter(|number| (since..=until).contains(number)).count();
        Ok((renewals(taken_over), renewals(now)))
    }

    async fn is_taken_over_in_time(&mut self, way: &str, api: &Api) -> Result<()> {
        let (lease, answer) = self.count(api, way).await?;
        println!(
            "{way}: taken over after {lease} renewals of another lease, a command answered after {answer}"
        );
        ensure!(lease > 0, "{way}: nothing was counted");
        let most = 2 * RENEWALS_A_LEASE;
        ensure!(lease <= most, "{way}: taken over after {lease} renewals of another");
        ensure!(answer <= most, "{way}: a command was answered after {answer} renewals of another");
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
    leases.is_taken_over_in_time("killed", &api).await?;
    deployment.sequencers[NEAR].spawn()?;
    stands_by_again(&deployment.sequencers[NEAR], before).await?;

    ensure!(deployment.leader_other_than(None).await? == far, "who took over leads");
    let before = stands_by(&deployment.sequencers[far]);
    proxy.cut();
    leases.is_taken_over_in_time("cut off", &api).await?;
    proxy.heal();
    stands_by_again(&deployment.sequencers[far], before).await?;

    ensure!(deployment.leader_other_than(None).await? == NEAR, "who took over leads");
    deployment.sequencers[NEAR].hold().await?;
    leases.is_taken_over_in_time("held still", &api).await?;
    deployment.sequencers[NEAR].resume()?;
    until("the old leader knows", async || Ok((!deployment.sequencers[NEAR].is_leading()).then_some(())))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_three_servers_another_takes_over_within_two_leases_from_a_leader_that_was_killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start_leased(directory.path(), 3, 1, PATIENT_LEASE_MS, "").await?;
    let outcome = take_over_once(&mut deployment).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
    }
    outcome
}

async fn take_over_once(deployment: &mut Deployment) -> Result<()> {
    deployment.start_publishers(1)?;
    until("events are published", async || Ok(deployment.publishers[0].is_publishing().then_some(())))
        .await?;
    let leader = deployment.leader_other_than(None).await?;
    stands_by_again(&deployment.sequencers[1 - leader], 0).await?;
    let mut leases = Leases::follow(deployment).await?;
    let api = deployment.api(0, "user", "p")?;
    deployment.sequencers[leader].kill()?;
    leases.is_taken_over_in_time("killed on three servers", &api).await
}
