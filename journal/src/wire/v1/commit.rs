//! What stands before the events of a commit.

use tephra_domain::actor::{Actor, Role};
use tephra_domain::event::Idempotency;

use super::codec::{Digest, Id, wire_code, wire_struct};

wire_code! {
    /// A role.
    RoleV1 for Role { 0 Reader, 1 Member, 2 Admin }
}

wire_struct! {
    /// Who asked.
    ActorV1<'a> for Actor { user: &'a str, project: &'a str, role: RoleV1, address: Option<&'a str> }
    /// A client's key for repeating a command.
    IdempotencyV1<'a> for Idempotency { key: &'a str, fingerprint: Digest }
}

/// Everything about a commit but its events.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "fields are named as in the domain")]
pub struct CommitHeadV1<'a> {
    pub position: u64,
    pub command: Id,
    pub request: &'a str,
    pub causation: Option<Id>,
    #[serde(borrow)]
    pub actor: ActorV1<'a>,
    pub time: i64,
    #[serde(borrow)]
    pub idempotency: Option<IdempotencyV1<'a>>,
    pub events: u32,
}
