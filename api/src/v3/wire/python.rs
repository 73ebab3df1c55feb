//! The two places where Cinder's Python shows on the wire: values within messages, and filters
//! that are written as Python literals (`metadata={'key': 'value'}`).

use serde_json::{Map, Value};

/// How deep a literal may nest.
const MAX_DEPTH: usize = 8;

/// A JSON value as Python's `repr` writes it.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(&mut out, value);
    out
}

/// A JSON value as Python's `str` writes it: a text bare, everything else as [`repr`].
pub fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => repr(value),
    }
}

/// A text as Python's `repr` writes it.
pub fn repr_str(text: &str) -> String {
    let mut out = String::new();
    write_text(&mut out, text);
    out
}

fn write_repr(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => match (number.as_f64(), number.is_f64()) {
            // too large for an integer of ours, but one for Python
            (Some(float), true) if float.fract() == 0.0 && float.abs() >= 1e17 => {
                out.push_str(&format!("{float:.0}"));
            }
            _ => out.push_str(&format!("{number}")),
        },
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, item)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_text(out, key);
                out.push_str(": ");
                write_repr(out, item);
            }
            out.push('}');
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Reads a Python literal of texts, numbers, booleans, `None`, lists and dictionaries.
pub fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.rest.chars().next()? {
            '\'' | '"' => self.text().map(Value::String),
            // Python 2 clients write u'…'
            'u' if self.rest.starts_with("u'") || self.rest.starts_with("u\"") => {
                self.take('u');
                self.text().map(Value::String)
            }
            '[' => self.sequence('[', ']', depth),
            '(' => self.sequence('(', ')', depth),
            '{' => self.mapping(depth),
            _ => self.word(),
        }
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = self.rest.get(at.saturating_add(c.len_utf8())..)?;
                return Some(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next()?.1 {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                c @ ('\\' | '\'' | '"') => out.push(c),
                _ => return None,
            }
        }
        None
    }

    fn sequence(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.take(open);
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.value(depth.saturating_add(1))?);
            if !self.take(',') {
                return self.take(close).then_some(Value::Array(items));
            }
        }
        Some(Value::Array(items))
    }

    fn mapping(&mut self, depth: usize) -> Option<Value> {
        self.take('{');
        let mut fields = Map::new();
        while !self.take('}') {
            let key = str(&self.value(depth.saturating_add(1))?);
            if !self.take(':') {
                return None;
            }
            fields.insert(key, self.value(depth.saturating_add(1))?);
            if !self.take(',') {
                return self.take('}').then_some(Value::Object(fields));
            }
        }
        Some(Value::Object(fields))
    }

    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+')))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let value = match word {
            "None" => Value::Null,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            number => Value::Number(serde_json::from_str(number).ok()?),
        };
        self.rest = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!([true, false]), "[True, False]"),
            (json!(1.5), "1.5"),
            (json!(-3), "-3"),
            (serde_json::from_str("99999999999999999999").unwrap(), "100000000000000000000"),
            (json!("it's"), "\"it's\""),
            (json!("a\n\\'\""), "'a\\n\\\\\\'\"'"),
            (json!({"a": {"b": []}}), "{'a': {'b': []}}"),
        ] {
            assert_eq!(repr(&value), expected);
        }
        assert_eq!(str(&json!("bare")), "bare");
    }

    #[test]
    fn literals_are_read_or_refused() {
        assert_eq!(literal("{'k': 'v', u\"x\": 1,}"), Some(json!({"k": "v", "x": 1})));
        assert_eq!(literal(" ['a', \"b\"] "), Some(json!(["a", "b"])));
        assert_eq!(literal("True"), Some(json!(true)));
        for wrong in ["", "{", "{'a'}", "available", "'open", "[1,,2]", "__import__('os')", "1 2", "\u{e9}"] {
            assert_eq!(literal(wrong), None, "{wrong}");
        }
        assert_eq!(literal(&"[".repeat(10_000)), None, "nesting is bounded");
    }
}
