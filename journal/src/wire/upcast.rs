//! From the versions on disk to the domain.
//!
//! A new version of a payload is a struct of its own (`v2`), a pure function here that makes the
//! new one out of the old one, and an arm in [`decode_event`]. What is written is always the
//! newest, [`written_version`]. Old bytes are never rewritten.

use tephra_domain::event::Event;

use super::{Invalid, Kind, v1};

/// The version in which a kind is written today.
pub const fn written_version(_kind: Kind) -> u16 {
    1
}

/// Appends an event's payload to `out`, in the version in which it is written today.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) -> (Kind, u16) {
    let (kind, payload) = v1::events::Payload::of(event);
    super::write_postcard(&payload, out);
    (kind, written_version(kind))
}

/// An event's kind, without encoding it.
pub fn kind_of(event: &Event) -> Kind {
    v1::events::Payload::of(event).0
}

/// Reads an event in whatever version it was written.
///
/// # Errors
/// Loudly, for a kind or version that this program does not know, and for anything that is not
/// what its kind and version say.
pub fn decode_event(kind: u16, version: u16, payload: &[u8]) -> Result<Event, Invalid> {
    let kind = Kind::from_number(kind).ok_or(Invalid::UnknownKind { kind })?;
    match version {
        1 => v1::events::decode(kind, payload)
            .map_err(|source| Invalid::Payload { kind, source: Box::new(source) }),
        version => Err(Invalid::UnknownVersion { kind, version }),
    }
}
