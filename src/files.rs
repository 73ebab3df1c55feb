//! The files of a data directory: opened, verified, brought up to date.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use tephra_api::auth::{Authenticator, NoAuth};
use tephra_api::state::{ApiSettings, App, AppState};
use tephra_domain::ledger::Ledger;
use tephra_domain::units::Timestamp;
use tephra_journal::clock::{Clock as _, SystemClock};
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
use tephra_journal::hash_chain::{ChainHead, verify_chain, verify_hashes};
use tephra_journal::inventory::InventoryDesk;
use tephra_journal::log::{BlockNumber, Log, LogError, seek};
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::ProgressBoard;
use tephra_journal::wire::verify_hash;
use tephra_projector::runner::{Health, Projector, rebuild};
use tephra_projector::{Checkpoint, Views, ViewsError};
use tokio_util::sync::CancellationToken;

use crate::failure::{CommandError, CommandResult, Exit};
use crate::lock::DataDirLock;
use crate::output::{Ink, Output};

/// What an operator can do about a journal that is not what was written.
const DAMAGED_JOURNAL_HINT: &str = "nothing was changed. Keep the file as evidence, and restore the journal from a \
    backup or from another replica; `tephra verify` says how far it is intact";

/// The pause before a log is read again that could not be.
const UNREADABLE_PAUSE: Duration = Duration::from_millis(500);

/// The file of the journal.
pub fn journal_file(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("ledger.redb")
}

/// The file of the views.
pub fn views_file(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("views.redb")
}

/// An error of the journal with its exit code.
pub fn journal_error(error: LogError) -> CommandError {
    match error {
        LogError::Corrupt { .. } => CommandError::new(
            Exit::VerificationFailed,
            format!("the journal is not what was written: {error}"),
        )
        .hint(DAMAGED_JOURNAL_HINT),
        // damage to the file as a whole has no block to name; the log says it in these words
        LogError::Unavailable(reason) if reason.contains("is damaged") => {
            CommandError::new(Exit::VerificationFailed, reason).hint(DAMAGED_JOURNAL_HINT)
        }
        LogError::Unavailable(_) => CommandError::from(error),
    }
}

/// An error of the views with its exit code.
pub fn views_error(error: ViewsError) -> CommandError {
    match error {
        ViewsError::Log(error) => journal_error(error),
        ViewsError::IllegalHistory { .. } => {
            CommandError::new(Exit::VerificationFailed, error).hint(DAMAGED_JOURNAL_HINT)
        }
        ViewsError::InUse { .. } => CommandError::new(Exit::InUse, error),
        ViewsError::MustRebuild { .. } | ViewsError::Diverged { .. } => {
            CommandError::from(error).hint("make them again from the journal: `tephra rebuild`")
        }
        ViewsError::Storage(_) => error.into(),
    }
}

/// Walks the whole journal: every block's hash, the chain, the positions, every event known.
///
/// # Errors
/// [`Exit::VerificationFailed`], naming the block and the position.
pub async fn verify_journal(log: &Arc<dyn Log>, output: Output) -> CommandResult<ChainHead> {
    let verified = walk_journal(log.as_ref(), output).await;
    if verified.is_err() {
        // closing a damaged file can make the store panic, and the message would be lost: the
        // process is about to end, which closes it too
        std::mem::forget(Arc::clone(log));
    }
    verified.map_err(journal_error)
}

/// As [`verify_journal`], but without reading events: every byte is what was written. For starts.
///
/// # Errors
/// As [`verify_journal`].
pub async fn verify_journal_hashes(log: Arc<dyn Log>, output: Output) -> CommandResult<ChainHead> {
    let last = log.head().await.map_err(journal_error)?;
    let bar = output.progress("verifying the journal", last.0);
    let verified = verify_hashes(log.as_ref(), |number| bar.set_position(number.0)).await;
    bar.finish_and_clear();
    if verified.is_err() {
        // as in `verify_journal`
        std::mem::forget(log);
    }
    verified.map_err(journal_error)
}

