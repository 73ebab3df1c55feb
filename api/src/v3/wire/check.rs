//! Reads bodies as Cinder's JSON schemas do, and refuses them in the same words.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::python::{repr, repr_str, str};
use crate::error::Fault;

/// Characters of a name, a description, a metadata key or value, at most.
pub const MAX_TEXT: usize = 255;

const TRUE_WORDS: &[&str] = &["True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t"];
const FALSE_WORDS: &[&str] =
    &["False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"];

/// What keys of metadata may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPattern {
    /// Volumes' metadata, and extra specs.
    WithSlash,
    /// Snapshots' metadata.
    WithoutSlash,
    /// Keys of extra specs without spaces.
    WithoutSpace,
}

impl KeyPattern {
    const fn regex(self) -> &'static str {
        match self {
            Self::WithSlash => "^[a-zA-Z0-9-_:. /]{1,255}$",
            Self::WithoutSlash => "^[a-zA-Z0-9-_:. ]{1,255}$",
            Self::WithoutSpace => "^[a-zA-Z0-9-_:.]{1,255}$",
        }
    }

    /// Whether a key is one.
    pub fn matches(self, key: &str) -> bool {
        let fits = |c: char| {
            c.is_ascii_alphanumeric()
                || matches!(c, '-' | '_' | ':' | '.')
                || match self {
                    Self::WithSlash => c == ' ' || c == '/',
                    Self::WithoutSlash => c == ' ',
                    Self::WithoutSpace => false,
                }
        };
        (1..=MAX_TEXT).contains(&key.len()) && key.chars().all(fits)
    }
}

/// A JSON object with its name in its parent.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    name: Option<&'a str>,
    fields: &'a Map<String, Value>,
    value: &'a Value,
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    name: &'a str,
    value: &'a Value,
}

impl<'a> Object<'a> {
    /// The body itself.
    ///
    /// # Errors
    /// 400 if it is no object.
    pub fn body(value: &'a Value) -> Result<Self, Fault> {
        match value {
            Value::Object(fields) => Ok(Self { name: None, fields, value }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(Fault::bad_request(format!("{} is not of type 'object'", repr(value))))
            }
        }
    }

    /// The one object that a body consists of: `{"volume": {…}}`.
    ///
    /// # Errors
    /// 400 if it is missing, no object, or has company.
    pub fn only(body: &'a Value, name: &'static str) -> Result<Self, Fault> {
        let outer = Self::body(body)?;
        let inner = outer.required(name)?.object()?;
        outer.deny_unknown(&[name])?;
        Ok(inner)
    }

    /// A field, if it is there.
    pub fn field(&self, name: &'a str) -> Option<Field<'a>> {
        self.fields.get(name).map(|value| Field { name, value })
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// 400 if it is not.
    pub fn required(&self, name: &'a str) -> Result<Field<'a>, Fault> {
        self.field(name).ok_or_else(|| self.refuse(&format!("{} is a required property", repr_str(name))))
    }

    /// Whether it has such a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Whether it has no fields at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The object itself.
    pub const fn value(&self) -> &'a Value {
        self.value
    }

    /// Its fields' names and values.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> {
        self.fields.iter().map(|(name, value)| Field { name, value })
    }

    /// Refuses fields that are not in `known`.
    ///
    /// # Errors
    /// 400 that names them.
    pub fn deny_unknown(&self, known: &[&str]) -> Result<(), Fault> {
        let extra: Vec<String> = self
            .fields
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .map(|key| repr_str(key))
            .collect();
        let verb = if extra.len() == 1 { "was" } else { "were" };
        if extra.is_empty() {
            return Ok(());
        }
        Err(self.refuse(&format!(
            "Additional properties are not allowed ({} {verb} unexpected)",
            extra.join(", ")
        )))
    }

    /// Refuses the object as a whole.
    pub fn refuse(&self, reason: &str) -> Fault {
        match self.name {
            Some(name) => refusal(name, self.value, reason),
            None => Fault::bad_request(reason.to_owned()),
        }
    }
}

fn refusal(name: &str, value: &Value, reason: &str) -> Fault {
    Fault::bad_request(format!("Invalid input for field/attribute {name}. Value: {}. {reason}", str(value)))
}

impl<'a> Field<'a> {
    /// A value under a name, from elsewhere than an object.
    pub const fn new(name: &'a str, value: &'a Value) -> Self {
        Self { name, value }
    }

