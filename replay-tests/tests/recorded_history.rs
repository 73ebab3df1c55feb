//! Histories as they were once written, replayed by the program of today.
//!
//! `TEPHRA_UPDATE_GOLDEN=1 cargo test --test recorded_history` records those whose file is missing.
//! A recorded one is never replaced; new kinds of events come in new ones. What each leads to is
//! pinned beside it, and written anew if that file is missing: when rows have got other bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod recorded;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use recorded::{
    Recorder, record, record_attached, record_from_images, record_taken_over, record_turns, record_uploaded,
};
use tephra_domain::ledger::Ledger;
use tephra_journal::hash_chain::verify_chain;
use tephra_journal::log::BlockNumber;
use tephra_journal::memory::MemoryLog;
use tephra_journal::sequencer::{CaughtUp, catch_up};
use tephra_journal::wire::state::state_hash;
use tephra_journal::wire::{Kind, kind_of};

const SEED: u64 = 1;

/// A recorded history: its name, and what recorded it.
type Recorded = (&'static str, fn(u64) -> Recorder);

/// The first one has what the ledger could do then; each later one what came to it.
const FIRST: &str = "0001-everything";
const HISTORIES: [Recorded; 6] = [
    (FIRST, record),
    ("0002-taken-over", record_taken_over),
    ("0003-from-images", record_from_images),
    ("0004-attached", record_attached),
    ("0005-uploaded", record_uploaded),
    ("0006-turns", record_turns),
];

fn path(name: &str, ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(format!("{name}.{ending}"))
}

/// Blocks one after the other, each after its length (four bytes, little endian).
fn write_blocks(path: &Path, blocks: &[Arc<[u8]>]) {
    let mut file = Vec::new();
    for block in blocks {
        file.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        file.extend(block.iter());
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, file).unwrap();
}

fn read_blocks(path: &Path) -> Vec<Arc<[u8]>> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rest = file.as_slice();
    let mut blocks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (block, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        blocks.push(block.into());
        rest = after;
    }
    blocks
}

async fn replay(blocks: Vec<Arc<[u8]>>) -> CaughtUp {
    catch_up(Ledger::default(), BlockNumber(0), &MemoryLog::holding(blocks)).await.unwrap()
}

fn summary(state: &CaughtUp) -> String {
    let ledger = &state.ledger;
    let value = serde_json::json!({
        "blocks": state.head.block.0,
        "commits": state.head.position.0,
        "last_block_sha256": hex::encode(state.head.hash),
        "state_sha256": hex::encode(state_hash(ledger)),
        "volumes": ledger.volumes.len(),
        "snapshots": ledger.snapshots.len(),
        "volume_types": ledger.volume_types.len(),
        "open_operations": ledger.operations.len(),
        "cleanup_debts": ledger.debts.len(),
    });
    format!("{}\n", serde_json::to_string_pretty(&value).unwrap())
}

#[tokio::test]
async fn every_recorded_history_leads_to_the_state_that_it_led_to() {
    let may_write = std::env::var_os("TEPHRA_UPDATE_GOLDEN").is_some_and(|value| value == "1");
    for (name, record) in HISTORIES {
        if may_write && !path(name, "blocks").exists() {
            write_blocks(&path(name, "blocks"), &record(SEED).blocks);
        }
        let state = replay(read_blocks(&path(name, "blocks"))).await;
        if may_write && !path(name, "json").exists() {
            std::fs::write(path(name, "json"), summary(&state)).unwrap();
        }
        assert_eq!(summary(&state), std::fs::read_to_string(path(name, "json")).unwrap(), "{name}");
    }
}

#[tokio::test]
async fn the_recorded_histories_hold_every_kind_of_event() {
    let mut kinds = BTreeSet::new();
    for (name, _) in HISTORIES {
        let log = MemoryLog::holding(read_blocks(&path(name, "blocks")));
        verify_chain(&log, |block, _| {
            let events = block.commits.iter().flat_map(|sequenced| &sequenced.commit.events);
            kinds.extend(events.map(kind_of));
            Ok(())
        })
        .await
        .unwrap();
    }
    let missing: Vec<&Kind> = Kind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes_and_replay_gives_the_live_state() {
    for seed in [2, 3] {
        let one = record(seed);
        let two = record(seed);
        assert!(one.blocks == two.blocks, "seed {seed}");
        let live = state_hash(one.core.ledger());
        let replayed = replay(one.blocks).await;
        assert_eq!(state_hash(&replayed.ledger), live, "seed {seed}");
        assert_eq!(replayed.head, one.core.head(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_state_saved_half_way_catches_up_to_the_same_state() {
    let blocks = read_blocks(&path(FIRST, "blocks"));
    let half = blocks.len() / 2;
    let saved = replay(blocks[..half].to_vec()).await;
    let log = MemoryLog::holding(blocks.clone());
    let caught_up = catch_up(saved.ledger, saved.head.block, &log).await.unwrap();
    let whole = replay(blocks).await;
    assert_eq!(caught_up.head, whole.head);
    assert_eq!(state_hash(&caught_up.ledger), state_hash(&whole.ledger));
}

#[tokio::test]
async fn a_saved_state_that_belongs_to_another_place_is_refused() {
    let blocks = read_blocks(&path(FIRST, "blocks"));
    let saved = replay(blocks[..10].to_vec()).await;
    let log = MemoryLog::holding(blocks);
    let refused = catch_up(saved.ledger, BlockNumber(11), &log).await.unwrap_err().to_string();
    assert!(refused.contains("block 11") && refused.contains("the saved state stands at"), "{refused}");
}
