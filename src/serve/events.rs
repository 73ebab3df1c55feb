//! Turns at publishing events: one process does it, the others follow and wait.
//!
//! Two at once would do no harm, only the work twice. And whatever is wrong with the stream, nobody
//! who asks for a volume has to suffer for it: this role says so, and tries again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use metrics::gauge;
use tephra_api::health::RoleBoard;
use tephra_journal::jetstream::{Leadership, LeadershipConfig, NatsConfig, NatsError, Term};
use tephra_projector::reactors::public_events::{EVENTS_REFUSED, Progress, PublicEvents};
use tokio_util::sync::CancellationToken;

use crate::roles::RoleKind;

/// The pause before a stream is looked at again that cannot be gone on with. Long: the whole log is
/// read again to compare the two.
const REFUSED_PAUSE: Duration = Duration::from_secs(15);

/// The pause before the lease's bucket is looked for again. The first sequencer makes it.
const NO_BUCKET_PAUSE: Duration = Duration::from_millis(500);

/// Whose turn it is, as `/readyz` says it.
#[derive(Clone, Debug, Default)]
enum Turn {
    /// The lease has not been found yet.
    #[default]
    Unknown,
    StandingBy,
    Publishing,
    /// The stream cannot be gone on with, and why.
    Refused(String),
}

/// What this process does for events just now.
#[derive(Clone, Default)]
pub(super) struct EventsTurn(Arc<Mutex<Turn>>);

impl EventsTurn {
    /// One that `/readyz` shows.
    pub(super) fn shown_on(board: &RoleBoard, events: &PublicEvents) -> Self {
        let (turn, progress) = (Self::default(), events.progress());
        let shown = turn.clone();
        board.add(RoleKind::Events.as_str(), move || {
            let Progress { events, position, .. } = *progress.borrow();
            match shown.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                Turn::Unknown => Err("the lease for publishing events is not there yet".to_owned()),
                Turn::StandingBy => Ok("standing by: another publishes events".to_owned()),
                Turn::Publishing => Ok(format!("published {events} events, up to position {position}")),
                Turn::Refused(reason) => Err(format!("events are not published: {reason}")),
            }
        });
        turn
    }

    fn is(&self, turn: Turn) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }
}

/// Takes turns until `stop`.
pub(super) async fn publish_by_turns(
    client: &Client,
    nats: &NatsConfig,
    lease: LeadershipConfig,
    mut events: PublicEvents,
    turn: &EventsTurn,
    stop: &CancellationToken,
) {
    let Some(leadership) = stop.run_until_cancelled(open(client, nats, lease, turn)).await else { return };
    loop {
        turn.is(Turn::StandingBy);
        let waiting = wait_for_turn(&leadership, &mut events);
        let Some(term) = stop.run_until_cancelled(waiting).await else { return };
        tracing::info!(term = term.number(), "publishing events");
        let over = term.over();
        let publishing = publish(&mut events, turn, stop);
        if over.run_until_cancelled(publishing).await.is_some() {
            term.resign().await;
            return;
        }
        tracing::info!(term = term.number(), "no longer publishing events");
    }
}

/// Finds the lease, however long it takes.
async fn open(client: &Client, nats: &NatsConfig, lease: LeadershipConfig, turn: &EventsTurn) -> Leadership {
    let mut refused_for = String::new();
    loop {
        match Leadership::open_for_events(client, nats, lease.clone()).await {
            Ok(leadership) => return leadership,
            Err(NatsError::Refused(refused)) => {
                let reason = refused.to_string();
                if reason != refused_for {
                    tracing::error!(%reason, "the lease for publishing events is not where it should be");
                    turn.is(Turn::Refused(reason.clone()));
                    refused_for = reason;
                }
            }
            Err(
                error @ (NatsError::JetStream { .. }
                | NatsError::Unreachable { .. }
                | NatsError::Connect { .. }
                | NatsError::Placement { .. }
                | NatsError::File { .. }),
            ) => tracing::debug!(%error, "the lease for publishing events is not there yet"),
        }
        tokio::time::sleep(NO_BUCKET_PAUSE).await;
    }
}

/// Waits for a turn, and follows whoever has it.
async fn wait_for_turn(leadership: &Leadership, events: &mut PublicEvents) -> Term {
    let follow = async {
        loop {
            if let Err(error) = events.stand_by().await {
                tracing::debug!(%error, "whose turn it is cannot publish either");
            }
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    };
    tokio::select! {
        term = leadership.campaign() => term,
        () = follow => std::future::pending().await,
    }
}

/// Publishes until `stop`.
async fn publish(events: &mut PublicEvents, turn: &EventsTurn, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        turn.is(Turn::Publishing);
        gauge!(EVENTS_REFUSED).set(0.0);
        if let Err(error) = events.follow(stop).await {
            gauge!(EVENTS_REFUSED).set(1.0);
            turn.is(Turn::Refused(error.to_string()));
            tracing::error!(%error, "events are not published");
            tokio::select! {
                () = tokio::time::sleep(REFUSED_PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}
