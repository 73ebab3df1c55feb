//! One answer for all attempts at a command.
//!
//! An asker that gets no answer asks again with the same command id, and a sequencer that was held still
//! finds both attempts waiting. Decided one after the other, each on the state of its moment, one could
//! be refused and the other done, and the asker would hear either. So an attempt at a command that is being
//! decided waits for that answer, and one at a command that was refused is refused as the first was. What was
//! done needs no memory here: the sequencer knows it by its id.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tephra_domain::ids::CommandId;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::gateway::Speaker;
use crate::gateway::{Receipt, SubmitError};

/// How long a refusal is remembered: longer than an asker repeats a command
/// ([`GatewayConfig::total`](super::gateway::GatewayConfig::total)).
const REMEMBERED_FOR: Duration = Duration::from_secs(20);

type Answer = Result<Receipt, SubmitError>;

/// The answers of one turn that attempts share.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<Known>);

/// A command as one speaker knows it: nobody shares the answers of another.
type Heard = (Speaker, CommandId);

#[derive(Debug, Default)]
struct Known {
    answers: HashMap<Heard, Arc<OnceCell<Answer>>>,
    refused: VecDeque<(Instant, Heard)>,
}

impl Known {
    fn forget_old(&mut self) {
        while let Some((since, _)) = self.refused.front()
            && since.elapsed() > REMEMBERED_FOR
        {
            if let Some((_, old)) = self.refused.pop_front() {
                self.answers.remove(&old);
            }
        }
    }
}

impl Attempts {
    /// The answer to a speaker's command, which `decide` finds unless another attempt at it does or did.
    pub async fn answer(
        &self,
        speaker: Speaker,
        id: CommandId,
        decide: impl Future<Output = Answer>,
    ) -> Answer {
        let command = (speaker, id);
        let shared = self.shared(command.clone());
        let decided = async {
            let answer = decide.await;
            self.settle(command, &answer);
            answer
        };
        shared.get_or_init(|| decided).await.clone()
    }

    fn shared(&self, command: Heard) -> Arc<OnceCell<Answer>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget_old();
        Arc::clone(known.answers.entry(command).or_default())
    }

    /// Attempts that wait for the answer have it already.
    fn settle(&self, command: Heard, answer: &Answer) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(Receipt::NothingToDo { .. }) | Err(SubmitError::Rejected(_)) => {
                known.refused.push_back((Instant::now(), command));
            }
            Ok(Receipt::Accepted { .. } | Receipt::Repeated { .. })
            | Err(SubmitError::Unavailable { .. } | SubmitError::TooLarge { .. }) => {
                known.answers.remove(&command);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tephra_domain::ids::Position;
    use tephra_domain::rejection::Rejection;
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> CommandId {
        CommandId::from_uuid(Uuid::from_u128(n))
    }

    fn refusal() -> Answer {
        Err(Rejection::PolicyNotAuthorized { action: "test" }.into())
    }

    fn done() -> Answer {
        Ok(Receipt::Repeated { position: Position(7) })
    }

    fn is_refusal(answer: &Answer) -> bool {
        matches!(answer, Err(SubmitError::Rejected(_)))
    }

    #[tokio::test]
    async fn two_attempts_that_wait_together_get_one_answer() {
        let (attempts, decided) = (Attempts::default(), AtomicUsize::new(0));
        let (go, going) = oneshot::channel::<()>();
        let first = attempts.answer(Speaker::Api, id(1), async {
            decided.fetch_add(1, Ordering::Relaxed);
            going.await.unwrap();
            refusal()
        });
        let second = attempts.answer(Speaker::Api, id(1), async {
            decided.fetch_add(1, Ordering::Relaxed);
            done()
        });
        let release = async { go.send(()).unwrap() };
        let (first, second, ()) = tokio::join!(first, second, release);
        assert!(is_refusal(&first) && is_refusal(&second), "{first:?} {second:?}");
        assert_eq!(decided.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_stays_refused_for_as_long_as_it_may_be_repeated() {
        let attempts = Attempts::default();
        assert!(is_refusal(&attempts.answer(Speaker::Api, id(1), async { refusal() }).await));
        tokio::time::advance(super::super::gateway::GatewayConfig::default().total).await;
        assert!(is_refusal(&attempts.answer(Speaker::Api, id(1), async { done() }).await));
        assert!(attempts.answer(Speaker::Api, id(2), async { done() }).await.is_ok());
        let executor = Speaker::Executor(tephra_domain::ids::BackendName::new("lvm"));
        assert!(attempts.answer(executor, id(1), async { done() }).await.is_ok());
        tokio::time::advance(REMEMBERED_FOR).await;
        assert!(attempts.answer(Speaker::Api, id(1), async { done() }).await.is_ok());
    }

    #[tokio::test]
    async fn what_could_not_be_decided_is_tried_again_and_nothing_is_kept_of_what_was_done() {
        let attempts = Attempts::default();
        let unavailable = Err(SubmitError::Unavailable { reason: "no log".to_owned() });
        assert!(attempts.answer(Speaker::Api, id(1), async { unavailable }).await.is_err());
        assert!(attempts.answer(Speaker::Api, id(1), async { done() }).await.is_ok());
        assert!(attempts.0.into_inner().unwrap().answers.is_empty());
    }
}
