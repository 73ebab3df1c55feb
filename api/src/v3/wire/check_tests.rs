//! Every kind of wrong value, and the words in which it is refused.

use serde_json::{Value, json};

use super::*;

fn refused<T: std::fmt::Debug>(value: &Value, read: impl FnOnce(Field<'_>) -> Result<T, Fault>) -> String {
    let fault = read(Field::new("f", value)).expect_err("it must be refused");
    assert_eq!(fault.status(), 400);
    fault.message().to_owned()
}

fn huge() -> Value {
    serde_json::from_str("99999999999999999999999").expect("a number")
}

#[test]
fn sizes_are_whole_and_positive() {
    for (value, gib) in
        [(json!(1), 1), (json!("12"), 12), (json!("007"), 7), (json!(2_147_483_647), 2_147_483_647)]
    {
        assert_eq!(Field::new("size", &value).size().expect("a size").gib(), gib);
    }
    let prefix = "Invalid input for field/attribute f. Value: ";
    for (value, reason) in [
        (json!(0), "0. 0 is less than the minimum of 1"),
        (json!("0"), "0. 0 is less than the minimum of 1"),
        (json!(-1), "-1. -1 is less than the minimum of 1"),
        (json!("-1"), "-1. '-1' does not match '^[0-9]+$'"),
        (json!(1.5), "1.5. 1.5 is not of type 'integer', 'string'"),
        (json!("1.5"), "1.5. '1.5' does not match '^[0-9]+$'"),
        (json!(""), ". '' does not match '^[0-9]+$'"),
        (json!("one"), "one. 'one' does not match '^[0-9]+$'"),
        (json!(true), "True. True is not of type 'integer', 'string'"),
        (json!([1]), "[1]. [1] is not of type 'integer', 'string'"),
        (json!(null), "None. None is not of type 'integer', 'string'"),
        (json!(2_147_483_648_u64), "2147483648. 2147483648 is greater than the maximum of 2147483647"),
        (
            json!(u64::MAX),
            "18446744073709551615. 18446744073709551615 is greater than the maximum of 2147483647",
        ),
    ] {
        assert_eq!(refused(&value, |field| field.size()), format!("{prefix}{reason}"));
    }
    assert!(refused(&huge(), |field| field.size()).ends_with("is greater than the maximum of 2147483647"));
    assert_eq!(Field::new("f", &json!(null)).optional_size(), Ok(None));
}

#[test]
fn booleans_are_cinders_words() {
    for (value, expected) in [
        (json!(true), true),
        (json!("yes"), true),
        (json!("1"), true),
        (json!("f"), false),
        (json!("FALSE"), false),
    ] {
        assert_eq!(Field::new("f", &value).boolean(), Ok(expected), "{value}");
    }
    for value in [json!("maybe"), json!(""), json!("tRuE")] {
        let message = refused(&value, |field| field.boolean());
        assert!(message.contains("is not one of [True, 'True', 'TRUE', 'true', '1', "), "{message}");
    }
    for value in [json!(1), json!(null), json!({})] {
        assert!(refused(&value, |field| field.boolean()).ends_with("is not of type 'boolean', 'string'"));
    }
}

#[test]
fn uuids_are_uuids() {
    let id = "7e947a00-0000-4000-8000-000000000001";
    for text in [id.to_owned(), id.to_uppercase(), id.replace('-', "")] {
        assert_eq!(Field::new("f", &json!(text)).optional_uuid().expect("a uuid"), id.parse().ok(), "{text}");
    }
    for value in [json!("x"), json!(""), json!(5), json!({"id": id})] {
        let message = refused(&value, |field| field.optional_uuid());
        assert!(message.ends_with("is not valid under any of the given schemas"), "{message}");
    }
}

#[test]
fn labels_are_trimmed_and_short() {
    let long = format!("  {}  ", "\u{e9}".repeat(255));
    let read = Field::new("name", &json!(long)).label("name").expect("255 characters are enough");
    assert_eq!(read.map(|text| text.chars().count()), Some(255));
    assert_eq!(
        refused(&json!("x".repeat(256)), |field| field.label("name")),
        "Invalid input received: name has 256 characters, more than 255."
    );
    assert!(refused(&json!(5), |field| field.label("name")).ends_with("5 is not of type 'string', 'null'"));
}

#[test]
fn metadata_have_plain_keys_and_short_values() {
    let read =
        |value: &Value| Field::new("metadata", value).metadata(KeyPattern::WithSlash).map(|map| map.len());
    assert_eq!(read(&json!({"a-b_c:d.e f/g": "", "x": "\u{1f600}"})), Ok(2));
    let refusal = |value: Value| refused(&value, |field| field.metadata(KeyPattern::WithSlash));
    assert_eq!(
        refusal(json!({"k!": "v"})),
        "Invalid input for field/attribute f. Value: {'k!': 'v'}. 'k!' does not match any of the regexes: \
         '^[a-zA-Z0-9-_:. /]{1,255}$'"
    );
    assert_eq!(
        refusal(json!({"k": 1})),
        "Invalid input for field/attribute k. Value: 1. 1 is not of type 'string'"
    );
    assert!(refusal(json!({"k": "v".repeat(256)})).ends_with("is too long"));
    assert!(refusal(json!({"": "v"})).contains("does not match"));
    assert!(refusal(json!({"k".repeat(256): "v"})).contains("does not match"));
    assert!(refusal(json!(["k"])).ends_with("is not of type 'object'"));
    assert!(KeyPattern::WithSlash.matches("a/b") && !KeyPattern::WithoutSlash.matches("a/b"));
    assert!(KeyPattern::WithoutSlash.matches("a b") && !KeyPattern::WithoutSpace.matches("a b"));
}

#[test]
fn objects_have_what_they_must_and_nothing_else() {
    let refusal = |body: Value| Object::only(&body, "volume").err().map(|fault| fault.message().to_owned());
    assert_eq!(refusal(json!({"volume": {}})), None);
    assert_eq!(refusal(json!([])).as_deref(), Some("[] is not of type 'object'"));
    assert_eq!(refusal(json!({})).as_deref(), Some("'volume' is a required property"));
    assert_eq!(
        refusal(json!({"volume": {}, "x": 1, "y": 2})).as_deref(),
        Some("Additional properties are not allowed ('x', 'y' were unexpected)")
    );
    assert_eq!(
        refusal(json!({"volume": "v"})).as_deref(),
        Some("Invalid input for field/attribute volume. Value: v. 'v' is not of type 'object'")
    );
}
