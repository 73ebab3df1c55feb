//! What every log must do.

use std::sync::Arc;
use std::time::Duration;

use tephra_journal::hash_chain::verify_chain;
use tephra_journal::log::{AppendOutcome, BlockNumber, Log};

use super::{chain, small_block};

const DEADLINE: Duration = Duration::from_secs(20);

/// Appends as the port says that one must: after a conflict or no answer, look before trying again.
pub async fn append_surely(log: &dyn Log, expected: u64, bytes: Arc<[u8]>) -> BlockNumber {
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

/// Everything above; `fresh` gives an empty log each time.
pub async fn contract(fresh: impl Fn() -> Arc<dyn Log>) {
    an_empty_log_has_no_head_and_nothing_to_read(&*fresh()).await;
    what_is_appended_is_read_back_in_order(&*fresh()).await;
    an_append_that_expects_another_end_writes_nothing(&*fresh()).await;
    of_many_racing_appends_one_wins_each_place(fresh()).await;
    a_waiter_wakes_when_the_log_grows(fresh()).await;
}
