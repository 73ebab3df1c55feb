//! What every log must do, run on each adapter, also behind a network that loses answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::{chain, small_block};
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::faulty::{AppendFault, FaultyLog};
use tephra_journal::hash_chain::verify_chain;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError};
use tephra_journal::memory::MemoryLog;

const DEADLINE: Duration = Duration::from_secs(20);

/// Appends as the port says that one must: after a conflict or no answer, look before trying again.
async fn append_surely(log: &dyn Log, expected: u64, bytes: Arc<[u8]>) -> BlockNumber {
    let next = BlockNumber(expected + 1);
    loop {
        match log.append(BlockNumber(expected), Arc::clone(&bytes)).await {
            AppendOutcome::Appended(number) => return number,
            AppendOutcome::Conflict { .. } | AppendOutcome::Unknown { .. } => {
                match log.read(next, 1).await.unwrap().first() {
                    Some((number, found)) if *found == bytes => return *number,
                    Some((number, _)) => panic!("block {} was written by somebody else", number.0),
                    None => {}
                }
            }
        }
    }
}

async fn an_empty_log_has_no_head_and_nothing_to_read(log: &dyn Log) {
    assert_eq!(log.head().await.unwrap(), BlockNumber(0));
    assert_eq!(log.read(BlockNumber(1), 10).await.unwrap(), []);
    assert_eq!(log.read(BlockNumber(0), 10).await.unwrap(), []);
}

async fn what_is_appended_is_read_back_in_order(log: &dyn Log) {
    let blocks = chain(5);
    for (number, block) in (1..).zip(&blocks) {
        assert_eq!(append_surely(log, number - 1, Arc::clone(&block.bytes)).await, BlockNumber(number));
        assert_eq!(log.head().await.unwrap(), BlockNumber(number));
    }
    let numbers = |read: &[(BlockNumber, Arc<[u8]>)]| read.iter().map(|(n, _)| n.0).collect::<Vec<_>>();
    let all = log.read(BlockNumber(1), 100).await.unwrap();
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
    assert!(all.iter().zip(&blocks).all(|((_, read), written)| *read == written.bytes));
    assert_eq!(numbers(&log.read(BlockNumber(3), 2).await.unwrap()), [3, 4]);
    assert_eq!(log.read(BlockNumber(6), 2).await.unwrap(), []);
    assert_eq!(verify_chain(log, |_, _| Ok(())).await.unwrap().block, BlockNumber(5));
}

async fn an_append_that_expects_another_end_writes_nothing(log: &dyn Log) {
    let block = small_block(1, [0; 32]);
    append_surely(log, 0, Arc::clone(&block.bytes)).await;
    for wrong in [0, 2, 7] {
        let outcome = log.append(BlockNumber(wrong), small_block(9, [0; 32]).bytes).await;
        match outcome {
            AppendOutcome::Conflict { head } => assert_eq!(head, BlockNumber(1)),
            AppendOutcome::Unknown { .. } => {}
            AppendOutcome::Appended(number) => panic!("appended at {}", number.0),
        }
        let all = log.read(BlockNumber(1), 9).await.unwrap();
        assert_eq!(all, [(BlockNumber(1), Arc::clone(&block.bytes))]);
    }
}

async fn of_many_racing_appends_one_wins_each_place(log: Arc<dyn Log>) {
    let racers = (0..8).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.append(BlockNumber(0), small_block(1, [0; 32]).bytes).await })
    });
    let mut won = 0;
    let mut unanswered = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            AppendOutcome::Appended(_) => won += 1,
            AppendOutcome::Unknown { .. } => unanswered += 1,
            AppendOutcome::Conflict { .. } => {}
        }
    }
    let written = log.read(BlockNumber(1), 9).await.unwrap().len();
    assert!(won <= 1 && written <= 1 && won <= written, "won {won}, written {written}");
    assert!(written == 1 || unanswered > 0, "with every answer given, somebody wins");
}

async fn a_waiter_wakes_when_the_log_grows(log: Arc<dyn Log>) {
    let waiter = {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            while log.head().await.unwrap() <= BlockNumber(1) {
                log.wait_beyond(BlockNumber(1)).await;
            }
        })
    };
    let mut blocks = chain(2).into_iter();
    append_surely(&*log, 0, blocks.next().unwrap().bytes).await;
    assert!(!waiter.is_finished(), "one block is not beyond block 1");
    append_surely(&*log, 1, blocks.next().unwrap().bytes).await;
    tokio::time::timeout(DEADLINE, waiter).await.unwrap().unwrap();
}

