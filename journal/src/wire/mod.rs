//! Blocks, events and rows as bytes. The only place where the ledger's bytes are made.
//!
//! A [`block`] is a header and commits; an event in it is `kind, version, length, payload`, so that
//! a reader knows what it has before it looks inside. Payloads are postcard, which cannot evolve in
//! place: the structs of [`v1`] are frozen, a change is a new version beside them, and [`upcast`]
//! leads from one to the next. Numbers of [`kind`]s are never used again.
//!
//! Domain types know nothing of this; each conversion is written out here, in both directions.
//! [`state`] holds the encodings of rows: of views, which can be rebuilt, and of the state's digest.

pub mod block;
pub mod kind;
pub mod message;
pub mod readable;
pub mod state;
pub mod upcast;
pub mod v1;

pub use block::{BlockHeader, EncodedBlock, decode_block, encode_block, verify_hash};
pub use kind::Kind;
pub use readable::ReadableEvent;
pub use upcast::{decode_event, encode_event, kind_of};

/// Why bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not the encoding of what should be there.
    #[error("{what} cannot be decoded: {source}")]
    Encoding {
        /// What should be there.
        what: &'static str,
        /// What the decoder says.
        source: postcard::Error,
    },
    /// Bytes are left over.
    #[error("{excess} bytes are left after {what}")]
    Excess {
        /// What was read.
        what: &'static str,
        /// How many.
        excess: usize,
    },
    /// It ends too early.
    #[error("it ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A value that cannot be.
    #[error("{value} is not a {what}")]
    Value {
        /// What should be there.
        what: &'static str,
        /// What is.
        value: u64,
    },
    /// An event that this program does not know: written by a newer one, or damaged.
    #[error("event kind {kind} is not known")]
    UnknownKind {
        /// Its number.
        kind: u16,
    },
    /// A version that this program does not know: written by a newer one, or damaged.
    #[error("version {version} of event kind {kind} ({}) is not known", kind.name(), kind = kind.number())]
    UnknownVersion {
        /// The kind.
        kind: Kind,
        /// Its version.
        version: u16,
    },
    /// An event's payload is not one.
    #[error("the payload of event kind {} ({}) is invalid: {source}", kind.number(), kind.name())]
    Payload {
        /// The kind.
        kind: Kind,
        /// What is wrong with it.
        source: Box<Invalid>,
    },
}

impl Invalid {
    /// Reads one postcard value that must fill all of `bytes`.
    pub(crate) fn all<'a, W: serde::Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<W, Self> {
        let (value, rest) =
            postcard::take_from_bytes(bytes).map_err(|source| Self::Encoding { what, source })?;
        if rest.is_empty() { Ok(value) } else { Err(Self::Excess { what, excess: rest.len() }) }
    }
}

/// Appends a wire struct's postcard bytes to `out`.
pub(crate) fn write_postcard<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    match postcard::to_extend(value, std::mem::take(out)) {
        Ok(written) => *out = written,
        // Writing to a vector cannot fail, and wire structs have no parts of unknown length.
        Err(error) => unreachable!("a wire struct at byte {start} has no encoding: {error}"),
    }
}
