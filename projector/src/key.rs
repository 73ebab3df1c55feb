//! Keys as bytes that compare like what they stand for.
//!
//! Parts are put one after the other. Each part ends itself (fixed width, or with a terminator),
//! so that comparing bytes compares part by part, and all keys that begin with the same parts are
//! one range.

use tephra_domain::event::IdempotencyScope;
use tephra_domain::ids::{DebtId, PoolId, ProjectId};
use tephra_domain::operation::ResourceKey;
use tephra_domain::units::Timestamp;

use crate::history::ResourceRef;

/// A key, or the beginning of some.
pub type Key = Vec<u8>;

/// Appends text: escaped, so that a shorter text comes before one that it begins.
pub fn push_text(key: &mut Key, text: &str) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend([0, 1]);
}

/// Appends text that may be missing: nothing comes before every text.
pub fn push_optional_text(key: &mut Key, text: Option<&str>) {
    match text {
        None => key.push(0),
        Some(text) => {
            key.push(1);
            push_text(key, text);
        }
    }
}

/// Appends a signed number.
pub fn push_i64(key: &mut Key, number: i64) {
    key.extend((number ^ i64::MIN).cast_unsigned().to_be_bytes());
}

/// Appends a moment.
pub fn push_time(key: &mut Key, time: Timestamp) {
    push_i64(key, time.0);
}

/// Appends whose rows are meant: a project's, or everybody's.
pub fn push_scope(key: &mut Key, project: Option<&ProjectId>) {
    push_optional_text(key, project.map(ProjectId::as_str));
}

/// The key that comes just after all that begin with `prefix`; nothing if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Key> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// The scope by itself.
pub fn scope(project: Option<&ProjectId>) -> Key {
    let mut key = Key::new();
    push_scope(&mut key, project);
    key
}

/// A debt's key.
pub fn debt(id: DebtId) -> Key {
    let mut key = id.operation.as_uuid().as_bytes().to_vec();
    key.extend(id.ordinal.to_be_bytes());
    key
}

/// A pool's key.
pub fn pool(id: &PoolId) -> Key {
    let mut key = Key::new();
    push_text(&mut key, id.backend.as_str());
    push_text(&mut key, id.pool.as_str());
    key
}

/// The key of an idempotency key.
pub fn idempotency(scope: &IdempotencyScope) -> Key {
    let mut key = Key::new();
    push_text(&mut key, scope.0.as_str());
    push_text(&mut key, scope.1.as_str());
    key
}

/// The beginning of a resource's keys in the history.
pub fn resource(resource: &ResourceRef) -> Key {
    let mut key = Key::new();
    match resource {
        ResourceRef::Volume(id) => push_tagged(&mut key, 0, id.as_uuid()),
        ResourceRef::Snapshot(id) => push_tagged(&mut key, 1, id.as_uuid()),
        ResourceRef::VolumeType(id) => push_tagged(&mut key, 2, id.as_uuid()),
        ResourceRef::Operation(id) => push_tagged(&mut key, 3, id.as_uuid()),
        ResourceRef::Debt(id) => {
            key.push(4);
            key.extend(debt(*id));
        }
        ResourceRef::Backend(name) => {
            key.push(5);
            push_text(&mut key, name.as_str());
        }
        ResourceRef::Project(project) => {
            key.push(6);
            push_text(&mut key, project.as_str());
        }
    }
    key
}

/// The beginning of a project's keys among operations.
pub fn operations_of_project(project: &ProjectId) -> Key {
    let mut key = vec![0];
    push_text(&mut key, project.as_str());
    key
}

/// The beginning of a resource's keys among operations.
pub fn operations_on(resource: ResourceKey) -> Key {
    let mut key = Key::new();
    match resource {
        ResourceKey::Volume(id) => push_tagged(&mut key, 1, id.as_uuid()),
        ResourceKey::Snapshot(id) => push_tagged(&mut key, 2, id.as_uuid()),
    }
    key
}

/// The (scope, key, value) of a pair of metadata.
pub fn metadata(project: Option<&ProjectId>, name: &str, value: &str) -> Key {
    let mut key = scope(project);
    push_text(&mut key, name);
    push_text(&mut key, value);
    key
}

/// Reads a key (or the rest of one) that is two texts back.
pub fn pair(bytes: &[u8]) -> Option<(String, String)> {
    let (name, rest) = take_text(bytes)?;
    let (value, rest) = take_text(rest)?;
    rest.is_empty().then_some((name, value))
}

/// The number that a key ends with.
pub fn trailing_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn push_tagged(key: &mut Key, tag: u8, id: uuid::Uuid) {
    key.push(tag);
    key.extend(id.as_bytes());
}

fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, after @ ..] => return Some((String::from_utf8(text).ok()?, after)),
            [0, 0xFF, after @ ..] => {
                text.push(0);
                rest = after;
            }
            [byte, after @ ..] if *byte != 0 => {
                text.push(*byte);
                rest = after;
            }
            [..] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_key(text: Option<&str>) -> Key {
        let mut key = Key::new();
        push_optional_text(&mut key, text);
        key
    }

    #[test]
    fn keys_of_texts_compare_as_the_texts_do_and_nothing_comes_first() {
        let texts = [
            None,
            Some(""),
            Some("\0"),
            Some("\0\0"),
            Some("\u{1}"),
            Some("a"),
            Some("a\0"),
            Some("a\0b"),
            Some("a\u{1}"),
            Some("ab"),
            Some("b"),
            Some("é"),
        ];
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts.iter().enumerate() {
                assert_eq!(text_key(*a).cmp(&text_key(*b)), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn keys_of_numbers_compare_as_the_numbers_do() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let keys: Vec<Key> = numbers
            .iter()
            .map(|n| {
                let mut key = Key::new();
                push_i64(&mut key, *n);
                key
            })
            .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_pair_of_metadata_is_read_back_from_its_key() {
        for (name, value) in [("", ""), ("a", "b"), ("a\0", "\0b\u{1}"), ("ключ", "значение")] {
            let key = metadata(None, name, value);
            assert_eq!(pair(&key[1..]), Some((name.to_owned(), value.to_owned())));
        }
    }

    #[test]
    fn the_end_of_a_prefix_lies_after_all_that_begin_with_it() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 0xFF]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xFF]), None);
    }
}
