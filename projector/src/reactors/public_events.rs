//! Publishes every event of the ledger, once and in order.
//!
//! The stream's last message says where to go on: message n is the n-th event of the ledger. A
//! publisher folds the log from its beginning (whose each thing is, and how many events there are),
//! passes over what is published, and publishes the rest. It keeps nothing, so a restart has nothing
//! to lose, and whoever is killed at whatever point is gone on from by the next one.
//!
//! When a batch fails in any way, nothing is concluded from how: the stream is asked where it ends,
//! what is there is taken off, and the rest is sent again. Two publishers at once do no harm, since
//! both would publish the same bytes under the same number, and the stream takes a number once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tephra_domain::ids::{Position, ProjectId};
use tephra_journal::event_stream::{
    EventMark, EventStream, EventStreamError, PublicEvent, RefusedStream, StreamEnd,
};
use tephra_journal::log::{Block, BlockNumber, Log, LogError, Sequenced};
use tephra_journal::subjects::Cell;
use tephra_journal::wire::decode_block;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owners::Owners;
use crate::render::cloud_event::{cloud_event, public_view};
use crate::render::sequence;

/// Gauge: the last event that is known to be published; the first one is 1.
pub const EVENTS_PUBLISHED: &str = "tephra_events_published";
/// Gauge: the commit of that event.
pub const EVENTS_POSITION: &str = "tephra_events_position";
/// Gauge: blocks of the log that are not published yet.
pub const EVENTS_LAG_BLOCKS: &str = "tephra_events_lag_blocks";
/// Counter: batches of which it was not known what became, so that the stream was asked.
pub const EVENTS_UNSURE_TOTAL: &str = "tephra_events_unsure_total";
/// Gauge: 1 while the stream cannot be gone on with and must be made again.
pub const EVENTS_REFUSED: &str = "tephra_events_refused";

/// Events that are on their way at a time.
const BATCH_EVENTS: usize = 512;
const BATCH_NUMBERS: u64 = BATCH_EVENTS as u64;
/// Blocks that are read at once, and held.
const READ_BLOCKS: usize = 64;
/// The wait before the stream or the log is asked again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a stream to which nothing is added is looked at: somebody may have deleted it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a standby follows the one whose turn it is.
const STANDBY_LOOK: Duration = Duration::from_secs(2);
/// Answers that contradict what is known, before they are believed: a server that has just begun to
/// lead, or no longer leads and does not know it yet, gives old ones.
const OLD_ANSWERS: u32 = 4;

/// How far the events are published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last event that is known to be published; 0 before the first.
    pub events: u64,
    /// The commit that it is part of.
    pub position: Position,
    /// The block up to which all is published.
    pub block: BlockNumber,
}

/// Why events cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The log is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The stream is not this ledger's, or not as it must be.
    #[error(transparent)]
    Refused(#[from] RefusedStream),
}

/// The log, folded up to a commit.
#[derive(Default)]
struct Fold {
    /// The last block of which all commits were taken in.
    block: BlockNumber,
    /// Commits of the next block that were taken in.
    commits: usize,
    /// Events taken in.
    events: u64,
    owners: Owners,
    /// What tells this ledger from every other: its first block.
    source: Option<Arc<str>>,
}

impl Fold {
    /// The name of this ledger, for whoever hears of several. `block` is its first one when this is
    /// asked for the first time.
    fn source(&mut self, cell: &Cell, block: &Block) -> Arc<str> {
        let name = || format!("/tephra/{cell}/{}", block.id).into();
        Arc::clone(self.source.get_or_insert_with(name))
    }
}

/// An event that is to be published, and where it leaves the ledger.
struct Pending {
    event: PublicEvent,
    progress: Progress,
}

/// Publishes the events of one ledger.
pub struct PublicEvents {
    log: Arc<dyn Log>,
    stream: Arc<dyn EventStream>,
    cell: Cell,
    fold: Fold,
    /// Blocks that were read and not taken in, or in part.
    blocks: VecDeque<Arc<Block>>,
    /// Events after those that are published, in order.
    pending: VecDeque<Pending>,
    /// Where the last published event is in the ledger.
    mark: Option<EventMark>,
    /// Answers in a row that were not believed.
    doubted: u32,
    /// When the stream last said where it ends.
    looked_at: Instant,
    progress: watch::Sender<Progress>,
}

