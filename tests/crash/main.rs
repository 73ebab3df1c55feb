//! kill -9 at any moment loses nothing that was acknowledged and leaves nothing stuck.
//!
//! The real program with its `directory` backend, under a load of several clients, is killed at a
//! random moment and started again, over and over. After each start the interrupted operations must
//! end by themselves, and then the clients' memory, the server's answers, the ledger and every byte
//! of every file on disk must agree.
//!
//! `TEPHRA_CRASH_SEED` repeats a run's choices, `TEPHRA_CRASH_ROUNDS` sets how often the server is
//! killed, `TEPHRA_CRASH_SECONDS` how long at most, `TEPHRA_BIN` which program is under test.

mod files;
mod invariants;
mod lane;
#[allow(dead_code, reason = "tests of several hosts use the rest")]
mod server;

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::json;

use crate::invariants::History;
use crate::lane::Lane;
use crate::server::Server;

const LANES: u64 = 6;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_is_stuck_after_kill_9() -> Result<()> {
    let seed = setting("TEPHRA_CRASH_SEED", fastrand::u64(..1_000_000));
    let rounds = setting("TEPHRA_CRASH_ROUNDS", 25_u32);
    let end = Instant::now() + Duration::from_secs(setting("TEPHRA_CRASH_SECONDS", 180));
    println!("TEPHRA_CRASH_SEED={seed} TEPHRA_CRASH_ROUNDS={rounds}");
    let directory = tempfile::tempdir()?;
    let mut server = Server::new(directory.path());
    let outcome = crash_and_check(&mut server, Rng::with_seed(seed), rounds, end).await;
    if outcome.is_err() {
        eprintln!("seed {seed}; the data is kept in {}", directory.path().display());
        eprintln!("{}", server.last_words());
        drop(server);
        // what is on disk is the evidence
        let _kept = directory.keep();
    }
    outcome.with_context(|| format!("with TEPHRA_CRASH_SEED={seed}"))
}

async fn crash_and_check(server: &mut Server, mut rng: Rng, rounds: u32, end: Instant) -> Result<()> {
    let mut lanes: Vec<Lane> =
        (1..=LANES).map(|number| Lane::new(number, server.volumes(), rng.fork())).collect();
    server.spawn()?;
    server.ready().await?;
    let admin = server.api("admin", "operators")?;
    for lane in &lanes {
        let plenty = json!({"quota_set": {"volumes": -1, "snapshots": -1, "gigabytes": -1}});
        admin.put(&format!("/v3/os-quota-sets/{}", lane.project), &plenty).await?;
    }
    let mut history = History::default();
    for round in 1..=rounds {
        lanes = load_until_killed(server, lanes, &mut rng).await.with_context(|| format!("round {round}"))?;
        restart(server, &mut rng).await.with_context(|| format!("round {round}"))?;
        let acknowledged =
            check(server, &mut lanes, &mut history).await.with_context(|| format!("round {round}"))?;
        println!("round {round}: {acknowledged} commands acknowledged so far, all there");
        if Instant::now() > end {
            println!("stopping after {round} rounds: time is up");
            break;
        }
    }
    server.kill()?;
    server.run(&["verify"])
}

/// Puts load on the server and kills it in the midst of it.
async fn load_until_killed(server: &mut Server, lanes: Vec<Lane>, rng: &mut Rng) -> Result<Vec<Lane>> {
    let mut running = Vec::new();
    for mut lane in lanes {
        let api = server.api("user", &lane.project)?;
        running.push(tokio::spawn(async move { lane.run(&api).await.map(|()| lane) }));
    }
    // the one moment that is not an event: the test is about every moment
    tokio::time::sleep(Duration::from_millis(rng.u64(50..1200))).await;
    server.kill()?;
    let mut lanes = Vec::new();
    for lane in running {
        lanes.push(lane.await??);
    }
    Ok(lanes)
}

/// Starts the server again; now and then it is killed while it recovers.
async fn restart(server: &mut Server, rng: &mut Rng) -> Result<()> {
    while rng.u8(..3) == 0 {
        server.spawn()?;
        tokio::time::sleep(Duration::from_millis(rng.u64(..400))).await;
        server.kill()?;
    }
    server.spawn()?;
    server.ready().await
}

async fn check(server: &Server, lanes: &mut [Lane], history: &mut History) -> Result<usize> {
    let admin = server.api("admin", "operators")?;
    let mut apis = Vec::new();
    for lane in lanes.iter_mut() {
        let api = server.api("user", &lane.project)?;
        lane.resolve(&api).await.with_context(|| lane.project.clone())?;
        apis.push(api);
    }
    invariants::come_to_rest(&admin).await?;
    invariants::check(lanes, history, &admin, &apis, &server.volumes()).await?;
    Ok(lanes.iter().map(|lane| lane.acknowledged).sum())
}
