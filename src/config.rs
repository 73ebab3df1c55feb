//! The configuration file: its keys, their defaults and what is refused.
//!
//! Every key is described in `docs/configuration.md` and shown in `deploy/tephra.example.toml`; a
//! test holds the latter to this file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::roles::RoleKind;

mod backend;
mod images;
mod iscsi;
mod lending;
mod lvm;
mod nats;
mod rbd;

pub use backend::{BackendConfig, Driver};
pub use images::{ImagesSection, StoreKind};
pub use iscsi::IscsiSection;
pub use lending::LendingSection;
pub use lvm::LvmSection;
pub use nats::NatsSection;
pub use rbd::RbdSection;

/// Where clients expect a Cinder.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8776";

/// Where data is, if nobody says.
pub const DEFAULT_DATA_DIR: &str = "./tephra-data";

/// The name of the backend that is there if none is configured.
pub const DEFAULT_BACKEND: &str = "directory";

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address that the HTTP API listens on.
    pub listen: SocketAddr,
    /// Where the journal, the views and, by default, the volumes are.
    pub data_dir: PathBuf,
    /// The first part of Cinder's `host@backend#pool`. Default: the machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Scheme and authority that links in answers start with, where a proxy stands in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    /// What this process does; only with NATS can it be less than everything.
    pub roles: Vec<RoleKind>,
    /// How the server knows who asks.
    pub auth: AuthConfig,
    /// Bounds on what clients may do to the server.
    pub limits: LimitsConfig,
    /// What the server writes about itself.
    pub log: LogConfig,
    /// Where a process shows how it is doing, whether it is an api or not.
    pub monitor: MonitorConfig,
    /// Where the journal is, if it is not a file of this machine.
    pub nats: NatsSection,
    /// Whether executors of other hosts may copy from here.
    pub lending: LendingSection,
    /// Where images are.
    pub images: ImagesSection,
    /// What secrets are derived from.
    pub secrets: SecretsConfig,
    /// Where volumes live.
    pub backends: Vec<BackendConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8776)),
            data_dir: PathBuf::from(DEFAULT_DATA_DIR),
            host: None,
            public_endpoint: None,
            roles: RoleKind::ALL.to_vec(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            monitor: MonitorConfig::default(),
            nats: NatsSection::default(),
            lending: LendingSection::default(),
            images: ImagesSection::default(),
            secrets: SecretsConfig::default(),
            backends: Vec::new(),
        }
    }
}

/// `[auth]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Which of the two.
    pub mode: AuthMode,
    /// `tokens`: the file with users, projects, roles and tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// `noauth`: whether everybody is an administrator, as in Cinder's own noauth.
    pub everybody_is_admin: bool,
    /// `noauth`: allows an address that is not loopback.
    pub i_know_that_noauth_lets_everybody_in: bool,
}

/// How the server knows who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// It believes the token's `user:project`.
    #[default]
    Noauth,
    /// It knows a list of tokens.
    Tokens,
}

impl AuthMode {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Noauth => "noauth",
            Self::Tokens => "tokens",
        }
    }
}

/// `[secrets]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The file with the key that the passwords of exports are derived from: 64 hexadecimal digits,
    /// readable by its owner alone, the same for every process of the deployment. Default on one
    /// machine: `<data_dir>/master.key`, which is made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_file: Option<PathBuf>,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// How long a client may take to send a request's headers, and be idle between requests, in seconds.
    pub header_timeout_s: u64,
    /// How long a request may take, in seconds.
    pub request_timeout_s: u64,
    /// How long a stopping server waits for what is under way, in seconds.
    pub drain_timeout_s: u64,
    /// After how long a silence an executor is down, in seconds. Executors speak every 10.
    pub service_down_time_s: u64,
}

impl LimitsConfig {
    /// After how long a silence an executor is down.
    pub const fn service_down_time(&self) -> Duration {
        Duration::from_secs(self.service_down_time_s)
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 8192,
            header_timeout_s: 60,
            request_timeout_s: 60,
            drain_timeout_s: 20,
            service_down_time_s: 60,
        }
    }
}

