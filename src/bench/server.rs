//! The processes that are measured: this very program, as child processes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::client::{Connection, request};
use super::place::Place;

/// How long a process may take to start, building views included.
const START_LIMIT: Duration = Duration::from_secs(600);

/// How often it is looked meanwhile.
const POLL: Duration = Duration::from_millis(10);

/// Sends a signal to a child.
///
/// # Errors
/// If it has ended.
pub fn signal(child: &Child, what: Signal) -> anyhow::Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    Ok(kill_process(pid.context("the process runs")?, what)?)
}

/// This program as a child process; it dies with this value.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. What it says goes to `<data_dir>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        arguments: &[&str],
        place: &Place,
        data_dir: &Path,
        log_filter: &str,
    ) -> anyhow::Result<Self> {
        let log = data_dir.with_extension("log");
        let said = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .args(place.arguments())
            .args(["--log", log_filter, "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .context("starting a process")?;
        Ok(Self { child, log })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How often it has said something.
    pub fn count_said(&self, what: &str) -> usize {
        self.said().matches(what).count()
    }

    /// # Errors
    /// If it has ended.
    fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("a process ended with {status}:\n{}", self.said()),
            None => Ok(()),
        }
    }

    /// Waits until it has said something more than `before` times.
    ///
    /// # Errors
    /// If it ends, or does not say it.
    pub async fn says(&mut self, what: &str, before: usize) -> anyhow::Result<()> {
        let saying = async {
            while self.count_said(what) <= before {
                self.check_alive()?;
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_LIMIT, saying).await.with_context(|| format!("nobody says: {what}"))?
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, what: Signal) -> anyhow::Result<()> {
        signal(&self.child, what)
    }

    /// kill -9.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Stops it and waits until it has.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let stopped = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        stopped.context("a process did not stop")??;
        Ok(())
    }

    /// Its resident memory.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the process runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

/// A process that answers over HTTP.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The process.
    pub process: Process,
}

impl Server {
    /// Starts a server with these roles, all of them if none is named, and waits until it is ready
    /// and knows a pool to put volumes in.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(place: &Place, data_dir: &Path, roles: &[&str]) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let (listen, roles) = (address.to_string(), roles.join(","));
        let mut arguments = vec!["serve", "--listen", &listen];
        if !roles.is_empty() {
            arguments.extend(["--roles", &roles]);
        }
        let mut server = Self { address, process: Process::start(&arguments, place, data_dir, "warn")? };
        let ready = async {
            while !server.is_ready().await {
                server.process.check_alive()?;
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(START_LIMIT, ready).await.context("the server did not become ready")??;
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        let pools = "/v3/bench/scheduler-stats/get_pools";
        self.get("/readyz").await.is_some() && self.get(pools).await.is_some_and(|body| knows_a_pool(&body))
    }

    async fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut connection = Connection::open(self.address).await.ok()?;
        let answer = connection.send(&request("GET", path, None)).await.ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    /// Lets the bench's project have as much as it wants.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn lift_quotas(&self) -> anyhow::Result<()> {
        let body = r#"{"quota_set":{"volumes":-1,"gigabytes":-1,"snapshots":-1}}"#;
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.send(&request("PUT", "/v3/bench/os-quota-sets/bench", Some(body))).await?;
        ensure!(answer.status == 200, "lifting quotas: {}", String::from_utf8_lossy(&answer.body));
        Ok(())
    }

    /// Waits until no operation is open any more.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn wait_until_quiet(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let open = request("GET", "/ledger/v1/operations?open=true&limit=1", None);
        loop {
            let answer = connection.send(&open).await?;
            ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
            let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
            let operations = body.get("operations").and_then(|list| list.as_array());
            if operations.context("a list of operations")?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn knows_a_pool(body: &[u8]) -> bool {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let pools = body.as_ref().and_then(|body| body.get("pools")).and_then(|pools| pools.as_array());
    pools.is_some_and(|pools| !pools.is_empty())
}
