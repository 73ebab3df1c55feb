//! What clients say about the host that connects (os-brick's connector properties).

use serde_json::Value;
use tephra_domain::attachment::{AttachMode, Connector};

use super::check::{Field, Object};
use crate::error::Fault;

/// Characters of an iSCSI name, at most (RFC 7143).
const MAX_INITIATOR: usize = 223;

/// Characters of any other text, at most.
const MAX_FACT: usize = 255;

/// A connector with the mode that it asks for.
#[derive(Clone, Debug)]
pub struct Connecting {
    /// The host.
    pub connector: Connector,
    /// Whether it wants to write; nothing if it does not say.
    pub mode: Option<AttachMode>,
}

/// Reads a connector: what is not needed of it is not looked at.
///
/// # Errors
/// 400 for what is no connector.
pub fn connecting(field: &Field<'_>) -> Result<Connecting, Fault> {
    let fields = field.object()?;
    let connector = Connector {
        host: fact(&fields, "host", MAX_FACT)?,
        initiator: word(&fields, "initiator")?,
        ip: address(&fields, "ip")?,
        mountpoint: fact(&fields, "mountpoint", MAX_FACT)?,
        multipath: is_true(&fields, "multipath"),
        enforce_multipath: is_true(&fields, "enforce_multipath"),
    };
    let mode = fields.field("mode").map(|field| mode(&field)).transpose()?.flatten();
    Ok(Connecting { connector, mode })
}

/// `rw`, `ro`, or nothing: null and the text `null`.
///
/// # Errors
/// 400 for anything else.
pub fn mode(field: &Field<'_>) -> Result<Option<AttachMode>, Fault> {
    match field.value() {
        Value::Null => Ok(None),
        Value::String(text) if text == "null" => Ok(None),
        Value::String(text) if text == "rw" => Ok(Some(AttachMode::ReadWrite)),
        Value::String(text) if text == "ro" => Ok(Some(AttachMode::ReadOnly)),
        value @ (Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_)) => {
            let shown = super::python::repr(value);
            Err(field.refuse(&format!("{shown} is not one of ['rw', 'ro']")))
        }
    }
}

fn is_true(fields: &Object<'_>, name: &str) -> bool {
    fields.fields().any(|field| field.name() == name && *field.value() == Value::Bool(true))
}

/// A text without control characters; null and an empty one are none.
fn fact<'a>(fields: &Object<'a>, name: &'a str, max: usize) -> Result<Option<Box<str>>, Fault> {
    let Some(field) = fields.field(name).filter(|field| !field.value().is_null()) else { return Ok(None) };
    let text = field.text(0, max)?;
    if text.chars().any(char::is_control) {
        return Err(field.refuse("it has control characters"));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// A name that goes into access lists as it is.
fn word<'a>(fields: &Object<'a>, name: &'a str) -> Result<Option<Box<str>>, Fault> {
    let found = fact(fields, name, MAX_INITIATOR)?;
    let is_name = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_'))
            && !text.starts_with('-')
    };
    match found {
        Some(text) if !is_name(&text) => {
            Err(fields.refuse(&format!("{} is not an iSCSI name", super::python::repr_str(&text))))
        }
        Some(_) | None => Ok(found),
    }
}

fn address<'a>(fields: &Object<'a>, name: &'a str) -> Result<Option<Box<str>>, Fault> {
    let found = fact(fields, name, MAX_FACT)?;
    match found {
        Some(text) if text.parse::<std::net::IpAddr>().is_err() => {
            Err(fields.refuse(&format!("{} is not an IP address", super::python::repr_str(&text))))
        }
        Some(_) | None => Ok(found),
    }
}
