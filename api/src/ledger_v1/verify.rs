//! `/ledger/v1/verify`: whether nobody edited the log, and the views are what it says.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::Position;
use tephra_domain::ledger::Ledger;
use tephra_journal::hash_chain::{ChainHead, verify_chain};
use tephra_journal::log::{AppendOutcome, Block, BlockNumber, Log, LogError};
use tephra_journal::wire::state::state_hash;
use tephra_projector::render::moment;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Identity;
use crate::error::Fault;
use crate::state::AppState;

/// Verifications at a time: each reads the whole log and holds a whole state.
static VERIFICATIONS: Semaphore = Semaphore::const_new(1);

/// How often a long verification sends a space, so that nobody on the way takes it for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The verification.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(verify))
}

/// How long a log that could be read for a while may fail to answer: above the time that NATS servers
/// need to elect among themselves and a server needs to start again.
const LOG_PATIENCE: Duration = Duration::from_secs(60);

/// The pause before such a log is read again.
const LOG_PAUSE: Duration = Duration::from_millis(500);

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Report {
    /// Whether everything is as it should be. `null`: nobody knows, because the log could not be read to
    /// its end; what was read is in order.
    pub intact: Option<bool>,
    /// What is not, naming the block and the position; or why nobody knows.
    pub reason: Option<String>,
    /// Blocks of the log that were verified.
    pub blocks: u64,
    /// The last verified position.
    pub position: u64,
    /// SHA-256 of the last verified block: keep it elsewhere, and later compare.
    pub hash: Option<String>,
    /// The time of the last verified commit.
    pub time: Option<String>,
    /// What comparing the views with a replay came to, in words.
    pub views: Option<String>,
    /// The position at which views and replay were compared.
    pub views_position: Option<u64>,
    /// SHA-256 over the state there.
    pub state_hash: Option<String>,
}

/// Verifies every block's hash, the chain, the positions and every event; replays the log, and
/// compares the result with the views (administrators; one at a time).
///
/// The answer is 200 whatever is found: `intact` says it. It may take long; until then it is spaces.
/// If the log cannot be read, nothing was found, and the answer is 503. Once the answer has begun, after
/// five seconds, a log that fails is waited for, for a minute; then `intact` is `null`.
#[utoipa::path(
    get, path = "/verify", tag = "ledger",
    responses((status = 200, body = Report), (status = 403), (status = 503))
)]
async fn verify(State(app): State<AppState>, identity: Identity) -> Result<Response, Fault> {
    identity.actor.require_admin("tephra:ledger:verify")?;
    let permit = VERIFICATIONS
        .try_acquire()
        .map_err(|_| Fault::unavailable("Another verification is under way. Please try again."))?;
    let mut work: Work = Box::pin(async move {
        let log = WaitedFor { log: Arc::clone(&app.log), since: Instant::now() };
        let report = report(&app, &log).await;
        drop(permit);
        report
    });
    // What is found soon can still choose the status.
    let body = match tokio::time::timeout(SIGN_OF_LIFE, &mut work).await {
        Ok(report) if report.intact.is_none() => {
            tracing::warn!(reason = report.reason, "the log cannot be verified now");
            return Err(Fault::unavailable("The log cannot be read at the moment. Please try again."));
        }
        Ok(report) => Body::from(serde_json::to_vec(&report).unwrap_or_default()),
        Err(_elapsed) => {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(answer(work, sender));
            Body::from_stream(ReceiverStream::new(receiver))
        }
    };
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A verification under way.
type Work = Pin<Box<dyn Future<Output = Report> + Send>>;

/// The log, waited for when it does not answer, as soon as the answer's status cannot say so any more.
struct WaitedFor {
    log: Arc<dyn Log>,
    since: Instant,
}

#[async_trait]
impl Log for WaitedFor {
    async fn append(&self, _: BlockNumber, _: Arc<[u8]>) -> AppendOutcome {
        AppendOutcome::Unknown { reason: "a verification changes nothing".to_owned() }
    }

    async fn read(&self, from: BlockNumber, limit: usize) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
        let began = Instant::now();
        loop {
            // What this process remembers of the log is no evidence of what the log has.
            let reason = match self.log.read_stored(from, limit).await {
                Err(LogError::Unavailable(reason)) => reason,
                read => return read,
            };
            if self.since.elapsed() < SIGN_OF_LIFE || began.elapsed() > LOG_PATIENCE {
                return Err(LogError::Unavailable(reason));
            }
            tokio::time::sleep(LOG_PAUSE).await;
        }
    }

    async fn head(&self) -> Result<BlockNumber, LogError> {
        self.log.head().await
    }

    async fn wait_beyond(&self, known: BlockNumber) {
        self.log.wait_beyond(known).await;
    }
}

async fn answer(mut work: Work, sender: mpsc::Sender<Result<Bytes, Infallible>>) {
    let mut alive = tokio::time::interval(SIGN_OF_LIFE);
    let found = loop {
        tokio::select! {
            found = &mut work => break found,
            _ = alive.tick() => {
                if sender.send(Ok(Bytes::from_static(b" "))).await.is_err() {
                    return;
                }
            }
        }
    };
    let last = serde_json::to_vec(&found).unwrap_or_default().into();
    // If nobody waits for it any more, nobody misses it.
    drop(sender.send(Ok(last)).await);
}

