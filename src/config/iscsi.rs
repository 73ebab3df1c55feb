//! `[backends.iscsi]`: how volumes are exported.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tephra_executors::export::tgt::DEFAULT_IQN_PREFIX;

/// The longest prefix, so that with an attachment's id a name stays within iSCSI's 223 bytes.
const IQN_PREFIX_LIMIT: usize = 128;

/// `[backends.iscsi]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IscsiSection {
    /// Where initiators connect: `address:port`.
    pub portal: String,
    /// What target names begin with.
    #[serde(default = "default_iqn_prefix")]
    pub iqn_prefix: String,
    /// tgtd's control port (`tgtd -C`).
    #[serde(default)]
    pub control_port: u16,
    /// tgtd's control socket without the port, if it is not the default (`TGT_IPC_SOCKET`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

fn default_iqn_prefix() -> String {
    DEFAULT_IQN_PREFIX.to_owned()
}

impl IscsiSection {
    /// The key that cannot be as it is, and why.
    pub(super) fn refused(&self) -> Option<(&'static str, &'static str)> {
        if self.portal.parse::<SocketAddr>().is_err() {
            return Some(("portal", "must be `address:port`, as initiators reach it"));
        }
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | ':' | '-');
        let fits = self.iqn_prefix.len() <= IQN_PREFIX_LIMIT;
        if !self.iqn_prefix.starts_with("iqn.") || !fits || !self.iqn_prefix.chars().all(is_name) {
            return Some((
                "iqn_prefix",
                "must begin with `iqn.`; small letters, digits, `.`, `:` and `-`, at most 128",
            ));
        }
        None
    }
}
