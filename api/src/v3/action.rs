//! `POST …/action`: one top-level key says what is to be done.

use serde_json::Value;

use crate::error::Fault;
use crate::request::JsonBody;

/// The action that a body names.
///
/// # Errors
/// 400 for a body that is empty, not an object, or has more keys than one.
pub(super) fn name_of(body: &JsonBody) -> Result<(&str, &Value), Fault> {
    let Some(json) = &body.json else { return Err(unknown("None")) };
    let fields = json.as_object().filter(|fields| fields.len() == 1).ok_or_else(Fault::malformed_body)?;
    let name = fields.keys().next().ok_or_else(Fault::malformed_body)?;
    Ok((name, json))
}

/// The refusal of an action that is not there.
pub(super) fn unknown(name: &str) -> Fault {
    Fault::bad_request(format!(
        "There is no such action: {name}. Verify the request body and Content-Type header and try again."
    ))
}

/// The refusal of a status that only operations lead to, or that nothing here has.
pub(super) fn not_resettable(status: &str) -> Fault {
    Fault::bad_request(format!(
        "Invalid input received: Status '{status}' cannot be set by hand: it belongs to operations."
    ))
}

/// A list of words as Python writes a tuple of them.
pub(super) fn tuple(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("({})", words.join(", "))
}
