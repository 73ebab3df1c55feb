//! How far the long work of other hosts has come: said by executors while they are at it, heard by apis.
//!
//! Soft state: what is said goes to whoever listens just then. Each report says all that a backend's
//! executor is at; one that falls silent is forgotten after
//! [`crate::progress_board::FORGOTTEN_AFTER`].

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt;
use tephra_domain::ids::BackendName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connect::NatsError;
use crate::clock::Clock;
use crate::progress_board::{MAX_ATTEMPTS, Progress, ProgressBoard};
use crate::subjects::Cell;
use crate::wire::message::{decode_progress, encode_progress};

/// How often it is said again what has not changed, several times before it is forgotten.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// The pause between two reports: of a volume that is all holes, stretches are done in no time.
const REPORT_PAUSE: Duration = Duration::from_millis(200);

/// Tells everybody what is on this host's board about a backend, until `stop`. `board` is the one
/// that the executor reports to.
pub async fn publish_progress(
    client: &Client,
    cell: &Cell,
    backend: &BackendName,
    board: &ProgressBoard,
    clock: &Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let subject = cell.progress_subject(backend);
    let mut changes = board.subscribe();
    while stop.run_until_cancelled(is_time(&mut changes)).await.is_some() {
        let progress = board.of_backend(backend, clock.now());
        if progress.is_empty() {
            continue;
        }
        if let Err(error) = client.publish(subject.clone(), encode_progress(&progress).into()).await {
            tracing::debug!(%backend, %error, "a report on progress was not sent");
        }
    }
}

/// Waits until something has come further, or is to be said again.
async fn is_time(changes: &mut watch::Receiver<()>) {
    tokio::time::sleep(REPORT_PAUSE).await;
    // an elapsed interval is no error
    let _elapsed = tokio::time::timeout(REPORT_INTERVAL, changes.changed()).await;
}

/// Puts what executors say on a board, until `stop`. The time of a report is when it arrives here:
/// clocks of two hosts are never compared.
///
/// # Errors
/// If NATS does not let us listen.
pub async fn follow_progress(
    client: &Client,
    cell: &Cell,
    board: &ProgressBoard,
    clock: &Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), NatsError> {
    let subject = cell.progress_subjects();
    let mut messages = client
        .subscribe(subject.clone())
        .await
        .map_err(|error| NatsError::jetstream(format!("subject {subject}"), error))?;
    while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
        match read_report(cell, &message) {
            Ok((backend, all)) => {
                for progress in all {
                    board.report(&backend, progress, clock.now());
                }
            }
            // from an executor of another version, perhaps: again and again, and nothing depends on it
            Err(reason) => {
                tracing::debug!(subject = %message.subject, %reason, "a report on progress is not taken")
            }
        }
    }
    Ok(())
}

/// Whose report it is, as the subject says and nothing else, and what it says.
fn read_report(cell: &Cell, message: &Message) -> Result<(BackendName, Vec<Progress>), String> {
    let backend = cell.progressing_backend(message.subject.as_str());
    let backend = backend.ok_or("its subject names no backend")?;
    let progress = decode_progress(&message.payload).map_err(|reason| reason.to_string())?;
    if progress.len() > MAX_ATTEMPTS {
        return Err(format!("it is about {} attempts", progress.len()));
    }
    Ok((backend, progress))
}