async fn walk_journal(log: &dyn Log, output: Output) -> Result<ChainHead, LogError> {
    let last = log.head().await?;
    let bar = output.progress("verifying the journal", last.0);
    let verified = verify_chain(log, |block, _| {
        bar.set_position(block.number.0);
        Ok(())
    })
    .await;
    bar.finish_and_clear();
    verified
}

/// Views that were read from beginning to end, and the state that they hold.
pub struct SoundViews {
    /// The views.
    pub views: Views,
    /// The state where they stand.
    pub ledger: Ledger,
}

/// What to do about views that have seen what the journal does not have.
const STRAY_VIEWS_HINT: &str = "either the journal lost its end (an old copy was put back?), or the \
     views are of another journal. Put the right file back; if the journal is the right one, \
     `tephra rebuild` makes the views again from it";

/// Opens the views and reads all of them; makes them again from the journal if they are damaged or
/// of another schema.
///
/// # Errors
/// [`Exit::VerificationFailed`] if they have taken in what the journal does not have, or if the
/// journal is damaged; or if they can be neither opened nor made.
pub async fn open_views(log: &Arc<dyn Log>, path: &Path, output: Output) -> CommandResult<SoundViews> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_views(&file));
    let reason = match read.await.map_err(anyhow::Error::from)? {
        Ok(sound) => match stray(log.as_ref(), &sound.views).await? {
            None => return Ok(sound),
            // they may be the only trace of what the journal has lost: nothing is made again
            // before somebody has looked
            Some(reason) => {
                let file = path.display();
                return Err(CommandError::new(
                    Exit::VerificationFailed,
                    format!("the views {file} do not follow from the journal: {reason}"),
                )
                .hint(STRAY_VIEWS_HINT));
            }
        },
        Err(ViewsError::MustRebuild { reason }) => reason,
        Err(error) => return Err(views_error(error)),
    };
    let note = format!("the views {} are made again from the journal: {reason}", path.display());
    if tracing::enabled!(tracing::Level::WARN) {
        tracing::warn!("{note}");
    } else {
        eprintln!("{} {note}", output.error_paint().ink(Ink::Caution, "note:"));
    }
    // nothing is deleted before the journal that replaces it is known to be sound
    verify_journal_hashes(Arc::clone(log), output).await?;
    rebuild_views(log, path, output).await?;
    read_views(path).map_err(views_error)
}

fn read_views(path: &Path) -> Result<SoundViews, ViewsError> {
    let views = guarded(|| Views::open(path))?;
    match guarded(|| views.verify().and_then(|()| views.load_ledger())) {
        Ok(ledger) => Ok(SoundViews { views, ledger }),
        Err(error) => {
            // closing a damaged file can fail in the same way as reading it
            guarded(move || {
                drop(views);
                Ok(())
            })?;
            Err(error)
        }
    }
}

/// Runs `work` on views; the store panics over some kinds of damage, and that is damage too.
fn guarded<T>(work: impl FnOnce() -> Result<T, ViewsError>) -> Result<T, ViewsError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(ViewsError::MustRebuild { reason: "the file's pages contradict each other".to_owned() })
    })
}

/// Makes the views again from the journal.
///
/// # Errors
/// What is wrong with the journal, or with the file.
pub async fn rebuild_views(log: &Arc<dyn Log>, path: &Path, output: Output) -> CommandResult<Checkpoint> {
    let last = log.head().await.map_err(journal_error)?;
    let bar = output.progress("rebuilding the views", last.0);
    let rebuilt = rebuild(Arc::clone(log), path, |progress| {
        bar.set_length(progress.head.0);
        bar.set_position(progress.block.0);
    })
    .await;
    bar.finish_and_clear();
    Ok(rebuilt.map_err(views_error)?.checkpoint())
}

/// Opens views that must be sound, and changes nothing if they are not.
///
/// # Errors
/// What is wrong with them.
pub fn open_sound_views(path: &Path) -> CommandResult<SoundViews> {
    read_views(path).map_err(|error| CommandError { exit: Exit::VerificationFailed, ..views_error(error) })
}

