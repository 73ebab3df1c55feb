//! The projector at work: catching up, following by feed and by log, and failing loudly.

use std::sync::Arc;
use std::time::Duration;

use tephra_journal::faulty::FaultyLog;
use tephra_journal::feed::Feed;
use tephra_journal::log::{Block, BlockNumber, Log};
use tephra_journal::memory::MemoryLog;
use tephra_journal::wire::state::state_hash;
use tephra_projector::Views;
use tephra_projector::runner::{Health, Projector, ProjectorHandle};
use tephra_replay_tests::drawn::{blocks, example, replay};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What waits longer than this waits for ever.
const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    _folder: tempfile::TempDir,
    views: Views,
    log: Arc<MemoryLog>,
    feed: Feed,
    cancel: CancellationToken,
    chain: Vec<Arc<Block>>,
    bytes: Vec<Arc<[u8]>>,
    expected: [u8; 32],
}

impl Running {
    fn new() -> Self {
        let history = example(150);
        let (chain, bytes) = blocks(&history, &[2]);
        assert!(chain.len() > 10);
        let folder = tempfile::tempdir().unwrap();
        Self {
            views: Views::create_fresh(&folder.path().join("views.redb")).unwrap(),
            _folder: folder,
            log: Arc::new(MemoryLog::new()),
            feed: Feed::new(),
            cancel: CancellationToken::new(),
            expected: state_hash(&replay(&history, history.len())),
            chain,
            bytes,
        }
    }

    async fn append(&self, n: usize) {
        self.log.append(BlockNumber(n as u64), Arc::clone(&self.bytes[n])).await;
    }

    fn start(&self, feed: Option<Feed>) -> ProjectorHandle {
        Projector::start(self.views.clone(), self.log.clone(), feed, self.cancel.clone())
    }

    async fn reached(&self, n: usize) {
        let position = self.chain[n].commits.last().unwrap().position;
        timeout(DEADLINE, self.views.wait_for(position)).await.unwrap();
    }
}

async fn until(handle: &ProjectorHandle, wanted: impl Fn(&Health) -> bool) -> Health {
    let mut health = handle.watch_health();
    timeout(DEADLINE, health.wait_for(|health| wanted(health))).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn it_catches_up_and_then_follows_the_log_without_a_feed() {
    let running = Running::new();
    for n in 0..5 {
        running.append(n).await;
    }
    let handle = running.start(None);
    until(&handle, |health| *health == Health::Following).await;
    assert_eq!(running.views.checkpoint().block, BlockNumber(5));
    for n in 5..running.chain.len() {
        running.append(n).await;
        running.reached(n).await;
    }
    assert_eq!(running.views.state_hash().unwrap(), running.expected);
    running.cancel.cancel();
    assert_eq!(timeout(DEADLINE, handle.stopped()).await.unwrap(), Health::Stopped);
}

#[tokio::test]
async fn it_takes_fed_blocks_and_reads_the_log_for_those_it_was_not_fed() {
    let running = Running::new();
    let handle = running.start(Some(running.feed.clone()));
    until(&handle, |health| *health == Health::Following).await;
    for n in 0..running.chain.len() {
        running.append(n).await;
        // Every third block is lost on the way, and old ones come again.
        if n % 3 != 1 {
            running.feed.publish(Arc::clone(&running.chain[n]));
            running.feed.publish(Arc::clone(&running.chain[n / 2]));
            running.reached(n).await;
        }
    }
    let last = running.chain.len() - 1;
    running.feed.publish(Arc::clone(&running.chain[last]));
    running.reached(last).await;
    assert_eq!(running.views.state_hash().unwrap(), running.expected);
    assert_eq!(handle.health(), Health::Following);
}

#[tokio::test]
async fn a_feed_that_ends_leaves_the_log() {
    let running = Running::new();
    let feed = Feed::new();
    let handle = running.start(Some(feed.clone()));
    until(&handle, |health| *health == Health::Following).await;
    drop(feed);
    for n in 0..running.chain.len() {
        running.append(n).await;
    }
    running.reached(running.chain.len() - 1).await;
    assert_eq!(running.views.state_hash().unwrap(), running.expected);
}

#[tokio::test]
async fn what_it_took_in_is_durable_when_it_stops() {
    let running = Running::new();
    for n in 0..4 {
        running.append(n).await;
    }
    let handle = running.start(None);
    running.reached(3).await;
    running.cancel.cancel();
    assert_eq!(timeout(DEADLINE, handle.stopped()).await.unwrap(), Health::Stopped);
    let left = running._folder.path().join("left.redb");
    std::fs::copy(running._folder.path().join("views.redb"), &left).unwrap();
    assert_eq!(Views::open(&left).unwrap().checkpoint(), running.views.checkpoint());
}

#[tokio::test]
async fn a_corrupt_block_stops_it_by_name_and_leaves_what_was_before() {
    let running = Running::new();
    for n in 0..3 {
        running.append(n).await;
    }
    let mut damaged = running.bytes[3].to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    running.log.append(BlockNumber(3), damaged.into()).await;
    let handle = running.start(None);
    let Health::Failed { reason } = until(&handle, |health| matches!(health, Health::Failed { .. })).await
    else {
        panic!("it goes on")
    };
    assert!(reason.contains("block 4"), "{reason}");
    assert_eq!(timeout(DEADLINE, handle.stopped()).await.unwrap(), Health::Failed { reason });
    assert!(running.views.checkpoint().block < BlockNumber(4));
}

#[tokio::test]
async fn another_logs_views_are_not_continued() {
    let running = Running::new();
    running.views.take(&running.chain[..3], true).unwrap();
    let (_, others) = blocks(&example(60), &[1]);
    for (what, log) in [
        ("a log that ends earlier", MemoryLog::holding(running.bytes[..2].to_vec())),
        ("another log", MemoryLog::holding(others)),
    ] {
        let handle = Projector::start(running.views.clone(), Arc::new(log), None, CancellationToken::new());
        let health = timeout(DEADLINE, handle.stopped()).await.unwrap();
        let Health::Failed { reason } = health else { panic!("{what}: {health:?}") };
        assert!(reason.contains("block 3"), "{what}: {reason}");
    }
}

#[tokio::test]
async fn a_log_that_lags_behind_the_views_for_a_while_is_waited_for() {
    let running = Running::new();
    running.views.take(&running.chain[..3], true).unwrap();
    let log = FaultyLog::scripted(MemoryLog::holding(running.bytes[..3].to_vec()), []);
    log.lag_for(3, DEADLINE);
    let log = Arc::new(log);
    let handle = Projector::start(running.views.clone(), log.clone(), None, running.cancel.clone());
    let health = until(&handle, |health| !matches!(health, Health::CatchingUp { .. })).await;
    assert_eq!(health, Health::Following);
    log.append(BlockNumber(3), Arc::clone(&running.bytes[3])).await;
    running.reached(3).await;
}

#[tokio::test]
async fn a_projector_that_waits_for_a_log_that_lags_can_be_stopped() {
    let running = Running::new();
    running.views.take(&running.chain[..3], true).unwrap();
    let log = FaultyLog::scripted(MemoryLog::holding(running.bytes[..3].to_vec()), []);
    log.lag_for(u32::MAX, Duration::MAX);
    let handle = Projector::start(running.views.clone(), Arc::new(log), None, running.cancel.clone());
    running.cancel.cancel();
    assert_eq!(timeout(DEADLINE, handle.stopped()).await.unwrap(), Health::Stopped);
}
