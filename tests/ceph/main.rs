//! A whole server on a real Ceph cluster and on files at once, driven by its API, ends with nothing
//! left on the cluster. Needs Ceph's packages: `./test ceph` installs them and runs this.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};

mod lab;

use lab::Lab;

/// How long anything that must happen may take. It only bounds a failure.
const DEADLINE: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(100);

/// Either may get a volume: they are equally full.
const POOLS: [&str; 2] = ["volumes", "backups"];

impl Lab {
    /// A backend that does not wait long for a cluster that stalls.
    fn impatient_backend(&self, name: &str, user: &str, pools: &[&str]) -> String {
        self.backend(name, user, pools) + "command_timeout_s = 5\n"
    }

    fn signal_osd(&self, signal: &str) -> Result<()> {
        let pid = self.script().args(["pid", "osd.0"]).output()?.stdout;
        let pid = String::from_utf8(pid)?;
        ensure!(Command::new("kill").args([signal, pid.trim()]).status()?.success(), "no OSD to signal");
        Ok(())
    }

    fn admin(&self, command: &str) -> Result<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let program = words.first().context("no command")?;
        let output = Command::new(program).arg("--conf").arg(self.conf()).args(&words[1..]).output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A user who may do what an `rbd` backend needs, on one pool alone.
    fn add_user(&self, name: &str, pool: &str) -> Result<()> {
        let caps = format!("profile rbd pool={pool}");
        let mut command = Command::new("ceph");
        command.arg("--conf").arg(self.conf()).args(["auth", "get-or-create", &format!("client.{name}")]);
        let output = command.args(["mon", "profile rbd", "mgr", &caps, "osd", &caps]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(std::fs::write(self.keyring(name), output.stdout)?)
    }

    /// Runs a command of `qemu-io` on a volume, as its user's guest would.
    fn guest(&self, volume: &str, command: &str) -> Result<()> {
        let name = format!("volume-{volume}");
        for pool in POOLS {
            if !self.admin(&format!("rbd ls --pool {pool}"))?.lines().any(|image| image == name) {
                continue;
            }
            let image = format!("rbd:{pool}/{name}:conf={}", self.conf().display());
            let output = Command::new("qemu-io").args(["-f", "raw", &image, "-c", command]).output()?;
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success() && !said.contains("failed"), "{command}: {said}");
            return Ok(());
        }
        bail!("{name} is in no pool")
    }
}

/// The program, serving.
struct Server {
    process: Child,
    log: PathBuf,
    client: Client,
    url: String,
}

