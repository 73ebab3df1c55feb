//! `[lending]`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tephra_executors::copy::{LOAN_LASTS, LendingConfig};

use super::refuse;
use crate::failure::CommandResult;

/// Where NBD usually listens, and the ports after it.
const FIRST_PORT: u16 = 10809;

/// How many ports that is.
const PORTS: u16 = 32;

/// Whether executors of other hosts may copy from the backends of this process, and where they read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LendingSection {
    /// The address of this host that they reach. Without one nothing is lent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The first port; each copy that is being made of something here needs one.
    pub first_port: u16,
    /// How many ports from there on.
    pub ports: u16,
}

impl Default for LendingSection {
    fn default() -> Self {
        Self { address: None, first_port: FIRST_PORT, ports: PORTS }
    }
}

impl LendingSection {
    /// Where loans are served, if they are.
    ///
    /// # Errors
    /// The key of a value that cannot be meant.
    pub fn adapter(&self) -> CommandResult<Option<LendingConfig>> {
        let Self { address, first_port, ports } = *self;
        let Some(address) = address else { return Ok(None) };
        if address.is_unspecified() || address.is_multicast() {
            return Err(refuse("lending.address", "other hosts must be told one address of this host"));
        }
        let last = ports.checked_sub(1).and_then(|more| first_port.checked_add(more));
        match last {
            Some(last) if first_port > 0 => {
                Ok(Some(LendingConfig { address, ports: first_port..=last, lasts: LOAN_LASTS }))
            }
            Some(_) | None => {
                Err(refuse("lending.ports", "between 1 and what there is above lending.first_port"))
            }
        }
    }
}
