//! How far long work has come, as its executor last said: soft state, for show alone.
//!
//! Nothing of it is an event, and nothing is decided by it. An entry is of one attempt, and its executor
//! takes it away when the attempt has ended. Who shows it asks for the attempt that the ledger waits for: what is
//! said of any other, or by the executor of another backend, is not shown.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tephra_domain::effect::EffectKey;
use tephra_domain::ids::{BackendName, OperationId};
use tephra_domain::units::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;

/// What was heard from another process counts for this long: executors repeat what they say every two
/// seconds for as long as they work on it.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);

/// Attempts of one backend that are kept at a time, many times what an executor works on at once.
pub const MAX_ATTEMPTS: usize = 512;

/// Backends that are kept at a time: a bound on what strangers on NATS can have us remember.
const MAX_BACKENDS: usize = 1024;

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which attempt.
    pub key: EffectKey,
    /// Bytes that are in their place.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl Progress {
    /// Whole per cent, rounded down: 100 is all of it.
    pub fn percent(&self) -> u8 {
        let hundredths = u128::from(self.done_bytes).saturating_mul(100);
        let percent = hundredths.checked_div(u128::from(self.total_bytes)).unwrap_or_default();
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

#[derive(Clone, Copy)]
struct Said {
    progress: Progress,
    at: Timestamp,
}

type Entries = BTreeMap<BackendName, BTreeMap<OperationId, Said>>;

#[derive(Default)]
struct Shared {
    entries: RwLock<Entries>,
    changed: watch::Sender<()>,
}

/// The latest word on every attempt. Cheap to clone; all clones are one board.
#[derive(Clone, Default)]
pub struct ProgressBoard {
    shared: Arc<Shared>,
    forgotten_after: Option<Duration>,
}

impl fmt::Debug for ProgressBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressBoard")
            .field("forgotten_after", &self.forgotten_after)
            .finish_non_exhaustive()
    }
}

impl ProgressBoard {
    /// A board of what other processes say, which may end without a word: who is silent for so long is
    /// forgotten. On any other board an attempt stays until its executor takes it away.
    pub fn with_forgotten_after(silence: Duration) -> Self {
        Self { shared: Arc::default(), forgotten_after: Some(silence) }
    }

    /// Takes in what a backend's executor says. Within an attempt nothing goes back: one that is begun
    /// anew, because its executor died, has what the board shows as soon as it has looked for it. An
    /// attempt that was overtaken by a later one is not heard.
    pub fn report(&self, backend: &BackendName, progress: Progress, now: Timestamp) {
        let done_bytes = progress.done_bytes.min(progress.total_bytes);
        let mut said = Said { progress: Progress { done_bytes, ..progress }, at: now };
        let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        for attempts in entries.values_mut() {
            attempts.retain(|_, said| self.is_fresh(said, now));
        }
        entries.retain(|_, attempts| !attempts.is_empty());
        if entries.len() >= MAX_BACKENDS && !entries.contains_key(backend) {
            return;
        }
        let attempts = entries.entry(backend.clone()).or_default();
        let is_news = match attempts.entry(progress.key.operation()) {
            Entry::Vacant(place) => {
                place.insert(said);
                true
            }
            Entry::Occupied(mut place) => {
                let before = place.get().progress;
                if attempt_of(before.key) > attempt_of(progress.key) {
                    return;
                }
                if before.key == progress.key && before.total_bytes == progress.total_bytes {
                    said.progress.done_bytes = said.progress.done_bytes.max(before.done_bytes);
                }
                place.insert(said);
                before != said.progress
            }
        };
        if attempts.len() > MAX_ATTEMPTS
            && let Some(silent) = attempts.iter().min_by_key(|(_, said)| said.at).map(|(id, _)| *id)
        {
            attempts.remove(&silent);
        }
        drop(entries);
        if is_news {
            self.shared.changed.send_replace(());
        }
    }

