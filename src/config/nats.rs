//! `[nats]`: how the servers are reached that carry the journal where the roles are on several
//! hosts.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tephra_journal::jetstream::{DurabilityClaim, NatsAuth, NatsConfig, NatsTls, USUAL_API};
use tephra_journal::subjects::Cell;

use super::refuse;
use crate::failure::CommandResult;

/// The shortest lease: below it, a busy disk would look like a dead leader.
const SHORTEST_LEASE_MS: u64 = 500;

/// `[nats]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSection {
    /// `nats://host:port` or `tls://host:port`. None: the journal is a file of this machine.
    pub servers: Vec<String>,
    /// Which ledger of those on the servers.
    pub cell: String,
    /// On how many servers everything is kept.
    pub replicas: usize,
    /// Tags that servers must have to keep it.
    pub placement: Vec<String>,
    /// A file with a JWT and its seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// A file with the seed of an NKey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey_file: Option<PathBuf>,
    /// Where answers come, if the permissions are bound to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox_prefix: Option<String>,
    /// Where JetStream of the ledger's account answers. Another than `$JS.API` for roles that have an
    /// account of their own.
    pub ledger_api: String,
    /// Whether the connection must be encrypted; `tls://` says so too.
    pub tls: bool,
    /// Whom to trust, beside the system's authorities: PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate: PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key: PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// The seed of an NKey of the system account, to ask whether the servers sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_nkey_file: Option<PathBuf>,
    /// The operator's word that the servers sync before they acknowledge.
    pub servers_sync: bool,
    /// Goes on with servers that may lose what they acknowledged.
    pub allow_unsynced: bool,
    /// How long a sequencer may be silent before another takes over, in milliseconds.
    pub lease_ms: u64,
}

impl Default for NatsSection {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            cell: Cell::default().to_string(),
            replicas: 1,
            placement: Vec::new(),
            credentials_file: None,
            nkey_file: None,
            inbox_prefix: None,
            ledger_api: USUAL_API.to_owned(),
            tls: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            system_nkey_file: None,
            servers_sync: false,
            allow_unsynced: false,
            lease_ms: 3000,
        }
    }
}

impl NatsSection {
    /// Whether the journal is on NATS.
    pub const fn is_used(&self) -> bool {
        !self.servers.is_empty()
    }

    /// How long a sequencer may be silent.
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// What the journal's adapter takes.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::failure::Exit::Usage), with the key, for values that cannot be meant.
    pub fn adapter(&self) -> CommandResult<NatsConfig> {
        let cell: Cell = self.cell.parse().map_err(|error| refuse("nats.cell", error))?;
        if self.servers.iter().any(|server| !server.contains("://")) {
            return Err(refuse("nats.servers", "each must begin with nats:// or tls://"));
        }
        if !is_plain_subject(&self.ledger_api) {
            return Err(refuse("nats.ledger_api", "must be a subject without wildcards, as `$JS.API`"));
        }
        if !matches!(self.replicas, 1 | 3 | 5) {
            return Err(refuse("nats.replicas", "must be 1, 3 or 5"));
        }
        if self.lease_ms < SHORTEST_LEASE_MS {
            return Err(refuse("nats.lease_ms", format!("must be at least {SHORTEST_LEASE_MS}")));
        }
        let auth = match (&self.credentials_file, &self.nkey_file) {
            (None, None) => NatsAuth::Anonymous,
            (Some(file), None) => NatsAuth::CredentialsFile(file.clone()),
            (None, Some(file)) => NatsAuth::NkeyFile(file.clone()),
            (Some(_), Some(_)) => {
                return Err(refuse("nats.nkey_file", "there is a credentials_file: one of the two"));
            }
        };
        let client = match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (Some(_), None) => return Err(refuse("nats.tls_key_file", "the certificate needs its key")),
            (None, Some(_)) => return Err(refuse("nats.tls_cert_file", "the key needs its certificate")),
        };
        let durability = match (&self.system_nkey_file, self.servers_sync) {
            (Some(_), true) => {
                let reason = "there is servers_sync = true: either the servers are asked, or it is stated";
                return Err(refuse("nats.system_nkey_file", reason));
            }
            (None, true) => DurabilityClaim::Stated,
            (Some(file), false) => DurabilityClaim::AskAs(NatsAuth::NkeyFile(file.clone())),
            (None, false) => DurabilityClaim::Ask,
        };
        Ok(NatsConfig {
            servers: self.servers.clone(),
            auth,
            tls: NatsTls { required: self.tls, ca_file: self.tls_ca_file.clone(), client },
            inbox_prefix: self.inbox_prefix.clone(),
            ledger_api: self.ledger_api.clone(),
            cell,
            replicas: self.replicas,
            placement_tags: self.placement.clone(),
            durability,
            allow_unsynced: self.allow_unsynced,
        })
    }
}

/// Whether a text can be the beginning of a subject that something is sent to.
fn is_plain_subject(text: &str) -> bool {
    let is_plain =
        |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c));
    text.split('.').all(is_plain)
}