/// Why the views cannot be of this journal, if they cannot.
async fn stray(log: &dyn Log, views: &Views) -> CommandResult<Option<String>> {
    let checkpoint = views.checkpoint();
    if checkpoint.block == BlockNumber::default() {
        return Ok(None);
    }
    let Some(bytes) = seek_patiently(log, checkpoint.block).await? else {
        return Ok(Some(format!("they have taken in block {}, which it does not have", checkpoint.block.0)));
    };
    let header = verify_hash(checkpoint.block, &bytes).map_err(journal_error)?;
    let same = header.hash == checkpoint.hash;
    Ok((!same).then(|| format!("they have taken in another block {}", checkpoint.block.0)))
}

/// As [`seek`], and waits for a log on other machines that cannot be read: while servers elect among
/// themselves it says nothing of what it has.
async fn seek_patiently(log: &dyn Log, number: BlockNumber) -> CommandResult<Option<Arc<[u8]>>> {
    let mut said = false;
    loop {
        match seek(log, number).await {
            Err(LogError::Unavailable(reason)) if !log.lag().is_zero() => {
                if !said {
                    tracing::warn!(block = number.0, reason, "waiting for the log to be readable");
                    said = true;
                }
                tokio::time::sleep(UNREADABLE_PAUSE).await;
            }
            sought => return sought.map_err(journal_error),
        }
    }
}

/// Brings views to the end of a journal that nobody appends to.
///
/// # Errors
/// What is wrong with either.
pub async fn catch_views_up(log: &Arc<dyn Log>, views: &Views, output: Output) -> CommandResult {
    let head = log.head().await.map_err(journal_error)?;
    if views.checkpoint().block >= head {
        return Ok(());
    }
    let bar = output.progress("bringing the views up to date", head.0);
    let cancel = CancellationToken::new();
    let projector = Projector::start(views.clone(), Arc::clone(log), None, cancel.clone());
    let mut health = projector.watch_health();
    let caught_up = health.wait_for(|health| match health {
        Health::CatchingUp { at, .. } => {
            bar.set_position(at.0);
            false
        }
        Health::Following | Health::Stopped | Health::Failed { .. } => true,
    });
    let ended = caught_up.await.map(|health| health.clone());
    bar.finish_and_clear();
    cancel.cancel();
    match ended {
        Ok(Health::Failed { reason }) => {
            Err(CommandError::new(Exit::Error, format!("the views cannot go on: {reason}"))
                .hint("make them again from the journal: `tephra rebuild`"))
        }
        Ok(Health::Following | Health::Stopped | Health::CatchingUp { .. }) => Ok(()),
        Err(_) => Err(CommandError::new(Exit::Error, "the projector ended before the journal did")),
    }
}

/// Opens a journal to be looked at.
///
/// # Errors
/// If it cannot be read.
pub fn open_journal_to_read(path: &Path) -> CommandResult<EmbeddedLog> {
    // after a crash the store has to finish its own bookkeeping first, which reading alone cannot
    EmbeddedLog::open_read_only(path).or_else(|_| EmbeddedLog::open(path)).map_err(journal_error)
}

/// The API over files that no server has open. It answers questions; it takes no commands.
pub struct OfflineLedger {
    router: Router,
    _lock: DataDirLock,
}

impl OfflineLedger {
    /// Opens the files and brings the views up to date.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub async fn open(lock: DataDirLock, data_dir: &Path, output: Output) -> CommandResult<Self> {
        let log: Arc<dyn Log> = Arc::new(open_journal_to_read(&journal_file(data_dir))?);
        let SoundViews { views, .. } = open_views(&log, &views_file(data_dir), output).await?;
        catch_views_up(&log, &views, output).await?;
        let clock = SystemClock::default();
        let state = AppState::new(App {
            gateway: Arc::new(NoGateway),
            views,
            log,
            pools: PoolBoard::default(),
            progress: ProgressBoard::default(),
            inventory: Arc::new(InventoryDesk::default()),
            clock: Arc::new(move || -> Timestamp { clock.now() }),
            auth: Authenticator::NoAuth(NoAuth { everybody_is_admin: true, allow_any_address: false }),
            settings: ApiSettings::default(),
        });
        Ok(Self { router: tephra_api::server::router(state), _lock: lock })
    }

    /// The API's routes.
    pub fn router(&self) -> Router {
        self.router.clone()
    }
}

