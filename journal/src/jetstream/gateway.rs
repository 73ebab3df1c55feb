//! Commands to the sequencer by request and reply.
//!
//! Only the sequencer whose term it is listens, and only it answers. An asker that gets no answer
//! asks again with the same command id, which the sequencer remembers: however often a command
//! arrives, it happens once, and all attempts that reach one sequencer get one answer. After [`GatewayConfig::total`] the asker is told that the ledger is
//! not available, which does not say whether the command happened.
//!
//! Executors speak on subjects of their own, one a backend, on which only what an executor has to
//! say is taken, and that of its own backend. So a storage host's credentials cannot be used to ask for
//! anything else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, RequestErrorKind};
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures::StreamExt;
use tephra_domain::actor::Actor;
use tephra_domain::command::Command;
use tephra_domain::ids::BackendName;
use tephra_domain::rejection::Rejection;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::attempts::Attempts;
use super::connect::NatsError;
use super::leadership::Term;
use crate::gateway::{CommandGateway, DecidingGateway, Receipt, Submission, SubmitError};
use crate::subjects::Cell;
use crate::wire::message::{decode_answer, decode_submission, encode_answer, encode_submission};

/// The header with the request that a command belongs to: for whoever watches the subject.
pub const REQUEST_HEADER: &str = "Tephra-Request";

/// The header of answers with what operators have to know of the log: apis show it too.
const WARNING_HEADER: &str = "Tephra-Warning";

/// The longest warning, in characters: it is sent with every answer.
const WARNING_CHARACTERS: usize = 400;

/// Commands that a sequencer has in its hands at a time.
const SERVED_AT_A_TIME: usize = 4096;

/// How long a sequencer goes on with a command: less than an asker waits for one attempt
/// ([`GatewayConfig::attempt`]). What an asker has given up must not be decided after all, when
/// another sequencer may have refused it.
const SERVED_FOR: Duration = Duration::from_secs(3);

/// How long a sequencer that does not know whether it is still its turn waits to find out: long enough
/// for another that has the turn to answer first.
const DOUBT: Duration = Duration::from_secs(1);

/// The waits between two attempts.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Room that the protocol needs beside a payload.
const ENVELOPE_BYTES: usize = 1 << 10;

/// Who speaks to the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// An api: anything.
    Api,
    /// The executor of a backend: what executors report.
    Executor(BackendName),
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// For one attempt.
    pub attempt: Duration,
    /// For all of them. Above two leases, so that a failover goes unnoticed.
    pub total: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(4), total: Duration::from_secs(15) }
    }
}

/// The asking side.
#[derive(Clone)]
pub struct NatsGateway {
    client: Client,
    subject: String,
    config: GatewayConfig,
    /// What the sequencer said with its last answer.
    warning: Arc<Mutex<Option<String>>>,
}

impl NatsGateway {
    /// Asks the sequencer of a cell.
    pub fn new(client: Client, cell: &Cell, speaker: &Speaker, config: GatewayConfig) -> Self {
        let subject = match speaker {
            Speaker::Api => cell.command_subject(),
            Speaker::Executor(backend) => cell.report_subject(backend),
        };
        Self { client, subject, config, warning: Arc::default() }
    }

    /// What operators have to know of the log, as the sequencer that answered last says.
    pub fn warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_warning(&self, answer: &Message) {
        let said = answer.headers.as_ref().and_then(|headers| headers.get(WARNING_HEADER));
        let said = said.map(|value| value.as_str().to_owned());
        *self.warning.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    async fn attempt(&self, payload: Bytes, headers: HeaderMap) -> Result<Receipt, SubmitError> {
        let unavailable = |reason: String| SubmitError::Unavailable { reason };
        let request =
            async_nats::Request::new().payload(payload).headers(headers).timeout(Some(self.config.attempt));
        match self.client.send_request(self.subject.clone(), request).await {
            Ok(answer) => {
                self.note_warning(&answer);
                decode_answer(&answer.payload).unwrap_or_else(|reason| {
                    Err(unavailable(format!("the sequencer's answer cannot be read: {reason}")))
                })
            }
            Err(error) => Err(unavailable(match error.kind() {
                RequestErrorKind::NoResponders => "there is no sequencer at the moment".to_owned(),
                RequestErrorKind::TimedOut => "the sequencer does not answer".to_owned(),
                RequestErrorKind::InvalidSubject
                | RequestErrorKind::MaxPayloadExceeded
                | RequestErrorKind::Other => error.to_string(),
            })),
        }
    }
}

#[async_trait]
impl CommandGateway for NatsGateway {
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        let payload = Bytes::from(encode_submission(&submission));
        let most = self.client.server_info().max_payload.saturating_sub(ENVELOPE_BYTES);
        if payload.len() > most {
            let reason = format!("a command of {} bytes; NATS takes {most} at most", payload.len());
            return Err(SubmitError::TooLarge { reason });
        }
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_HEADER, header_value(submission.request.as_str()).as_str());
        let until = tokio::time::Instant::now() + self.config.total;
        let waits = ExponentialBuilder::default()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        let mut last = SubmitError::Unavailable { reason: "no attempt was made".to_owned() };
        for wait in waits {
            match tokio::time::timeout_at(until, self.attempt(payload.clone(), headers.clone())).await {
                Err(_elapsed) => return Err(last),
                Ok(Err(unavailable @ SubmitError::Unavailable { .. })) => last = unavailable,
                Ok(answer @ (Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::TooLarge { .. }))) => {
                    return answer;
                }
            }
            if tokio::time::Instant::now() + wait >= until {
                return Err(last);
            }
            tokio::time::sleep(wait).await;
        }
        Err(last)
    }
}

