//! The configurations and the permissions of `deploy/`, as they stand, on real processes: TLS,
//! several addresses, NKeys or `.creds` files, and each role with what is its own and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use nkeys::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};
use tephra_projector::Views;

use crate::deployment::{Nats, Process, Unusual, free_address, program};
use crate::operator_mode::Operator;
use crate::server::{Api, Reply, until};
use crate::tls::Certificates;
use crate::{create, status_becomes, volumes_are_placed};

const PERMISSIONS: &str = include_str!("../../deploy/nats/permissions.conf.example");
const ROLES: [&str; 5] = ["sequencer", "api", "executor_lvm", "events", "operator"];
/// Who else the permissions name.
const OTHERS: [&str; 2] = ["system", "consumer_alpha"];
/// The only subject of the stream of blocks.
const LEDGER: &str = "tephra.ledger.main";
const TOKEN: &str = "the-token-of-alice";
const ADMIN_TOKEN: &str = "the-token-of-an-administrator";

/// How processes say who they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    Nkey,
    Credentials,
}

/// One process of each role, with the files that `deploy/` has for it.
struct Secured {
    // ends before the directory that it is in
    nats: Nats,
    directory: tempfile::TempDir,
    identity: Identity,
    listen: String,
}

impl Secured {
    fn start(servers: usize, identity: Identity) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let home = directory.path();
        let mut environment = BTreeMap::new();
        let certificates = Certificates::write(home)?;
        let mut include = certificates.of_the_server();
        match identity {
            Identity::Nkey => {
                for role in ROLES.iter().chain(&OTHERS) {
                    let key = KeyPair::new_user();
                    std::fs::write(home.join(format!("{}.seed", role)), key.seed()?)?;
                    environment.insert(format!("TEPHRA_{}_NKEY", role.to_uppercase()), key.public_key());
                }
                include += PERMISSIONS;
            }
            Identity::Credentials => {
                let operator = Operator::new(PERMISSIONS)?;
                for role in ROLES {
                    let credentials = operator.credentials(role, &Allowed::to(role)?.as_json())?;
                    std::fs::write(home.join(format!("{}.creds", role)), credentials)?;
                }
                include += &operator.configuration()?;
            }
        }
        let unusual = Unusual { include: Some(include), environment, ..Unusual::default() };
        let nats = Nats::start_unusual(&home.join("nats"), servers, unusual)?;
        let tokens = format!(
            "[[token]]\ntoken = \"{TOKEN}\"\nuser = \"alice\"\nproject = \"p\"\nrole = \"member\"\n\
             [[token]]\ntoken = \"{ADMIN_TOKEN}\"\nuser = \"root\"\nproject = \"operators\"\nrole = \"admin\"\n"
        );
        std::fs::write(home.join("tokens.toml"), tokens)?;
        Ok(Self { nats, identity, listen: free_address()?, directory })
    }

    fn home(&self) -> &Path {
        self.directory.path()
    }

    /// A file of `deploy/systemd`, for this machine: other places, other servers, and one address of
    /// a server that is not there.
    fn config(&self, name: &str, change: impl Fn(String) -> String) -> Result<PathBuf> {
        let deployed =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&deployed)?;
        let home = self.home().display().to_string();
        let mut addresses = vec![format!("tls://{}", free_address()?)];
        addresses.extend(self.nats.servers.iter().map(|url| url.replace("nats://", "tls://")));
        let count = self.nats.servers.len();
        let line = |line: &str| -> String {
            let key = line.split(" = ").next().unwrap_or_default();
            match (key, self.identity) {
                ("servers", _) => format!("servers = {addresses:?}"),
                ("replicas", _) => format!("replicas = {count}"),
                ("listen", _) => format!("listen = {:?}", self.listen),
                ("nkey_file", Identity::Credentials) => {
                    line.replace("nkey_file", "credentials_file").replace(".seed", ".creds")
                }
                _ => line.to_owned(),
            }
        };
        let text: Vec<String> = text.lines().map(line).collect();
        let text = text.join("\n").replace("/etc/tephra", &home).replace("/var/lib", &home);
        let text = change(text.replace("/srv/tephra", &format!("{home}/srv")));
        let path = self.home().join(format!("{name}-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// What the unit of this name starts.
    fn unit(&self, name: &str) -> Result<Process> {
        self.process(name, name, &self.config(name, |text| text)?)
    }

    fn process(&self, unit: &str, name: &str, config: &Path) -> Result<Process> {
        let deployed = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("deploy/systemd")
            .join(format!("tephra-{unit}.service"));
        let text = std::fs::read_to_string(&deployed)?;
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/tephra "));
        let config = config.display().to_string();
        let arguments: Vec<String> = start
            .with_context(|| format!("{} starts tephra", deployed.display()))?
            .split(' ')
            .map(|word| if word.starts_with("/etc/") { config.clone() } else { word.to_owned() })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = Process::new(self.home(), name, &arguments);
        process.spawn()?;
        Ok(process)
    }

    fn api(&self, token: &str) -> Result<Api> {
        Api::with_token(&format!("http://{}", self.listen), token)
    }

    /// A connection with the rights of a role.
    async fn client(&self, role: &str) -> Result<async_nats::Client> {
        let file = |ending: &str| self.home().join(format!("{}.{ending}", role));
        let options = ConnectOptions::new()
            .custom_inbox_prefix(format!("_INBOX_{role}"))
            .add_root_certificates(self.home().join("ca.pem"))
            .require_tls(true);
        let options = match self.identity {
            Identity::Nkey => options.nkey(std::fs::read_to_string(file("seed"))?),
            Identity::Credentials => options.credentials_file(file("creds")).await?,
        };
        Ok(options.connect(self.nats.servers.as_slice()).await?)
    }
}

/// What the example of permissions lets a role do.
struct Allowed {
    publish: Vec<String>,
    subscribe: Vec<String>,
    /// How many messages, to whoever has asked something.
    responses: Option<u32>,
}

impl Allowed {
    fn to(role: &str) -> Result<Self> {
        let key = format!("$TEPHRA_{}_NKEY", role.to_uppercase());
        let after = PERMISSIONS.split(&key).nth(1).context("the role has a user")?;
        let own = after.split("nkey:").next().unwrap_or_default();
        let list = |name: &str| -> Result<Vec<String>> {
            let list = own.split(&format!("{name}: {{ allow: [")).nth(1).context("a list")?;
            let list = list.split(']').next().unwrap_or_default();
            Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
        };
        let responses = own.split("allow_responses: { max: ").nth(1).and_then(|rest| rest.split(',').next());
        let responses = responses.map(str::parse).transpose()?;
        Ok(Self { publish: list("publish")?, subscribe: list("subscribe")?, responses })
    }

    /// As a user's JWT says it.
    fn as_json(&self) -> Value {
        let mut permissions = json!({"pub": {"allow": self.publish}, "sub": {"allow": self.subscribe}});
        if let Some(most) = self.responses {
            permissions["resp"] = json!({"max": most, "ttl": Duration::from_secs(60).as_nanos() as u64});
        }
        permissions
    }
}

async fn head(api: &Api) -> Result<u64> {
    api.get("/ledger/v1/verify").await?["blocks"].as_u64().context("a number of blocks")
}

/// The roles do their work; then somebody has got hold of the storage host's secret.
async fn each_role_does_its_own(servers: usize, identity: Identity) -> Result<()> {
    let secured = Secured::start(servers, identity)?;
    let mut processes = Vec::new();
    for unit in ["events", "executor", "api", "sequencer", "projector"] {
        processes.push(secured.unit(unit)?);
    }
    let mut outcome = do_its_own(&secured).await;
    if let (Ok(()), Some(projector)) = (&outcome, processes.last_mut()) {
        outcome = views_are_kept_up(&secured, projector).await;
    }
    if outcome.is_err() {
        for process in &processes {
            eprintln!("--- {}\n{}", process.name, process.said());
        }
    }
    outcome
}

async fn do_its_own(secured: &Secured) -> Result<()> {
    let (admin, alice) = (secured.api(ADMIN_TOKEN)?, secured.api(TOKEN)?);
    until("the api knows a pool", async || {
        let pools = admin.look("/v3/scheduler-stats/get_pools").await.ok().flatten();
        Ok(pools.filter(|body| body["pools"].as_array().is_some_and(|pools| !pools.is_empty())))
    })
    .await?;
    volumes_are_placed(&alice).await?;
    let volume = create(&alice, "first").await?;
    status_becomes(&alice, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
    let file = secured.home().join("srv/volumes").join(format!("volume-{volume}"));
    ensure!(file.exists(), "{} is not there", file.display());

    let drift = admin.get("/ledger/v1/drift").await?;
    ensure!(drift["unseen"] == 0 && drift["pools"][0]["state"] == "compared", "{drift}");
    all_events_are_published(secured, &admin).await?;

    nothing_is_stored_with_another_s_key(secured).await?;
    let before = head(&admin).await?;
    // A process with the executor's secret that calls itself a sequencer gets nowhere.
    let stolen = secured.config("sequencer", |text| {
        text.replace("sequencer.", "executor_lvm.").replace("_INBOX_sequencer", "_INBOX_executor_lvm")
    })?;
    let usurper = secured.process("sequencer", "usurper", &stolen)?;
    until("the usurper meets its limits", async || {
        Ok(usurper.said().contains("waiting for what is not there yet").then_some(()))
    })
    .await?;
    ensure!(!usurper.is_leading(), "{}", usurper.said());
    // An executor of another backend with this one's secret gets no orders and is believed nothing.
    let other = secured.config("executor", |text| {
        text.replace("name = \"lvm\"", "name = \"rbd\"").replace("/srv/volumes", "/srv/others")
    })?;
    let impostor = secured.process("executor", "impostor", &other)?;
    until("the impostor meets its limits", async || {
        Ok(impostor.said().to_lowercase().contains("permissions violation").then_some(()))
    })
    .await?;
    let second = create(&alice, "second").await?;
    status_becomes(&alice, &format!("/v3/volumes/{second}"), "volume", "available").await?;
    let services = admin.get("/v3/os-services").await?;
    ensure!(!services.to_string().contains("rbd"), "the impostor has registered a backend: {services}");
    let others: Vec<_> = std::fs::read_dir(secured.home().join("srv/others"))?.flatten().collect();
    ensure!(
        others.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("volume")),
        "{others:?}"
    );
    ensure!(head(&admin).await? > before, "the ledger goes on");
    let deleted = alice.send(Method::DELETE, &format!("/v3/volumes/{volume}"), None, None).await?;
    ensure!(matches!(deleted, Reply::Answer(202, _)), "{deleted:?}");
    until("the file is gone", async || Ok((!file.exists()).then_some(()))).await
}

/// The projector, which does nothing else, keeps a file of views up with the ledger, and leaves it behind
/// for another role.
async fn views_are_kept_up(secured: &Secured, projector: &mut Process) -> Result<()> {
    let admin = secured.api(ADMIN_TOKEN)?;
    let copy = secured.home().join("views-copy.redb");
    until("the file of views is up with the ledger", async || {
        let ledger = admin.get("/ledger/v1/verify").await?;
        projector.hold().await?;
        std::fs::copy(secured.home().join("projector").join("views.redb"), &copy)?;
        projector.resume()?;
        let at = Views::open(&copy)?.checkpoint();
        let is_up = at.block.0 > 0 && ledger["blocks"] == at.block.0;
        ensure!(!is_up || ledger["hash"] == hex::encode(at.hash).as_str(), "{at:?} is not of {ledger}");
        Ok(is_up.then_some(()))
    })
    .await?;
    projector.stop().await
}

/// The publisher, in an account of its own, has published what is in the ledger.
async fn all_events_are_published(secured: &Secured, admin: &Api) -> Result<()> {
    let context = jetstream::new(secured.client("events").await?);
    until("all events are published", async || {
        let page = admin.get("/ledger/v1/events?limit=1000").await?;
        let happened = page["events"].as_array().context("events")?.len();
        let Ok(stream) = context.get_stream("TEPHRA_EVENTS").await else { return Ok(None) };
        Ok((usize::try_from(stream.cached_info().state.messages)? == happened).then_some(()))
    })
    .await?;
    // Whoever looks after them has a key too.
    let config = secured.config("events", |text| {
        text.replace("/events.", "/operator.").replace("_INBOX_events", "_INBOX_operator")
    })?;
    for command in ["status", "consumer alpha --project p"] {
        let output = Command::new(program())
            .arg("events")
            .args(command.split(' '))
            .args(["--config".as_ref(), config.as_os_str()])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tephra events {command}: {said}");
    }
    Ok(())
}

/// What somebody with the key of a storage host or of an api can do with the ledger and with others'
/// orders, also by having the servers send something: nothing.
async fn nothing_is_stored_with_another_s_key(secured: &Secured) -> Result<()> {
    let sequencer = jetstream::new(secured.client("sequencer").await?);
    let all_blocks = async || -> Result<Vec<String>> {
        let info = sequencer.get_stream("TEPHRA_LEDGER_main").await?.cached_info().clone();
        let mut ids = Vec::new();
        let stream = sequencer.get_stream_no_info("TEPHRA_LEDGER_main").await?;
        for number in 1..=info.state.last_sequence {
            let message = stream.get_raw_message(number).await?;
            let expected = message.headers.get("Nats-Expected-Last-Sequence");
            ids.push(expected.map(ToString::to_string).unwrap_or_default());
        }
        Ok(ids)
    };
    for role in ["executor_lvm", "api", "events", "operator"] {
        let client = secured.client(role).await?;
        for api in ["$JS.API", "TEPHRA.API"] {
            let context = jetstream::context::ContextBuilder::new().timeout(Duration::from_millis(500));
            let context = context.api_prefix(api).build(client.clone());
            ensure!(context.publish(LEDGER, "a forged block".into()).await?.await.is_err(), "{role} appends");
            for stream in ["TEPHRA_LEDGER_main", "TEPHRA_WORK_main"] {
                let others =
                    PullConfig { filter_subject: "tephra.work.main.rbd.>".into(), ..PullConfig::default() };
                let made = context.create_consumer_on_stream(others, stream).await;
                ensure!(made.is_err(), "{role} reads another's orders");
                let sent = json!({"deliver_subject": LEDGER, "ack_policy": "none"});
                let consumer = json!({"stream_name": stream, "config": sent}).to_string();
                let to = format!("{api}.CONSUMER.CREATE.{stream}");
                client.publish_with_reply(to, LEDGER, consumer.into()).await?;
            }
        }
        let mut traced = async_nats::HeaderMap::new();
        traced.insert("Nats-Trace-Dest", LEDGER);
        for subject in Allowed::to(role)?.publish {
            let subject = subject.replace('*', "lvm").replace('>', "1.1.1.1.0");
            // Orders that are asked for and stay away are lost to the executor until their lease ends.
            let is_for_orders = subject.contains(".MSG.NEXT.");
            let bodies = ["", "{\"seq\":1}", "{\"batch\":1,\"no_wait\":true}", "+NXT"];
            for body in bodies.iter().filter(|body| !is_for_orders || body.contains("no_wait")) {
                client.publish_with_reply(subject.clone(), LEDGER, (*body).into()).await?;
                let sent = client.publish_with_reply_and_headers(
                    subject.clone(),
                    LEDGER,
                    traced.clone(),
                    (*body).into(),
                );
                sent.await?;
            }
        }
        client.flush().await?;
        if role == "executor_lvm" {
            let context = jetstream::context::ContextBuilder::new().api_prefix("TEPHRA.API").build(client);
            ensure!(context.get_stream("TEPHRA_LEDGER_main").await.is_err(), "it sees the ledger");
        }
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    // Every message of the stream is a block that a sequencer has appended to the one before.
    let blocks = all_blocks().await?;
    let expected: Vec<String> = (0..blocks.len()).map(|before| before.to_string()).collect();
    ensure!(blocks == expected, "something else was stored in the ledger: {blocks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_files_work_over_tls_with_nkeys_and_three_addresses() -> Result<()> {
    each_role_does_its_own(3, Identity::Nkey).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_files_work_with_credentials_of_an_operator_s_account() -> Result<()> {
    each_role_does_its_own(1, Identity::Credentials).await
}
