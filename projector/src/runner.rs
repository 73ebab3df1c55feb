//! Keeps the views up with the log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tephra_domain::ids::Position;
use tephra_journal::feed::{Fed, Feed, FeedSubscription};
use tephra_journal::log::{Block, BlockNumber, Log, LogError, seek};
use tephra_journal::wire::{decode_block, verify_hash};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ViewsError;
use crate::views::{Checkpoint, Views};

/// Blocks that are read at once while catching up. Some are in memory twice: as they are read, and
/// as they are taken in.
const READ_BLOCKS: usize = 128;
/// Commits that are taken in by one write: enough for neighbouring index entries to share pages.
const BATCH_COMMITS: usize = 16 * 1024;
/// How long what was taken in may be lost in a crash, and be taken in again.
const DURABLE_EVERY: Duration = Duration::from_secs(5);
/// Commits after which a write is durable in any case: what is not durable holds space in the file.
const DURABLE_COMMITS: usize = 256 * 1024;
/// How long nothing must have come before the last of it is made durable.
const IDLE_BEFORE_FLUSH: Duration = Duration::from_millis(500);
/// How long to leave a log alone that does not answer.
const RETRY_LOG_AFTER: Duration = Duration::from_millis(250);

/// How a projector fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Taking in what was written before it started.
    CatchingUp {
        /// How far it has come.
        at: BlockNumber,
        /// Where the log ended when it last looked.
        head: BlockNumber,
    },
    /// Up with the log.
    Following,
    /// It stopped because it was told to.
    Stopped,
    /// It stopped because it could not go on; the views are stale from now on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A projector that runs.
#[derive(Debug)]
pub struct ProjectorHandle {
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl ProjectorHandle {
    /// How it fares.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// To wait for a change in how it fares.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Returns once it has stopped, for whichever reason.
    pub async fn stopped(self) -> Health {
        if let Err(error) = self.task.await {
            return Health::Failed { reason: format!("the projector's task ended: {error}") };
        }
        self.health.borrow().clone()
    }
}

/// Follows a log and keeps views.
pub struct Projector {
    views: Views,
    log: Arc<dyn Log>,
    /// The last durable write, and the commits since.
    durable_at: Instant,
    commits_since: usize,
}

/// How far a rebuild has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Blocks taken in.
    pub block: BlockNumber,
    /// Commits taken in.
    pub position: Position,
    /// Where the log ended when the rebuild began.
    pub head: BlockNumber,
}

/// Deletes the views and makes them again from the log.
///
/// # Errors
/// If the log or the file fails, or the history is illegal.
pub async fn rebuild(
    log: Arc<dyn Log>,
    path: &Path,
    mut progress: impl FnMut(RebuildProgress) + Send,
) -> Result<Views, ViewsError> {
    let views = Views::create_fresh(path)?;
    let head = log.head().await?;
    let mut projector = Projector::new(views, log);
    let mut report = |at: Checkpoint| {
        progress(RebuildProgress { block: at.block, position: at.position, head });
    };
    projector.catch_up(&CancellationToken::new(), &mut report).await?;
    projector.flush().await?;
    Ok(projector.views)
}

impl Projector {
    /// Starts a task that catches up with the log and then follows it: by the feed where it
    /// can, by the log where it must.
    pub fn start(
        views: Views,
        log: Arc<dyn Log>,
        feed: Option<Feed>,
        cancel: CancellationToken,
    ) -> ProjectorHandle {
        let at = views.checkpoint().block;
        let (sender, health) = watch::channel(Health::CatchingUp { at, head: at });
        // Before the first look at the log, so that nothing falls between the two.
        let feed = feed.map(|feed| feed.subscribe());
        let mut projector = Self::new(views, log);
        let task = tokio::spawn(async move {
            let end = match projector.run(feed, &cancel, &sender).await {
                Ok(()) => Health::Stopped,
                Err(error) => {
                    tracing::error!(%error, "the projector stopped: the views are stale from now on");
                    Health::Failed { reason: error.to_string() }
                }
            };
            sender.send_replace(end);
        });
        ProjectorHandle { health, task }
    }

    fn new(views: Views, log: Arc<dyn Log>) -> Self {
        Self { views, log, durable_at: Instant::now(), commits_since: 0 }
    }

