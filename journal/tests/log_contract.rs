//! What every log must do, run on each adapter, also behind a network that loses answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::log_suite::{append_surely, contract};
use support::{chain, small_block};
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::faulty::{AppendFault, FaultyLog};
use tephra_journal::hash_chain::verify_chain;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError};
use tephra_journal::memory::MemoryLog;

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

/// A full disk must not outlast itself: redb refuses everything after an error until the file is
/// opened again.
#[tokio::test]
async fn a_log_goes_on_when_a_full_disk_has_room_again() {
    let disk = tempfile::tempdir().unwrap();
    // only root may mount; somebody else asks sudo, which must not ask back
    let as_root = |arguments: &[&str]| {
        let script = "if [ $(id -u) = 0 ]; then \"$@\"; else sudo -n \"$@\"; fi";
        let command = ["-c", script, "as-root"].into_iter().chain(arguments.iter().copied());
        std::process::Command::new("sh").args(command).arg(disk.path()).status().unwrap().success()
    };
    let own =
        format!("size=8m,uid={}", std::os::unix::fs::MetadataExt::uid(&disk.path().metadata().unwrap()));
    assert!(as_root(&["mount", "-t", "tmpfs", "-o", &own, "tmpfs"]), "no tmpfs can be mounted");
    let log = EmbeddedLog::open(&disk.path().join("ledger.redb")).unwrap();
    let block: Arc<[u8]> = vec![7_u8; 64 << 10].into();
    let filler = disk.path().join("filler");
    drop(std::fs::write(&filler, vec![1_u8; 4 << 20]));
    let mut head = BlockNumber(0);
    let mut was_full = false;
    for _ in 0..400 {
        match log.append(head, Arc::clone(&block)).await {
            AppendOutcome::Appended(number) => head = number,
            AppendOutcome::Unknown { .. } => {
                was_full = true;
                break;
            }
            AppendOutcome::Conflict { head } => panic!("nobody else appends, but it ends at {head:?}"),
        }
    }
    assert!(was_full, "the disk was never full");
    std::fs::remove_file(&filler).unwrap();
    let landed = log.append(head, Arc::clone(&block)).await;
    // the append that met the full disk may have landed after all, or the file may have to be opened
    // once more: the next answer is certain either way
    let landed = match landed {
        AppendOutcome::Unknown { .. } => log.append(head, Arc::clone(&block)).await,
        AppendOutcome::Appended(_) | AppendOutcome::Conflict { .. } => landed,
    };
    assert!(!matches!(landed, AppendOutcome::Unknown { .. }), "{landed:?}");
    assert!(log.head().await.unwrap() > head, "it goes on");
    drop(log);
    assert!(as_root(&["umount"]), "the file system stays mounted");
}
