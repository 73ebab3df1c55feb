//! A fake for tests: a stream of events in memory that answers as a network does, with lost answers,
//! lost messages, old news of its end, and messages that arrive when nobody waits for them any more.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::event_stream::{
    EventMark, EventStream, EventStreamError, PublicEvent, RefusedStream, StreamEnd, not_an_event,
};
use crate::log::BlockNumber;

/// The id of a message that is not an event.
const NOT_OURS: &str = "";

/// What happens to one batch of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishFault {
    /// Nothing unusual.
    None,
    /// So many are stored, and the answer is lost.
    UnknownAfter(usize),
    /// None is stored, and the answer is lost. All arrive before the next one that is asked for.
    Late,
}

#[derive(Default)]
struct State {
    messages: Vec<PublicEvent>,
    /// Messages that are still on their way, each to be taken in its place or not at all.
    late: Vec<PublicEvent>,
    /// Messages that were sent, for tests that look at what was tried.
    sent: u64,
    refused: Option<RefusedStream>,
    seed: Option<u64>,
    script: Vec<PublishFault>,
    stale_ends: u32,
}

/// Events in memory.
#[derive(Default)]
pub struct FakeEventStream {
    state: Mutex<State>,
}

impl FakeEventStream {
    /// An empty stream on which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty stream on which every other thing goes wrong. The same seed gives the same faults.
    pub fn seeded(seed: u64) -> Self {
        Self { state: Mutex::new(State { seed: Some(seed), ..State::default() }) }
    }

    /// An empty stream with one fault for each batch, in order; after them nothing goes wrong.
    pub fn scripted(faults: impl IntoIterator<Item = PublishFault>) -> Self {
        let mut script: Vec<_> = faults.into_iter().collect();
        script.reverse();
        Self { state: Mutex::new(State { script, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the stream.
    pub fn messages(&self) -> Vec<PublicEvent> {
        self.state().messages.clone()
    }

    /// How many messages were sent, stored or not.
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    /// Puts something else on the stream.
    pub fn replace(&self, messages: Vec<PublicEvent>) {
        self.state().messages = messages;
    }

    /// Somebody else's message takes the next place.
    pub fn intrude(&self) {
        let mut state = self.state();
        let number = state.next_number();
        let mark = EventMark { id: NOT_OURS.to_owned(), block: BlockNumber(0), hash: [0; 32] };
        state.messages.push(PublicEvent { number, mark, subject: String::new(), body: Bytes::new() });
    }

    /// Keeps the first messages only, as a server does that lost what it had not synced.
    pub fn truncate(&self, messages: usize) {
        self.state().messages.truncate(messages);
    }

    /// Answers so many questions for the end with an earlier one.
    pub fn give_old_news(&self, answers: u32) {
        self.state().stale_ends = answers;
    }

    /// Refuses everything from now on, or no more.
    pub fn refuse(&self, refused: Option<RefusedStream>) {
        self.state().refused = refused;
    }
}

impl State {
    fn draw(&mut self) -> u64 {
        let Some(state) = &mut self.seed else { return 0 };
        // SplitMix64: small, and the same on every machine.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut draw = *state;
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        draw ^ (draw >> 31)
    }

    fn next_fault(&mut self, batch: usize) -> PublishFault {
        if self.seed.is_none() {
            return self.script.pop().unwrap_or(PublishFault::None);
        }
        let draw = self.draw();
        let some = usize::try_from(draw >> 8).unwrap_or_default();
        match draw % 4 {
            0 => PublishFault::UnknownAfter(some % batch.saturating_add(1)),
            1 => PublishFault::Late,
            _ => PublishFault::None,
        }
    }

    fn next_number(&self) -> u64 {
        u64::try_from(self.messages.len()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// A message is taken in its place, and nowhere else.
    fn take(&mut self, event: &PublicEvent) -> bool {
        let fits = event.number == self.next_number();
        if fits {
            self.messages.push(event.clone());
        }
        fits
    }

    fn take_late(&mut self) {
        for event in std::mem::take(&mut self.late) {
            self.take(&event);
        }
    }
}

fn unsure() -> EventStreamError {
    EventStreamError::Unsure("the answer was lost on purpose".to_owned())
}

#[async_trait]
impl EventStream for FakeEventStream {
    fn name(&self) -> String {
        "FAKE_EVENTS".to_owned()
    }

    async fn end(&self) -> Result<StreamEnd, EventStreamError> {
        // Whoever else is at work gets a turn at every question.
        tokio::task::yield_now().await;
        let mut state = self.state();
        if let Some(refused) = &state.refused {
            return Err(refused.clone().into());
        }
        let is_stale = state.stale_ends > 0;
        state.stale_ends = state.stale_ends.saturating_sub(1);
        match state.draw() % 8 {
            1 => return Err(unsure()),
            2 => state.take_late(),
            _ => {}
        }
        let count = if is_stale { state.messages.len() / 2 } else { state.messages.len() };
        let last = count.checked_sub(1).and_then(|index| state.messages.get(index));
        if let Some(intruder) = last.filter(|message| message.mark.id == NOT_OURS) {
            return Err(RefusedStream::because(self.name(), not_an_event(intruder.number)).into());
        }
        Ok(StreamEnd {
            last: u64::try_from(count).unwrap_or(u64::MAX),
            mark: last.map(|event| event.mark.clone()),
        })
    }

    async fn are_events(&self, messages: RangeInclusive<u64>) -> Result<(), EventStreamError> {
        let state = self.state();
        let mut there = state.messages.iter().filter(|message| messages.contains(&message.number));
        match there.find(|message| message.mark.id == NOT_OURS) {
            Some(message) => Err(RefusedStream::because(self.name(), not_an_event(message.number)).into()),
            None => Ok(()),
        }
    }

    async fn publish(&self, events: &[PublicEvent]) -> Result<(), EventStreamError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        if let Some(refused) = &state.refused {
            return Err(refused.clone().into());
        }
        state.take_late();
        let sent = u64::try_from(events.len()).unwrap_or(u64::MAX);
        state.sent = state.sent.saturating_add(sent);
        match state.next_fault(events.len()) {
            PublishFault::None => {
                // One that is there already is refused: it is for the publisher to find out.
                let taken = events.iter().filter(|event| state.take(event)).count();
                if taken == events.len() { Ok(()) } else { Err(unsure()) }
            }
            PublishFault::UnknownAfter(count) => {
                for event in events.iter().take(count) {
                    state.take(event);
                }
                Err(unsure())
            }
            PublishFault::Late => {
                state.late.extend_from_slice(events);
                Err(unsure())
            }
        }
    }
}
