//! Turns at publishing events: one process does it, the others follow and wait.
//!
//! Two at once would do no harm, only the work twice. And whatever is wrong with the stream, nobody
//! who asks for a volume has to suffer for it: this role says so, and tries again.

use std::time::Duration;

use async_nats::Client;
use metrics::gauge;
use tephra_journal::jetstream::{Leadership, LeadershipConfig, NatsConfig, Term};
use tephra_projector::reactors::public_events::{EVENTS_REFUSED, PublicEvents};
use tokio_util::sync::CancellationToken;

/// The pause before a stream is looked at again that cannot be gone on with. Long: the whole log is
/// read again to compare the two.
const REFUSED_PAUSE: Duration = Duration::from_secs(15);

/// The pause before the lease's bucket is looked for again. The first sequencer makes it.
const NO_BUCKET_PAUSE: Duration = Duration::from_millis(500);

/// Takes turns until `stop`.
pub(super) async fn publish_by_turns(
    client: &Client,
    nats: &NatsConfig,
    lease: LeadershipConfig,
    mut events: PublicEvents,
    stop: &CancellationToken,
) {
    let Some(leadership) = stop.run_until_cancelled(open(client, nats, lease)).await else { return };
    loop {
        let waiting = wait_for_turn(&leadership, &mut events);
        let Some(term) = stop.run_until_cancelled(waiting).await else { return };
        tracing::info!(term = term.number(), "publishing events");
        let over = term.over();
        let publishing = publish(&mut events, stop);
        if over.run_until_cancelled(publishing).await.is_some() {
            term.resign().await;
            return;
        }
        tracing::info!(term = term.number(), "no longer publishing events");
    }
}

/// Finds the lease, however long it takes.
async fn open(client: &Client, nats: &NatsConfig, lease: LeadershipConfig) -> Leadership {
    loop {
        match Leadership::open_for_events(client, nats, lease.clone()).await {
            Ok(leadership) => return leadership,
            Err(error) => tracing::debug!(%error, "the lease for publishing events is not there yet"),
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
async fn publish(events: &mut PublicEvents, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        gauge!(EVENTS_REFUSED).set(0.0);
        if let Err(error) = events.follow(stop).await {
            gauge!(EVENTS_REFUSED).set(1.0);
            tracing::error!(%error, "events are not published");
            tokio::select! {
                () = tokio::time::sleep(REFUSED_PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}