    /// How far a backend's executor says that an attempt has come; nothing if it has not said so, or is
    /// done with it.
    pub fn of(&self, backend: &BackendName, key: EffectKey, now: Timestamp) -> Option<Progress> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        let said = entries.get(backend)?.get(&key.operation())?;
        (said.progress.key == key && self.is_fresh(said, now)).then_some(said.progress)
    }

    /// What a backend's executor is at.
    pub fn of_backend(&self, backend: &BackendName, now: Timestamp) -> Vec<Progress> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        let attempts = entries.get(backend).into_iter().flat_map(BTreeMap::values);
        attempts.filter(|said| self.is_fresh(said, now)).map(|said| said.progress).collect()
    }

    /// What all executors are at.
    pub fn read(&self, now: Timestamp) -> Vec<(BackendName, Progress)> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        let all = entries.iter().flat_map(|(backend, attempts)| {
            attempts.values().map(move |said| (backend, said)).filter(|(_, said)| self.is_fresh(said, now))
        });
        all.map(|(backend, said)| (backend.clone(), said.progress)).collect()
    }

    /// Tells whenever something has come further.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// A place for an attempt that begins, which takes itself away at the end.
    pub fn attempt(&self, backend: BackendName, key: EffectKey, clock: Arc<dyn Clock>) -> AttemptProgress {
        AttemptProgress { board: self.clone(), backend, key, clock }
    }

    fn take_away(&self, backend: &BackendName, key: EffectKey) {
        let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(attempts) = entries.get_mut(backend) else { return };
        if attempts.get(&key.operation()).is_some_and(|said| said.progress.key == key) {
            attempts.remove(&key.operation());
        }
        if attempts.is_empty() {
            entries.remove(backend);
        }
    }

    fn is_fresh(&self, said: &Said, now: Timestamp) -> bool {
        self.forgotten_after.is_none_or(|silence| {
            let silence_ms = i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
            now.micros() < said.at.plus_ms(silence_ms).micros()
        })
    }
}

const fn attempt_of(key: EffectKey) -> u32 {
    match key {
        EffectKey::Step { attempt, .. } | EffectKey::Debt { attempt, .. } => attempt,
    }
}

/// The place of one attempt on a board. Its entry goes with it, however the attempt ends.
pub struct AttemptProgress {
    board: ProgressBoard,
    backend: BackendName,
    key: EffectKey,
    clock: Arc<dyn Clock>,
}

impl AttemptProgress {
    /// The attempt has come so far.
    pub fn report(&self, done_bytes: u64, total_bytes: u64) {
        let progress = Progress { key: self.key, done_bytes, total_bytes };
        self.board.report(&self.backend, progress, self.clock.now());
    }
}

