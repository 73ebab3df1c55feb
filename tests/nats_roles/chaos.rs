//! Everything at once on three servers: load, while processes and servers are killed or held still.
//!
//! `TEPHRA_CHAOS_SEED` repeats a run's choices, `TEPHRA_CHAOS_SECONDS` sets how long it goes on at least.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Deployment, LEASE_MS, Process};
use crate::invariants::{self, History};
use crate::lane::Lane;
use crate::public_events;
use crate::server::{Api, Interrupted, until};

const LANES: u64 = 4;
const SERVERS: usize = 3;

/// How often each victim is disturbed in each way, at least: a second time it is one that has been
/// through it.
const ROUNDS: usize = 2;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stuck_whatever_is_killed_or_held_still() -> Result<()> {
    let seed = setting("TEPHRA_CHAOS_SEED", fastrand::u64(..1_000_000));
    let time = Duration::from_secs(setting("TEPHRA_CHAOS_SECONDS", 30));
    println!("TEPHRA_CHAOS_SEED={seed} TEPHRA_CHAOS_SECONDS={}", time.as_secs());
    let directory = tempfile::tempdir()?;
    let mut deployment = Deployment::start(directory.path(), SERVERS, 2).await?;
    deployment.start_publishers(2)?;
    let outcome = disturb_and_check(&mut deployment, Rng::with_seed(seed), time).await;
    if outcome.is_err() {
        eprintln!("{}", deployment.last_words());
        drop(deployment);
        // what was written is the evidence
        eprintln!("the data is kept in {}", directory.keep().display());
    }
    outcome.with_context(|| format!("with TEPHRA_CHAOS_SEED={seed}"))
}

async fn disturb_and_check(deployment: &mut Deployment, mut rng: Rng, time: Duration) -> Result<()> {
    let mut disturbed = BTreeMap::<(Victim, Way), usize>::new();
    let mut stream_leaders = BTreeSet::new();
    let turns = deployment.turns();
    let load = rng.fork();
    let acknowledged = under_load(deployment, load, async |deployment, lanes| {
        let end = Instant::now() + time;
        stream_leaders.extend(deployment.ledger_leader().await);
        let mut round = 0;
        while round < ROUNDS || Instant::now() < end {
            for (victim, way) in deck(&mut rng, round) {
                if lanes.has_ended() {
                    return Ok(());
                }
                println!("{victim:?}:");
                disturb(deployment, &mut rng, victim, way).await?;
                stream_leaders.extend(deployment.ledger_leader().await);
                *disturbed.entry((victim, way)).or_default() += 1;
            }
            round += 1;
        }
        Ok(())
    })
    .await?;
    let disturbances: usize = disturbed.values().sum();
    println!("{disturbances} disturbances, {acknowledged} commands acknowledged, all there");
    for victim in VICTIMS {
        let times = |way: Way| disturbed.get(&(victim, way)).copied().unwrap_or_default();
        let (killed, held) = (times(Way::Killed), times(Way::Held) + times(Way::HeldPastItsOrders));
        ensure!(
            killed >= ROUNDS && held >= ROUNDS,
            "{victim:?} was killed {killed}, held still {held} times"
        );
    }
    ensure!(
        disturbed.contains_key(&(Victim::Executor, Way::HeldPastItsOrders)),
        "no executor lost its orders while it was held still"
    );
    ensure!(deployment.turns() > turns, "no sequencer took a turn after the first");
    ensure!(stream_leaders.len() > 1, "no server took the stream over from another: {stream_leaders:?}");
    Ok(())
}

/// The users of a run.
pub struct Lanes(Vec<JoinHandle<Result<Lane>>>);

impl Lanes {
    /// Whether one of them has given up, or found something wrong.
    fn has_ended(&self) -> bool {
        self.0.iter().any(JoinHandle::is_finished)
    }
}