/// Request ids come from clients: nothing of them may break a header.
fn header_value(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(128).collect()
}

/// What operators have to know just now, if there is something. The answer is at hand.
pub type Warning = Arc<dyn Fn() -> Option<String> + Send + Sync>;

fn warning_headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fits = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let text: String = text.chars().filter(fits).take(WARNING_CHARACTERS).collect();
    headers.insert(WARNING_HEADER, text.as_str());
    headers
}

/// Answers commands for as long as the term lasts, or until `stop`; then those under way are still
/// answered. `gateway` is the sequencer's handle; `warning` says what operators have to know of the log, and
/// goes out with every answer.
///
/// # Errors
/// If NATS does not let us listen.
pub async fn serve_commands(
    client: &Client,
    cell: &Cell,
    gateway: Arc<dyn DecidingGateway>,
    term: Arc<Term>,
    warning: Warning,
    stop: CancellationToken,
) -> Result<(), NatsError> {
    let listen = async |subject: String| {
        client
            .subscribe(subject.clone())
            .await
            .map_err(|error| NatsError::jetstream(format!("subject {subject}"), error))
    };
    let mut commands = listen(cell.command_subject()).await?;
    let mut reports = listen(cell.report_subjects()).await?;
    let over = term.over();
    let served = TaskTracker::new();
    let places = Arc::new(Semaphore::new(SERVED_AT_A_TIME));
    let (client, cell, attempts) = (client.clone(), cell.clone(), Attempts::default());
    let server = Arc::new(Server { client, cell, gateway, term, warning, attempts });
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = over.cancelled() => break,
            // Reports first: operations that end make room for new ones.
            Some(message) = reports.next() => message,
            Some(message) = commands.next() => message,
            else => break,
        };
        let server = Arc::clone(&server);
        served.spawn(async move {
            server.serve(message).await;
            drop(place);
        });
    }
    drop((commands, reports));
    served.close();
    served.wait().await;
    Ok(())
}

fn unsure() -> SubmitError {
    let reason = "the sequencer does not know whether it is still its turn".to_owned();
    SubmitError::Unavailable { reason }
}

/// An answer that is given in doubt about the turn: what is in the log stays there, and what rests on the
/// state alone may have been overtaken.
fn in_doubt(answer: Result<Receipt, SubmitError>) -> Result<Receipt, SubmitError> {
    match answer {
        Ok(Receipt::NothingToDo { .. }) | Err(SubmitError::Rejected(_)) => Err(unsure()),
        Ok(Receipt::Accepted { .. } | Receipt::Repeated { .. })
        | Err(SubmitError::Unavailable { .. } | SubmitError::TooLarge { .. }) => answer,
    }
}

struct Server {
    client: Client,
    cell: Cell,
    gateway: Arc<dyn DecidingGateway>,
    term: Arc<Term>,
    /// What goes out with every answer.
    warning: Warning,
    attempts: Attempts,
}

impl Server {
    async fn serve(&self, message: Message) {
        let Some(reply) = message.reply.clone() else { return };
        let until = Instant::now() + SERVED_FOR;
        let answer = if self.term.is_certain() {
            self.answer(&message, until).await
        } else {
            // Another may have the turn by now, and answers. If none has, because the servers elect among
            // themselves, the asker is not left waiting.
            let over = self.term.over();
            let doubting = tokio::time::timeout(DOUBT, self.term.certainty());
            match over.run_until_cancelled(doubting).await {
                None => return,
                Some(Ok(())) => self.answer(&message, until).await,
                Some(Err(_elapsed)) => Err(unsure()),
            }
        };
        let answer = if self.term.is_certain() { answer } else { in_doubt(answer) };
        let most = self.client.server_info().max_payload.saturating_sub(ENVELOPE_BYTES);
        let mut payload = encode_answer(&answer);
        if let (Ok(receipt), true) = (&answer, payload.len() > most) {
            // The commit is in the log, at this position: that much fits.
            payload = encode_answer(&Ok(Receipt::Repeated { position: receipt.position() }));
        }
        let sent = match (self.warning)() {
            None => self.client.publish(reply, payload.into()).await,
            Some(warning) => {
                self.client.publish_with_headers(reply, warning_headers(&warning), payload.into()).await
            }
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer was not sent");
        }
    }

