//! Every role in a process of its own, over real NATS servers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Api, until};

/// Short, so that failovers are.
pub const LEASE_MS: u64 = 1000;

/// The program that is tested.
pub fn program() -> OsString {
    std::env::var_os("TEPHRA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tephra").into())
}

/// One process.
pub struct Process {
    pub name: String,
    /// What it has in its environment besides what the test has.
    pub environment: Vec<(String, String)>,
    arguments: Vec<String>,
    log: PathBuf,
    /// How much the log had when it was started last: all before that is of those that were killed.
    said_before: usize,
    child: Option<Child>,
}

impl Process {
    /// One that keeps its data and its log in `directory`.
    pub fn new(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        let data = directory.join(name).display().to_string();
        Self::exactly(directory, name, &[arguments, &["--data-dir", &data]].concat())
    }

    /// One with these arguments and no others, which keeps its log in `directory`.
    pub fn exactly(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            environment: Vec::new(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            log: directory.join(format!("{name}.log")),
            said_before: 0,
            child: None,
        }
    }

    /// Starts it and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        self.said_before = self.said().len();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops it as a service manager does, and insists on a clean end.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let code = self.ends().await?;
        ensure!(code == Some(0), "{} ended with {code:?}", self.name);
        Ok(())
    }

    /// Waits until it ends by itself, and says with which code.
    pub async fn ends(&mut self) -> Result<Option<i32>> {
        let child = self.child.as_mut().with_context(|| format!("{} is not running", self.name))?;
        let status =
            until("a process ends", || std::future::ready(child.try_wait().map_err(Into::into))).await?;
        self.child = None;
        Ok(status.code())
    }

    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// The same, and returns when nothing of it runs any more.
    pub async fn hold(&self) -> Result<()> {
        self.pause()?;
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        let threads = PathBuf::from(format!("/proc/{}/task", child.id()));
        until("a process is still", async || {
            for thread in std::fs::read_dir(&threads)? {
                let state = std::fs::read_to_string(thread?.path().join("stat"))?;
                // After the name, which is in parentheses and may have some of its own.
                let (_, after_name) = state.rsplit_once(") ").context("no state")?;
                if !after_name.starts_with('T') {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it decides commands, as far as it has said.
    pub fn is_leading(&self) -> bool {
        self.is_at("deciding commands")
    }

    /// Whether it publishes events, likewise.
    pub fn is_publishing(&self) -> bool {
        self.is_at("publishing events")
    }

    /// How often it has begun to decide commands, likewise.
    pub fn turns(&self) -> usize {
        let begins = |line: &&str| line.contains("deciding commands") && !line.contains("no longer");
        self.said().lines().filter(begins).count()
    }

    fn is_at(&self, work: &str) -> bool {
        let said = self.said();
        let last = said[self.said_before..].lines().rfind(|line| line.contains(work));
        self.child.is_some() && last.is_some_and(|line| !line.contains("no longer"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() && self.kill().is_err() {
            eprintln!("{} could not be killed", self.name);
        }
    }
}

/// The processes and the servers under them. Everything ends with it.
pub struct Deployment {
    pub apis: Vec<Process>,
    pub sequencers: Vec<Process>,
    pub executor: Process,
    /// Of public events; none, unless a test wants them.
    pub publishers: Vec<Process>,
    pub urls: Vec<String>,
    directory: PathBuf,
    nats: Nats,
}

impl Deployment {
    /// Two apis, one sequencer with standbys, and one executor.
    pub async fn start(directory: &Path, servers: usize, standbys: usize) -> Result<Self> {
        Self::start_with(directory, servers, standbys, "").await
    }

    /// The same with more in the configuration.
    pub async fn start_with(directory: &Path, servers: usize, standbys: usize, more: &str) -> Result<Self> {
        Self::start_leased(directory, servers, standbys, LEASE_MS, more).await
    }

    /// The same with another lease.
    pub async fn start_leased(
        directory: &Path,
        servers: usize,
        standbys: usize,
        lease_ms: u64,
        more: &str,
    ) -> Result<Self> {
        let nats = Nats::start(&directory.join("nats"), servers)?;
        let config = directory.join("tephra.toml");
        let text = format!(
            "[nats]\nservers = {:?}\nreplicas = {servers}\nservers_sync = true\nlease_ms = {lease_ms}\n{more}",
            nats.servers
        );
        std::fs::write(&config, text)?;
        let process = |name: &str, arguments: &[&str]| {
            let config = config.display().to_string();
            Process::new(directory, name, &[arguments, &["--config", &config]].concat())
        };
        let mut deployment = Self {
            apis: Vec::new(),
            sequencers: Vec::new(),
            executor: process("executor", &["executor"]),
            publishers: Vec::new(),
            urls: Vec::new(),
            directory: directory.to_owned(),
            nats,
        };
        for number in 0..=standbys {
            let name = format!("sequencer-{number}");
            deployment.sequencers.push(process(&name, &["serve", "--roles", "sequencer"]));
        }
        for number in 0..2 {
            let listen = free_address()?;
            deployment.urls.push(format!("http://{listen}"));
            let arguments = ["serve", "--roles", "api", "--listen", &listen];
            deployment.apis.push(process(&format!("api-{number}"), &arguments));
        }
        deployment.executor.spawn()?;
        for sequencer in &mut deployment.sequencers {
            sequencer.spawn()?;
        }
        for api in &mut deployment.apis {
            api.spawn()?;
        }
        deployment.ready().await?;
        crate::volumes_are_placed(&deployment.api(0, "user", "the-first")?).await?;
        Ok(deployment)
    }

    /// Starts candidates for publishing events.
    pub fn start_publishers(&mut self, count: usize) -> Result<()> {
        let config = self.config_file();
        for number in 0..count {
            let arguments = ["serve", "--roles", "events", "--config", &config];
            let mut publisher = Process::new(&self.directory, &format!("publisher-{number}"), &arguments);
            publisher.spawn()?;
            self.publishers.push(publisher);
        }
        Ok(())
    }

    /// Adds a sequencer that reaches the first server at another address.
    pub fn start_far_sequencer(&mut self, server: &str) -> Result<usize> {
        let config = self.far_config(server)?;
        let arguments = ["serve", "--roles", "sequencer", "--config", &config];
        let mut sequencer = Process::new(&self.directory, "sequencer-far", &arguments);
        sequencer.spawn()?;
        self.sequencers.push(sequencer);
        Ok(self.sequencers.len() - 1)
    }

    /// Adds an api that reaches the first server at another address, and waits until it is ready.
    pub async fn start_far_api(&mut self, server: &str) -> Result<usize> {
        let (config, listen) = (self.far_config(server)?, free_address()?);
        let arguments = ["serve", "--roles", "api", "--listen", &listen, "--config", &config];
        let mut api = Process::new(&self.directory, "api-far", &arguments);
        api.spawn()?;
        self.apis.push(api);
        self.urls.push(format!("http://{listen}"));
        self.ready().await?;
        Ok(self.apis.len() - 1)
    }

    /// The configuration of a process that reaches the first server at another address.
    fn far_config(&self, server: &str) -> Result<String> {
        let near = std::fs::read_to_string(self.config_file())?;
        let far = near.replace(&format!("{:?}", self.nats.servers), &format!("[{server:?}]"));
        ensure!(far != near, "the configuration names the servers");
        let config = self.directory.join("far.toml");
        std::fs::write(&config, far)?;
        Ok(config.display().to_string())
    }

    /// Where a server listens, as host and port.
    pub fn server_address(&self, number: usize) -> &str {
        self.nats.servers[number].trim_start_matches("nats://")
    }

    /// The configuration of all processes.
    pub fn config_file(&self) -> String {
        self.directory.join("tephra.toml").display().to_string()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A connection of our own to the servers.
    pub async fn client(&self) -> Result<async_nats::Client> {
        Ok(async_nats::connect(self.nats.servers.as_slice()).await?)
    }

    /// Waits until both apis answer for everything behind them, and the executor's pool is known.
    pub async fn ready(&self) -> Result<()> {
        for number in 0..self.urls.len() {
            let admin = self.api(number, "admin", "operators")?;
            until("an api is ready", async || Ok(admin.look("/readyz").await.ok().flatten())).await?;
            until("the api knows a pool", async || {
                let pools = admin.look("/v3/scheduler-stats/get_pools").await.ok().flatten();
                Ok(pools.filter(|body| body["pools"].as_array().is_some_and(|pools| !pools.is_empty())))
            })
            .await?;
        }
        Ok(())
    }

    pub fn api(&self, number: usize, user: &str, project: &str) -> Result<Api> {
        Api::replica(&self.urls[number], user, project)
    }

    /// Where the executor's files are.
    pub fn volumes(&self) -> PathBuf {
        self.directory.join("executor").join("volumes")
    }

    /// The sequencer that decides commands, but for one.
    pub async fn leader_other_than(&self, other: Option<usize>) -> Result<usize> {
        until("a sequencer leads", async || {
            Ok((0..self.sequencers.len()).find(|&n| Some(n) != other && self.sequencers[n].is_leading()))
        })
        .await
    }

    /// How many turns the sequencers have had so far.
    pub fn turns(&self) -> usize {
        self.sequencers.iter().map(Process::turns).sum()
    }

    /// The server that leads the stream of blocks, if one does just now.
    pub async fn ledger_leader(&self) -> Option<usize> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let asking = async {
            let client = self.client().await.ok()?;
            let stream = async_nats::jetstream::new(client).get_stream("TEPHRA_LEDGER_main").await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.as_ref()?.strip_prefix('n')?.parse().ok()
        };
        tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
    }

    pub fn nats(&self, action: &str, number: usize) -> Result<()> {
        self.nats.run(action, &[&number.to_string()]).map(drop)
    }

    /// The ends of what all processes wrote, for a failure's sake.
    pub fn last_words(&self) -> String {
        let processes =
            self.apis.iter().chain(&self.sequencers).chain([&self.executor]).chain(&self.publishers);
        let tail = |process: &Process| {
            let said = process.said();
            let lines: Vec<&str> = said.lines().collect();
            format!("--- {}\n{}", process.name, lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        processes.map(tail).collect::<Vec<_>>().join("\n")
    }
}

/// An address that nobody listens at.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What is unusual about servers.
#[derive(Default)]
pub struct Unusual {
    /// More configuration.
    pub include: Option<String>,
    /// Their environment.
    pub environment: BTreeMap<String, String>,
    /// They do not sync before they acknowledge.
    pub unsynced: bool,
    /// They are too old.
    pub old: bool,
}

/// The servers.
pub struct Nats {
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    pub servers: Vec<String>,
}

impl Nats {
    pub fn start(directory: &Path, servers: usize) -> Result<Self> {
        Self::start_unusual(directory, servers, Unusual::default())
    }

    pub fn start_unusual(directory: &Path, servers: usize, unusual: Unusual) -> Result<Self> {
        let Unusual { include, environment, unsynced, old } = unusual;
        let mut nats = Self { directory: directory.to_owned(), environment, servers: Vec::new() };
        let (count, pid) = (servers.to_string(), std::process::id().to_string());
        let mut arguments = vec!["--servers", &count, "--while", &pid];
        let file = directory.with_extension("conf").display().to_string();
        if let Some(text) = include {
            std::fs::write(&file, text)?;
            arguments.extend(["--include", &file]);
        }
        arguments.extend(unsynced.then_some("--unsynced"));
        arguments.extend(old.then_some("--old"));
        let said = nats.run("start", &arguments)?;
        let urls = said.lines().find_map(|line| line.strip_prefix("NATS_URL=")).context("no URL")?;
        nats.servers = urls.split(',').map(str::to_owned).collect();
        Ok(nats)
    }

    /// Has the script do something to the servers, or to one of them.
    pub fn run(&self, action: &str, arguments: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nats-cluster");
        let output = Command::new(script)
            .arg(action)
            .arg("--dir")
            .arg(&self.directory)
            .args(arguments)
            .envs(&self.environment)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "labs/nats-cluster {action}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Err(error) = self.run("destroy", &[]) {
            eprintln!("{error:#}");
        }
    }
}
