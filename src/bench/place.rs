//! Where the journal of a measurement is: in a file, or on NATS servers of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::jetstream::{JetStreamLog, NatsConfig, NatsError, connect};
use tephra_journal::log::Log;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::server::signal;

/// A journal that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Journal {
    /// A file of this machine.
    Embedded,
    /// One NATS server.
    R1,
    /// Three NATS servers, each block on all of them.
    R3,
}

impl Journal {
    /// Its name on the command line and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::R1 => "R1",
            Self::R3 => "R3",
        }
    }
}

/// A journal that has been started, empty.
pub enum Place {
    /// `ledger.redb` in the data directory.
    Embedded,
    /// Servers that sync before they acknowledge, and say so.
    Nats(Box<NatsServers>),
}

impl Place {
    /// Starts what the journal needs, below `directory`.
    ///
    /// # Errors
    /// If there is no nats-server, or it does not start.
    pub async fn start(journal: Journal, nats_server: &Path, directory: &Path) -> anyhow::Result<Self> {
        let count = match journal {
            Journal::Embedded => return Ok(Self::Embedded),
            Journal::R1 => 1,
            Journal::R3 => 3,
        };
        Ok(Self::Nats(Box::new(NatsServers::start(nats_server, count, directory).await?)))
    }

    /// What `tephra serve` is told of it.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Embedded => Vec::new(),
            Self::Nats(servers) => vec!["--config".to_owned(), servers.tephra_config().display().to_string()],
        }
    }

    /// The log itself, to write or to read it without a server.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn log(&self, data_dir: &Path) -> anyhow::Result<Arc<dyn Log>> {
        match self {
            Self::Embedded => {
                std::fs::create_dir_all(data_dir)?;
                Ok(Arc::new(EmbeddedLog::open(&data_dir.join("ledger.redb"))?))
            }
            Self::Nats(servers) => Ok(Arc::new(servers.log().await?)),
        }
    }
}

/// Clients' and routes' ports: below those that the kernel gives to outgoing connections, so that
/// none of them takes a port while its server is down.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// How long servers may take until a stream can be made.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often it is tried meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Real servers; they die with this value.
pub struct NatsServers {
    program: PathBuf,
    directory: PathBuf,
    servers: Vec<NatsServer>,
}

struct NatsServer {
    name: String,
    port: u16,
    child: Child,
}