    /// Its name.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Its value.
    pub const fn value(&self) -> &'a Value {
        self.value
    }

    /// Refuses it, for a reason in jsonschema's words.
    pub fn refuse(&self, reason: &str) -> Fault {
        refusal(self.name, self.value, reason)
    }

    fn wrong_type(&self, types: &str) -> Fault {
        self.refuse(&format!("{} is not of type {types}", repr(self.value)))
    }

    /// As an object.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn object(&self) -> Result<Object<'a>, Fault> {
        let fields = self.value.as_object().ok_or_else(|| self.wrong_type("'object'"))?;
        Ok(Object { name: Some(self.name), fields, value: self.value })
    }

    /// As a text with a number of characters in these bounds.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn text(&self, min: usize, max: usize) -> Result<&'a str, Fault> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type("'string'"))?;
        self.check_length(text, min, max)?;
        Ok(text)
    }

    /// As a text of at most 255 characters, or null.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn optional_text(&self, min: usize) -> Result<Option<&'a str>, Fault> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => {
                self.check_length(text, min, MAX_TEXT)?;
                Ok(Some(text))
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(self.wrong_type("'string', 'null'"))
            }
        }
    }

    /// As a text of any length, or null.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn any_text(&self) -> Result<Option<&'a str>, Fault> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(self.wrong_type("'string', 'null'"))
            }
        }
    }

    /// As a description of at most 255 printable characters, or null. Spaces around it do not count.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn printable(&self) -> Result<Option<Box<str>>, Fault> {
        let text = self.optional_text(0)?;
        if text.is_some_and(|text| text.chars().any(char::is_control)) {
            return Err(self.refuse(&format!("{} has characters that cannot be printed", repr(self.value))));
        }
        Ok(text.map(|text| text.trim().into()))
    }

    fn check_length(&self, text: &str, min: usize, max: usize) -> Result<(), Fault> {
        let length = text.chars().count();
        if length > max {
            Err(self.refuse(&format!("{} is too long", repr(self.value))))
        } else if length < min {
            Err(self.refuse(&format!("{} is too short", repr(self.value))))
        } else {
            Ok(())
        }
    }

    /// As a display name or description: spaces around it do not count and are taken away.
    /// `entity` is what the message calls it.
    ///
    /// # Errors
    /// 400 if it is neither a text nor null, or too long.
    pub fn label(&self, entity: &str) -> Result<Option<Box<str>>, Fault> {
        let text = match self.value {
            Value::Null => return Ok(None),
            Value::String(text) => text.trim(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return Err(self.wrong_type("'string', 'null'"));
            }
        };
        let length = text.chars().count();
        if length > MAX_TEXT {
            return Err(Fault::bad_request(format!(
                "Invalid input received: {entity} has {length} characters, more than {MAX_TEXT}."
            )));
        }
        Ok(Some(text.into()))
    }

    /// As one of Cinder's many words for true and false.
    ///
    /// # Errors
    /// 400 if it is none of them.
    pub fn boolean(&self) -> Result<bool, Fault> {
        match self.value {
            Value::Bool(value) => Ok(*value),
            Value::String(word) => boolean_word(word).ok_or_else(|| {
                let words = |value: &str, words: &[&str]| {
                    let words: Vec<String> = words.iter().map(|word| repr_str(word)).collect();
                    format!("{value}, {}", words.join(", "))
                };
                self.refuse(&format!(
                    "{} is not one of [{}, {}]",
                    repr(self.value),
                    words("True", TRUE_WORDS),
                    words("False", FALSE_WORDS),
                ))
            }),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(self.wrong_type("'boolean', 'string'"))
            }
        }
    }

    /// As a UUID, or null.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn optional_uuid(&self) -> Result<Option<Uuid>, Fault> {
        if self.value.is_null() {
            return Ok(None);
        }
        let uuid = self.value.as_str().and_then(|text| Uuid::try_parse(text).ok());
        uuid.map(Some).ok_or_else(|| {
            self.refuse(&format!("{} is not valid under any of the given schemas", repr(self.value)))
        })
    }

    /// As an integer between these bounds, from a number or a text of digits.
    ///
    /// # Errors
    /// 400 if it is none. `types` are the JSON types that the schema names.
    pub fn integer(&self, types: &str, min: i64, max: i64) -> Result<i64, Fault> {
        let value = match self.value {
            Value::Number(number) => match number.as_i64() {
                Some(value) => value,
                None if number.is_u64() || is_huge(number) => {
                    if number.as_f64().is_some_and(|value| value < 0.0) { i64::MIN } else { i64::MAX }
                }
                None => return Err(self.wrong_type(types)),
            },
            Value::String(text) => {
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(self.refuse(&format!("{} does not match '^[0-9]+$'", repr(self.value))));
                }
                text.parse().unwrap_or(i64::MAX)
            }
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(self.wrong_type(types));
            }
        };
        if value < min {
            Err(self.refuse(&format!("{} is less than the minimum of {min}", str(self.value))))
        } else if value > max {
            Err(self.refuse(&format!("{} is greater than the maximum of {max}", str(self.value))))
        } else {
            Ok(value)
        }
    }

    /// As a volume's size.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn size(&self) -> Result<SizeGib, Fault> {
        self.size_of("'integer', 'string'")
    }

    /// As a volume's size, or null.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn optional_size(&self) -> Result<Option<SizeGib>, Fault> {
        if self.value.is_null() {
            return Ok(None);
        }
        self.size_of("'integer', 'string', 'null'").map(Some)
    }

    fn size_of(&self, types: &str) -> Result<SizeGib, Fault> {
        let gib = self.integer(types, 1, i64::from(SizeGib::MAX))?;
        let size = u32::try_from(gib).ok().and_then(SizeGib::new);
        size.ok_or_else(|| self.wrong_type(types))
    }

    /// As keys and values.
    ///
    /// # Errors
    /// 400 if it is none, or a key or value is not as it may be.
    pub fn metadata(&self, pattern: KeyPattern) -> Result<BTreeMap<String, String>, Fault> {
        self.metadata_of(pattern, MAX_TEXT)
    }

    /// As keys and values of up to so many characters.
    ///
    /// # Errors
    /// As [`Field::metadata`].
    pub fn metadata_of(&self, pattern: KeyPattern, max: usize) -> Result<BTreeMap<String, String>, Fault> {
        let fields = self.value.as_object().ok_or_else(|| self.wrong_type("'object'"))?;
        let mut metadata = BTreeMap::new();
        let mut unfit = Vec::new();
        for (key, value) in fields {
            if !pattern.matches(key) {
                unfit.push(repr_str(key));
                continue;
            }
            let value = Self { name: key, value }.text(0, max)?;
            metadata.insert(key.clone(), value.to_owned());
        }
        if unfit.is_empty() {
            return Ok(metadata);
        }
        let verb = if unfit.len() == 1 { "does" } else { "do" };
        Err(self.refuse(&format!(
            "{} {verb} not match any of the regexes: {}",
            unfit.join(", "),
            repr_str(pattern.regex())
        )))
    }

    /// As keys and values; null for none.
    ///
    /// # Errors
    /// As [`Field::metadata`].
    pub fn optional_metadata(&self, pattern: KeyPattern) -> Result<BTreeMap<String, String>, Fault> {
        match self.value {
            Value::Null => Ok(BTreeMap::new()),
            Value::Object(_) => self.metadata(pattern),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(self.wrong_type("'object', 'null'"))
            }
        }
    }
}

fn is_huge(number: &serde_json::Number) -> bool {
    number.as_f64().is_some_and(|value| value.fract() == 0.0 && value.abs() >= 1e17)
}

/// One of Cinder's words for true and false.
pub fn boolean_word(word: &str) -> Option<bool> {
    if TRUE_WORDS.contains(&word) {
        Some(true)
    } else if FALSE_WORDS.contains(&word) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
