//! How NATS servers are reached, and as whom.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};

use crate::subjects::Cell;

/// The longest wait between two attempts to connect. A server that comes back is found within it.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the connection is tried out. Two pings without an answer and it is given up: this is
/// what notices a peer that vanished without a word, about as fast as the other servers do.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long an answer of JetStream is waited for; publish acks too. Above the fsync of a slow disk,
/// well below an election of three servers (4 to 9 s): an append that hangs in one is asked about.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Where JetStream answers in its own account.
pub const USUAL_API: &str = "$JS.API";

/// Everything about the NATS servers of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// `nats://host:port` or `tls://host:port`, any number; one of them must be there at the start.
    pub servers: Vec<String>,
    /// Who we are to the servers.
    pub auth: NatsAuth,
    /// How the connection is encrypted.
    pub tls: NatsTls,
    /// The prefix of our inboxes, if our permissions are bound to one.
    pub inbox_prefix: Option<String>,
    /// Where JetStream of the ledger's account answers us: `$JS.API`, unless we have an account of our
    /// own, into which it is imported under another name.
    pub ledger_api: String,
    /// Which ledger.
    pub cell: Cell,
    /// On how many servers each stream is kept: 1, 3 or 5.
    pub replicas: usize,
    /// Tags that servers must have to keep a stream.
    pub placement_tags: Vec<String>,
    /// How it is known that acknowledged means synced.
    pub durability: DurabilityClaim,
    /// Goes on with servers that may lose what they acknowledged. For a laptop.
    pub allow_unsynced: bool,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            auth: NatsAuth::default(),
            tls: NatsTls::default(),
            inbox_prefix: None,
            ledger_api: USUAL_API.to_owned(),
            cell: Cell::default(),
            replicas: 1,
            placement_tags: Vec::new(),
            durability: DurabilityClaim::default(),
            allow_unsynced: false,
        }
    }
}

/// Who we are to the servers.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum NatsAuth {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A `.creds` file: a JWT and the seed that signs for it.
    CredentialsFile(PathBuf),
    /// A file with the seed of an NKey.
    NkeyFile(PathBuf),
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for NatsAuth {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::CredentialsFile(path) => write!(f, "CredentialsFile({})", path.display()),
            Self::NkeyFile(path) => write!(f, "NkeyFile({})", path.display()),
            Self::Password { user, .. } => write!(f, "Password({user})"),
        }
    }
}

/// How the connection is encrypted. `tls://` in an address encrypts too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Whether it must be.
    pub required: bool,
    /// Whom to trust, beside the system's authorities: PEM.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key: PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How it is known that the servers sync before they acknowledge. They say it to their system
/// account alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DurabilityClaim {
    /// Ask over our own connection: the system account exports `$SYS.REQ.SERVER.PING.JSZ` to ours.
    #[default]
    Ask,
    /// Ask as a user of the system account.
    AskAs(NatsAuth),
    /// The operator says so, and answers for it.
    Stated,
}

/// Why NATS cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A file of the configuration cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No server lets us in, and none will: we are not who they know, or not to be trusted by TLS.
    #[error("cannot connect to {servers}: {reason}")]
    Connect {
        /// All that were tried.
        servers: String,
        /// What the last one said.
        reason: String,
    },
    /// No server answers just now; one may later.
    #[error("no NATS server answers at {servers}: {reason}")]
    Unreachable {
        /// All that were tried.
        servers: String,
        /// What became of the last attempt.
        reason: String,
    },
    /// A stream, consumer or bucket cannot be made or found.
    #[error("{what}: {reason}")]
    JetStream {
        /// Which.
        what: String,
        /// What the server says.
        reason: String,
    },
    /// Too few servers have the tags that streams are to be placed by.
    #[error(
        "stream {stream} is to be on servers with the tags {tags:?} (`placement` in `[nats]`), as many as \
         `replicas`, {replicas}, says, and there are fewer: {reason}. Give servers the tags, with \
         `server_tags` in their configuration, or name others"
    )]
    Placement {
        /// Which stream.
        stream: String,
        /// What a server must have, all of them.
        tags: Vec<String>,
        /// On how many servers.
        replicas: usize,
        /// What the servers say.
        reason: String,
    },
    /// The server would lose what it acknowledged.
    #[error(transparent)]
    Refused(#[from] super::checks::RefusedServer),
}

impl NatsError {
    pub(super) fn jetstream(what: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::JetStream { what: what.into(), reason: reason.to_string() }
    }
}

/// Connects, and stays connected for as long as the client lives. `name` is what the server lists
/// the connection under: say the role and the host.
///
/// # Errors
/// [`NatsError::Unreachable`] if no server answers, [`NatsError::Connect`] if none lets us in, or if a
/// file of the configuration cannot be read.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Client, NatsError> {
    connect_as(config, &config.auth, name).await
}

