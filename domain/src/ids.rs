//! Every identifier of the ledger, each its own type, so that one is never taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes an id that was drawn elsewhere: this crate has no randomness.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as a plain UUID, for wire formats and file names.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

uuid_ids! {
    /// A volume, as Cinder clients know it (random, version 4).
    VolumeId,
    /// A snapshot of one volume (random, version 4).
    SnapshotId,
    /// A volume type (random, version 4).
    VolumeTypeId,
    /// An image in an image store (random, version 4).
    ImageId,
    /// One server's use of a volume (random, version 4).
    AttachmentId,
    /// One command. The operation that it opens carries the same UUID.
    CommandId,
    /// A long-running piece of work; equal to the id of the command that opened it, or derived from
    /// it where one command opens several.
    OperationId,
}

impl From<CommandId> for OperationId {
    fn from(command: CommandId) -> Self {
        Self(command.0)
    }
}

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name that the edge has already checked.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &self.0)
            }
        }
    )*};
}

text_ids! {
    /// A project (tenant): the owner of volumes and snapshots, and the unit of quota.
    ProjectId,
    /// Whoever asked, as the identity service names them.
    UserId,
    /// The HTTP request that a command came from: the correlation id of everything it causes.
    RequestId,
    /// A configured backend, unique in the deployment ("lvm-fast").
    BackendName,
    /// A pool within a backend.
    PoolName,
    /// An availability zone.
    ZoneName,
    /// What a client sent as `Idempotency-Key`.
    IdempotencyKey,
}

/// One pool of one backend: where a volume lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The backend whose executor does the work.
    pub backend: BackendName,
    /// The pool within it.
    pub pool: PoolName,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.backend, self.pool)
    }
}

impl OperationId {
    /// The id of a further operation of the same command, about this attachment. Ids that are counted
    /// up, as in simulations, must not meet either: so the attachment's is spread over all bits first.
    pub fn beside(self, attachment: AttachmentId) -> Self {
        /// 2^128 over the golden ratio: odd, so that no two attachments become one.
        const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        let spread = attachment.as_uuid().as_u128().wrapping_mul(SPREAD);
        Self::from_uuid(Uuid::from_u128(self.as_uuid().as_u128() ^ spread))
    }
}

/// A cleanup debt: the operation that incurred it, and a number within that operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DebtId {
    /// The operation that could not remove something.
    pub operation: OperationId,
    /// Counts the debts of that operation, from 0.
    pub ordinal: u16,
}

impl fmt::Display for DebtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.operation, self.ordinal)
    }
}

impl FromStr for DebtId {
    type Err = InvalidDebtId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (operation, ordinal) = text.split_once('.').ok_or(InvalidDebtId)?;
        Ok(Self {
            operation: operation.parse().map_err(|_| InvalidDebtId)?,
            ordinal: ordinal.parse().map_err(|_| InvalidDebtId)?,
        })
    }
}

/// The text is not `<operation uuid>.<number>`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a debt id is an operation's UUID, a dot and a number")]
pub struct InvalidDebtId;

/// The place of a commit in the ledger: 1 for the first, no gaps. 0 is the empty ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first commit.
    pub const START: Self = Self(0);

    /// The position of the commit that follows.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