/// The only question of an ordinary account that the system account answers: whether servers sync.
const ACCOUNTS: &str = r#"
accounts {
  SYS: { exports: [ { service: "$SYS.REQ.SERVER.PING.JSZ", response: stream } ] }
  BENCH: {
    jetstream: enabled
    users: [ { user: bench, password: bench } ]
    imports: [ { service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ" } } ]
  }
}
system_account: SYS
no_auth_user: bench
"#;

impl NatsServers {
    async fn start(program: &Path, count: usize, directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let ports = free_ports(count.saturating_mul(2))?;
        let (clients, routes) = ports.split_at(count);
        let cluster = if count == 1 {
            String::new()
        } else {
            let urls: Vec<String> =
                routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            urls.join(", ")
        };
        let mut servers =
            Self { program: program.to_owned(), directory: directory.to_owned(), servers: Vec::new() };
        for (number, (client, route)) in clients.iter().zip(routes).enumerate() {
            let name = format!("n{}", number.saturating_add(1));
            let store = directory.join(&name);
            let mut text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\n\
                 jetstream {{ store_dir: \"{}\", sync_interval: always }}\n{ACCOUNTS}",
                store.display()
            );
            if !cluster.is_empty() {
                text.push_str(&format!(
                    "cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{cluster}] }}\n"
                ));
            }
            std::fs::write(directory.join(format!("{name}.conf")), text)?;
            let child = servers.spawn(&name)?;
            servers.servers.push(NatsServer { name, port: *client, child });
        }
        let quoted: Vec<String> = servers.urls().iter().map(|url| format!("{url:?}")).collect();
        let config = format!("[nats]\nservers = [{}]\nreplicas = {count}\n", quoted.join(", "));
        std::fs::write(servers.tephra_config(), config)?;
        servers.log().await?;
        Ok(servers)
    }

    fn spawn(&self, name: &str) -> anyhow::Result<Child> {
        let log =
            File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")))?;
        Command::new(&self.program)
            .arg("--config")
            .arg(self.directory.join(format!("{name}.conf")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "starting {}: install nats-server, or name it with --nats-server",
                    self.program.display()
                )
            })
    }

    fn tephra_config(&self) -> PathBuf {
        self.directory.join("tephra.toml")
    }

    fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port)).collect()
    }

    fn config(&self) -> NatsConfig {
        NatsConfig { servers: self.urls(), replicas: self.servers.len(), ..NatsConfig::default() }
    }

    /// The log, as soon as the servers have elected whom they need.
    async fn log(&self) -> anyhow::Result<JetStreamLog> {
        let opening = async {
            loop {
                match self.try_log().await {
                    Err(
                        NatsError::Connect { .. }
                        | NatsError::Unreachable { .. }
                        | NatsError::JetStream { .. },
                    ) => tokio::time::sleep(POLL).await,
                    done @ (Ok(_)
                    | Err(
                        NatsError::Refused(_) | NatsError::Placement { .. } | NatsError::File { .. },
                    )) => return done,
                }
            }
        };
        let opened = tokio::time::timeout(START_LIMIT, opening).await;
        Ok(opened
            .with_context(|| format!("the NATS servers are not ready: {}", self.directory.display()))??)
    }

    async fn try_log(&self) -> Result<JetStreamLog, NatsError> {
        let config = self.config();
        JetStreamLog::open(&connect(&config, "tephra bench").await?, &config).await
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.servers.len()
    }

    /// Which server leads the stream of blocks.
    ///
    /// # Errors
    /// If none says so.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let config = self.config();
        let context = async_nats::jetstream::new(connect(&config, "tephra bench").await?);
        let stream = context.get_stream(config.cell.ledger_stream()).await?;
        let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.as_ref());
        let name = leader.context("the stream has no leader")?;
        self.servers.iter().position(|server| server.name == *name).context("a leader of ours")
    }

    /// kill -9.
    ///
    /// # Errors
    /// If there is no such server.
    pub async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.servers.get_mut(number).context("no such server")?;
        signal(&server.child, Signal::KILL)?;
        server.child.wait().await?;
        Ok(())
    }

    /// Starts a killed server again.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let name = self.servers.get(number).context("no such server")?.name.clone();
        let child = self.spawn(&name)?;
        if let Some(server) = self.servers.get_mut(number) {
            server.child = child;
        }
        Ok(())
    }

    /// Waits until every server holds all of the log again.
    ///
    /// # Errors
    /// If they do not come to it.
    pub async fn wait_until_whole(&self) -> anyhow::Result<()> {
        let config = self.config();
        let context = async_nats::jetstream::new(connect(&config, "tephra bench").await?);
        let whole = async {
            loop {
                if let Ok(stream) = context.get_stream(config.cell.ledger_stream()).await {
                    let cluster = stream.cached_info().cluster.as_ref();
                    let current = cluster.map_or(0, |cluster| {
                        cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
                    });
                    if current.saturating_add(1) >= self.servers.len() {
                        return;
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(START_LIMIT, whole).await.context("a server does not catch up")
    }
}

fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    const ATTEMPTS: usize = 1000;
    let mut held = Vec::new();
    let mut ports = Vec::new();
    let span = u128::from(PORTS.end.saturating_sub(PORTS.start));
    for _ in 0..ATTEMPTS {
        if ports.len() == count {
            return Ok(ports);
        }
        let offset = u16::try_from(Uuid::new_v4().as_u128() % span)?;
        let port = PORTS.start.saturating_add(offset);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
            ports.push(port);
        }
    }
    ensure!(ports.len() == count, "no free ports");
    Ok(ports)
}
