//! The bytes of every event, as the first release wrote them: what is on disk stays readable.
//!
//! `TEPHRA_UPDATE_GOLDEN=1 cargo test --test golden_events` writes fixtures that are missing, for
//! new kinds, versions and shapes. It never overwrites one: changed bytes are a new version.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod golden_samples;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use golden_samples::samples;
use proptest::prelude::*;
use tephra_domain::actor::{Actor, Role};
use tephra_domain::event::{Commit, Event, Idempotency};
use tephra_domain::ids::{CommandId, IdempotencyKey, OperationId, Position, ProjectId, RequestId, UserId};
use tephra_domain::units::Timestamp;
use tephra_journal::log::{BlockNumber, LogError, Sequenced};
use tephra_journal::wire::{
    EncodedBlock, Kind, ReadableEvent, decode_block, decode_event, encode_block, encode_event, kind_of,
    verify_hash,
};
use uuid::Uuid;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/events")
}

fn may_write() -> bool {
    std::env::var_os("TEPHRA_UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// Compares with a fixture, or writes it where it is missing and that is asked for.
fn check(path: &Path, actual: &[u8]) {
    match std::fs::read(path) {
        Ok(expected) => assert!(expected == actual, "{} has other bytes: make a new version", path.display()),
        Err(_) if may_write() => {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, actual).unwrap();
        }
        Err(error) => panic!("{}: {error} (TEPHRA_UPDATE_GOLDEN=1 writes it)", path.display()),
    }
}

fn stem(kind: Kind, version: u16, name: &str) -> String {
    let name = if name.is_empty() { String::new() } else { format!(".{name}") };
    format!("{}-v{version}-{}{name}", kind.number(), kind.name())
}

#[test]
fn every_event_has_the_bytes_that_it_always_had() {
    for (name, event) in samples() {
        let mut payload = Vec::new();
        let (kind, version) = encode_event(&event, &mut payload);
        assert_eq!(kind.name(), event.name());
        let stem = stem(kind, version, name);
        check(&folder().join(format!("{stem}.bin")), &payload);
        let mut json = serde_json::to_string_pretty(&ReadableEvent(&event)).unwrap();
        json.push('\n');
        check(&folder().join(format!("{stem}.json")), json.as_bytes());
        assert_eq!(decode_event(kind.number(), version, &payload).unwrap(), event);
    }
}

#[test]
fn every_kind_has_a_sample() {
    let sampled: BTreeSet<Kind> = samples().iter().map(|(_, event)| kind_of(event)).collect();
    for kind in Kind::ALL {
        assert!(sampled.contains(kind), "{kind} has no sample");
    }
}

#[test]
fn every_fixture_is_of_a_known_kind_and_can_be_read() {
    let known: BTreeSet<String> =
        samples().into_iter().map(|(name, event)| stem(kind_of(&event), 1, name)).collect();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|ending| ending == "bin") {
            let mut parts = name.split('-');
            let kind = parts.next().unwrap().parse().unwrap();
            let version = parts.next().unwrap().trim_start_matches('v').parse().unwrap();
            decode_event(kind, version, &std::fs::read(&path).unwrap()).unwrap();
            assert!(known.contains(&name), "{name} has no sample: its meaning is not checked");
            seen += 1;
        }
    }
    assert_eq!(seen, samples().len());
}

fn sequenced(position: u64, events: Vec<Event>) -> Sequenced {
    let commit = Commit {
        command: CommandId::from_uuid(Uuid::from_u128(0xc0_u128 << 64 | u128::from(position))),
        request: RequestId::new("req-7"),
        causation: position.is_multiple_of(2).then(|| OperationId::from_uuid(Uuid::from_u128(5))),
        actor: Actor {
            user: UserId::new("somebody"),
            project: ProjectId::new("alpha"),
            role: [Role::Reader, Role::Member, Role::Admin][usize::try_from(position % 3).unwrap()],
            address: (position % 2 == 1).then(|| "192.0.2.1".into()),
        },
        time: Timestamp(1_790_000_000_000_000 + i64::try_from(position).unwrap()),
        idempotency: (position % 2 == 1)
            .then(|| Idempotency { key: IdempotencyKey::new("key"), fingerprint: [0xfe; 32] }),
        events,
    };
    Sequenced { position: Position(position), commit: Arc::new(commit) }
}

/// Every sample, a few to a commit.
fn full_block() -> (Vec<Sequenced>, EncodedBlock) {
    let events: Vec<Event> = samples().into_iter().map(|(_, event)| event).collect();
    let commits: Vec<Sequenced> = (1000..)
        .zip(events.chunks(3))
        .map(|(position, events)| sequenced(position, events.to_vec()))
        .collect();
    let block = encode_block(Uuid::from_u128(0xb10c), [0xab; 32], &commits);
    (commits, block)
}