/// Lets users ask for all sorts of things while something is done to a deployment, and checks that what
/// was acknowledged is there afterwards, once, and everywhere. Returns how many commands that were.
pub async fn under_load(
    deployment: &mut Deployment,
    mut rng: Rng,
    disturb: impl AsyncFnOnce(&mut Deployment, &Lanes) -> Result<()>,
) -> Result<usize> {
    let admin = deployment.api(0, "admin", "operators")?;
    let enough = CancellationToken::new();
    let mut running = Vec::new();
    for number in 1..=LANES {
        let mut lane = Lane::new(number, deployment.volumes(), rng.fork());
        let plenty = json!({"quota_set": {"volumes": -1, "snapshots": -1, "gigabytes": -1}});
        admin.put(&format!("/v3/os-quota-sets/{}", lane.project), &plenty).await?;
        let apis = [deployment.api(0, "user", &lane.project)?, deployment.api(1, "user", &lane.project)?];
        let enough = enough.clone();
        running.push(tokio::spawn(async move { load(&mut lane, &apis, &enough).await.map(|()| lane) }));
    }
    let running = Lanes(running);
    disturb(deployment, &running).await?;
    enough.cancel();
    // lanes end with their apis; what was asked last is asked again
    for api in &mut deployment.apis {
        api.kill()?;
    }
    let mut lanes = Vec::new();
    for lane in running.0 {
        lanes.push(lane.await??);
    }
    for api in &mut deployment.apis {
        api.spawn()?;
    }
    deployment.ready().await?;
    check(deployment, &mut lanes).await?;
    let acknowledged: usize = lanes.iter().map(|lane| lane.acknowledged).sum();
    ensure!(acknowledged > 0, "nothing was acknowledged");
    Ok(acknowledged)
}

