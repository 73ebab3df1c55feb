//! The program as a person runs it: real processes, real files, real HTTP.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything that must happen may take. Long, because it only bounds a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The program, without anything of the caller's environment that it would listen to.
pub fn tephra() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tephra"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TEPHRA_") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a run left behind.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Insists on an exit code, and shows what was said where it is another.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Standard output as a JSON document a line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Ran {
    Ran::of(tephra().args(arguments).output().unwrap())
}

/// Runs a command on a data directory.
pub fn run_on(data_dir: &Path, arguments: &[&str]) -> Ran {
    Ran::of(tephra().args(arguments).arg("--data-dir").arg(data_dir).output().unwrap())
}

/// A server on a directory and a free port.
pub struct Server {
    process: Child,
    pub url: String,
    pub data_dir: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts one and waits until it says that it is ready.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    pub fn start_with(data_dir: &Path, arguments: &[&str]) -> Self {
        let log = data_dir.with_extension("log");
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut process = tephra()
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            sender.send(line).unwrap();
            // keep the pipe open and empty
            lines.read_to_string(&mut String::new()).unwrap();
        });
        let line = receiver.recv_timeout(DEADLINE).unwrap_or_default();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            drop(process.kill());
            drop(process.wait());
            panic!("serve is not ready: {line}\n{}", std::fs::read_to_string(&log).unwrap());
        };
        let url = ready["url"].as_str().unwrap().to_owned();
        Self { process, url, data_dir: data_dir.to_owned(), log }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        until("the server ends", || self.process.try_wait().unwrap())
    }

    /// Asks it to stop, as a service manager does, and insists on a clean end.
    pub fn stop(self) {
        let log = self.log.clone();
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", std::fs::read_to_string(log).unwrap());
    }

    /// As a power cut would.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// A request as an administrator of `demo`; its answer must be a success.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        self.call_as("admin:demo", method, path, body).await
    }

    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Value {
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
        let mut request = client
            .request(method, format!("{}{path}", self.url))
            .header("X-Auth-Token", token)
            .header("OpenStack-API-Version", "volume 3.71");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// Creates a volume of 1 GiB; accepted, but not waited for.
    pub async fn accept_volume(&self, project: &str, name: &str) -> String {
        let body = serde_json::json!({ "volume": { "size": 1, "name": name } });
        let path = format!("/v3/{project}/volumes");
        let created = self.call_as(&format!("admin:{project}"), Method::POST, &path, Some(body)).await;
        created["volume"]["id"].as_str().unwrap().to_owned()
    }

    /// Creates a volume of 1 GiB and waits until it can be used.
    pub async fn volume(&self, name: &str) -> String {
        let id = self.accept_volume("demo", name).await;
        self.settled("volumes", &id).await;
        id
    }

    /// Takes a snapshot and waits until it can be used.
    pub async fn snapshot(&self, volume: &str) -> String {
        let body = serde_json::json!({ "snapshot": { "volume_id": volume, "name": "s" } });
        let created = self.call(Method::POST, "/v3/demo/snapshots", Some(body)).await;
        let id = created["snapshot"]["id"].as_str().unwrap().to_owned();
        self.settled("snapshots", &id).await;
        id
    }

    /// Waits until a resource is available.
    pub async fn settled(&self, collection: &str, id: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let shown = self.call(Method::GET, &format!("/v3/demo/{collection}/{id}"), None).await;
            let status = shown[collection.trim_end_matches('s')]["status"].as_str().unwrap().to_owned();
            if status == "available" {
                return;
            }
            assert!(Instant::now() < end && status.ends_with("ing"), "{collection} {id} is {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn volume_file(&self, id: &str) -> PathBuf {
        self.data_dir.join("volumes").join(format!("volume-{id}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // a test that failed half-way leaves no server behind
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Waits until `condition` gives something; fails naming `what`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
