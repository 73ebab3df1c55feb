//! Loans between executors, over NATS.
//!
//! The executors of a backend listen on two subjects: one that they share, of which each question reaches
//! one of them, and one of their own, for what they have lent.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, Message, Request};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::select;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::BackendName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connect::NatsError;
use crate::inventory::nobody_serves;
use crate::loans::{Lender, Loan, LoanAnswer, LoanQuestion, LoanRequest, Loans};
use crate::subjects::Cell;
use crate::wire::message::{
    decode_loan_answer, decode_loan_question, encode_loan_answer, encode_loan_question,
};

/// How long an answer may take: the executor looks at its storage and starts a server. From one account to
/// another NATS does not say at once that nobody is there.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// The group of all executors of a backend: one of them gets each question.
const GROUP: &str = "executors";

/// The borrowing side.
#[derive(Clone)]
pub struct NatsLoans {
    client: Client,
    cell: Cell,
    limit: Duration,
}

impl NatsLoans {
    /// Borrows from the executors of a cell.
    pub const fn new(client: Client, cell: Cell) -> Self {
        Self { client, cell, limit: ANSWER_LIMIT }
    }

    /// Waits no longer than this for an answer.
    #[must_use]
    pub fn answered_within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    async fn ask(
        &self,
        backend: &BackendName,
        lender: Option<Uuid>,
        question: &LoanQuestion,
    ) -> Result<LoanAnswer, Failure> {
        let subject = self.cell.loans_subject(backend, lender);
        let request = Request::new().payload(encode_loan_question(question).into()).timeout(Some(self.limit));
        match self.client.send_request(subject, request).await {
            Ok(message) => decode_loan_answer(&message.payload).map_err(|reason| {
                let message = format!("the executor's answer cannot be read: {reason}");
                Failure::new(FailureKind::BackendError, message)
            }),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => nobody_serves(backend),
                RequestErrorKind::TimedOut
                | RequestErrorKind::InvalidSubject
                | RequestErrorKind::MaxPayloadExceeded
                | RequestErrorKind::Other => {
                    let message = format!("the executor of backend {backend} does not answer: {error}");
                    Failure::new(FailureKind::BackendUnavailable, message)
                }
            }),
        }
    }
}

#[async_trait]
impl Loans for NatsLoans {
    async fn borrow(&self, lender: Option<Uuid>, request: &LoanRequest) -> Result<Loan, Failure> {
        match self.ask(&request.pool.backend, lender, &LoanQuestion::Lend(request.clone())).await? {
            LoanAnswer::Lent(loan) => Ok(loan),
            LoanAnswer::Failed(failure) => Err(failure),
            LoanAnswer::GivenBack => Err(beside_the_question()),
        }
    }

    async fn give_back(&self, backend: &BackendName, lender: Uuid, loan: Uuid) -> Result<(), Failure> {
        match self.ask(backend, Some(lender), &LoanQuestion::GiveBack { loan }).await? {
            LoanAnswer::GivenBack => Ok(()),
            LoanAnswer::Failed(failure) => Err(failure),
            LoanAnswer::Lent(_) => Err(beside_the_question()),
        }
    }
}

fn beside_the_question() -> Failure {
    Failure::new(FailureKind::BackendError, "the executor answers something else than it was asked")
}

/// Lends what a backend holds, until `stop`.
///
/// # Errors
/// If NATS does not let us listen.
pub async fn serve_loans(
    client: &Client,
    cell: &Cell,
    backend: &BackendName,
    lender: &Arc<dyn Lender>,
    stop: CancellationToken,
) -> Result<(), NatsError> {
    let (any, own) = (cell.loans_subject(backend, None), cell.loans_subject(backend, Some(lender.id())));
    let cannot_listen = |error: &dyn std::fmt::Display| NatsError::jetstream(format!("subject {any}"), error);
    let shared = client.queue_subscribe(any.clone(), GROUP.to_owned()).await;
    let shared = shared.map_err(|error| cannot_listen(&error))?;
    let own = client.subscribe(own).await.map_err(|error| cannot_listen(&error))?;
    let mut questions = select(shared, own);
    while let Some(Some(question)) = stop.run_until_cancelled(questions.next()).await {
        let (client, backend, lender) = (client.clone(), backend.clone(), Arc::clone(lender));
        // nobody waits for it: whoever asked is told, or asks again. There are no more of those that take
        // long than the lender has ports
        tokio::spawn(async move {
            if let Err(error) = answer(&client, &backend, &*lender, question).await {
                tracing::warn!(%backend, %error, "an executor that borrows could not be told");
            }
        });
    }
    Ok(())
}

async fn answer(
    client: &Client,
    backend: &BackendName,
    lender: &dyn Lender,
    question: Message,
) -> Result<(), async_nats::PublishError> {
    let Some(reply) = question.reply else { return Ok(()) };
    let answer = match decode_loan_question(&question.payload) {
        Ok(LoanQuestion::Lend(request)) if request.pool.backend == *backend => {
            match lender.lend(&request).await {
                Ok(loan) => LoanAnswer::Lent(loan),
                Err(failure) => LoanAnswer::Failed(failure),
            }
        }
        Ok(LoanQuestion::Lend(request)) => LoanAnswer::Failed(nobody_serves(&request.pool.backend)),
        Ok(LoanQuestion::GiveBack { loan }) => {
            lender.give_back(loan).await;
            LoanAnswer::GivenBack
        }
        Err(reason) => {
            let message = format!("the executor cannot read the question: {reason}");
            LoanAnswer::Failed(Failure::new(FailureKind::BackendError, message))
        }
    };
    client.publish(reply, encode_loan_answer(&answer).into()).await
}