pub(super) async fn connect_as(
    config: &NatsConfig,
    auth: &NatsAuth,
    name: &str,
) -> Result<Client, NatsError> {
    let label = name.to_owned();
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(ANSWER_TIMEOUT))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            log_event(&label, &event);
            std::future::ready(())
        });
    if let Some(prefix) = &config.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    options = with_tls(options, &config.tls);
    options = with_auth(options, auth).await?;
    options.connect(config.servers.as_slice()).await.map_err(|error| {
        let (servers, reason) = (config.servers.join(", "), error.to_string());
        if may_get_better(&error) {
            NatsError::Unreachable { servers, reason }
        } else {
            NatsError::Connect { servers, reason }
        }
    })
}

/// Whether a server may answer later that does not now. One that has answered, and does not let us in or
/// is not to be trusted, will not change its mind.
fn may_get_better(error: &ConnectError) -> bool {
    match error.kind() {
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut => true,
        ConnectErrorKind::Io => {
            let source = std::error::Error::source(error);
            let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
            // What rustls finds wrong with certificates, or with a server that does not speak TLS.
            io.is_none_or(|io| io.kind() != std::io::ErrorKind::InvalidData)
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Tls
        | ConnectErrorKind::MaxReconnects => false,
    }
}

fn with_tls(mut options: ConnectOptions, tls: &NatsTls) -> ConnectOptions {
    if let Some(ca) = &tls.ca_file {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options.require_tls(tls.required)
}

async fn with_auth(options: ConnectOptions, auth: &NatsAuth) -> Result<ConnectOptions, NatsError> {
    let unusable = |path: &PathBuf, error: std::io::Error| NatsError::File {
        path: path.clone(),
        reason: error.to_string(),
    };
    match auth {
        NatsAuth::Anonymous => Ok(options),
        NatsAuth::CredentialsFile(path) => {
            options.credentials_file(path).await.map_err(|error| unusable(path, error))
        }
        NatsAuth::NkeyFile(path) => {
            let text = tokio::fs::read_to_string(path).await.map_err(|error| unusable(path, error))?;
            Ok(options.nkey(text.trim().to_owned()))
        }
        NatsAuth::Password { user, password } => {
            Ok(options.user_and_password(user.clone(), password.clone()))
        }
    }
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(6);
    Duration::from_millis(50).saturating_mul(1 << doublings).min(LONGEST_RECONNECT_DELAY)
}

fn log_event(connection: &str, event: &Event) {
    match event {
        Event::Connected => tracing::info!(connection, "connected to NATS"),
        Event::Disconnected => tracing::warn!(connection, "the connection to NATS is lost"),
        Event::LameDuckMode => tracing::info!(connection, "the NATS server is about to stop"),
        Event::SlowConsumer(subscription) => {
            tracing::warn!(connection, subscription, "messages were dropped: we read too slowly");
        }
        Event::ServerError(error) => tracing::warn!(connection, %error, "NATS says no"),
        Event::ClientError(error) => tracing::warn!(connection, %error, "the connection to NATS failed"),
        Event::Draining | Event::Closed => tracing::debug!(connection, "the connection to NATS is closed"),
    }
}

/// JetStream of our own account over a connection, with our time limits.
pub(super) fn jetstream(client: &Client) -> Context {
    ContextBuilder::new().timeout(ANSWER_TIMEOUT).build(client.clone())
}

/// JetStream of the account that the ledger and the work orders are in, likewise.
pub(super) fn ledger_jetstream(client: &Client, config: &NatsConfig) -> Context {
    let builder = ContextBuilder::new().timeout(ANSWER_TIMEOUT);
    builder.api_prefix(config.ledger_api.clone()).build(client.clone())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use async_nats::{ConnectError, ConnectErrorKind};

    use super::{NatsAuth, may_get_better, reconnect_delay};

    #[test]
    fn a_password_is_in_no_debug_output() {
        let auth = NatsAuth::Password { user: "api".into(), password: "hunter2".into() };
        assert_eq!(format!("{auth:?}"), "Password(api)");
    }

    #[test]
    fn a_server_that_does_not_answer_is_worth_waiting_for_and_one_that_says_no_is_not() {
        let io = |kind: io::ErrorKind| ConnectError::with_source(ConnectErrorKind::Io, io::Error::from(kind));
        for later in [
            io(io::ErrorKind::ConnectionRefused),
            io(io::ErrorKind::HostUnreachable),
            io(io::ErrorKind::ConnectionReset),
            ConnectError::with_source(ConnectErrorKind::Io, "expected INFO, got nothing"),
            ConnectError::new(ConnectErrorKind::Dns),
            ConnectError::new(ConnectErrorKind::TimedOut),
        ] {
            assert!(may_get_better(&later), "{later}");
        }
        for never in [
            io(io::ErrorKind::InvalidData),
            ConnectError::new(ConnectErrorKind::AuthorizationViolation),
            ConnectError::new(ConnectErrorKind::Authentication),
            ConnectError::new(ConnectErrorKind::Tls),
            ConnectError::new(ConnectErrorKind::ServerParse),
        ] {
            assert!(!may_get_better(&never), "{never}");
        }
    }

    #[test]
    fn reconnecting_slows_down_to_a_limit() {
        assert_eq!(reconnect_delay(0), Duration::from_millis(50));
        assert_eq!(reconnect_delay(2), Duration::from_millis(200));
        assert_eq!(reconnect_delay(usize::MAX), Duration::from_secs(2));
    }
}
