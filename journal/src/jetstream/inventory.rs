//! What a backend shows on its pools, asked over NATS.
//!
//! The question goes to the backend's own subject; only its executor listens there. The answer is as
//! many messages as it takes, numbered, so that nobody takes a part for the whole. Nothing of it is
//! kept: an answer that does not come in time is a backend that could not be asked.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode};
use async_trait::async_trait;
use futures::StreamExt;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::connect::NatsError;
use crate::inventory::{Inventory, InventoryPart, nobody_serves};
use crate::subjects::Cell;
use crate::wire::message::{
    decode_inventory_part, decode_inventory_question, encode_inventory_part, encode_inventory_question,
};

/// How long a whole answer may take. Above what an executor gives its backend, so that it is the
/// executor who says what went wrong; below what a client waits for a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Objects in a message: names have 255 bytes at most, so that it stays below NATS's default of a
/// MiB.
const OBJECTS_IN_A_PART: usize = 1000;

/// Questions that one executor answers at a time; each may be a whole listing in memory.
const ANSWERED_AT_A_TIME: usize = 4;

/// The asking side.
#[derive(Clone)]
pub struct NatsInventory {
    client: Client,
    cell: Cell,
}

impl NatsInventory {
    /// Asks the executors of a cell.
    pub const fn new(client: Client, cell: Cell) -> Self {
        Self { client, cell }
    }

    async fn ask(&self, pool: &PoolId) -> Result<Vec<FoundObject>, Failure> {
        let inbox = self.client.new_inbox();
        let unavailable = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::BackendUnavailable, format!("the executor cannot be asked: {error}"))
        };
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| unavailable(&error))?;
        let subject = self.cell.inventory_subject(&pool.backend);
        let question = encode_inventory_question(pool);
        self.client
            .publish_with_reply(subject, inbox, question.into())
            .await
            .map_err(|error| unavailable(&error))?;
        let mut all = Vec::new();
        let mut expected = 0_u32;
        while let Some(message) = answers.next().await {
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(nobody_serves(&pool.backend));
            }
            match decode_inventory_part(&message.payload) {
                Ok(InventoryPart::Objects { number, more, objects }) if number == expected => {
                    all.extend(objects);
                    expected = expected.saturating_add(1);
                    if !more {
                        return Ok(all);
                    }
                }
                Ok(InventoryPart::Objects { .. }) => {
                    return Err(Failure::new(FailureKind::BackendError, "a part of the answer was lost"));
                }
                Ok(InventoryPart::Failed(failure)) => return Err(failure),
                Err(reason) => {
                    let message = format!("the executor's answer cannot be read: {reason}");
                    return Err(Failure::new(FailureKind::BackendError, message));
                }
            }
        }
        Err(Failure::new(FailureKind::BackendUnavailable, "the connection to NATS has ended"))
    }
}

#[async_trait]
impl Inventory for NatsInventory {
    async fn list(&self, pool: &PoolId) -> Result<Vec<FoundObject>, Failure> {
        match tokio::time::timeout(ANSWER_LIMIT, self.ask(pool)).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                let message = format!("the executor of backend {} does not answer", pool.backend);
                Err(Failure::new(FailureKind::TimedOut, message))
            }
        }
    }
}

/// Answers for one backend, until `stop`.
///
/// # Errors
/// If NATS does not let us listen.
pub async fn serve_inventory(
    client: &Client,
    cell: &Cell,
    backend: &BackendName,
    inventory: &Arc<dyn Inventory>,
    stop: CancellationToken,
) -> Result<(), NatsError> {
    let subject = cell.inventory_subject(backend);
    let mut questions = client
        .subscribe(subject.clone())
        .await
        .map_err(|error| NatsError::jetstream(format!("subject {subject}"), error))?;
    let places = Arc::new(Semaphore::new(ANSWERED_AT_A_TIME));
    while let Some(Some(question)) = stop.run_until_cancelled(questions.next()).await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let (client, backend, inventory) = (client.clone(), backend.clone(), Arc::clone(inventory));
        // nobody waits for it: whoever asked is told, or asks again
        tokio::spawn(async move {
            if let Err(error) = answer(&client, &backend, &inventory, question).await {
                tracing::warn!(%backend, %error, "what is on a pool could not be told");
            }
            drop(place);
        });
    }
    Ok(())
}

async fn answer(
    client: &Client,
    backend: &BackendName,
    inventory: &Arc<dyn Inventory>,
    question: Message,
) -> Result<(), async_nats::PublishError> {
    let Some(reply) = question.reply else { return Ok(()) };
    let found = match decode_inventory_question(&question.payload) {
        Ok(pool) if pool.backend == *backend => inventory.list(&pool).await,
        Ok(pool) => Err(nobody_serves(&pool.backend)),
        Err(reason) => {
            let message = format!("the executor cannot read the question: {reason}");
            Err(Failure::new(FailureKind::BackendError, message))
        }
    };
    for part in parts(found) {
        client.publish(reply.clone(), encode_inventory_part(&part).into()).await?;
    }
    Ok(())
}

/// An answer as messages: one at least.
fn parts(found: Result<Vec<FoundObject>, Failure>) -> Vec<InventoryPart> {
    let objects = match found {
        Ok(objects) => objects,
        Err(failure) => return vec![InventoryPart::Failed(failure)],
    };
    let last = objects.len().saturating_sub(1) / OBJECTS_IN_A_PART;
    let chunk = |number: usize| objects.iter().skip(number.saturating_mul(OBJECTS_IN_A_PART));
    (0..=last)
        .map(|number| InventoryPart::Objects {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            more: number < last,
            objects: chunk(number).take(OBJECTS_IN_A_PART).cloned().collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tephra_domain::drift::{FoundKind, FoundObject};
    use tephra_domain::effect::{Failure, FailureKind};

    use super::{InventoryPart, OBJECTS_IN_A_PART, parts};

    fn objects(count: usize) -> Vec<FoundObject> {
        let object = |n| FoundObject {
            name: format!("volume-{n}").into(),
            kind: FoundKind::Volume,
            bytes: 1,
            in_use: false,
        };
        (0..count).map(object).collect()
    }

    #[test]
    fn an_answer_is_told_whole_in_numbered_parts_of_which_the_last_says_so() {
        for (count, expected) in
            [(0, 1), (1, 1), (OBJECTS_IN_A_PART, 1), (OBJECTS_IN_A_PART + 1, 2), (3 * OBJECTS_IN_A_PART, 3)]
        {
            let told = parts(Ok(objects(count)));
            assert_eq!(told.len(), expected, "{count}");
            let mut all = Vec::new();
            for (n, part) in told.into_iter().enumerate() {
                let InventoryPart::Objects { number, more, objects } = part else { panic!("it failed") };
                assert_eq!((number as usize, more), (n, n + 1 < expected), "{count}");
                all.extend(objects);
            }
            assert_eq!(all, objects(count));
        }
        let failure = Failure::new(FailureKind::TimedOut, "slow");
        assert_eq!(parts(Err(failure.clone())), [InventoryPart::Failed(failure)]);
    }
}