/// Goes on through whichever api answers, and repeats what was not answered.
async fn load(lane: &mut Lane, apis: &[Api], enough: &CancellationToken) -> Result<()> {
    for api in apis.iter().cycle() {
        if enough.is_cancelled() {
            break;
        }
        match lane.resolve(api).await {
            Ok(()) => lane.run(api).await?,
            Err(error) if error.is::<Interrupted>() => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Who is killed or held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// The one that leads, if one does.
    Sequencer,
    Api,
    Executor,
    NatsServer,
    /// The server that leads the stream of blocks.
    NatsLeader,
    /// The one that publishes events, if one does.
    Publisher,
}

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Killed,
    /// For as long as it takes others to take their place, where others do.
    Held,
    /// So long that the orders that were taken are given to whoever takes orders next.
    HeldPastItsOrders,
}

const VICTIMS: [Victim; 6] = [
    Victim::Sequencer,
    Victim::Api,
    Victim::Executor,
    Victim::NatsServer,
    Victim::NatsLeader,
    Victim::Publisher,
];

/// Everybody killed once and held still once, in a random order; in the first round the executor for
/// so long that its orders' lease ends.
fn deck(rng: &mut Rng, round: usize) -> Vec<(Victim, Way)> {
    let held = |victim| match victim {
        Victim::Executor if round == 0 => Way::HeldPastItsOrders,
        Victim::Executor
        | Victim::Sequencer
        | Victim::Api
        | Victim::NatsServer
        | Victim::NatsLeader
        | Victim::Publisher => Way::Held,
    };
    let mut deck: Vec<_> =
        VICTIMS.into_iter().flat_map(|victim| [(victim, Way::Killed), (victim, held(victim))]).collect();
    rng.shuffle(&mut deck);
    deck
}

/// How long a victim is away. Whoever is held still comes back when others have taken its place, where
/// there is such a time: a sequencer and a publisher after two leases, the leader of a stream after the
/// servers' election.
fn moment(rng: &mut Rng, victim: Victim, way: Way) -> Duration {
    const SHORT: Range<u64> = 100..2_000;
    /// The lease is 15 s.
    const PAST_AN_ORDER: Range<u64> = 15_500..17_000;
    let range = match (way, victim) {
        (Way::Killed, _) => SHORT,
        (Way::HeldPastItsOrders, _) => PAST_AN_ORDER,
        (Way::Held, Victim::Sequencer | Victim::Publisher) => 3 * LEASE_MS..5 * LEASE_MS,
        (Way::Held, Victim::NatsLeader) => 10_000..12_000,
        (Way::Held, Victim::Executor | Victim::Api | Victim::NatsServer) => SHORT,
    };
    Duration::from_millis(rng.u64(range))
}

/// One process or server is killed or held still for a moment, and then there is peace for another.
/// It is the one that does what it is disturbed in: while none leads or publishes, one is waited for.
async fn disturb(deployment: &mut Deployment, rng: &mut Rng, victim: Victim, way: Way) -> Result<()> {
    let moment = moment(rng, victim, way);
    match victim {
        Victim::Sequencer => {
            let number = deployment.leader_other_than(None).await?;
            disturb_process(&mut deployment.sequencers[number], way, moment).await?;
        }
        Victim::Api => {
            let number = rng.usize(..deployment.apis.len());
            disturb_process(&mut deployment.apis[number], way, moment).await?;
        }
        Victim::Publisher => {
            let number = until("somebody publishes", async || {
                Ok(deployment.publishers.iter().position(Process::is_publishing))
            })
            .await?;
            disturb_process(&mut deployment.publishers[number], way, moment).await?;
        }
        Victim::Executor => disturb_process(&mut deployment.executor, way, moment).await?,
        Victim::NatsServer => {
            let number = rng.usize(1..=SERVERS);
            disturb_nats(deployment, number, way, moment).await?;
        }
        Victim::NatsLeader => {
            let number =
                until("a server leads the stream", async || Ok(deployment.ledger_leader().await)).await?;
            disturb_nats(deployment, number, way, moment).await?;
        }
    }
    tokio::time::sleep(Duration::from_millis(rng.u64(200..1000))).await;
    Ok(())
}

async fn disturb_nats(deployment: &Deployment, number: usize, way: Way, moment: Duration) -> Result<()> {
    println!("nats server {number}: {way:?} for {moment:?}");
    deployment.nats(if way == Way::Killed { "kill" } else { "pause" }, number)?;
    tokio::time::sleep(moment).await;
    deployment.nats("resume", number)
}

async fn disturb_process(process: &mut Process, way: Way, moment: Duration) -> Result<()> {
    println!("{}: {way:?} for {moment:?}", process.name);
    if way == Way::Killed {
        process.kill()?;
        tokio::time::sleep(moment).await;
        process.spawn()
    } else {
        process.pause()?;
        tokio::time::sleep(moment).await;
        process.resume()
    }
}

/// Both apis must say the same, and the same as the lanes, the ledger and the files.
async fn check(deployment: &Deployment, lanes: &mut [Lane]) -> Result<()> {
    for lane in lanes.iter_mut() {
        let api = deployment.api(0, "user", &lane.project)?;
        let mut resolved = false;
        while !resolved {
            resolved =
                until("an answer", async || Ok(api.look("/readyz").await.ok().flatten())).await.is_ok();
            match lane.resolve(&api).await {
                Ok(()) => {}
                Err(error) if error.is::<Interrupted>() => resolved = false,
                Err(error) => return Err(error),
            }
        }
    }
    for number in 0..deployment.apis.len() {
        let admin = deployment.api(number, "admin", "operators")?;
        invariants::come_to_rest(&admin).await?;
        let apis: Vec<Api> =
            lanes.iter().map(|lane| deployment.api(number, "user", &lane.project)).collect::<Result<_>>()?;
        invariants::check(lanes, &mut History::default(), &admin, &apis, &deployment.volumes())
            .await
            .with_context(|| format!("through api {number}"))?;
    }
    replicas_agree(deployment).await?;
    public_events::are_those_of_the_ledger(deployment).await
}

/// At the same position every api has the same state, over the same chain of blocks.
async fn replicas_agree(deployment: &Deployment) -> Result<()> {
    until("all apis stand at one position", async || {
        let mut reports = Vec::new();
        for number in 0..deployment.apis.len() {
            let admin = deployment.api(number, "admin", "operators")?;
            reports.push(invariants::verified(&admin).await?);
        }
        let of = |name: &str| -> Vec<Value> { reports.iter().map(|report| report[name].clone()).collect() };
        let all_equal = |values: &[Value]| values.iter().all(|value| *value == values[0]);
        if !all_equal(&of("views_position")) {
            return Ok(None);
        }
        for name in ["state_hash", "hash", "blocks"] {
            ensure!(!of(name)[0].is_null() && all_equal(&of(name)), "{name} differs: {reports:?}");
        }
        Ok(Some(()))
    })
    .await
}
