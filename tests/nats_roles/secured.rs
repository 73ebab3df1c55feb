//! The configurations and the permissions of `deploy/`, as they stand, on real processes: TLS,
//! several addresses, NKeys or `.creds` files, and each role with what is its own and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream;
use nkeys::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Nats, Process, Unusual, free_address};
use crate::operator_mode::Operator;
use crate::server::{Api, Reply, until};
use crate::tls::Certificates;
use crate::{create, status_becomes, volumes_are_placed};

const PERMISSIONS: &str = include_str!("../../deploy/nats/permissions.conf.example");
const ROLES: [&str; 3] = ["sequencer", "api", "executor_lvm"];
/// Who else the permissions name.
const OTHERS: [&str; 4] = ["system", "events", "operator", "consumer_alpha"];
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
                let operator = Operator::new()?;
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
    may_respond: bool,
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
        let may_respond = own.contains("allow_responses");
        Ok(Self { publish: list("publish")?, subscribe: list("subscribe")?, may_respond })
    }

    /// As a user's JWT says it.
    fn as_json(&self) -> Value {
        let mut permissions = json!({"pub": {"allow": self.publish}, "sub": {"allow": self.subscribe}});
        if self.may_respond {
            permissions["resp"] = json!({"max": 1, "ttl": Duration::from_secs(60).as_nanos() as u64});
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
    for unit in ["executor", "api", "sequencer"] {
        processes.push(secured.unit(unit)?);
    }
    let outcome = do_its_own(&secured).await;
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

    // What its permissions let the storage host do with the ledger and with others' orders: nothing.
    let before = head(&admin).await?;
    let executor = secured.client("executor_lvm").await?;
    let stream =
        jetstream::context::ContextBuilder::new().timeout(Duration::from_millis(700)).build(executor.clone());
    ensure!(
        stream.publish("tephra.ledger.main", "a forged block".into()).await?.await.is_err(),
        "it appends"
    );
    ensure!(stream.get_stream("TEPHRA_LEDGER_main").await.is_err(), "it sees the ledger");
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

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_files_work_over_tls_with_nkeys_and_three_addresses() -> Result<()> {
    each_role_does_its_own(3, Identity::Nkey).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_files_work_with_credentials_of_an_operator_s_account() -> Result<()> {
    each_role_does_its_own(1, Identity::Credentials).await
}
