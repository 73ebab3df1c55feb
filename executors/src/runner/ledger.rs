//! What the runner says to the ledger, for as long as it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use sha2::{Digest, Sha256};
use tephra_domain::actor::Actor;
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::Command;
use tephra_domain::effect::Outcome;
use tephra_domain::event::Event;
use tephra_domain::ids::{CommandId, RequestId, VolumeId};
use tephra_domain::operation::OperationEvent;
use tephra_domain::operations::OperationKind;
use tephra_domain::rejection::Rejection;
use tephra_journal::clock::Clock;
use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
use tephra_journal::work_queue::WorkOrder;

use super::limits::{RESEND_MAX_DELAY, RESEND_MIN_DELAY};
use crate::backend::Backend;
use crate::copy::Neighbours;
use crate::metrics;

/// What the ledger made of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is durable.
    Accepted,
    /// The attempt had been overtaken.
    Stale,
    /// Refused for another reason, which is in the log.
    Rejected,
}

impl Fate {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stale => "stale",
            Self::Rejected => "rejected",
        }
    }
}

/// The volume whose export an event says is to be restored.
const fn restored_volume(event: &Event) -> Option<VolumeId> {
    let Event::Operation(_, OperationEvent::Opened { kind, .. }) = event else { return None };
    if let OperationKind::ExportRestore(restore) = kind {
        Some(restore.volume)
    } else if let OperationKind::AttachmentDisconnect(disconnect) = kind {
        Some(disconnect.volume)
    } else {
        None
    }
}

/// How often it is looked whether a backend describes itself as before.
const DESCRIPTION_INTERVAL: Duration = Duration::from_secs(2);

/// Speaks to the ledger as the system, on behalf of one backend.
pub struct LedgerClient {
    backend: Arc<dyn Backend>,
    neighbours: Option<Arc<Neighbours>>,
    gateway: Arc<dyn CommandGateway>,
    clock: Arc<dyn Clock>,
    /// How often it was asked whether an attempt is due.
    questions: AtomicU64,
}

impl LedgerClient {
    /// A client for one backend, beside the others that can be read from.
    pub fn new(
        backend: Arc<dyn Backend>,
        neighbours: Option<Arc<Neighbours>>,
        gateway: Arc<dyn CommandGateway>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { backend, neighbours, gateway, clock, questions: AtomicU64::default() }
    }

    /// The backend as it describes itself, and what its executor can read.
    fn description(&self) -> BackendDescription {
        let described = self.backend.description();
        match &self.neighbours {
            Some(neighbours) => neighbours.described(described),
            None => described,
        }
    }

    /// Presents the backend, and again whenever it describes itself otherwise: some of what it says
    /// only its storage knows. Goes on until it is dropped.
    pub async fn present_changes(&self, mut known: BackendDescription) {
        loop {
            tokio::time::sleep(DESCRIPTION_INTERVAL).await;
            if self.description() != known {
                known = self.register().await;
            }
        }
    }

    /// Presents the backend as it describes itself now, and says how. A ledger that knows it already
    /// has nothing to do.
    pub async fn register(&self) -> BackendDescription {
        let description = self.description();
        let backend = self.backend.name().clone();
        let at = self.clock.now().micros().to_string();
        let id = command_id(&["register", backend.as_str(), &at]);
        let submission = Submission {
            id,
            request: RequestId::new(format!("req-{}", id.as_uuid())),
            actor: Actor::system(),
            idempotency: None,
            command: Command::RegisterBackend {
                backend: backend.clone(),
                description: Box::new(description.clone()),
            },
        };
        match self.submit(submission).await {
            Ok(_) => tracing::info!(%backend, "the ledger knows the backend"),
            Err(rejection) => tracing::error!(%backend, %rejection, "the ledger refuses the backend"),
        }
        description
    }