    async fn answer(&self, message: &Message, until: Instant) -> Result<Receipt, SubmitError> {
        let submission = decode_submission(&message.payload).map_err(|reason| {
            tracing::warn!(%reason, subject = %message.subject, "a command cannot be read");
            SubmitError::Unavailable { reason: format!("the sequencer cannot read the command: {reason}") }
        })?;
        let span = tracing::debug_span!("command", request = %submission.request, id = %submission.id);
        // what is so now is no answer to whoever asks a moment later
        let is_question = matches!(submission.command, Command::CheckAttempt { .. });
        let id = submission.id;
        let (speaker, submitted) = if message.subject.as_str() == self.cell.command_subject() {
            (Speaker::Api, self.gateway.submit(submission))
        } else {
            let speaker = self.cell.reporting_backend(&message.subject);
            match speaker.filter(|backend| may_report(backend, &submission)) {
                Some(backend) => {
                    (Speaker::Executor(backend.clone()), self.gateway.submit_of_executor(backend, submission))
                }
                None => {
                    tracing::warn!(subject = %message.subject, command = ?submission.command, "an executor asks for more than it may");
                    return Err(Rejection::PolicyNotAuthorized { action: "executor:report" }.into());
                }
            }
        };
        let decided = async {
            let served = tokio::time::timeout_at(until, submitted.instrument(span)).await;
            served.unwrap_or_else(|_elapsed| {
                Err(SubmitError::Unavailable { reason: "the ledger does not answer in time".to_owned() })
            })
        };
        if is_question { decided.await } else { self.attempts.answer(speaker, id, decided).await }
    }
}

/// Whether this is what the executor of a backend has to say. Whose attempt a report is about, the
/// ledger knows ([`DecidingGateway::submit_of_executor`]).
fn may_report(speaker: &BackendName, submission: &Submission) -> bool {
    let is_report = match &submission.command {
        Command::ReportOutcome { .. } | Command::CheckAttempt { .. } => true,
        Command::RegisterBackend { backend, .. } | Command::RestoreExports { backend, .. } => {
            backend == speaker
        }
        Command::CreateVolume(_)
        | Command::CreateVolumeFromImage(_)
        | Command::ChangeImageMetadata { .. }
        | Command::DeleteVolume { .. }
        | Command::ExtendVolume { .. }
        | Command::RevertVolume { .. }
        | Command::RecoverVolume { .. }
        | Command::UpdateVolume { .. }
        | Command::ChangeVolumeMetadata { .. }
        | Command::SetVolumeBootable { .. }
        | Command::SetVolumeReadonly { .. }
        | Command::ResetVolumeStatus { .. }
        | Command::CreateSnapshot(_)
        | Command::DeleteSnapshot { .. }
        | Command::UpdateSnapshot { .. }
        | Command::ChangeSnapshotMetadata { .. }
        | Command::ResetSnapshotStatus { .. }
        | Command::CreateVolumeType(_)
        | Command::UpdateVolumeType { .. }
        | Command::DeleteVolumeType { .. }
        | Command::ChangeExtraSpecs { .. }
        | Command::GrantTypeAccess { .. }
        | Command::RevokeTypeAccess { .. }
        | Command::SetQuotaLimits { .. }
        | Command::ClearQuotaLimits { .. }
        | Command::SetQuotaDefaults { .. }
        | Command::EnableBackend { .. }
        | Command::DisableBackend { .. }
        | Command::ReleaseDebt { .. }
        | Command::ManageVolume(_)
        | Command::UnmanageVolume { .. }
        | Command::ManageSnapshot(_)
        | Command::UnmanageSnapshot { .. }
        | Command::CleanObject(_)
        | Command::FreezeBackend { .. }
        | Command::ThawBackend { .. }
        | Command::CreateAttachment(_)
        | Command::UpdateAttachment { .. }
        | Command::CompleteAttachment { .. }
        | Command::DeleteAttachment { .. }
        | Command::ReserveVolume { .. }
        | Command::UnreserveVolume { .. }
        | Command::BeginDetaching { .. }
        | Command::RollDetaching { .. }
        | Command::InitializeConnection { .. }
        | Command::TerminateConnection { .. }
        | Command::AttachVolume(_)
        | Command::DetachVolume { .. }
        | Command::DetachAll { .. }
        | Command::UploadVolume(_) => false,
    };
    is_report && submission.actor == Actor::system()
}

#[cfg(test)]
mod tests {
    use super::header_value;

    #[test]
    fn a_request_id_cannot_break_a_header() {
        assert_eq!(header_value("req-1\r\nNats-Rollup: all"), "req-1Nats-Rollup:all");
        assert_eq!(header_value(&"x".repeat(500)).len(), 128);
    }
}