/// Verifies the log, and the views against it.
async fn report(app: &AppState, log: &dyn Log) -> Report {
    let shown = match load_views(app).await {
        Ok(shown) => shown,
        Err(reason) => {
            let reason = format!("the views cannot be read: {reason}");
            return Report { intact: Some(false), reason: Some(reason), ..Report::default() };
        }
    };
    let mut replay = Replay { ledger: Ledger::default(), compare_at: shown.0, replayed: None };
    if shown.0 == Position::START {
        replay.replayed = Some(state_hash(&replay.ledger));
    }
    let mut reached = ChainHead::default();
    let verified = verify_chain(log, |block, head| {
        replay.take(&block)?;
        reached = head;
        Ok(())
    });
    let outcome = verified.await;
    let mut report = Report {
        blocks: reached.block.0,
        position: reached.position.0,
        hash: Some(hex::encode(reached.hash)),
        time: (reached.block.0 > 0).then(|| moment(reached.time)),
        views_position: Some(shown.0.0),
        state_hash: replay.replayed.map(hex::encode),
        ..Report::default()
    };
    let is_intact = matches!((&outcome, replay.replayed), (Ok(_), Some(replayed)) if replayed == shown.1);
    report.intact = (!matches!(outcome, Err(LogError::Unavailable(_)))).then_some(is_intact);
    match (outcome, replay.replayed) {
        (Err(LogError::Unavailable(reason)), _) => {
            report.reason = Some(format!("the log could not be read to its end: {reason}"));
        }
        (Err(error @ LogError::Corrupt { .. }), _) => report.reason = Some(error.to_string()),
        (Ok(_), None) => {
            report.reason = Some(format!("the views stand at position {}, which the log has not", shown.0));
        }
        (Ok(_), Some(replayed)) if replayed == shown.1 => {
            report.views = Some("equal to a replay of the journal".to_owned());
        }
        (Ok(_), Some(_)) => {
            report.reason =
                Some(format!("the views differ from a replay of the journal at position {}", shown.0));
        }
    }
    report
}

/// Where the views stand, and the digest of the state that they show there.
async fn load_views(app: &AppState) -> Result<(Position, [u8; 32]), String> {
    let views = app.views.clone();
    let load = move || views.load_ledger().map(|ledger| (ledger.position(), state_hash(&ledger)));
    match tokio::task::spawn_blocking(load).await {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The state that the log leads to, up to where it is compared.
struct Replay {
    ledger: Ledger,
    compare_at: Position,
    replayed: Option<[u8; 32]>,
}

impl Replay {
    fn take(&mut self, block: &Block) -> Result<(), LogError> {
        for sequenced in &block.commits {
            apply_commit(&mut self.ledger, sequenced.position, &sequenced.commit).map_err(|illegal| {
                let reason = format!("commit {}: {illegal}", sequenced.position);
                LogError::Corrupt { number: block.number, reason }
            })?;
            if sequenced.position == self.compare_at {
                self.replayed = Some(state_hash(&self.ledger));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tephra_journal::memory::MemoryLog;

    use super::*;

    /// Does not answer for so many reads, and then has nothing.
    struct Failing(AtomicUsize);

    #[async_trait]
    impl Log for Failing {
        async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
            MemoryLog::default().append(expected, bytes).await
        }

        async fn read(&self, _: BlockNumber, _: usize) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
            let left = self.0.load(Ordering::Relaxed);
            self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            if left > 0 { Err(LogError::Unavailable("they elect".to_owned())) } else { Ok(Vec::new()) }
        }

        async fn head(&self) -> Result<BlockNumber, LogError> {
            Ok(BlockNumber(0))
        }

        async fn wait_beyond(&self, _: BlockNumber) {}
    }

    /// What reading comes to, that many seconds after the verification began.
    async fn read_after(begun_s: u64, failures: usize) -> bool {
        let log = WaitedFor { log: Arc::new(Failing(AtomicUsize::new(failures))), since: Instant::now() };
        tokio::time::advance(Duration::from_secs(begun_s)).await;
        log.read(BlockNumber(1), 9).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_fails_is_waited_for_once_the_answer_has_begun_and_not_for_ever() {
        for (begun_s, failures, is_read) in
            [(0, 0, true), (0, 1, false), (6, 1, true), (6, 60, true), (6, usize::MAX, false)]
        {
            assert_eq!(read_after(begun_s, failures).await, is_read, "{failures} failures after {begun_s} s");
        }
    }

    /// Remembers a block that it does not have.
    struct Remembering;

    #[async_trait]
    impl Log for Remembering {
        async fn append(&self, expected: BlockNumber, bytes: Arc<[u8]>) -> AppendOutcome {
            MemoryLog::default().append(expected, bytes).await
        }

        async fn read(&self, from: BlockNumber, _: usize) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
            Ok(vec![(from, Arc::from(*b"remembered"))])
        }

        async fn read_stored(
            &self,
            _: BlockNumber,
            _: usize,
        ) -> Result<Vec<(BlockNumber, Arc<[u8]>)>, LogError> {
            Ok(Vec::new())
        }

        async fn head(&self) -> Result<BlockNumber, LogError> {
            Ok(BlockNumber(1))
        }

        async fn wait_beyond(&self, _: BlockNumber) {}
    }

    #[tokio::test]
    async fn what_is_verified_is_what_the_log_has_and_not_what_the_process_remembers() {
        let log = WaitedFor { log: Arc::new(Remembering), since: Instant::now() };
        assert_eq!(log.read(BlockNumber(1), 9).await.unwrap(), []);
    }
}
