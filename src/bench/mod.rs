//! `tephra bench`: the figures in the README, measured on this machine by one command.
//!
//! It starts the server that it measures as a child process with a data directory of its own, drives
//! it over HTTP from this process, and so shares the cores with it: the figures are what both get.
//! The journal is a file, or on NATS servers that it starts as well.

mod client;
mod failover;
mod fill;
mod lag;
mod place;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tephra_domain::ids::VolumeId;
use tephra_domain::ledger::Ledger;
use tephra_journal::log::{BlockNumber, Log};

use client::{Connection, load, percentile_ms, request};
pub use place::Journal;
use place::Place;
use server::Server;

/// What to measure, and for how long.
pub struct BenchPlan {
    /// Seconds for each figure of a load.
    pub seconds: f64,
    /// Volumes in the large project.
    pub volumes: usize,
    /// Where to put the data directories; they are removed afterwards.
    pub directory: PathBuf,
    /// Which journals, one after the other.
    pub journals: Vec<Journal>,
    /// The program that NATS servers are.
    pub nats_server: PathBuf,
    /// How often each failover is measured.
    pub failovers: usize,
}

/// One measured figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Where the journal was.
    pub journal: Journal,
    /// What was measured.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// Measures everything, calling `show` with each figure as it is there.
///
/// # Errors
/// If a server cannot be started or answers wrongly.
pub async fn run(plan: &BenchPlan, mut show: impl FnMut(&Figure)) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir_all(&plan.directory)?;
    let mut figures = Vec::new();
    for journal in &plan.journals {
        let mut add = |name: String, value: f64, unit: &'static str| {
            let figure = Figure { journal: *journal, name, value, unit };
            show(&figure);
            figures.push(figure);
        };
        small(plan, *journal, &mut add).await?;
        large(plan, *journal, &mut add).await?;
        if *journal != Journal::Embedded && plan.failovers > 0 {
            let directory = tempfile::tempdir_in(&plan.directory)?;
            let nats = directory.path().join("nats");
            let mut place = Place::start(*journal, &plan.nats_server, &nats).await?;
            failover::failovers(&mut place, plan.failovers, directory.path(), &mut add).await?;
        }
    }
    Ok(figures)
}

/// A young ledger: latencies, reads, creates, and how far a replica is behind.
async fn small(plan: &BenchPlan, journal: Journal, add: Add<'_>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(&plan.directory)?;
    let place = Place::start(journal, &plan.nats_server, &directory.path().join("nats")).await?;
    let server = Server::start(&place, &directory.path().join("data"), &[]).await?;
    server.lift_quotas().await?;
    create_to_available(&server, add).await?;
    let volumes = first_volumes(&server, 1000).await?;
    reads(&server, plan, "1,000", volumes, add).await?;
    creates(&server, plan, add).await?;
    if journal != Journal::Embedded {
        lag::lag(&server, &place, plan.seconds, directory.path(), add).await?;
    }
    server.process.stop().await
}

/// A ledger of many volumes: replay, start, memory, reads.
async fn large(plan: &BenchPlan, journal: Journal, add: Add<'_>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(&plan.directory)?;
    let data_dir = directory.path().join("data");
    let place = Place::start(journal, &plan.nats_server, &directory.path().join("nats")).await?;
    let filled = fill::fill(place.log(&data_dir).await?, plan.volumes, |_| {}).await?;
    let size = grouped(plan.volumes);
    replay_into_state(place.log(&data_dir).await?, filled.events, add).await?;
    let started = Instant::now();
    let server = Server::start(&place, &data_dir, &[]).await?;
    let seconds = started.elapsed().as_secs_f64();
    add(format!("first start with {size} volumes, views built"), seconds, "s");
    add("that is, replay into views".to_owned(), filled.events as f64 / seconds, "events/s");
    server.process.stop().await?;
    let started = Instant::now();
    let server = Server::start(&place, &data_dir, &[]).await?;
    add(format!("start with {size} volumes"), started.elapsed().as_secs_f64(), "s");
    add(format!("resident memory with {size} volumes"), server.process.resident_mib()?, "MiB");
    reads(&server, plan, &size, filled.sample, add).await?;
    server.process.stop().await
}