    async fn run(
        &mut self,
        mut feed: Option<FeedSubscription>,
        cancel: &CancellationToken,
        health: &watch::Sender<Health>,
    ) -> Result<(), ViewsError> {
        let mut behind = true;
        let mut checked = false;
        while !cancel.is_cancelled() {
            if behind {
                match self.catch_up_once(&mut checked, cancel, health).await {
                    Ok(()) => behind = false,
                    Err(ViewsError::Log(LogError::Unavailable(reason))) => {
                        tracing::warn!(reason, "the log does not answer; the projector tries again");
                        tokio::time::sleep(RETRY_LOG_AFTER).await;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            health.send_if_modified(|health| {
                let modified = *health != Health::Following;
                *health = Health::Following;
                modified
            });
            let known = self.views.checkpoint().block;
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                fed = next_fed(feed.as_mut()) => match fed {
                    Fed::Block(block) => behind = !self.take_fed(block, feed.as_mut()).await?,
                    Fed::Missed => behind = true,
                    Fed::Closed => { feed = None; behind = true; }
                },
                () = self.log.wait_beyond(known), if feed.is_none() => behind = true,
                () = tokio::time::sleep(IDLE_BEFORE_FLUSH), if self.commits_since > 0 => self.flush().await?,
            }
        }
        self.flush().await
    }

    async fn catch_up_once(
        &mut self,
        checked: &mut bool,
        cancel: &CancellationToken,
        health: &watch::Sender<Health>,
    ) -> Result<(), ViewsError> {
        if !*checked {
            let Some(same) = cancel.run_until_cancelled(self.check_same_log()).await else { return Ok(()) };
            same?;
            *checked = true;
        }
        let head = self.log.head().await?;
        self.catch_up(cancel, &mut |at: Checkpoint| {
            health.send_replace(Health::CatchingUp { at: at.block, head: head.max(at.block) });
        })
        .await
    }

    /// Whether the views' last block is the log's: it may be another log's views, or the log may
    /// have been put back to an earlier state.
    async fn check_same_log(&self) -> Result<(), ViewsError> {
        let at = self.views.checkpoint();
        if at.block == BlockNumber(0) {
            return Ok(());
        }
        let diverged = |reason: &str| ViewsError::Diverged { block: at.block, reason: reason.to_owned() };
        match seek(&*self.log, at.block).await? {
            Some(bytes) if verify_hash(at.block, &bytes)?.hash == at.hash => Ok(()),
            Some(_) => Err(diverged("the log has another block in its place")),
            None => Err(diverged("the log ends before it")),
        }
    }

    /// Takes in what the log has, reading ahead while it writes.
    async fn catch_up(
        &mut self,
        cancel: &CancellationToken,
        report: &mut (impl FnMut(Checkpoint) + Send),
    ) -> Result<(), ViewsError> {
        let mut blocks = read_blocks(&self.views, &self.log, self.views.checkpoint().block).await?;
        while let Some(last) = blocks.last().map(|block| block.number) {
            if cancel.is_cancelled() {
                break;
            }
            let (views, log) = (self.views.clone(), Arc::clone(&self.log));
            let (next, taken) = tokio::join!(read_blocks(&views, &log, last), self.take(blocks));
            report(taken?);
            blocks = next?;
        }
        Ok(())
    }

    /// Takes in a fed block, and those that have come meanwhile. False if blocks are missing
    /// before it.
    async fn take_fed(
        &mut self,
        block: Arc<Block>,
        feed: Option<&mut FeedSubscription>,
    ) -> Result<bool, ViewsError> {
        let mut next = self.views.checkpoint().block.0.saturating_add(1);
        let (mut blocks, mut commits, mut complete) = (Vec::new(), 0_usize, true);
        let mut fed = Some(Fed::Block(block));
        let mut feed = feed;
        while let Some(item) = fed {
            match item {
                Fed::Block(block) if block.number.0 == next => {
                    commits = commits.saturating_add(block.commits.len());
                    next = next.saturating_add(1);
                    blocks.push(block);
                }
                Fed::Block(block) if block.number.0 < next => {}
                Fed::Block(_) | Fed::Missed | Fed::Closed => complete = false,
            }
            fed = match &mut feed {
                Some(feed) if complete && commits < BATCH_COMMITS => feed.try_next(),
                Some(_) | None => None,
            };
        }
        if !blocks.is_empty() {
            self.take(blocks).await?;
        }
        Ok(complete)
    }

    async fn take(&mut self, blocks: Vec<Arc<Block>>) -> Result<Checkpoint, ViewsError> {
        let commits = blocks.iter().map(|block| block.commits.len()).sum::<usize>();
        let since = self.commits_since.saturating_add(commits);
        let durable = self.durable_at.elapsed() >= DURABLE_EVERY || since >= DURABLE_COMMITS;
        let views = self.views.clone();
        let taken =
            blocking(self.views.never_blocks(), move || take_in_batches(&views, &blocks, durable)).await?;
        self.commits_since = if durable { 0 } else { since };
        if durable {
            self.durable_at = Instant::now();
        }
        Ok(taken)
    }

    async fn flush(&mut self) -> Result<(), ViewsError> {
        if self.commits_since > 0 {
            let views = self.views.clone();
            blocking(self.views.never_blocks(), move || views.flush()).await?;
            (self.commits_since, self.durable_at) = (0, Instant::now());
        }
        Ok(())
    }
}

fn take_in_batches(views: &Views, blocks: &[Arc<Block>], durable: bool) -> Result<Checkpoint, ViewsError> {
    let mut start = 0_usize;
    let mut commits = 0_usize;
    let mut checkpoint = views.checkpoint();
    for (index, block) in blocks.iter().enumerate() {
        commits = commits.saturating_add(block.commits.len());
        let end = index.saturating_add(1);
        let last = end == blocks.len();
        if last || commits >= BATCH_COMMITS {
            // One durable write makes those before it durable too.
            checkpoint = views.take(blocks.get(start..end).unwrap_or_default(), durable && last)?;
            (start, commits) = (end, 0);
        }
    }
    Ok(checkpoint)
}

async fn next_fed(feed: Option<&mut FeedSubscription>) -> Fed {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}

async fn read_blocks(
    views: &Views,
    log: &Arc<dyn Log>,
    after: BlockNumber,
) -> Result<Vec<Arc<Block>>, ViewsError> {
    let from = BlockNumber(after.0.saturating_add(1));
    let read = log.read(from, READ_BLOCKS).await?;
    if read.is_empty() {
        return Ok(Vec::new());
    }
    blocking(views.never_blocks(), move || {
        let decoded = read.into_iter().map(|(number, bytes)| decode_block(number, &bytes).map(Arc::new));
        Ok(decoded.collect::<Result<_, _>>()?)
    })
    .await
}

/// Does work that may block, on a thread for that; in place where the views' storage never blocks.
async fn blocking<T: Send + 'static>(
    in_place: bool,
    work: impl FnOnce() -> Result<T, ViewsError> + Send + 'static,
) -> Result<T, ViewsError> {
    if in_place {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(ViewsError::Storage("the program is stopping".to_owned())),
        Err(error) => {
            Err(ViewsError::damaged(format_args!("reading or writing the views panicked: {error}")))
        }
    }
}
