//! Events for people and for JSON.

use serde::{Serialize, Serializer};
use tephra_domain::event::Event;

use super::v1::events::Payload;

/// Serializes an event's payload, as it would be written, in a readable form: with the names of
/// fields, ids as text and codes by name. For any self-describing format; not for reading back.
#[derive(Clone, Copy, Debug)]
pub struct ReadableEvent<'a>(pub &'a Event);

impl Serialize for ReadableEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Payload::of(self.0).1.serialize(serializer)
    }
}