impl PublicEvents {
    /// A publisher that has not looked at anything yet.
    pub fn new(log: Arc<dyn Log>, stream: Arc<dyn EventStream>, cell: Cell) -> Self {
        Self {
            log,
            stream,
            cell,
            fold: Fold::default(),
            blocks: VecDeque::new(),
            pending: VecDeque::new(),
            mark: None,
            doubted: 0,
            looked_at: Instant::now(),
            progress: watch::Sender::default(),
        }
    }

    /// How far it has come.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Publishes what there is and what comes, until `stop`, however long nobody answers. Can be
    /// called again.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn follow(&mut self, stop: &CancellationToken) -> Result<(), PublishError> {
        stop.run_until_cancelled(self.publish_to(None)).await.unwrap_or(Ok(()))
    }

    /// Publishes what there is.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn catch_up(&mut self) -> Result<(), PublishError> {
        let mut pauses = Pauses::default();
        let head = loop {
            match self.log.head().await {
                Ok(head) => break head,
                Err(error) => pauses.after_log(error).await?,
            }
        };
        self.publish_to(Some(head)).await
    }

    /// Follows what another publishes, so as to go on from there at once. Returns if the stream is
    /// not as it must be. Can be dropped at any time.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn stand_by(&mut self) -> Result<(), PublishError> {
        loop {
            self.settle().await?;
            tokio::time::sleep(STANDBY_LOOK).await;
        }
    }

    /// Publishes up to a block, or for ever.
    async fn publish_to(&mut self, last: Option<BlockNumber>) -> Result<(), PublishError> {
        let mut pauses = Pauses::default();
        self.settle().await?;
        // Whoever published last may not have come to looking for it.
        self.are_events(self.published().saturating_sub(BATCH_NUMBERS)).await?;
        loop {
            self.fill().await?;
            if self.pending.is_empty() {
                if last.is_some_and(|last| self.fold.block >= last) {
                    return Ok(());
                }
                // Returns early now and then.
                let more = self.log.wait_beyond(self.fold.block);
                let waited = tokio::time::timeout(LOOK_AGAIN, more).await;
                if waited.is_err() || self.looked_at.elapsed() >= LOOK_AGAIN {
                    self.settle().await?;
                }
                continue;
            }
            let batch: Vec<PublicEvent> =
                self.pending.iter().take(BATCH_EVENTS).map(|pending| pending.event.clone()).collect();
            match self.stream.publish(&batch).await {
                Ok(()) => {
                    self.drop_published(batch.len());
                    pauses = Pauses::default();
                }
                Err(EventStreamError::Refused(refused)) => return Err(refused.into()),
                Err(EventStreamError::Unsure(reason)) => {
                    counter!(EVENTS_UNSURE_TOTAL).increment(1);
                    tracing::debug!(reason, "not every event of a batch was taken; the stream is asked");
                    pauses.pause().await;
                    let known = self.published();
                    self.settle().await?;
                    self.are_events(known).await?;
                }
            }
        }
    }

    /// Makes sure that nobody else's message is between a published event and the last one.
    async fn are_events(&self, after: u64) -> Result<(), PublishError> {
        let mut pauses = Pauses::default();
        loop {
            match self.stream.are_events(after.saturating_add(1)..=self.published()).await {
                Ok(()) => return Ok(()),
                Err(EventStreamError::Refused(refused)) => return Err(refused.into()),
                Err(EventStreamError::Unsure(reason)) => {
                    tracing::debug!(reason, "the stream of events does not say what is on it");
                }
            }
            pauses.pause().await;
        }
    }

    /// The last event that is known to be published.
    fn published(&self) -> u64 {
        self.fold.events.saturating_sub(u64::try_from(self.pending.len()).unwrap_or(u64::MAX))
    }

    /// Takes published events off.
    fn drop_published(&mut self, count: usize) {
        let Some(last) = self.pending.drain(..count.min(self.pending.len())).next_back() else { return };
        self.mark = Some(last.event.mark);
        self.report(last.progress);
    }

    fn report(&self, progress: Progress) {
        gauge!(EVENTS_PUBLISHED).set(figure(progress.events));
        gauge!(EVENTS_POSITION).set(figure(progress.position.0));
        self.progress.send_replace(progress);
    }

    /// Begins again with the first block.
    fn begin_again(&mut self) {
        self.fold = Fold::default();
        self.blocks.clear();
        self.pending.clear();
        self.mark = None;
        self.progress.send_replace(Progress::default());
    }

    /// Asks where the stream ends, makes sure that it is this ledger's, and comes to that place.
    async fn settle(&mut self) -> Result<(), PublishError> {
        let mut pauses = Pauses::default();
        loop {
            match self.stream.end().await {
                Ok(end) => {
                    if self.come_to(&end).await? {
                        self.doubted = 0;
                        self.looked_at = Instant::now();
                        return Ok(());
                    }
                }
                Err(EventStreamError::Refused(refused)) => return Err(refused.into()),
                Err(EventStreamError::Unsure(reason)) => {
                    tracing::debug!(reason, "the stream of events does not say where it ends");
                }
            }
            pauses.pause().await;
        }
    }

    /// Comes to the end of the stream, if it can be believed.
    async fn come_to(&mut self, end: &StreamEnd) -> Result<bool, PublishError> {
        if end.last < self.published() {
            // Either old news, or the stream was made anew, or its server has lost some of it.
            self.doubted = self.doubted.saturating_add(1);
            if self.doubted <= OLD_ANSWERS {
                return Ok(false);
            }
            let (last, published) = (end.last, self.published());
            tracing::warn!(last, published, "the stream has lost events; they are published again");
            self.begin_again();
        }
        // What was made ready and has arrived meanwhile.
        let arrived = usize::try_from(end.last.saturating_sub(self.published())).unwrap_or(usize::MAX);
        self.drop_published(arrived);
        // What another has published.
        while self.published() < end.last {
            if !self.take_commit(end.last).await? {
                self.doubted = self.doubted.saturating_add(1);
                if self.doubted <= OLD_ANSWERS {
                    return Ok(false);
                }
                let (last, events) = (end.last, self.fold.events);
                return Err(self.refused(format!("it has {last} events, but the ledger has {events}")));
            }
        }
        if self.mark == end.mark {
            return Ok(true);
        }
        let says = |mark: &Option<EventMark>| mark.as_ref().map_or("nothing", |mark| &mark.id).to_owned();
        let problem = format!(
            "it is of another ledger, or of another past of this one: its message {} is event {}, where this \
             ledger has event {} with another history before it",
            end.last,
            says(&end.mark),
            says(&self.mark),
        );
        self.begin_again();
        Err(self.refused(problem))
    }

    fn refused(&self, problem: String) -> PublishError {
        RefusedStream::because(self.stream.name(), problem).into()
    }

    /// Makes events ready until there is a batch of them or the log ends.
    async fn fill(&mut self) -> Result<(), PublishError> {
        while self.pending.len() < BATCH_EVENTS && self.take_commit(0).await? {
            // A block may be large, and others are at work on the same threads.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Takes the next commit in; false at the end of the log. Its events up to number `published`
    /// are passed over, the others are made ready.
    async fn take_commit(&mut self, published: u64) -> Result<bool, PublishError> {
        if self.blocks.is_empty() {
            self.read_blocks().await?;
        }
        let Some(block) = self.blocks.front().cloned() else { return Ok(false) };
        let Some(commit) = block.commits.get(self.fold.commits) else { return Ok(false) };
        let source = self.fold.source(&self.cell, &block);
        let taken = self.fold.commits.saturating_add(1);
        let ends_block = taken >= block.commits.len();
        let whole_blocks = if ends_block { block.number } else { self.fold.block };
        let mut passed = None;
        for (index, event) in commit.commit.events.iter().enumerate() {
            let owner = self
                .fold
                .owners
                .take(event)
                .map_err(|unowned| LogError::Corrupt { number: block.number, reason: unowned.to_string() })?;
            self.fold.events = self.fold.events.saturating_add(1);
            let number = self.fold.events;
            let is_last = index.saturating_add(1) == commit.commit.events.len();
            let progress = Progress {
                events: number,
                position: commit.position,
                block: if is_last { whole_blocks } else { self.fold.block },
            };
            if number < published && !is_last {
                continue;
            }
            let id = sequence(commit.position, index);
            let mark = EventMark { id, block: block.number, hash: block.hash };
            if number <= published {
                passed = Some((mark, progress));
            } else {
                let event = public_event(&self.cell, &source, commit, index, owner.as_ref(), (number, mark));
                self.pending.extend(event.map(|event| Pending { event, progress }));
            }
        }
        if let Some((mark, progress)) = passed {
            self.mark = Some(mark);
            self.report(progress);
        }
        if ends_block {
            (self.fold.block, self.fold.commits) = (block.number, 0);
            self.blocks.pop_front();
        } else {
            self.fold.commits = taken;
        }
        Ok(true)
    }

    /// Reads the next blocks, if there are any, however long the log does not answer.
    async fn read_blocks(&mut self) -> Result<(), LogError> {
        let mut pauses = Pauses::default();
        loop {
            match read_after(self.log.as_ref(), self.fold.block).await {
                Ok((blocks, head)) => {
                    let behind = head.0.saturating_sub(self.progress.borrow().block.0);
                    gauge!(EVENTS_LAG_BLOCKS).set(figure(behind));
                    self.blocks.extend(blocks);
                    return Ok(());
                }
                Err(error) => pauses.after_log(error).await?,
            }
        }
    }
}

/// The `index`-th event of a commit as it is published.
fn public_event(
    cell: &Cell,
    source: &str,
    commit: &Sequenced,
    index: usize,
    owner: Option<&ProjectId>,
    (number, mark): (u64, EventMark),
) -> Option<PublicEvent> {
    let view = public_view(commit.position, index, &commit.commit, owner)?;
    let project = owner.map(ProjectId::as_str);
    let subject = cell.event_subject(project, view.resource.kind, &view.resource.id, view.kind);
    let body = cloud_event(source, number, &view).into();
    Some(PublicEvent { number, mark, subject, body })
}

/// The next blocks, and where the log ends.
async fn read_after(log: &dyn Log, last: BlockNumber) -> Result<(Vec<Arc<Block>>, BlockNumber), LogError> {
    let read = log.read(BlockNumber(last.0.saturating_add(1)), READ_BLOCKS).await?;
    let head = log.head().await?;
    let decoding = tokio::task::spawn_blocking(move || {
        read.into_iter().map(|(number, bytes)| decode_block(number, &bytes).map(Arc::new)).collect()
    });
    let blocks: Result<Vec<_>, LogError> =
        decoding.await.map_err(|error| LogError::Unavailable(error.to_string()))?;
    Ok((blocks?, head))
}

/// Pauses that become longer.
#[derive(Default)]
struct Pauses {
    taken: u32,
}

impl Pauses {
    async fn pause(&mut self) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.taken.min(10)).min(LONGEST_PAUSE);
        self.taken = self.taken.saturating_add(1);
        tokio::time::sleep(pause).await;
    }

    /// Waits for a log that does not answer. A damaged one is an error.
    async fn after_log(&mut self, error: LogError) -> Result<(), LogError> {
        match error {
            LogError::Corrupt { .. } => Err(error),
            LogError::Unavailable(reason) => {
                tracing::debug!(reason, "the log does not answer; the events wait");
                self.pause().await;
                Ok(())
            }
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "gauges are floats; beyond 2^53 nobody counts events one by one"
)]
const fn figure(number: u64) -> f64 {
    number as f64
}