    /// Has every export of the backend made sure of. Whether the ledger took it.
    pub async fn restore_exports(&self) -> bool {
        let backend = self.backend.name().clone();
        let mut after = None;
        loop {
            let at = self.clock.now().micros().to_string();
            let last = after.map_or_else(String::new, |volume: VolumeId| volume.to_string());
            let id = command_id(&["restore", backend.as_str(), &at, &last]);
            let submission = Submission {
                id,
                request: RequestId::new(format!("req-{}", id.as_uuid())),
                actor: Actor::system(),
                idempotency: None,
                command: Command::RestoreExports { backend: backend.clone(), after },
            };
            match self.submit(submission).await {
                Ok(Receipt::Accepted { commit, .. }) => {
                    tracing::info!(%backend, exports = commit.events.len(), "making sure of exports");
                    after = commit.events.iter().filter_map(restored_volume).next_back();
                }
                Ok(Receipt::NothingToDo { .. }) => return true,
                // It is not said how far that came: from the beginning again.
                Ok(Receipt::Repeated { .. }) => return false,
                Err(rejection) => {
                    tracing::error!(%backend, %rejection, "the ledger refuses to restore exports");
                    return false;
                }
            }
        }
    }

    /// Whether the ledger still waits for this attempt, now: each question has an id of its own, so that no
    /// answer to an earlier one is taken for it, ours or another executor's.
    pub async fn is_due(&self, order: &WorkOrder) -> bool {
        let key = order.due.key;
        let at = self.clock.now().micros().to_string();
        let number = self.questions.fetch_add(1, Ordering::Relaxed).to_string();
        let id = command_id(&["check", &key.to_string(), &at, &number]);
        let asked = self.submit(submission(id, order, Command::CheckAttempt { key })).await;
        match asked {
            Ok(_) => true,
            Err(Rejection::StaleReport) => {
                ::metrics::counter!(metrics::OVERTAKEN_ORDERS_TOTAL, "backend" => self.label()).increment(1);
                tracing::info!("the order is late: its attempt has been overtaken");
                false
            }
            Err(rejection) => {
                tracing::error!(%rejection, "the ledger refuses to say whether the attempt is due");
                false
            }
        }
    }

    /// Reports how an attempt turned out.
    pub async fn report(&self, order: &WorkOrder, outcome: Outcome) -> Fate {
        let key = order.due.key;
        let id = command_id(&["report", &key.to_string()]);
        let fate = match self.submit(submission(id, order, Command::ReportOutcome { key, outcome })).await {
            Ok(_) => Fate::Accepted,
            Err(Rejection::StaleReport) => {
                tracing::info!("the report is stale: its attempt has been overtaken");
                Fate::Stale
            }
            Err(rejection) => {
                tracing::error!(%rejection, "the ledger refuses the report");
                Fate::Rejected
            }
        };
        ::metrics::counter!(metrics::REPORTS_TOTAL, "backend" => self.label(), "fate" => fate.as_str())
            .increment(1);
        fate
    }

    /// Sends a command until it is decided.
    async fn submit(&self, submission: Submission) -> Result<Receipt, Rejection> {
        let patience = ExponentialBuilder::default()
            .with_min_delay(RESEND_MIN_DELAY)
            .with_max_delay(RESEND_MAX_DELAY)
            .with_jitter()
            .without_max_times();
        let send = || self.gateway.submit(submission.clone());
        let sent = send
            .retry(patience)
            .when(|error| matches!(error, SubmitError::Unavailable { .. }))
            .notify(|error, delay| {
                ::metrics::counter!(metrics::REPORT_RETRIES_TOTAL, "backend" => self.label()).increment(1);
                tracing::warn!(%error, delay_ms = delay.as_millis(), "the ledger does not answer; sending again");
            });
        match sent.await {
            Ok(receipt) => Ok(receipt),
            Err(SubmitError::Rejected(rejection)) => Err(rejection),
            // what an executor says is bounded; if it ever were not, what is due is asked for again
            Err(SubmitError::TooLarge { reason }) => {
                tracing::error!(%reason, "the report cannot be taken");
                Err(Rejection::StaleReport)
            }
            // the policy has no last try; if it ever had, the attempt counts as overtaken
            Err(SubmitError::Unavailable { .. }) => Err(Rejection::StaleReport),
        }
    }

    fn label(&self) -> String {
        self.backend.name().as_str().to_owned()
    }
}

fn submission(id: CommandId, order: &WorkOrder, command: Command) -> Submission {
    Submission { id, request: order.request.clone(), actor: Actor::system(), idempotency: None, command }
}

/// An id that follows from what the command is about: the same report has the same id, whoever
/// sends it and however often, and a simulated run draws nothing at random.
fn command_id(parts: &[&str]) -> CommandId {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(digest.finalize()) {
        *byte = from;
    }
    CommandId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}
