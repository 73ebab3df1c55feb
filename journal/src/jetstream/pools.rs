//! How full the pools of other hosts are: said by executors now and then, heard by everybody.
//!
//! Soft state: a report that is lost is followed by the next one, and a backend that falls silent
//! is down after [`crate::pool_board::DOWN_AFTER_MS`].

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt;
use tephra_domain::ids::BackendName;
use tephra_domain::scheduler::PoolStats;
use tokio_util::sync::CancellationToken;

use super::connect::NatsError;
use crate::clock::Clock;
use crate::pool_board::PoolBoard;
use crate::subjects::Cell;
use crate::wire::message::{decode_pools, encode_pools};

/// How often the host's own board is looked at for changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often pools are reported even if nothing has changed: the sign of life. Short, because who
/// has just begun to listen, as a sequencer on new servers, places nothing before it hears of them.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Tells everybody what is on this host's board about a backend, until `stop`. `board` is the one
/// that the executor reports to.
pub async fn publish_pools(
    client: &Client,
    cell: &Cell,
    backend: &BackendName,
    board: &PoolBoard,
    clock: &Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let subject = cell.pools_subject(backend);
    let mut said: Option<(Vec<PoolStats>, tokio::time::Instant)> = None;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let mut pools = board.read(clock.now());
        pools.retain(|stats| stats.pool.backend == *backend);
        let is_known = said.as_ref().is_some_and(|(before, _)| is_same(before, &pools));
        let is_fresh = said.as_ref().is_some_and(|(_, at)| at.elapsed() < REPORT_INTERVAL);
        if pools.is_empty() || (is_known && is_fresh) {
            continue;
        }
        match client.publish(subject.clone(), encode_pools(&pools).into()).await {
            Ok(()) => said = Some((pools, tokio::time::Instant::now())),
            Err(error) => tracing::debug!(%backend, %error, "a report on pools was not sent"),
        }
    }
}

/// Whether two reports say the same, but for their time.
fn is_same(before: &[PoolStats], now: &[PoolStats]) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|(before, now)| PoolStats { reported_at: now.reported_at, ..before.clone() } == *now)
}

/// Puts what executors say on a board, until `stop`. The time of a report is when it arrives here:
/// clocks of two hosts are never compared.
///
/// # Errors
/// If NATS does not let us listen.
pub async fn follow_pools(
    client: &Client,
    cell: &Cell,
    board: &PoolBoard,
    clock: &Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), NatsError> {
    let subject = cell.pools_subjects();
    let mut messages = client
        .subscribe(subject.clone())
        .await
        .map_err(|error| NatsError::jetstream(format!("subject {subject}"), error))?;
    while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
        match read_report(cell, &message) {
            Ok(pools) => {
                for stats in pools {
                    board.report(PoolStats { reported_at: clock.now(), ..stats });
                }
            }
            Err(reason) => {
                tracing::warn!(subject = %message.subject, %reason, "a report on pools is not taken")
            }
        }
    }
    Ok(())
}

/// The pools of a report: of the backend whose subject it came on, and of no other.
fn read_report(cell: &Cell, message: &Message) -> Result<Vec<PoolStats>, String> {
    let pools = decode_pools(&message.payload).map_err(|reason| reason.to_string())?;
    match pools.iter().find(|stats| cell.pools_subject(&stats.pool.backend) != message.subject.as_str()) {
        Some(other) => Err(format!("it is about backend {}", other.pool.backend)),
        None => Ok(pools),
    }
}