struct NoGateway;

#[async_trait]
impl CommandGateway for NoGateway {
    async fn submit(&self, _: Submission) -> Result<Receipt, SubmitError> {
        Err(SubmitError::Unavailable { reason: "no server runs on this ledger".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use tephra_journal::faulty::FaultyLog;
    use tephra_journal::memory::MemoryLog;
    use tephra_journal::sequencer::bootstrap;

    use super::*;
    use crate::output::ColorChoice;

    /// Longer than any test waits.
    const LAG: Duration = Duration::from_secs(60);

    /// A log with the first commit of every ledger, and views that have taken it in.
    async fn log_and_views(path: &Path) -> Arc<dyn Log> {
        use tephra_journal::feed::Feed;
        use tephra_journal::ids::RandomIds;
        use tephra_journal::in_process_queue::InProcessQueue;
        use tephra_journal::sequencer::{CaughtUp, Sequencer, SequencerConfig, SequencerParts};
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let clock = Arc::new(SystemClock::default());
        let cancel = CancellationToken::new();
        let parts = SequencerParts {
            log: Arc::clone(&log),
            pools: PoolBoard::default(),
            queue: Arc::new(InProcessQueue::new(clock.clone())),
            feed: Feed::new(),
            clock,
            ids: Arc::new(RandomIds),
            cancel: cancel.clone(),
            turn_of: None,
        };
        let sequencer = Sequencer::start(SequencerConfig::default(), CaughtUp::default(), parts);
        bootstrap(&sequencer).await.unwrap();
        cancel.cancel();
        sequencer.drained().await.unwrap();
        rebuild(Arc::clone(&log), path, |_| {}).await.unwrap();
        log
    }

    async fn lagging_copy(log: &Arc<dyn Log>, reads: u32, longest: Duration) -> Arc<FaultyLog<MemoryLog>> {
        let blocks = log.read(BlockNumber(1), usize::MAX).await.unwrap();
        let copy = MemoryLog::holding(blocks.into_iter().map(|(_, bytes)| bytes).collect());
        let copy = FaultyLog::scripted(copy, []);
        copy.lag_for(reads, longest);
        Arc::new(copy)
    }

    #[tokio::test]
    async fn views_are_not_called_stray_while_the_log_may_lag_or_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = views_file(folder.path());
        let log = log_and_views(&path).await;
        let lagging = lagging_copy(&log, 2, LAG).await;
        lagging.fail_reads(2);
        let lagging: Arc<dyn Log> = lagging;
        let sound = open_views(&lagging, &path, Output::new(ColorChoice::Never, true)).await.unwrap();
        assert_eq!(sound.views.checkpoint().block, log.head().await.unwrap());
    }

    #[tokio::test]
    async fn views_of_a_log_that_has_lost_their_block_are_stray_and_an_unreadable_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = views_file(folder.path());
        let log = log_and_views(&path).await;
        let lost: Arc<dyn Log> = lagging_copy(&log, u32::MAX, Duration::from_millis(1)).await;
        let error = open_views(&lost, &path, Output::new(ColorChoice::Never, true)).await.err().unwrap();
        assert_eq!(error.exit, Exit::VerificationFailed);
        let unreadable = lagging_copy(&log, 0, Duration::ZERO).await;
        unreadable.fail_reads(1);
        let unreadable: Arc<dyn Log> = unreadable;
        let error =
            open_views(&unreadable, &path, Output::new(ColorChoice::Never, true)).await.err().unwrap();
        assert_eq!(error.exit, Exit::Error);
    }
}
