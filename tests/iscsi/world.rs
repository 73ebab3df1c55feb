//! A server over a tgtd, and what its users ask of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::initiator::Initiator;
use crate::server::{Api, Reply, Server, until};
use crate::tgtd::{Tgtd, Trap};

/// What a server's host says of itself.
pub fn connector(host: &str) -> Value {
    json!({
        "host": host, "initiator": initiator_name(host), "ip": "127.0.0.1", "platform": "x86_64",
        "os_type": "linux", "multipath": false,
    })
}

pub fn initiator_name(host: &str) -> String {
    format!("iqn.1993-08.org.debian:01:{host}")
}

pub struct World {
    pub server: Server,
    pub tgtd: Tgtd,
    pub trap: Trap,
    pub api: Api,
}

impl World {
    pub async fn start(directory: &Path) -> Result<Self> {
        let mut tgtd = Tgtd::new(directory)?;
        tgtd.start().await?;
        let trap = Trap::new(directory)?;
        let config = format!("[[backends]]\nname = \"files\"\ndriver = \"directory\"\n{}", tgtd.section());
        let mut server = Server::new(directory).configured(&config)?.env("PATH", trap.path());
        server.spawn()?;
        server.ready().await.with_context(|| server.last_words())?;
        let api = server.api("admin", "demo")?;
        Ok(Self { server, tgtd, trap, api })
    }

    /// kill -9, and a new life.
    pub async fn restart_server(&mut self) -> Result<()> {
        self.server.kill()?;
        self.server.spawn()?;
        self.server.ready().await?;
        self.api = self.server.api("admin", "demo")?;
        Ok(())
    }

    pub fn file(&self, volume: &str) -> PathBuf {
        self.server.volumes().join(format!("volume-{volume}"))
    }

    /// Whether a volume's file can be copied at one stroke.
    pub fn has_reflinks(&self, volume: &str) -> Result<bool> {
        let file = self.file(volume);
        let copy = self.server.volumes().with_file_name("reflink");
        let copied = Command::new("cp").arg("--reflink=always").args([&file, &copy]).output()?;
        // where it fails, an empty file is left
        if copy.exists() {
            std::fs::remove_file(copy)?;
        }
        Ok(copied.status.success())
    }

    /// Waits until a snapshot has a status.
    pub async fn snapshot_settled(&self, snapshot: &str, status: &str) -> Result<()> {
        until("the snapshot settles", async || {
            let shown = self.api.get(&format!("/v3/demo/snapshots/{snapshot}")).await?;
            Ok((shown["snapshot"]["status"] == status).then_some(()))
        })
        .await
    }

    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<(u16, Value)> {
        let body = (!body.is_null()).then_some(body);
        match self.api.send(method, &format!("/v3/demo/{path}"), None, body).await? {
            Reply::Answer(status, answer) => Ok((status, answer)),
            Reply::Silence => bail!("{path}: the server is gone"),
        }
    }

    pub async fn told(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let (status, answer) = self.ask(method, path, &body).await?;
        ensure!((200..300).contains(&status), "{path}: {status} {answer}\n{}", self.server.last_words());
        Ok(answer)
    }

    pub async fn refused(&self, method: Method, path: &str, body: Value) -> Result<(u16, String)> {
        let (status, answer) = self.ask(method, path, &body).await?;
        ensure!(status >= 400, "{path}: {status} {answer}");
        let fault = answer.as_object().and_then(|fault| fault.values().next()).context("no fault")?;
        Ok((status, fault["message"].as_str().unwrap_or_default().to_owned()))
    }

    pub async fn act(&self, volume: &str, action: Value) -> Result<()> {
        self.told(Method::POST, &format!("volumes/{volume}/action"), action).await?;
        Ok(())
    }

    pub async fn volume(&self, volume: Value) -> Result<String> {
        let answer = self.told(Method::POST, "volumes", json!({ "volume": volume })).await?;
        let id = answer["volume"]["id"].as_str().context("no id")?.to_owned();
        self.settled(&id, "available").await?;
        Ok(id)
    }

    /// Waits until a volume has a status.
    pub async fn settled(&self, volume: &str, wanted: &str) -> Result<Value> {
        let path = format!("/v3/demo/volumes/{volume}");
        until(&format!("volume {volume} is {wanted}"), async || {
            let answer = self.api.get(&path).await?;
            let shown = answer["volume"].clone();
            Ok((shown["status"] == wanted).then_some(shown))
        })
        .await
    }

    /// Waits until an attachment is no longer being worked on; nothing once it is gone.
    pub async fn attachment(&self, id: &str) -> Result<Option<Value>> {
        let path = format!("/v3/demo/attachments/{id}");
        until(&format!("attachment {id} is settled"), async || {
            let Some(answer) = self.api.look(&path).await? else { return Ok(Some(None)) };
            let shown = answer["attachment"].clone();
            let is_there = shown["connection_info"].as_object().is_some_and(|info| !info.is_empty());
            let is_settled = match shown["status"].as_str() {
                Some("attaching") => is_there,
                Some("detaching") => false,
                _ => true,
            };
            Ok(is_settled.then_some(Some(shown)))
        })
        .await
    }

    /// Attaches a volume to a server of its own on a host.
    pub async fn attach(&self, volume: &str, host: &str, mode: &str) -> Result<(String, Initiator)> {
        let body = json!({ "attachment": {
            "volume_uuid": volume, "instance_uuid": uuid::Uuid::new_v4().to_string(),
            "connector": connector(host), "mode": mode,
        } });
        let answer = self.told(Method::POST, "attachments", body).await?;
        let id = answer["attachment"]["id"].as_str().context("no id")?.to_owned();
        let initiator = Initiator::told(&initiator_name(host), &answer["attachment"]["connection_info"])?;
        self.told(Method::POST, &format!("attachments/{id}/action"), json!({ "os-complete": null })).await?;
        Ok((id, initiator))
    }

    pub async fn detach(&self, attachment: &str) -> Result<()> {
        self.told(Method::DELETE, &format!("attachments/{attachment}"), Value::Null).await?;
        Ok(())
    }

    pub async fn delete(&self, kind: &str, id: &str) -> Result<()> {
        self.told(Method::DELETE, &format!("{kind}s/{id}"), Value::Null).await?;
        let path = format!("/v3/demo/{kind}s/{id}");
        until(&format!("{kind} {id} is gone"), async || {
            Ok(self.api.look(&path).await?.is_none().then_some(()))
        })
        .await
    }

    /// Nothing that this life or an earlier one wrote has the text in it.
    pub fn ensure_nowhere(&self, secret: &str) -> Result<()> {
        for file in ["ledger.redb", "views.redb", "../serve.log"] {
            let bytes = std::fs::read(self.server.data_dir().join(file)).context(file)?;
            let is_in = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            ensure!(!is_in, "a password is in {file}");
        }
        Ok(())
    }
}