type Add<'a> = &'a mut dyn FnMut(String, f64, &'static str);

const CREATE: &str = r#"{"volume":{"size":1,"name":"bench"}}"#;

async fn creates(server: &Server, plan: &BenchPlan, add: Add<'_>) -> anyhow::Result<()> {
    for connections in [1, 8, 64] {
        let body = request("POST", "/v3/bench/volumes", Some(CREATE));
        let load = load(server.address, connections, plan.seconds, 202, move |_| body.clone()).await?;
        let plural = if connections == 1 { "connection" } else { "connections" };
        add(format!("durable creates, {connections} {plural}"), load.rate(), "creates/s");
        add(format!("durable creates, {connections} {plural}, p50"), load.percentile_ms(0.50), "ms");
        add(format!("durable creates, {connections} {plural}, p99"), load.percentile_ms(0.99), "ms");
        server.wait_until_quiet().await?;
    }
    Ok(())
}

async fn create_to_available(server: &Server, add: Add<'_>) -> anyhow::Result<()> {
    const ROUNDS: usize = 100;
    let mut connection = Connection::open(server.address).await?;
    let mut latencies = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let answer = connection.send(&request("POST", "/v3/bench/volumes", Some(CREATE))).await?;
        let id = volume_id(&answer.body)?;
        let show = request("GET", &format!("/v3/bench/volumes/{id}"), None);
        loop {
            let answer = connection.send(&show).await?;
            let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
            match body.pointer("/volume/status").and_then(|status| status.as_str()) {
                Some("available") => break,
                Some("creating") => tokio::time::sleep(Duration::from_micros(200)).await,
                status => anyhow::bail!("the volume is {status:?}"),
            }
        }
        latencies.push(started.elapsed());
    }
    latencies.sort_unstable();
    add("create to available, median of 100".to_owned(), percentile_ms(&latencies, 0.50), "ms");
    Ok(())
}

fn volume_id(body: &[u8]) -> anyhow::Result<VolumeId> {
    let body: serde_json::Value = serde_json::from_slice(body)?;
    let id = body.pointer("/volume/id").and_then(|id| id.as_str()).context("an id in the answer")?;
    Ok(id.parse()?)
}

async fn first_volumes(server: &Server, wanted: usize) -> anyhow::Result<Vec<VolumeId>> {
    let mut connection = Connection::open(server.address).await?;
    let mut volumes = Vec::with_capacity(wanted);
    while volumes.len() < wanted {
        let answer = connection.send(&request("POST", "/v3/bench/volumes", Some(CREATE))).await?;
        volumes.push(volume_id(&answer.body)?);
    }
    server.wait_until_quiet().await?;
    Ok(volumes)
}

async fn reads(
    server: &Server,
    plan: &BenchPlan,
    size: &str,
    volumes: Vec<VolumeId>,
    add: Add<'_>,
) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 16;
    let shows: Vec<Vec<u8>> =
        volumes.iter().map(|id| request("GET", &format!("/v3/bench/volumes/{id}"), None)).collect();
    let count = shows.len().max(1);
    let show = move |number: usize| shows.get(number % count).cloned().unwrap_or_default();
    let done = load(server.address, CONNECTIONS, plan.seconds, 200, show).await?;
    add(format!("shows, {size} volumes in the project"), done.rate(), "shows/s");

    let page = request("GET", "/v3/bench/volumes/detail?limit=50", None);
    let done = load(server.address, CONNECTIONS, plan.seconds, 200, move |_| page.clone()).await?;
    add(format!("pages of 50, {size} volumes, the first"), done.rate(), "pages/s");

    let markers: Vec<Vec<u8>> = volumes
        .iter()
        .map(|id| request("GET", &format!("/v3/bench/volumes/detail?limit=50&marker={id}"), None))
        .collect();
    let next =
        move |number: usize| markers.get(number.wrapping_mul(7919) % count).cloned().unwrap_or_default();
    let done = load(server.address, CONNECTIONS, plan.seconds, 200, next).await?;
    add(format!("pages of 50, {size} volumes, anywhere"), done.rate(), "pages/s");
    Ok(())
}

async fn replay_into_state(log: Arc<dyn Log>, events: u64, add: Add<'_>) -> anyhow::Result<()> {
    let started = Instant::now();
    let replayed =
        tephra_journal::sequencer::catch_up(Ledger::default(), BlockNumber(0), log.as_ref()).await?;
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(!replayed.ledger.volumes.is_empty(), "the replay found volumes");
    add("replay into state, bytes verified and decoded".to_owned(), events as f64 / seconds, "events/s");
    Ok(())
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
