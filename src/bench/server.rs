//! The server that is measured: this very program, as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::{Child, Command};

use super::client::{Connection, request};

/// A server as a child process; it dies with this value.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

/// How long a server may take to start, building views included.
const START_LIMIT: Duration = Duration::from_secs(600);

impl Server {
    /// Starts a server on a data directory and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", &address.to_string(), "--data-dir"])
            .arg(data_dir)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the server")?;
        let mut server = Self { address, child };
        let ready = async {
            loop {
                if let Some(status) = server.child.try_wait()? {
                    bail!("the server ended with {status}");
                }
                if server.is_ready().await {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(START_LIMIT, ready).await.context("the server did not become ready")??;
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut connection) = Connection::open(self.address).await else { return false };
        let answer = connection.send(&request("GET", "/readyz", None)).await;
        answer.is_ok_and(|answer| answer.status == 200)
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

    /// Its resident memory.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the server runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Stops it and waits until it has.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).context("the server runs")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let stopped = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        stopped.context("the server did not stop")??;
        Ok(())
    }
}
