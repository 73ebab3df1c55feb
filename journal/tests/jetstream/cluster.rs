//! Real servers for one test. They end with it, or with its process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::Client;
use tephra_journal::jetstream::{DurabilityClaim, NatsConfig, connect};
use uuid::Uuid;

pub struct Cluster {
    directory: PathBuf,
    pub servers: Vec<String>,
    pub replicas: usize,
}

/// What is unusual about the servers.
#[derive(Default)]
pub struct Options {
    pub servers: usize,
    pub unsynced: bool,
    pub old: bool,
    pub include: Option<String>,
    pub environment: BTreeMap<String, String>,
}

pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs/nats-cluster")
}

impl Cluster {
    pub fn start(servers: usize) -> Self {
        Self::with(Options { servers, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let directory = std::env::temp_dir().join(format!("tephra-nats-{}", Uuid::new_v4()));
        let mut cluster = Self { directory, servers: Vec::new(), replicas: options.servers.max(1) };
        let include = std::env::temp_dir().join(format!("tephra-nats-{}.conf", Uuid::new_v4()));
        let mut arguments = vec![
            "--servers".to_owned(),
            cluster.replicas.to_string(),
            "--while".to_owned(),
            std::process::id().to_string(),
        ];
        if let Some(text) = &options.include {
            std::fs::write(&include, text).unwrap();
            arguments.extend(["--include".to_owned(), include.display().to_string()]);
        }
        arguments.extend(options.unsynced.then(|| "--unsynced".to_owned()));
        arguments.extend(options.old.then(|| "--old".to_owned()));
        let output = cluster.run("start", &arguments, &options.environment);
        let url = output.lines().find_map(|line| line.strip_prefix("NATS_URL=")).unwrap();
        cluster.servers = url.split(',').map(str::to_owned).collect();
        if options.include.is_some() {
            std::fs::remove_file(include).unwrap();
        }
        cluster
    }

    fn run(&self, action: &str, arguments: &[String], environment: &BTreeMap<String, String>) -> String {
        let output = Command::new(script())
            .arg(action)
            .args(["--dir".as_ref(), self.directory.as_os_str()])
            .args(arguments)
            .envs(environment)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "labs/nats-cluster {action}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn act(&self, action: &str, number: usize) {
        self.run(action, &[number.to_string()], &BTreeMap::new());
    }

    /// Servers are counted from 1.
    pub fn kill(&self, number: usize) {
        self.act("kill", number);
    }

    /// Starts a killed server, or lets a paused one go on.
    pub fn resume(&self, number: usize) {
        self.act("resume", number);
    }

    /// Stops a server in its tracks; `resume` lets it go on.
    pub fn pause(&self, number: usize) {
        self.act("pause", number);
    }

    /// Changes the configuration of a server that is not running. Returns what it was.
    pub fn change(&self, number: usize, change: impl FnOnce(String) -> String) -> String {
        let file = self.directory.join(format!("n{number}.conf"));
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, change(before.clone())).unwrap();
        before
    }

    pub fn config(&self) -> NatsConfig {
        NatsConfig {
            servers: self.servers.clone(),
            replicas: self.replicas,
            // The lab's servers have one account, which is not told.
            durability: DurabilityClaim::Stated,
            ..NatsConfig::default()
        }
    }

    pub async fn client(&self) -> Client {
        connect(&self.config(), "test").await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let destroyed =
            Command::new(script()).arg("destroy").arg("--dir").arg(&self.directory).status().unwrap();
        assert!(destroyed.success() || std::thread::panicking());
    }
}