/// `[monitor]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// The address of `/healthz`, `/readyz` and `/metrics`. Anybody who reaches it may read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is written, in the form of `tracing`'s directives.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads and checks a configuration file; without one, the defaults.
    ///
    /// # Errors
    /// [`Exit::Usage`], with the key and its line, for a file that is not right;
    /// [`Exit::NotFound`] if there is none.
    pub fn load(path: Option<&Path>) -> CommandResult<Self> {
        let Some(path) = path else {
            return Self::default().completed();
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))
            .map_err(|cause| {
                let missing = cause.downcast_ref::<std::io::Error>();
                let is_missing = missing.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                let exit = if is_missing { Exit::NotFound } else { Exit::Usage };
                CommandError { exit, cause, hint: None }
            })?;
        Self::parse(&text).map_err(|error| CommandError {
            cause: error.cause.context(format!("{} is not right", path.display())),
            ..error
        })
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Exit::Usage`], with the key and its line.
    pub fn parse(text: &str) -> CommandResult<Self> {
        let config: Self = toml::from_str(text).exit(Exit::Usage)?;
        config.completed()
    }

    /// Fills in what depends on other keys, and checks what types cannot.
    ///
    /// # Errors
    /// [`Exit::Usage`], with the key.
    pub fn completed(mut self) -> CommandResult<Self> {
        if self.backends.is_empty() {
            self.backends.push(BackendConfig::default_directory());
        }
        if let Some(endpoint) = &self.public_endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(refuse("public_endpoint", "must begin with http:// or https://"));
        }
        if let Some(host) = &self.host
            && (host.is_empty() || host.len() > 128 || host.contains(is_reserved))
        {
            return Err(refuse("host", "1 to 128 characters; no blanks, `@`, `#` or `/`"));
        }
        self.check_roles()?;
        self.check_auth()?;
        self.check_limits()?;
        self.images.check()?;
        let mut names = BTreeSet::new();
        let mut directories = BTreeSet::new();
        let mut groups = BTreeSet::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let key = |name: &str| format!("backends[{index}].{name}");
            backend::check_backend(backend, &key)?;
            if !names.insert(backend.name.clone()) {
                return Err(refuse(&key("name"), format!("`{}` is taken by another backend", backend.name)));
            }
            match &backend.lvm {
                Some(lvm) if !groups.insert(&lvm.volume_group) => {
                    return Err(refuse(&key("lvm.volume_group"), "two backends cannot share a volume group"));
                }
                None if backend.rbd.is_none() && !directories.insert(self.backend_directory(backend)) => {
                    return Err(refuse(&key("directory"), "two backends cannot share a directory"));
                }
                Some(_) | None => {}
            }
        }
        Ok(self)
    }

    /// Where a backend's files are.
    pub fn backend_directory(&self, backend: &BackendConfig) -> PathBuf {
        backend.directory.clone().unwrap_or_else(|| self.data_dir.join("volumes"))
    }

    /// The first part of `host@backend#pool`.
    pub fn host(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.host.clone().unwrap_or_else(machine)
    }

    /// Whether this process has a role.
    pub fn has(&self, role: RoleKind) -> bool {
        self.roles.contains(&role)
    }

    fn check_roles(&self) -> CommandResult {
        self.nats.adapter()?;
        self.lending.adapter()?;
        if self.roles.is_empty() {
            return Err(refuse("roles", "a process without a role does nothing"));
        }
        // Events are published on NATS: without it that role is nothing.
        let is_needed = |role: &&RoleKind| **role != RoleKind::Events;
        if !self.nats.is_used() && !RoleKind::ALL.iter().filter(is_needed).all(|role| self.has(*role)) {
            let reason = "without NATS (nats.servers, --nats) one process has all roles";
            return Err(refuse("roles", reason));
        }
        Ok(())
    }

    fn check_auth(&self) -> CommandResult {
        match (self.auth.mode, &self.auth.token_file) {
            (AuthMode::Tokens, None) => {
                Err(refuse("auth.token_file", "the mode `tokens` needs a file of tokens"))
            }
            (AuthMode::Noauth, Some(_)) => Err(refuse(
                "auth.token_file",
                "the mode `noauth` would ignore it; set auth.mode = \"tokens\"",
            )),
            (AuthMode::Tokens, Some(_)) if self.auth.everybody_is_admin => {
                Err(refuse("auth.everybody_is_admin", "only for the mode `noauth`"))
            }
            (AuthMode::Tokens, Some(_)) | (AuthMode::Noauth, None) => Ok(()),
        }
    }

    fn check_limits(&self) -> CommandResult {
        let limits = &self.limits;
        let at_least_one = [
            ("limits.connections", limits.connections == 0),
            ("limits.header_timeout_s", limits.header_timeout_s == 0),
            ("limits.request_timeout_s", limits.request_timeout_s == 0),
            ("limits.drain_timeout_s", limits.drain_timeout_s == 0),
            ("limits.service_down_time_s", limits.service_down_time_s == 0),
        ];
        match at_least_one.iter().find(|(_, is_zero)| *is_zero) {
            Some((key, _)) => Err(refuse(key, "must be at least 1")),
            None => Ok(()),
        }
    }
}

fn is_reserved(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '@' | '#' | '/')
}