impl Drop for AttemptProgress {
    fn drop(&mut self) {
        self.board.take_away(&self.backend, self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tephra_domain::effect::Direction;
    use uuid::Uuid;

    use super::*;
    use crate::clock::ManualClock;

    fn key(operation: u128, attempt: u32) -> EffectKey {
        let operation = OperationId::from_uuid(Uuid::from_u128(operation));
        EffectKey::Step { operation, direction: Direction::Forward, step: 0, attempt }
    }

    fn lvm() -> BackendName {
        BackendName::new("lvm")
    }

    fn said(key: EffectKey, done_bytes: u64) -> Progress {
        Progress { key, done_bytes, total_bytes: 10 }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn per_cent_are_whole_and_a_hundred_is_all_of_it() {
        for (done_bytes, total_bytes, expected) in
            [(0, 3, 0), (1, 3, 33), (2, 3, 66), (3, 3, 100), (0, 0, 0), (u64::MAX - 1, u64::MAX, 99)]
        {
            let progress = Progress { key: key(1, 1), done_bytes, total_bytes };
            assert_eq!(progress.percent(), expected, "{done_bytes} of {total_bytes}");
        }
    }

    #[test]
    fn within_an_attempt_nothing_goes_back_and_a_later_attempt_begins_anew() {
        let board = ProgressBoard::default();
        let reported = |key, done| {
            board.report(&lvm(), said(key, done), at(1));
            board.of_backend(&lvm(), at(1))
        };
        assert_eq!(reported(key(1, 1), 4), [said(key(1, 1), 4)]);
        assert_eq!(reported(key(1, 1), 2), [said(key(1, 1), 4)]);
        assert_eq!(reported(key(1, 1), 99), [said(key(1, 1), 10)], "more than all is all");
        assert_eq!(reported(key(1, 2), 1), [said(key(1, 2), 1)]);
        assert_eq!(reported(key(1, 1), 10), [said(key(1, 2), 1)], "it was overtaken");
    }

    #[test]
    fn only_the_attempt_that_is_asked_for_is_shown_and_only_as_its_own_backend_says() {
        let board = ProgressBoard::default();
        board.report(&lvm(), said(key(1, 2), 5), at(1));
        assert_eq!(board.of(&lvm(), key(1, 2), at(1)), Some(said(key(1, 2), 5)));
        for (backend, key) in [("lvm", key(1, 1)), ("lvm", key(1, 3)), ("lvm", key(2, 2)), ("rbd", key(1, 2))]
        {
            assert_eq!(board.of(&BackendName::new(backend), key, at(1)), None, "{backend} {key}");
        }
    }

    #[test]
    fn an_attempt_takes_its_entry_away_but_not_a_later_ones() {
        let (board, clock) = (ProgressBoard::default(), Arc::new(ManualClock::default()));
        let first = board.attempt(lvm(), key(1, 1), Arc::clone(&clock) as Arc<dyn Clock>);
        first.report(1, 10);
        drop(first);
        assert_eq!(board.read(at(0)), []);
        let first = board.attempt(lvm(), key(1, 1), Arc::clone(&clock) as Arc<dyn Clock>);
        let second = board.attempt(lvm(), key(1, 2), clock);
        first.report(3, 10);
        second.report(2, 10);
        drop(first);
        assert_eq!(board.read(at(0)), [(lvm(), said(key(1, 2), 2))]);
    }

    #[test]
    fn who_falls_silent_is_forgotten_where_others_are_heard_and_nowhere_else() {
        let (own, heard) =
            (ProgressBoard::default(), ProgressBoard::with_forgotten_after(Duration::from_secs(15)));
        for board in [&own, &heard] {
            board.report(&lvm(), said(key(1, 1), 1), at(100));
        }
        assert_eq!((own.read(at(114)).len(), heard.read(at(114)).len()), (1, 1));
        assert_eq!((own.read(at(115)).len(), heard.read(at(115)).len()), (1, 0));
        assert_eq!(heard.of(&lvm(), key(1, 1), at(115)), None);
        // and takes no place either
        heard.report(&lvm(), said(key(2, 1), 1), at(200));
        assert_eq!(heard.shared.entries.read().unwrap()[&lvm()].len(), 1);
    }

    #[test]
    fn a_board_has_a_bound() {
        let board = ProgressBoard::default();
        for n in 0..=MAX_ATTEMPTS {
            board.report(&lvm(), said(key(n as u128, 1), 1), at(n as i64));
        }
        assert_eq!(board.read(at(0)).len(), MAX_ATTEMPTS);
        assert_eq!(board.of(&lvm(), key(0, 1), at(0)), None, "the one that was silent longest");
        for n in 0..2 * MAX_BACKENDS {
            board.report(&BackendName::new(format!("b{n}")), said(key(1, 1), 1), at(0));
        }
        assert_eq!(board.shared.entries.read().unwrap().len(), MAX_BACKENDS);
    }

    #[test]
    fn whoever_listens_hears_of_what_came_further_and_of_nothing_else() {
        let board = ProgressBoard::default();
        let mut heard = board.subscribe();
        for (done, expected) in [(1, true), (1, false), (2, true), (1, false)] {
            board.report(&lvm(), said(key(1, 1), done), at(0));
            assert_eq!(heard.has_changed().unwrap(), expected, "{done}");
            heard.mark_unchanged();
        }
    }
}
