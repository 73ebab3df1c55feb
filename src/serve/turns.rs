//! Turns as the sequencer: a candidate keeps its state warm, waits for its turn, decides commands
//! until the turn is over, and waits again.
//!
//! Nothing here keeps two sequencers apart: the log does, which takes a block only after the one
//! that its writer knew. The lease spares them the conflicts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use tephra_api::health::{Condition, RoleBoard};
use tephra_journal::clock::SystemClock;
use tephra_journal::feed::Feed;
use tephra_journal::gateway::DecidingGateway;
use tephra_journal::ids::RandomIds;
use tephra_journal::jetstream::{JetStreamQueue, Leadership, NatsConfig, Term, Warning, serve_commands};
use tephra_journal::log::{Log, LogError};
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::sequencer::{
    CaughtUp, Sequencer, SequencerConfig, SequencerHandle, SequencerParts, bootstrap, catch_up_from,
};
use tephra_projector::Views;
use tokio_util::sync::CancellationToken;

use crate::roles::RoleKind;

/// The pause before something is tried again that NATS did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long backends may take to say how full they are: longer than the time between two reports.
const POOLS_PATIENCE: Duration = Duration::from_secs(7);

/// What this process does as a sequencer just now.
#[derive(Clone)]
pub(super) struct SequencerTurn(Arc<Mutex<Condition>>);

impl SequencerTurn {
    /// One that `/readyz` shows.
    pub(super) fn shown_on(board: &RoleBoard) -> Self {
        let turn = Self(Arc::new(Mutex::new(Err("it has not read the log yet".to_owned()))));
        let shown = turn.clone();
        board.add(RoleKind::Sequencer.as_str(), move || {
            shown.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        });
        turn
    }

    fn is(&self, condition: Condition) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = condition;
    }
}

/// What a candidate works with.
pub(super) struct Candidate {
    pub(super) client: Client,
    pub(super) nats: NatsConfig,
    pub(super) leadership: Leadership,
    pub(super) log: Arc<dyn Log>,
    pub(super) views: Views,
    pub(super) queue: Arc<JetStreamQueue>,
    pub(super) pools: PoolBoard,
    pub(super) turn: SequencerTurn,
    /// What operators have to know of the log's servers, wherever they ask.
    pub(super) warning: Warning,
}

