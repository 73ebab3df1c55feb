//! Every role in a process of its own, over real NATS servers.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Api, until};

/// Short, so that failovers are.
const LEASE_MS: u64 = 1000;

/// One process.
pub struct Process {
    pub name: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts it and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        let program = std::env::var_os("TEPHRA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tephra").into());
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program);
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

    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
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
        let said = self.said();
        let last = said.lines().rfind(|line| line.contains("deciding commands"));
        last.is_some_and(|line| !line.contains("no longer"))
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
    pub urls: Vec<String>,
    directory: PathBuf,
    nats: Nats,
}

impl Deployment {
    /// Two apis, one sequencer with standbys, and one executor.
    pub async fn start(directory: &Path, servers: usize, standbys: usize) -> Result<Self> {
        let nats = Nats::start(&directory.join("nats"), servers)?;
        let config = directory.join("tephra.toml");
        let text = format!(
            "[nats]\nservers = {:?}\nreplicas = {servers}\nservers_sync = true\nlease_ms = {LEASE_MS}\n",
            nats.servers
        );
        std::fs::write(&config, text)?;
        let process = |name: &str, arguments: &[&str]| {
            let data = directory.join(name).display().to_string();
            let config = config.display().to_string();
            let common = ["--config", &config, "--data-dir", &data];
            Process {
                name: name.to_owned(),
                arguments: arguments.iter().chain(&common).map(|&argument| argument.to_owned()).collect(),
                log: directory.join(format!("{name}.log")),
                child: None,
            }
        };
        let mut deployment = Self {
            apis: Vec::new(),
            sequencers: Vec::new(),
            executor: process("executor", &["executor"]),
            urls: Vec::new(),
            directory: directory.to_owned(),
            nats,
        };
        for number in 0..=standbys {
            let name = format!("sequencer-{number}");
            deployment.sequencers.push(process(&name, &["serve", "--roles", "sequencer"]));
        }
        for number in 0..2 {
            let listen = format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
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
        Ok(deployment)
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

    pub fn nats(&self, action: &str, number: usize) -> Result<()> {
        self.nats.run(action, &[&number.to_string()]).map(drop)
    }

    /// The ends of what all processes wrote, for a failure's sake.
    pub fn last_words(&self) -> String {
        let processes = self.apis.iter().chain(&self.sequencers).chain([&self.executor]);
        let tail = |process: &Process| {
            let said = process.said();
            let lines: Vec<&str> = said.lines().collect();
            format!("--- {}\n{}", process.name, lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        processes.map(tail).collect::<Vec<_>>().join("\n")
    }
}

/// The servers.
pub struct Nats {
    directory: PathBuf,
    pub servers: Vec<String>,
}

impl Nats {
    pub fn start(directory: &Path, servers: usize) -> Result<Self> {
        let mut nats = Self { directory: directory.to_owned(), servers: Vec::new() };
        let (count, pid) = (servers.to_string(), std::process::id().to_string());
        let said = nats.run("start", &["--servers", &count, "--while", &pid])?;
        let urls = said.lines().find_map(|line| line.strip_prefix("NATS_URL=")).context("no URL")?;
        nats.servers = urls.split(',').map(str::to_owned).collect();
        Ok(nats)
    }

    fn run(&self, action: &str, arguments: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nats-cluster");
        let output =
            Command::new(script).arg(action).arg("--dir").arg(&self.directory).args(arguments).output()?;
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