async fn contract(fresh: impl Fn() -> Arc<dyn Log>) {
    an_empty_log_has_no_head_and_nothing_to_read(&*fresh()).await;
    what_is_appended_is_read_back_in_order(&*fresh()).await;
    an_append_that_expects_another_end_writes_nothing(&*fresh()).await;
    of_many_racing_appends_one_wins_each_place(fresh()).await;
    a_waiter_wakes_when_the_log_grows(fresh()).await;
}

fn fresh_embedded(folder: &Path) -> EmbeddedLog {
    EmbeddedLog::open(&folder.join(format!("{}.redb", uuid::Uuid::new_v4()))).unwrap()
}

#[tokio::test]
async fn the_log_in_memory_keeps_the_contract() {
    contract(|| Arc::new(MemoryLog::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract(|| Arc::new(fresh_embedded(folder.path()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_loses_answers_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..8 {
        contract(|| Arc::new(FaultyLog::seeded(fresh_embedded(folder.path()), seed))).await;
    }
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let script = [
        AppendFault::Conflict,
        AppendFault::UnknownWithoutEffect,
        AppendFault::UnknownWithEffect,
        AppendFault::None,
    ];
    let log = FaultyLog::scripted(MemoryLog::new(), script);
    let blocks = chain(2);
    let append = |expected, block: usize| log.append(BlockNumber(expected), Arc::clone(&blocks[block].bytes));
    assert_eq!(append(0, 0).await, AppendOutcome::Conflict { head: BlockNumber(0) });
    assert!(matches!(append(0, 0).await, AppendOutcome::Unknown { .. }));
    assert_eq!(log.head().await.unwrap(), BlockNumber(0));
    assert!(matches!(append(0, 0).await, AppendOutcome::Unknown { .. }));
    assert_eq!(log.head().await.unwrap(), BlockNumber(1));
    assert_eq!(append(1, 1).await, AppendOutcome::Appended(BlockNumber(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_is_there_again_after_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let blocks = chain(3);
    let log = EmbeddedLog::open(&path).unwrap();
    for (expected, block) in (0..).zip(&blocks) {
        append_surely(&log, expected, Arc::clone(&block.bytes)).await;
    }
    drop(log);
    {
        let log = EmbeddedLog::open_read_only(&path).unwrap();
        assert_eq!(log.head().await.unwrap(), BlockNumber(3));
        let outcome = log.append(BlockNumber(3), small_block(4, [0; 32]).bytes).await;
        assert!(matches!(outcome, AppendOutcome::Unknown { reason } if reason.contains("reading only")));
    }
    let log = EmbeddedLog::open(&path).unwrap();
    assert_eq!(log.read(BlockNumber(1), 9).await.unwrap().len(), 3);
}

fn refusal(result: Result<EmbeddedLog, LogError>) -> String {
    match result {
        Ok(_) => panic!("the log was opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_open_elsewhere_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let _open = EmbeddedLog::open(&path).unwrap();
    let reason = refusal(EmbeddedLog::open(&path));
    assert!(reason.contains("journal.redb is in use by another process"), "{reason}");
    let reason = refusal(EmbeddedLog::open_read_only(&path));
    assert!(reason.contains("journal.redb is in use by another process"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_journal_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    let reason = refusal(EmbeddedLog::open(&path));
    assert!(reason.contains("journal.redb"), "{reason}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8192], "it is left as it was");
}

async fn fault_of(blocks: Vec<Arc<[u8]>>) -> (u64, String) {
    match verify_chain(&MemoryLog::holding(blocks), |_, _| Ok(())).await {
        Err(LogError::Corrupt { number, reason }) => (number.0, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_changed_missing_or_exchanged_block_is_named() {
    let blocks: Vec<Arc<[u8]>> = chain(4).into_iter().map(|block| block.bytes).collect();

    let mut changed = blocks.clone();
    let mut bytes = changed[2].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    changed[2] = bytes.into();
    let (number, reason) = fault_of(changed).await;
    assert!(number == 3 && reason.contains("SHA-256") && reason.contains("after commit 2"), "{reason}");

    let mut missing = blocks.clone();
    missing.remove(1);
    let (number, reason) = fault_of(missing).await;
    assert!(number == 2 && reason.contains("it follows a block with SHA-256"), "{reason}");

    let mut exchanged = blocks.clone();
    exchanged.swap(1, 2);
    assert_eq!(fault_of(exchanged).await.0, 2);

    // Rewritten with a right hash, but a wrong position.
    let mut rewritten = blocks.clone();
    let first = tephra_journal::wire::verify_hash(BlockNumber(1), &blocks[0]).unwrap();
    rewritten[1] = small_block(9, first.hash).bytes;
    let (number, reason) = fault_of(rewritten).await;
    assert!(number == 2 && reason.contains("commit 9 where commit 2 should be"), "{reason}");

    let mut cut = blocks;
    cut[3] = cut[3][..60].into();
    assert_eq!(fault_of(cut).await.0, 4);
}