#[test]
fn a_block_has_the_bytes_that_it_always_had_and_reads_back() {
    let commits: Vec<Sequenced> =
        (1..=3).map(|position| sequenced(position, vec![samples()[5].1.clone()])).collect();
    let block = encode_block(Uuid::from_u128(0xb10c), [0xab; 32], &commits);
    check(&folder().with_file_name("block-1.bin"), &block.bytes);

    let (commits, block) = full_block();
    let read = decode_block(BlockNumber(7), &block.bytes).unwrap();
    assert_eq!(read.commits, commits);
    assert_eq!((read.number, read.id), (BlockNumber(7), Uuid::from_u128(0xb10c)));
    assert_eq!((read.previous_hash, read.hash), ([0xab; 32], block.hash));
    let header = verify_hash(BlockNumber(7), &block.bytes).unwrap();
    assert_eq!(header.first_position, Some(commits[0].position));
    assert_eq!(header.last_position(), Some(commits[commits.len() - 1].position));
}

fn fault(bytes: &[u8]) -> String {
    match decode_block(BlockNumber(42), bytes) {
        Err(error @ LogError::Corrupt { number: BlockNumber(42), .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Gives a block its right hash after its bytes were changed.
fn rehash(bytes: &mut [u8]) {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(&bytes[36..]);
    bytes[4..36].copy_from_slice(&hash);
}

#[test]
fn an_unknown_kind_or_version_stops_the_reader_and_is_named() {
    let (_, block) = {
        let commits = vec![sequenced(1, vec![samples()[5].1.clone()])];
        let block = encode_block(Uuid::nil(), [0; 32], &commits);
        (commits, block)
    };
    // The only event is 8 bytes of header and 16 of payload, at the end.
    let at = block.bytes.len() - 24;
    assert_eq!(block.bytes[at..at + 2], Kind::VolumeCreated.number().to_le_bytes());

    let mut unknown_kind = block.bytes.to_vec();
    unknown_kind[at..at + 2].copy_from_slice(&9999_u16.to_le_bytes());
    rehash(&mut unknown_kind);
    let reason = fault(&unknown_kind);
    assert!(reason.contains("block 42") && reason.contains("event kind 9999 is not known"), "{reason}");

    let mut unknown_version = block.bytes.to_vec();
    unknown_version[at + 2..at + 4].copy_from_slice(&2_u16.to_le_bytes());
    rehash(&mut unknown_version);
    let reason = fault(&unknown_version);
    assert!(reason.contains("version 2 of event kind 103 (VolumeCreated) is not known"), "{reason}");

    let mut short = block.bytes.to_vec();
    short.truncate(short.len() - 1);
    rehash(&mut short);
    assert!(fault(&short).contains("in the middle of an event"), "{}", fault(&short));

    let mut long = block.bytes.to_vec();
    long.push(0);
    rehash(&mut long);
    assert!(fault(&long).contains("1 bytes are left"), "{}", fault(&long));
}

#[test]
fn positions_with_a_gap_are_refused() {
    let event = samples()[5].1.clone();
    let commits = [sequenced(1, vec![event.clone()]), sequenced(3, vec![event])];
    let reason = fault(&encode_block(Uuid::nil(), [0; 32], &commits).bytes);
    assert!(reason.contains("commit 3 stands where commit 2 should"), "{reason}");
}

#[test]
fn every_single_changed_byte_is_found() {
    let commits = vec![sequenced(1, vec![samples()[0].1.clone()])];
    let block = encode_block(Uuid::nil(), [0; 32], &commits);
    for at in 0..block.bytes.len() {
        let mut bytes = block.bytes.to_vec();
        bytes[at] ^= 0x10;
        assert!(decode_block(BlockNumber(1), &bytes).is_err(), "byte {at}");
        assert!(verify_hash(BlockNumber(1), &bytes).is_err(), "byte {at}");
    }
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode_block(BlockNumber(1), &bytes).is_err());
        for kind in Kind::ALL {
            // Some garbage is a payload; what matters is that none panics.
            drop(decode_event(kind.number(), 1, &bytes));
        }
    }

    #[test]
    fn a_damaged_block_with_a_right_hash_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_, block) = full_block();
        let mut bytes = block.bytes.to_vec();
        for (at, byte) in changes {
            let at = 84 + at.index(bytes.len() - 84);
            bytes[at] = byte;
        }
        bytes.truncate(88 + cut.index(bytes.len() - 88));
        rehash(&mut bytes);
        drop(decode_block(BlockNumber(1), &bytes));
    }
}
