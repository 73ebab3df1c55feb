//! `tephra serve`: runs the server until it is told to stop.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{AuthMode, Config, DEFAULT_DATA_DIR, DEFAULT_LISTEN, LogConfig, LogFormat};
use crate::failure::{CommandError, CommandResult, Exit, WithExit as _};
use crate::output::{Ink, Output};
use crate::roles::RoleKind;
use crate::serve::{Server, full_path};

/// Run the server: Cinder's v3 API and the ledger's own, on one machine, with nothing to install,
/// or with its roles on several hosts over NATS.
///
/// Volumes are sparse files under the data directory unless a configuration names other backends.
/// At the start the whole journal is verified; a damaged one is refused, naming the block. SIGTERM
/// and Ctrl-C finish what is under way, a second one stops at once: nothing acknowledged is lost
/// either way.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra serve
  tephra serve --listen 127.0.0.1:0 --data-dir /srv/tephra
  tephra serve --config /etc/tephra/tephra.toml --log-format json
  tephra serve --nats nats://n1:4222,nats://n2:4222 --roles api
  tephra serve --nats nats://n1:4222,nats://n2:4222 --roles sequencer

Roles on several hosts: docs/deployment.md.
Every key of the configuration: docs/configuration.md.")]
pub struct ServeArgs {
    /// Where the HTTP API listens.
    #[arg(long, env = "TEPHRA_LISTEN", value_name = "ADDR", help = format!("Where the HTTP API listens [default: {DEFAULT_LISTEN}]"))]
    listen: Option<SocketAddr>,

    /// Where the journal, the views and the volumes are.
    #[arg(long, env = "TEPHRA_DATA_DIR", value_name = "DIR", help = format!("Where the journal, the views and the volumes are [default: {DEFAULT_DATA_DIR}]"))]
    data_dir: Option<PathBuf>,

    /// The configuration file.
    #[arg(long, env = "TEPHRA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// NATS servers that carry the journal; with them, roles can be on several hosts.
    #[arg(long, env = "TEPHRA_NATS", value_name = "URL", value_delimiter = ',')]
    nats: Option<Vec<String>>,

    /// What this process does [default: all].
    #[arg(long, env = "TEPHRA_ROLES", value_enum, value_name = "ROLE", value_delimiter = ',')]
    roles: Option<Vec<RoleKind>>,

    /// Go on with NATS servers that may lose what they acknowledged. For a laptop.
    #[arg(long)]
    allow_unsynced: bool,

    /// How log lines look.
    #[arg(long, env = "TEPHRA_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// What is logged, in the form of tracing's directives.
    #[arg(long = "log", env = "TEPHRA_LOG", value_name = "FILTER")]
    log_filter: Option<String>,
}

/// Do the storage work of this host's backends, for a ledger on NATS: `serve --roles executor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra executor --nats tls://n1:4222,tls://n2:4222 --config /etc/tephra/executor.toml")]
pub struct ExecutorArgs {
    #[command(flatten)]
    serve: ServeArgs,
}

impl ExecutorArgs {
    /// The same as an executor's `serve`.
    pub fn into_serve(self) -> ServeArgs {
        ServeArgs { roles: Some(vec![RoleKind::Executor]), ..self.serve }
    }
}

impl ServeArgs {
    fn config(&self) -> CommandResult<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if let Some(servers) = &self.nats {
            config.nats.servers.clone_from(servers);
        }
        if let Some(roles) = &self.roles {
            config.roles.clone_from(roles);
        }
        config.nats.allow_unsynced |= self.allow_unsynced;
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        if let Some(filter) = &self.log_filter {
            config.log.filter.clone_from(filter);
        }
        config.completed()
    }
}

/// Runs it until a signal or a death.
///
/// # Errors
/// What kept it from starting, or what died.
pub async fn run(args: &ServeArgs, output: Output) -> CommandResult {
    let config = args.config()?;
    start_log(&config.log)?;
    let mut signals = Signals::new()?;
    let mut server = tokio::select! {
        started = Server::start(&config, output) => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(());
        }
    };
    // whoever started the server need not listen to what it says
    drop(greet(&server, &config, output));
    let url = server.info.as_ref().map(|info| info.url.as_str());
    tracing::info!(url, data_dir = %config.data_dir.display(), roles = %roles_in_words(&config), "ready");

    let death = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: finishing what is under way");
            None
        }
        died = server.died() => {
            tracing::error!(%died, "stopping");
            Some(died)
        }
    };
    let stopped = tokio::select! {
        stopped = server.stop() => stopped,
        name = signals.next() => {
            tracing::warn!(signal = name, "stopping at once");
            std::process::exit(i32::from(Exit::Error.code()));
        }
    };
    if let Some(died) = death {
        return Err(CommandError::new(Exit::RoleDied, died));
    }
    stopped?;
    tracing::info!("stopped");
    Ok(())
}

