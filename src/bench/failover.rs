//! How long nobody is served when whoever leads is gone: the sequencer, or the NATS server that
//! leads the stream of blocks.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::client::{Connection, request};
use super::place::{NatsServers, Place};
use super::server::{Process, Server};
use super::{Add, CREATE};

/// Connections that go on creating volumes meanwhile.
const LOAD_CONNECTIONS: usize = 8;

/// The pause before somebody who was refused asks again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// What a sequencer says once it could take over at any moment.
const STANDS_BY: &str = "standing by, up with the log";

/// What it says when it does.
const LEADS: &str = "deciding commands";

/// A way for a leader to be gone.
#[derive(Clone, Copy)]
enum Disturbance {
    Killed,
    Paused,
}

/// Measures `rounds` of each, with an api, an executor, and a sequencer with a standby as processes
/// of their own.
///
/// # Errors
/// If a process does not start, or nobody takes over.
pub async fn failovers(
    place: &mut Place,
    rounds: usize,
    directory: &Path,
    add: Add<'_>,
) -> anyhow::Result<()> {
    let data = |name: &str| directory.join(name);
    let sequencer = |number: usize, place: &Place| {
        let data_dir = directory.join(format!("sequencer-{number}"));
        Process::start(&["serve", "--roles", "sequencer"], place, &data_dir, "info")
    };
    let executor = Process::start(&["executor"], place, &data("executor"), "warn")?;
    let mut leader = sequencer(0, place)?;
    leader.says(LEADS, 0).await?;
    let api = Server::start(place, &data("api"), &["api"]).await?;
    api.lift_quotas().await?;
    let mut started: usize = 1;
    for disturbance in [Disturbance::Killed, Disturbance::Paused] {
        let mut times = Vec::new();
        let mut standby = sequencer(started, place)?;
        started = started.saturating_add(1);
        standby.says(STANDS_BY, 0).await?;
        for _ in 0..rounds {
            let load = keep_creating(api.address);
            first_answer(api.address).await?;
            let began = Instant::now();
            match disturbance {
                Disturbance::Killed => leader.signal(Signal::KILL)?,
                Disturbance::Paused => leader.signal(Signal::STOP)?,
            }
            first_answer(api.address).await?;
            times.push(began.elapsed());
            drop(load);
            let next = match disturbance {
                Disturbance::Killed => {
                    leader.kill().await?;
                    let mut fresh = sequencer(started, place)?;
                    started = started.saturating_add(1);
                    fresh.says(STANDS_BY, 0).await?;
                    fresh
                }
                Disturbance::Paused => {
                    let before = leader.count_said(STANDS_BY);
                    leader.signal(Signal::CONT)?;
                    leader.says(STANDS_BY, before).await?;
                    leader
                }
            };
            leader = std::mem::replace(&mut standby, next);
            api.wait_until_quiet().await?;
        }
        let how = match disturbance {
            Disturbance::Killed => "sequencer killed (-9)",
            Disturbance::Paused => "sequencer held still (SIGSTOP)",
        };
        show(how, times, add);
        standby.stop().await?;
    }
    if let Place::Nats(servers) = place {
        nats_leader(servers, rounds, &api, add).await?;
    }
    api.process.stop().await?;
    leader.stop().await?;
    executor.stop().await
}

/// The NATS server that leads the stream of blocks is killed; with one server, it is started again
/// at once.
async fn nats_leader(
    servers: &mut NatsServers,
    rounds: usize,
    api: &Server,
    add: Add<'_>,
) -> anyhow::Result<()> {
    let is_alone = servers.count() == 1;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let leader = servers.leader().await?;
        let load = keep_creating(api.address);
        first_answer(api.address).await?;
        let began = Instant::now();
        servers.kill(leader).await?;
        if is_alone {
            servers.restart(leader)?;
        }
        first_answer(api.address).await?;
        times.push(began.elapsed());
        drop(load);
        if !is_alone {
            servers.restart(leader)?;
        }
        servers.wait_until_whole().await?;
        api.wait_until_quiet().await?;
    }
    let how = if is_alone { "NATS server killed (-9) and started again" } else { "NATS leader killed (-9)" };
    show(how, times, add);
    Ok(())
}

fn show(how: &str, mut times: Vec<Duration>, add: Add<'_>) {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64);
    let longest = times.last().map_or(0.0, Duration::as_secs_f64);
    add(format!("{how}: to the first new answer, median"), middle, "s");
    add(format!("{how}: to the first new answer, longest"), longest, "s");
}

/// Creates volumes until it is dropped, whatever is answered.
fn keep_creating(address: SocketAddr) -> JoinSet<()> {
    let mut lanes = JoinSet::new();
    for _ in 0..LOAD_CONNECTIONS {
        lanes.spawn(async move {
            loop {
                if creating(address).await.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        });
    }
    lanes
}

async fn creating(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let create = request("POST", "/v3/bench/volumes", Some(CREATE));
    while connection.send(&create).await?.status == 202 {}
    anyhow::bail!("refused")
}

/// Asks for a volume until it is acknowledged. The command is sent after the call, so an answer that
/// was on its way already is not taken for it.
async fn first_answer(address: SocketAddr) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let create = request("POST", "/v3/bench/volumes", Some(CREATE));
    let asking = async {
        let mut connection = Connection::open(address).await?;
        while connection.send(&create).await?.status != 202 {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, asking).await?
}