fn refuse(key: &str, reason: impl std::fmt::Display) -> CommandError {
    CommandError::new(Exit::Usage, format!("{key}: {reason}"))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn refused(text: &str, expected: &str) {
        let error = Config::parse(text).unwrap_err();
        let message = format!("{:#}", error.cause);
        assert_eq!(error.exit, Exit::Usage);
        assert!(message.contains(expected), "{text}\n-> {message}");
    }

    #[test]
    fn nothing_at_all_is_a_configuration() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(config.backends, vec![BackendConfig::default_directory()]);
        assert_eq!(config.backend_directory(&config.backends[0]), Path::new("./tephra-data/volumes"));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_name_and_line() {
        refused("data_dir = \"x\"\nlisten_on = \"y\"\n", "line 2");
        refused("data_dir = \"x\"\nlisten_on = \"y\"\n", "listen_on");
        refused("[auth]\n\ntoken = \"y\"\n", "line 3");
        refused("[[backends]]\nname = \"a\"\ndriver = \"directory\"\npath = \"/x\"\n", "line 4");
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused_by_key() {
        refused("listen = \"nowhere\"", "line 1");
        refused("host = \"a@b\"", "host");
        refused("public_endpoint = \"cloud.example.org\"", "public_endpoint");
        refused("[auth]\nmode = \"tokens\"", "auth.token_file");
        refused("[auth]\ntoken_file = \"x\"", "auth.token_file");
        refused(
            "[auth]\nmode = \"tokens\"\ntoken_file = \"x\"\neverybody_is_admin = true",
            "everybody_is_admin",
        );
        refused("[limits]\nconnections = 0", "limits.connections");
        refused("roles = [\"api\"]", "without NATS");
        refused("roles = [\"cook\"]", "cook");
        Config::parse("roles = [\"api\", \"executor\", \"sequencer\", \"projector\"]").unwrap();
        refused("[nats]\nservers = [\"n1:4222\"]", "nats.servers");
        refused("[nats]\ncell = \"a b\"", "nats.cell");
        refused("[nats]\nreplicas = 2", "nats.replicas");
        refused("[nats]\nlease_ms = 1", "nats.lease_ms");
        refused("[nats]\ncredentials_file = \"a\"\nnkey_file = \"b\"", "nats.nkey_file");
        refused("[nats]\ntls_cert_file = \"a\"", "nats.tls_key_file");
        refused("[nats]\nsystem_nkey_file = \"a\"\nservers_sync = true", "nats.system_nkey_file");
        refused("[lending]\naddress = \"0.0.0.0\"", "lending.address");
        refused("[lending]\naddress = \"10.0.0.5\"\nfirst_port = 65000\nports = 1000", "lending.ports");
        let backend = "[[backends]]\nname = \"a\"\ndriver = \"directory\"\n";
        refused(&format!("{backend}{backend}"), "backends[1].name");
        refused(&format!("{backend}[[backends]]\nname=\"b\"\ndriver=\"directory\""), "backends[1].directory");
        refused(&format!("{backend}reserved_percentage = 101"), "reserved_percentage");
        refused(&format!("{backend}max_over_subscription_ratio = 0.5"), "max_over_subscription_ratio");
        refused(&format!("{backend}parallelism = 0"), "parallelism");
        refused(&format!("{backend}export = \"a:/b\""), "backends[0].export");
        refused("[[backends]]\nname = \"a\"\ndriver = \"nfs\"", "backends[0].export");
        refused("[[backends]]\nname = \"a\"\ndriver = \"lvm\"", "backends[0].lvm");
        refused(&format!("{backend}[backends.lvm]\nvolume_group = \"vg\""), "backends[0].lvm");
        let lvm = "[[backends]]\nname = \"a\"\ndriver = \"lvm\"\n[backends.lvm]\nvolume_group = \"vg\"\n";
        refused(&format!("{lvm}{}", lvm.replace("\"a\"", "\"b\"")), "backends[1].lvm.volume_group");
        refused(&format!("{lvm}volume_clear = \"none\"\nvolume_clear_size_mib = 1"), "volume_clear_size_mib");
        refused(&format!("{lvm}command_time_limit_s = 0"), "backends[0].lvm.command_time_limit_s");
        refused(&format!("{lvm}provisioning = \"sparse\""), "sparse");
        refused("[[backends]]\nname = \"a\"\ndriver = \"rbd\"", "backends[0].rbd");
        refused(&format!("{backend}[backends.rbd]\npools = [\"volumes\"]"), "backends[0].rbd");
        let rbd = "[[backends]]\nname = \"a\"\ndriver = \"rbd\"\n[backends.rbd]\n";
        refused(rbd, "pools");
        refused(&format!("{rbd}pools = []"), "backends[0].rbd.pools");
        refused(&format!("{rbd}pools = [\"a\", \"a\"]"), "backends[0].rbd.pools");
        refused(&format!("{rbd}pools = [\"a\"]\nuser = \"client.cinder\""), "backends[0].rbd.user");
        refused(&format!("{rbd}pools = [\"a\"]\nclone_format = 3"), "backends[0].rbd.clone_format");
        refused(&format!("{rbd}pools = [\"a\"]\ncommand_timeout_s = 0"), "backends[0].rbd.command_timeout_s");
        refused("[[backends]]\nname = \"a@b\"\ndriver = \"directory\"", "backends[0].name");
        refused("[[backends]]\nname = \"a\"\ndriver = \"floppy\"", "floppy");
    }

    #[test]
    fn what_config_check_prints_is_a_configuration_again() {
        let config = Config::parse("[auth]\neverybody_is_admin = true").unwrap();
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(Config::parse(&printed).unwrap(), config);
    }

    #[test]
    fn the_example_of_each_role_is_right() {
        for (role, text) in [
            (RoleKind::Api, include_str!("../deploy/systemd/api.toml")),
            (RoleKind::Sequencer, include_str!("../deploy/systemd/sequencer.toml")),
            (RoleKind::Executor, include_str!("../deploy/systemd/executor.toml")),
            (RoleKind::Events, include_str!("../deploy/systemd/events.toml")),
            (RoleKind::Projector, include_str!("../deploy/systemd/projector.toml")),
        ] {
            let config = Config::parse(text).unwrap();
            assert_eq!(config.roles, [role]);
            assert_eq!(config.nats.adapter().unwrap().replicas, 3);
        }
    }

    #[test]
    fn units_are_started_again_for_ever_but_not_after_what_starting_again_does_not_mend() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
        let hopeless = [Exit::Usage, Exit::VerificationFailed].map(|exit| exit.code().to_string());
        let line = format!("RestartPreventExitStatus={}", hopeless.join(" "));
        // By default systemd gives up after five starts within ten seconds, and for good.
        let always = ["StartLimitIntervalSec=0", "Restart=always"];
        for role in [
            "tephra",
            "tephra-api",
            "tephra-events",
            "tephra-executor",
            "tephra-projector",
            "tephra-sequencer",
        ] {
            let unit = std::fs::read_to_string(folder.join(format!("{role}.service"))).unwrap();
            assert!(unit.lines().any(|found| found == line), "{role}.service");
            let (before_service, service) = unit.split_once("[Service]").unwrap();
            for (section, line) in [before_service, service].into_iter().zip(always) {
                assert!(section.lines().any(|found| found == line), "{role}.service lacks {line}");
            }
        }
    }

    /// Every line of the example that is commented out with `# key = value` shows a default or a
    /// possible value; taken together they must be a configuration that names every key.
    #[test]
    fn the_example_shows_every_key_and_is_right() {
        let example = include_str!("../deploy/tephra.example.toml");
        Config::parse(example).unwrap();
        let every_key = Config {
            host: Some(String::new()),
            public_endpoint: Some(String::new()),
            auth: AuthConfig { token_file: Some(PathBuf::new()), ..AuthConfig::default() },
            monitor: MonitorConfig { listen: Some(SocketAddr::from(([127, 0, 0, 1], 8777))) },
            lending: LendingSection {
                address: Some(IpAddr::from([127, 0, 0, 1])),
                ..LendingSection::default()
            },
            secrets: SecretsConfig { master_key_file: Some(PathBuf::new()) },
            nats: NatsSection {
                credentials_file: Some(PathBuf::new()),
                nkey_file: Some(PathBuf::new()),
                inbox_prefix: Some(String::new()),
                tls_ca_file: Some(PathBuf::new()),
                tls_cert_file: Some(PathBuf::new()),
                tls_key_file: Some(PathBuf::new()),
                system_nkey_file: Some(PathBuf::new()),
                ..NatsSection::default()
            },
            backends: vec![BackendConfig {
                directory: Some(PathBuf::new()),
                export: Some(String::new()),
                rbd: Some(RbdSection::with_every_key()),
                lvm: Some(toml::from_str("volume_group = \"vg\"\nthin_pool = \"pool\"").unwrap()),
                iscsi: Some(toml::from_str("portal = \"p\"\nsocket = \"s\"").unwrap()),
                ..BackendConfig::default_directory()
            }],
            ..Config::default()
        };
        let printed = toml::to_string(&every_key).unwrap();
        let documentation = include_str!("../docs/configuration.md");
        for line in printed.lines() {
            let key = line.split('=').next().unwrap_or_default().trim();
            if key.is_empty() {
                continue;
            }
            assert!(example.contains(key), "{key} is not in the example");
            let documented = key.trim_matches(['[', ']']);
            assert!(
                documentation.contains(&format!("`{documented}`")) || key.starts_with('['),
                "{key} is not documented"
            );
        }
    }
}