impl Server {
    async fn start(directory: &Path, backends: &str) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.join("tephra.toml");
        std::fs::write(&config, backends)?;
        let log = directory.join("serve.log");
        let output = File::create(&log)?;
        let program = std::env::var_os("TEPHRA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tephra").into());
        let process = Command::new(program)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let client = Client::builder().timeout(DEADLINE).build()?;
        let mut server = Self { process, log, client, url: format!("http://127.0.0.1:{port}") };
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = server.process.try_wait()? {
                bail!("serve ended by itself: {status}\n{}", server.words());
            }
            let answer = server.client.get(format!("{}/readyz", server.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(server);
            }
            ensure!(Instant::now() < end, "serve is not ready\n{}", server.words());
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
        let mut request = self.client.request(method, format!("{}/v3/demo/{path}", self.url));
        request = request.header("X-Auth-Token", "admin:demo").header("OpenStack-API-Version", "volume 3.71");
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn told(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let (status, answer) = self.ask(method, path, body).await?;
        ensure!((200..300).contains(&status), "{path}: {status} {answer}");
        Ok(answer)
    }

    async fn volume(&self, mut volume: Value) -> Result<String> {
        if let Some(fields) = volume.as_object_mut() {
            fields.entry("size").or_insert(json!(1));
        }
        let answer = self.told(Method::POST, "volumes", json!({ "volume": volume })).await?;
        Ok(answer["volume"]["id"].as_str().context("no id")?.to_owned())
    }

    /// A type for each backend, of its name.
    async fn make_types(&self, backends: &[&str]) -> Result<()> {
        for backend in backends {
            let specs = json!({ "volume_backend_name": backend });
            let body = json!({ "volume_type": { "name": backend, "extra_specs": specs } });
            self.told(Method::POST, "types", body).await?;
        }
        Ok(())
    }

    /// Waits until a resource has a status; nothing for "gone".
    async fn until(&self, kind: &str, id: &str, wanted: Option<&str>) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        loop {
            let (status, answer) = self.ask(Method::GET, &format!("{kind}s/{id}"), Value::Null).await?;
            let found = answer[kind]["status"].as_str();
            match wanted {
                Some(wanted) if found == Some(wanted) => return Ok(()),
                None if status == 404 => return Ok(()),
                _ => {}
            }
            let failed = found.is_some_and(|found| found.starts_with("error"));
            ensure!(
                !failed && Instant::now() < end,
                "{kind} {id}: not {wanted:?}: {answer}\n{}",
                self.words()
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn made(&self, volume: Value) -> Result<String> {
        let id = self.volume(volume).await?;
        self.until("volume", &id, Some("available")).await?;
        Ok(id)
    }

    async fn act(&self, volume: &str, action: Value) -> Result<()> {
        self.told(Method::POST, &format!("volumes/{volume}/action"), action).await?;
        self.until("volume", volume, Some("available")).await
    }

    async fn gone(&self, kind: &str, id: &str) -> Result<()> {
        self.told(Method::DELETE, &format!("{kind}s/{id}"), Value::Null).await?;
        self.until(kind, id, None).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A client that attaches is told what finds the image: os-brick and libvirt read exactly this.
async fn check_connection(server: &Server, volume: &str) -> Result<()> {
    let connector = json!({ "host": "compute-1", "ip": "192.0.2.20" });
    let body = json!({ "attachment": { "volume_uuid": volume, "connector": connector } });
    let told = server.told(Method::POST, "attachments", body).await?;
    let attachment = &told["attachment"];
    let data = &attachment["connection_info"];
    let (id, name) = (attachment["id"].as_str().context("no id")?, data["name"].as_str().context("no name")?);
    ensure!(POOLS.iter().any(|pool| name == format!("{pool}/volume-{volume}")), "{data}");
    let told = |key: &str, value: Value| ensure_eq(&data[key], &value, key);
    told("driver_volume_type", json!("rbd"))?;
    told("auth_enabled", json!(true))?;
    told("auth_username", json!("cinder"))?;
    told("cluster_name", json!("ceph"))?;
    told("secret_type", json!("ceph"))?;
    told("volume_id", json!(volume))?;
    told("hosts", json!(["127.0.0.1"]))?;
    ensure!(data["ports"].as_array().is_some_and(|ports| ports.len() == 1), "{data}");
    ensure!(!data.to_string().contains("keyring"), "{data}");
    server.told(Method::DELETE, &format!("attachments/{id}"), Value::Null).await?;
    server.until("volume", volume, Some("available")).await
}

fn ensure_eq(found: &Value, expected: &Value, what: &str) -> Result<()> {
    ensure!(found == expected, "{what}: {found}, not {expected}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_server_on_ceph_and_on_files_keeps_data_and_leaves_nothing_behind() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::start(directory.path().join("cluster"))?;
    let backends = lab.impatient_backend("ceph", "cinder", &POOLS)
        + "[[backends]]\nname = \"files\"\ndriver = \"directory\"\n";
    let server = Server::start(directory.path(), &backends).await?;
    server.make_types(&["ceph", "files"]).await?;

    let source = server.made(json!({ "volume_type": "ceph" })).await?;
    lab.guest(&source, "write -P 0x11 0 1M")?;
    let body = json!({ "snapshot": { "volume_id": source, "name": "s" } });
    let answer = server.told(Method::POST, "snapshots", body).await?;
    let snapshot = answer["snapshot"]["id"].as_str().context("no id")?.to_owned();
    server.until("snapshot", &snapshot, Some("available")).await?;
    lab.guest(&source, "write -P 0x22 0 1M")?;
    let cloned = server.made(json!({ "source_volid": source, "size": 2 })).await?;
    server.act(&source, json!({ "revert": { "snapshot_id": snapshot } })).await?;
    lab.guest(&source, "read -P 0x11 0 1M")?;
    lab.guest(&cloned, "read -P 0x22 0 1M")?;
    let made = server.made(json!({ "snapshot_id": snapshot })).await?;
    lab.guest(&made, "read -P 0x11 0 1M")?;
    server.act(&made, json!({ "os-extend": { "new_size": 3 } })).await?;

    check_connection(&server, &made).await?;

    // a stalled cluster holds up its own volumes and no others
    lab.signal_osd("-STOP")?;
    let waiting = server.volume(json!({ "volume_type": "ceph" })).await?;
    let on_files = server.made(json!({ "volume_type": "files" })).await?;
    let (_, answer) = server.ask(Method::GET, &format!("volumes/{waiting}"), Value::Null).await?;
    ensure!(answer["volume"]["status"] == "creating", "{answer}");
    lab.signal_osd("-CONT")?;
    server.until("volume", &waiting, Some("available")).await?;

    // what others were made from goes first
    server.gone("snapshot", &snapshot).await?;
    server.gone("volume", &source).await?;
    lab.guest(&cloned, "read -P 0x22 0 1M")?;
    lab.guest(&made, "read -P 0x11 0 1M")?;
    for volume in [cloned, made, waiting, on_files] {
        server.gone("volume", &volume).await?;
    }
    for pool in POOLS {
        ensure!(lab.admin(&format!("rbd ls --pool {pool}"))?.is_empty(), "images are left in {pool}");
        ensure!(
            lab.admin(&format!("rbd trash ls --all --pool {pool}"))?.is_empty(),
            "trash is left in {pool}"
        );
        // what a snapshot had goes when the OSD gets round to it
        let end = Instant::now() + DEADLINE;
        while lab.admin(&format!("rados ls --pool {pool}"))?.contains("rbd_data") {
            ensure!(Instant::now() < end, "data is left in {pool}");
            tokio::time::sleep(GLANCE).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Ceph: ./test ceph"]
async fn two_users_have_a_pool_each_and_neither_gets_into_the_others() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::start(directory.path().join("cluster"))?;
    lab.add_user("first", "volumes")?;
    lab.add_user("second", "backups")?;
    let backends =
        [("one", "first", "volumes"), ("two", "second", "backups"), ("crossed", "second", "volumes")];
    let text: String =
        backends.iter().map(|(name, user, pool)| lab.impatient_backend(name, user, &[pool])).collect();
    let server = Server::start(directory.path(), &text).await?;
    server.make_types(&["one", "two", "crossed"]).await?;

    let in_volumes = server.made(json!({ "volume_type": "one" })).await?;
    let in_backups = server.made(json!({ "volume_type": "two" })).await?;
    let listed = |pool: &str| lab.admin(&format!("rbd ls --pool {pool}"));
    ensure!(listed("volumes")?.trim() == format!("volume-{in_volumes}"), "{}", listed("volumes")?);
    ensure!(listed("backups")?.trim() == format!("volume-{in_backups}"), "{}", listed("backups")?);

    // its figures everybody may see, so the pool is up; what is in it nobody else may touch
    let refused = server.volume(json!({ "volume_type": "crossed" })).await?;
    server.until("volume", &refused, Some("error")).await?;
    ensure!(listed("volumes")?.trim() == format!("volume-{in_volumes}"), "{}", listed("volumes")?);
    ensure!(server.words().contains("its caps need `profile rbd`"), "{}", server.words());

    for volume in [in_volumes, in_backups] {
        server.gone("volume", &volume).await?;
    }
    ensure!(listed("volumes")?.is_empty() && listed("backups")?.is_empty(), "something is left");
    Ok(())
}
