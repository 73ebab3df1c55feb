//! What is on a pool, on its way to whoever asked.

use tephra_domain::drift::FoundObject;

use super::codec::{wire_enum, wire_struct};
use super::values::{FailureV1, FoundKindV1};
use crate::inventory::InventoryPart;

wire_struct! {
    /// Something that a backend shows.
    FoundObjectV1<'a> for FoundObject { name: &'a str, kind: FoundKindV1<'a>, bytes: u64, in_use: bool }
}

wire_enum! {
    /// One message of an answer.
    InventoryPartV1<'a> for InventoryPart {
        0 Objects { number: u32, more: bool, objects: Vec<FoundObjectV1<'a>> }
            = { InventoryPart::Objects { number, more, objects } };
        1 Failed { failure: FailureV1<'a> } = { InventoryPart::Failed(failure) };
    }
}