/// Takes turns until `stop`.
///
/// # Errors
/// Why it cannot go on: the log is damaged, or the views are.
pub(super) async fn take_turns(candidate: Candidate, stop: CancellationToken) -> Result<(), String> {
    loop {
        let waiting = candidate.wait_for_turn();
        let Some(won) = stop.run_until_cancelled(waiting).await else { return Ok(()) };
        let (term, state) = won.map_err(|error| error.to_string())?;
        let ended = candidate.lead(&term, state, &stop).await;
        if stop.is_cancelled() {
            if let Err(reason) = ended {
                tracing::warn!(%reason, "the sequencer's turn ended badly, and was to end");
            }
            term.resign().await;
            return Ok(());
        }
        if let Err(reason) = ended {
            candidate.turn.is(Err(reason.clone()));
            // The log decides what is true: begin again from there, or find out that it is damaged.
            tracing::warn!(%reason, "the sequencer's turn ended badly; standing by again");
            term.resign().await;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

impl Candidate {
    /// Waits for a turn, up with the log all the while, so that it can begin at once.
    async fn wait_for_turn(&self) -> Result<(Arc<Term>, CaughtUp), LogError> {
        let mut state = self.load().await?;
        self.hear_of_pools(&state).await;
        tracing::info!(position = state.head.position.0, "standing by, up with the log");
        self.turn.is(Ok("standing by: another decides commands".to_owned()));
        let campaign = self.leadership.campaign();
        tokio::pin!(campaign);
        let term = loop {
            tokio::select! {
                term = &mut campaign => break term,
                () = self.log.wait_beyond(state.head.block) => self.follow(&mut state).await?,
            }
        };
        let over = term.over();
        // What the last one appended until now. What it still appends is a conflict, and followed.
        if let Some(followed) = over.run_until_cancelled(self.follow(&mut state)).await {
            followed?;
        }
        Ok((Arc::new(term), state))
    }

    /// Waits until every backend has said how full it is, or has had its time to: a sequencer that
    /// has just started would find no place for volumes that others have room for.
    async fn hear_of_pools(&self, state: &CaughtUp) {
        let known: Vec<_> = state.ledger.backends.sorted().into_iter().map(|(name, _)| name).collect();
        let all = async {
            while known.iter().any(|backend| self.pools.last_report(backend).is_none()) {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        if tokio::time::timeout(POOLS_PATIENCE, all).await.is_err() {
            tracing::warn!(
                "not every backend has said how full it is: nothing is placed on those that have not"
            );
        }
    }

    /// The state of the views, brought to the end of the log.
    async fn load(&self) -> Result<CaughtUp, LogError> {
        loop {
            let views = self.views.clone();
            let loaded = tokio::task::spawn_blocking(move || views.load_state()).await;
            let (ledger, checkpoint) = match loaded {
                Ok(Ok(loaded)) => loaded,
                Ok(Err(error)) => return Err(LogError::Unavailable(format!("the views: {error}"))),
                Err(panic) => return Err(LogError::Unavailable(format!("the views: {panic}"))),
            };
            let remembered = async {
                let mut state = catch_up_from(ledger, checkpoint.into(), self.log.as_ref()).await?;
                state.remember(self.log.as_ref()).await?;
                state.find_requests(self.log.as_ref()).await?;
                Ok(state)
            };
            match remembered.await {
                Ok(state) => return Ok(state),
                Err(error @ LogError::Corrupt { .. }) => return Err(error),
                Err(LogError::Unavailable(reason)) => {
                    tracing::warn!(%reason, "the log cannot be read; a candidate waits for it");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Goes on to the end of the log, however long it does not answer.
    async fn follow(&self, state: &mut CaughtUp) -> Result<(), LogError> {
        loop {
            match state.go_on(self.log.as_ref()).await {
                Ok(()) => return Ok(()),
                Err(error @ LogError::Corrupt { .. }) => return Err(error),
                Err(LogError::Unavailable(reason)) => {
                    tracing::debug!(%reason, "the log cannot be read");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Decides commands until the turn is over, or `stop`.
    async fn lead(&self, term: &Arc<Term>, state: CaughtUp, stop: &CancellationToken) -> Result<(), String> {
        let number = term.number();
        tracing::info!(term = number, position = state.head.position.0, "beginning a turn");
        self.turn.is(Err(format!("beginning its turn, term {number}")));
        let cancel = CancellationToken::new();
        let parts = SequencerParts {
            log: Arc::clone(&self.log),
            pools: self.pools.clone(),
            queue: Arc::<JetStreamQueue>::clone(&self.queue),
            // The views of this process follow the log, whoever leads.
            feed: Feed::new(),
            clock: Arc::new(SystemClock::not_before(state.head.time)),
            ids: Arc::new(RandomIds),
            cancel: cancel.clone(),
            turn_of: Some(self.leadership.candidate().into()),
        };
        let sequencer = Sequencer::start(SequencerConfig::default(), state, parts);
        let served = self.serve(term, &sequencer, stop).await;
        cancel.cancel();
        let drained = sequencer.drained().await;
        tracing::info!(term = number, "no longer deciding commands");
        served.and(drained.map_err(|error| error.to_string()))
    }

    async fn serve(
        &self,
        term: &Arc<Term>,
        sequencer: &SequencerHandle,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let over = term.over();
        // A turn may end while the log does not answer: then there is nothing to wait for.
        let bootstrapped = tokio::select! {
            () = over.cancelled() => return Ok(()),
            () = stop.cancelled() => return Ok(()),
            bootstrapped = bootstrap(sequencer) => bootstrapped,
        };
        bootstrapped.map_err(|error| error.to_string())?;
        tracing::info!(term = term.number(), "deciding commands");
        self.turn.is(Ok(format!("deciding commands in term {}", term.number())));
        let gateway: Arc<dyn DecidingGateway> = Arc::new(sequencer.clone());
        let (term, warning) = (Arc::clone(term), Arc::clone(&self.warning));
        let serving =
            serve_commands(&self.client, &self.nats.cell, gateway, term, warning, stop.child_token());
        tokio::select! {
            served = serving => served.map_err(|error| error.to_string()),
            ended = sequencer.drained() => ended.map_err(|error| error.to_string()),
        }
    }
}