fn start_log(config: &LogConfig) -> CommandResult {
    let filter = EnvFilter::try_new(&config.filter)
        .with_context(|| format!("log.filter `{}` is not right", config.filter))
        .exit(Exit::Usage)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| CommandError::new(Exit::Error, error))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> CommandResult<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Says where everything is, and what to try first.
fn greet(server: &Server, config: &Config, output: Output) -> CommandResult {
    let url = server.info.as_ref().map(|info| info.url.as_str());
    let data_dir = full_path(&config.data_dir);
    if output.is_json() {
        return output.json_line(&json!({
            "url": url,
            "data_dir": data_dir,
            "auth": server.info.as_ref().map(|info| &info.auth),
            "pid": std::process::id(),
            "position": server.verified.map(|head| head.position.0),
            "roles": config.roles,
        }));
    }
    let dim = |text: &str| output.ink(Ink::Dim, text);
    let command = |text: &str| output.ink(Ink::Accent, text);
    let place = match url {
        Some(url) => format!("It listens at {url}"),
        None => format!("It works as {}", roles_in_words(config)),
    };
    let mut lines = vec![
        format!("{} {}", output.ink(Ink::Good, "Tephra is ready."), output.ink(Ink::Heading, &place)),
        String::new(),
        format!("  {}      {}", dim("data"), data_dir.display()),
    ];
    lines.push(match &server.verified {
        Some(head) => {
            format!("  {}   {} commits in {} blocks, verified", dim("journal"), head.position, head.block.0)
        }
        None => {
            let (cell, servers) = (&config.nats.cell, config.nats.servers.join(", "));
            format!("  {}   cell {cell} on {servers}", dim("journal"))
        }
    });
    if config.has(RoleKind::Executor) {
        for backend in &config.backends {
            let place = match (&backend.rbd, &backend.lvm) {
                (Some(rbd), _) => format!("pools {} of {}", rbd.pools.join(", "), rbd.ceph_conf.display()),
                (None, Some(lvm)) => format!("the volume group {}", lvm.volume_group),
                (None, None) => full_path(&config.backend_directory(backend)).display().to_string(),
            };
            lines.push(format!("  {}   {} in {place}", dim("volumes"), backend.name));
        }
    }
    let Some(url) = url else {
        return output.text(&(lines.join("\n") + "\n"));
    };
    lines.push(format!("  {}      {}", dim("auth"), auth_in_words(config)));
    lines.push(String::new());
    for (title, text) in first_commands(config, url) {
        lines.push(title.to_owned());
        lines.push(format!("  {}", command(&text)));
    }
    lines.push(String::new());
    lines.push(dim(&format!("What happened: tephra log{}   Stop: Ctrl-C", data_dir_option(config))));
    output.text(&(lines.join("\n") + "\n"))
}

fn roles_in_words(config: &Config) -> String {
    let names: Vec<&str> = config.roles.iter().map(|role| role.as_str()).collect();
    names.join(", ")
}

fn data_dir_option(config: &Config) -> String {
    if config.data_dir == std::path::Path::new(DEFAULT_DATA_DIR) {
        String::new()
    } else {
        format!(" --data-dir {}", config.data_dir.display())
    }
}

const fn auth_in_words(config: &Config) -> &'static str {
    match (config.auth.mode, config.auth.everybody_is_admin) {
        (AuthMode::Noauth, false) => {
            "noauth: whoever says user:project is believed; the user admin is an administrator"
        }
        (AuthMode::Noauth, true) => "noauth: everybody is believed, and an administrator",
        (AuthMode::Tokens, _) => "tokens: only those of the token file",
    }
}

/// The commands that work against this server right now.
fn first_commands(config: &Config, url: &str) -> Vec<(&'static str, String)> {
    let openstack = |auth: &str| format!("openstack --os-auth-type {auth} --os-volume-api-version 3.71");
    match config.auth.mode {
        AuthMode::Noauth => vec![
            (
                "Try first:",
                format!("{} --os-endpoint {url}/v3 volume create --size 1 first", openstack("none")),
            ),
            (
                "As an administrator, in the project demo:",
                format!(
                    "{} --os-endpoint {url}/v3/demo --os-token admin:demo volume list --all-projects",
                    openstack("admin_token")
                ),
            ),
            (
                "With the cinder command:",
                format!(
                    "cinder --os-auth-type noauth --os-endpoint {url}/v3 --os-user-id admin --os-project-id demo --os-volume-api-version 3.71 list"
                ),
            ),
        ],
        AuthMode::Tokens => vec![(
            "Try first, with a token and its project:",
            format!(
                "{} --os-endpoint {url}/v3/PROJECT --os-token TOKEN volume create --size 1 first",
                openstack("admin_token")
            ),
        )],
    }
}
