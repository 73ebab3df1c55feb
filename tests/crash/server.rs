//! The real program, in a directory of its own, over HTTP.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Method};
use serde_json::Value;

/// How long anything that must happen may take. It only bounds a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(20);

/// The process and where it is.
pub struct Server {
    directory: PathBuf,
    config: Option<PathBuf>,
    environment: Vec<(&'static str, OsString)>,
    process: Option<Child>,
    url: String,
}

impl Server {
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            config: None,
            environment: Vec::new(),
            process: None,
            url: String::new(),
        }
    }

    /// With a configuration.
    pub fn configured(mut self, text: &str) -> Result<Self> {
        let path = self.directory.join("tephra.toml");
        std::fs::write(&path, text)?;
        self.config = Some(path);
        Ok(self)
    }

    /// With one more variable in its environment.
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub fn volumes(&self) -> PathBuf {
        self.data_dir().join("volumes")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The program under test: the one that `TEPHRA_BIN` names, or that of this build.
    fn program() -> Command {
        Command::new(std::env::var_os("TEPHRA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tephra").into()))
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        self.url = format!("http://127.0.0.1:{port}");
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Self::program();
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(self.data_dir());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        let child = command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until it takes requests.
    pub async fn ready(&mut self) -> Result<()> {
        let client = Client::builder().timeout(Duration::from_secs(2)).build()?;
        let end = Instant::now() + DEADLINE;
        loop {
            let process = self.process.as_mut().context("not started")?;
            if let Some(status) = process.try_wait()? {
                bail!("serve ended by itself: {status}");
            }
            let answer = client.get(format!("{}/readyz", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "serve is not ready");
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not started")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Runs another command of the program over the same data.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        let log = File::options().append(true).open(self.log())?;
        let status = Self::program()
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        ensure!(status.success(), "tephra {}: {status}", arguments.join(" "));
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    /// The end of what the process wrote, for a failure's sake.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub fn api(&self, user: &str, project: &str) -> Result<Api> {
        let client = Client::builder().timeout(DEADLINE).build()?;
        Ok(Api {
            client,
            url: self.url.clone(),
            token: format!("{user}:{project}"),
            is_replica: false,
            is_linearizable: false,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() && self.kill().is_err() {
            eprintln!("the server could not be killed");
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// The server answered.
    Answer(u16, Value),
    /// The connection broke: it may have happened or not.
    Silence,
}

/// The server as one user sees it.
#[derive(Clone)]
pub struct Api {
    client: Client,
    url: String,
    token: String,
    /// Whether it is one of several: it may have no sequencer to ask, and lag behind the others.
    is_replica: bool,
    /// Whether reads are to show what anybody has written.
    is_linearizable: bool,
}

impl Api {
    /// One api of several.
    pub fn replica(url: &str, user: &str, project: &str) -> Result<Self> {
        let client = Client::builder().timeout(DEADLINE).build()?;
        Ok(Self {
            client,
            url: url.to_owned(),
            token: format!("{user}:{project}"),
            is_replica: true,
            is_linearizable: true,
        })
    }

    /// One api of several that knows its users by their tokens.
    pub fn with_token(url: &str, token: &str) -> Result<Self> {
        let client = Client::builder().timeout(DEADLINE).build()?;
        Ok(Self {
            client,
            url: url.to_owned(),
            token: token.to_owned(),
            is_replica: true,
            is_linearizable: true,
        })
    }

    /// The same api, asked as by a client that knows nothing of consistency.
    pub fn without_consistency(self) -> Self {
        Self { is_linearizable: false, ..self }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .header("X-Auth-Token", &self.token)
            .header("OpenStack-API-Version", "volume 3.71");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if self.is_linearizable {
            request = request.header("X-Tephra-Consistency", "linearizable");
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let Ok(answer) = request.send().await else { return Ok(Reply::Silence) };
        let status = answer.status().as_u16();
        if self.is_replica && status == 503 {
            return Ok(Reply::Silence);
        }
        // An answer that breaks off in its body was an answer all the same, but says too little.
        let Ok(text) = answer.text().await else { return Ok(Reply::Silence) };
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
        Ok(Reply::Answer(status, body))
    }

    /// Reads something; nothing if it is not there.
    pub async fn look(&self, path: &str) -> Result<Option<Value>> {
        match self.send(Method::GET, path, None, None).await? {
            Reply::Answer(200, body) => Ok(Some(body)),
            Reply::Answer(404, _) => Ok(None),
            Reply::Silence => Err(Interrupted.into()),
            other @ Reply::Answer(..) => bail!("GET {path}: {other:?}"),
        }
    }

    /// Reads something that must be there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.look(path).await?.with_context(|| format!("GET {path}: not found"))
    }

    /// Changes something that must go well.
    pub async fn put(&self, path: &str, body: &Value) -> Result<()> {
        match self.send(Method::PUT, path, None, Some(body)).await? {
            Reply::Answer(200, _) => Ok(()),
            other @ (Reply::Answer(..) | Reply::Silence) => bail!("PUT {path}: {other:?}"),
        }
    }
}

/// A read whose connection broke. While the server is being killed that is no failure of the test.
#[derive(Debug, thiserror::Error)]
#[error("the server is gone")]
pub struct Interrupted;

/// Looks until `check` gives something.
pub async fn until<T, F>(what: &str, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(GLANCE).await;
    }
}
