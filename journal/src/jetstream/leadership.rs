//! Whose turn it is: a lease in a bucket. There is one for the sequencer, and one for whoever
//! publishes events.
//!
//! The lease only spares candidates from getting into each other's way. Two sequencers at once are
//! safe: whoever appends second meets a conflict, and ends. So a term is not over when the
//! lease could not be renewed for a while, as when the servers elect among themselves, but when
//! somebody else has it. [`Term::is_certain`] tells the two apart for whoever should keep silent in
//! doubt.
//!
//! A bucket that is lost is made again by whoever misses it first. Its terms are counted anew then; who
//! had the turn keeps it, unless another candidate was quicker.
//!
//! No clock of one machine is compared to another's: a candidate takes over when the lease has not
//! changed for its length, by the candidate's own clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Config, CreateErrorKind, Entry, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, Placement, StorageType};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::checks::check_place;
use super::connect::{NatsConfig, NatsError, jetstream};
use super::log::is_lost;
use crate::subjects::{EVENTS_LEASE, SEQUENCER_LEASE};

/// How often whoever waits for certainty looks for it.
const CERTAINTY_LOOK: Duration = Duration::from_millis(20);

/// With very short leases, answers are waited for for this long all the same: a busy disk is no lost answer.
const SHORTEST_ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How candidates share the turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadershipConfig {
    /// Who we are, for people: the host.
    pub candidate: String,
    /// How long a leader may be silent before another takes over.
    pub lease: Duration,
}

impl LeadershipConfig {
    /// The usual lease.
    pub fn named(candidate: impl Into<String>) -> Self {
        Self { candidate: candidate.into(), lease: Duration::from_secs(3) }
    }

    fn renewal_interval(&self) -> Duration {
        self.lease / 3
    }

    fn look_interval(&self) -> Duration {
        self.lease / 6
    }

    /// How long an answer is waited for: one that is lost must leave time to ask again before the lease
    /// is over.
    fn answer_limit(&self) -> Duration {
        self.renewal_interval().max(SHORTEST_ANSWER_LIMIT)
    }
}

/// What is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    candidate: String,
    /// Of the candidate's process.
    id: String,
    lease_ms: u64,
    /// False once its holder has resigned.
    held: bool,
}

/// A candidate for a place that one has at a time.
pub struct Leadership {
    context: Context,
    /// What the bucket is to be.
    wanted: Config,
    store: Store,
    /// The lease's key.
    place: &'static str,
    config: LeadershipConfig,
    id: String,
}

impl Leadership {
    /// A candidate for the sequencer's place. Finds the bucket, or makes it.
    ///
    /// # Errors
    /// If neither works, or [`NatsError::Refused`] if the bucket is not where it should be.
    pub async fn open(
        client: &Client,
        nats: &NatsConfig,
        config: LeadershipConfig,
    ) -> Result<Self, NatsError> {
        Self::open_for(SEQUENCER_LEASE, client, nats, config).await
    }

    /// A candidate for publishing events, likewise.
    ///
    /// # Errors
    /// As [`Leadership::open`].
    pub async fn open_for_events(
        client: &Client,
        nats: &NatsConfig,
        config: LeadershipConfig,
    ) -> Result<Self, NatsError> {
        Self::open_for(EVENTS_LEASE, client, nats, config).await
    }

    /// Who we are, for people.
    pub fn candidate(&self) -> &str {
        &self.config.candidate
    }

    async fn open_for(
        place: &'static str,
        client: &Client,
        nats: &NatsConfig,
        config: LeadershipConfig,
    ) -> Result<Self, NatsError> {
        let context = jetstream(client);
        let bucket = nats.cell.lease_bucket();
        let failed =
            |reason: &dyn std::fmt::Display| NatsError::jetstream(format!("bucket {bucket}"), reason);
        let placement = Placement { cluster: None, tags: nats.placement_tags.clone() };
        let wanted = Config {
            bucket: bucket.clone(),
            description: "Who the sequencer is, and who publishes events".to_owned(),
            history: 1,
            storage: StorageType::File,
            num_replicas: nats.replicas,
            placement: (!nats.placement_tags.is_empty()).then_some(placement),
            ..Config::default()
        };
        let store = get_or_create(&context, &wanted).await.map_err(|reason| failed(&reason))?;
        let wanted_place = StreamConfig {
            name: store.stream_name.clone(),
            num_replicas: wanted.num_replicas,
            ..StreamConfig::default()
        };
        check_place(store.stream.cached_info(), &wanted_place)?;
        Ok(Self { context, wanted, store, place, config, id: Uuid::new_v4().to_string() })
    }

    fn lease(&self, held: bool) -> Bytes {
        let lease = Lease {
            candidate: self.config.candidate.clone(),
            id: self.id.clone(),
            lease_ms: u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX),
            held,
        };
        serde_json::to_vec(&lease).unwrap_or_default().into()
    }

    /// Waits until it is our turn.
    pub async fn campaign(&self) -> Term {
        let mut unchanged: Option<(u64, Instant)> = None;
        loop {
            let asked_at = Instant::now();
            let tried = tokio::time::timeout(self.config.answer_limit(), self.try_once(&mut unchanged));
            match tried.await.unwrap_or(Ok(None)) {
                Ok(Some(revision)) => {
                    tracing::info!(candidate = %self.config.candidate, place = self.place, term = revision, "the turn is ours");
                    return Term::begin(self, revision, asked_at);
                }
                Ok(None) => {}
                Err(reason) => {
                    tracing::debug!(place = self.place, %reason, "the lease cannot be seen");
                    self.make_bucket_if_lost().await;
                }
            }
            tokio::time::sleep(self.config.look_interval()).await;
        }
    }

    /// Looks once, and takes the lease if it is free.
    async fn try_once(
        &self,
        unchanged: &mut Option<(u64, Instant)>,
    ) -> Result<Option<u64>, async_nats::Error> {
        let Some((entry, lease)) = self.look().await? else {
            return match self.store.create(self.place, self.lease(true)).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
                Err(error) => Err(error.into()),
            };
        };
        let now = Instant::now();
        let since = match *unchanged {
            Some((revision, since)) if revision == entry.revision => since,
            Some(_) | None => {
                *unchanged = Some((entry.revision, now));
                now
            }
        };
        let patience = self.config.lease.max(Duration::from_millis(lease.lease_ms));
        let is_free = !lease.held || lease.id == self.id || now.duration_since(since) >= patience;
        if !is_free {
            return Ok(None);
        }
        match self.store.update(self.place, self.lease(true), entry.revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The lease as it is.
    async fn look(&self) -> Result<Option<(Entry, Lease)>, async_nats::Error> {
        let Some(entry) = self.store.entry(self.place).await? else { return Ok(None) };
        if entry.operation != Operation::Put {
            return Ok(None);
        }
        let lease = serde_json::from_slice(&entry.value)?;
        Ok(Some((entry, lease)))
    }

    /// Makes the bucket again if the servers say that there is none.
    async fn make_bucket_if_lost(&self) {
        let bucket = &self.wanted.bucket;
        let stream = format!("KV_{bucket}");
        // Not for long: while the servers elect among themselves, to renew is what matters.
        let asked = tokio::time::timeout(self.config.renewal_interval(), is_lost(&self.context, &stream));
        match asked.await {
            Err(_) | Ok(Ok(false)) => {}
            Ok(Ok(true)) => match get_or_create(&self.context, &self.wanted).await {
                Ok(_) => tracing::warn!(bucket, "the bucket of leases was lost, and is made again"),
                Err(reason) => tracing::warn!(bucket, %reason, "the bucket of leases is lost"),
            },
            Ok(Err(error)) => tracing::debug!(%error, "nobody says whether the bucket of leases is there"),
        }
    }

    fn clone_for_term(&self) -> Self {
        Self {
            context: self.context.clone(),
            wanted: self.wanted.clone(),
            store: self.store.clone(),
            place: self.place,
            config: self.config.clone(),
            id: self.id.clone(),
        }
    }
}

async fn get_or_create(context: &Context, wanted: &Config) -> Result<Store, async_nats::Error> {
    if let Ok(store) = context.get_key_value(&wanted.bucket).await {
        return Ok(store);
    }
    match context.create_key_value(wanted.clone()).await {
        Ok(store) => Ok(store),
        // Another candidate may have been quicker.
        Err(refused) => context.get_key_value(&wanted.bucket).await.map_err(|_| refused.into()),
    }
}

/// A turn. Dropping it stops renewing; [`Term::resign`] hands over at once.
pub struct Term {
    number: u64,
    lease: Duration,
    state: Arc<Mutex<TermState>>,
    over: CancellationToken,
    leadership: Arc<Leadership>,
    stop_renewing: CancellationToken,
    _stop_with_term: DropGuard,
}

#[derive(Clone, Copy)]
struct TermState {
    revision: u64,
    renewed_at: Instant,
}

impl Term {
    fn begin(leadership: &Leadership, revision: u64, asked_at: Instant) -> Self {
        let leadership = Arc::new(leadership.clone_for_term());
        let state = Arc::new(Mutex::new(TermState { revision, renewed_at: asked_at }));
        let (over, stop) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn({
            let (leadership, state, over, stop) =
                (Arc::clone(&leadership), Arc::clone(&state), over.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(renew(&leadership, &state)).await;
                over.cancel();
            }
        });
        Self {
            number: revision,
            lease: leadership.config.lease,
            state,
            over,
            leadership,
            stop_renewing: stop.clone(),
            _stop_with_term: stop.drop_guard(),
        }
    }

    fn state(&self) -> TermState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Larger than that of every term before, for as long as the bucket of leases lasts.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Cancelled when somebody else has the lease.
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Whether nobody else can have taken over: the lease was renewed within its length. A process
    /// that was stopped and goes on finds itself uncertain until it has renewed, or lost.
    pub fn is_certain(&self) -> bool {
        !self.over.is_cancelled() && self.state().renewed_at.elapsed() < self.lease
    }

    /// Returns once [`Term::is_certain`], which may be never.
    pub async fn certainty(&self) {
        while !self.is_certain() {
            tokio::time::sleep(CERTAINTY_LOOK).await;
        }
    }

    /// Hands over: the next candidate need not wait for the lease to end.
    pub async fn resign(&self) {
        if self.over.is_cancelled() {
            return;
        }
        self.stop_renewing.cancel();
        self.over.cancelled().await;
        let Self { leadership, .. } = self;
        let resigned = leadership.lease(false);
        if let Err(error) = leadership.store.update(leadership.place, resigned, self.state().revision).await {
            tracing::debug!(%error, "the lease was not handed over; it ends by itself");
        }
    }
}

/// What came of one attempt to renew a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// It was renewed by this attempt, with this revision.
    Renewed(u64),
    /// It had been renewed by an earlier attempt, which was not answered.
    Arrived(u64),
    /// Nobody has said so.
    NotYet,
    /// Somebody else has it.
    Over,
}

/// Renews until somebody else has the lease.
async fn renew(leadership: &Leadership, state: &Mutex<TermState>) {
    let (attempt, mend) = (|revision| leadership.renew_once(revision), || leadership.make_bucket_if_lost());
    keep_renewed(&leadership.config, state, attempt, mend).await;
    tracing::warn!(candidate = %leadership.config.candidate, place = leadership.place, "the turn is over: another has the lease");
}

/// Attempts it again and again until somebody else has the lease. `attempt` is given the revision to renew
/// from; where it fails, `mend` may find out why.
async fn keep_renewed<A, M>(
    config: &LeadershipConfig,
    state: &Mutex<TermState>,
    attempt: impl Fn(u64) -> A,
    mend: impl Fn() -> M,
) where
    A: Future<Output = Result<Renewal, async_nats::Error>>,
    M: Future<Output = ()>,
{
    let mut interval = tokio::time::interval(config.renewal_interval());
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval.tick().await;
    // When the first of the attempts began that nobody has answered since the last renewal.
    let mut unanswered_since = None;
    loop {
        interval.tick().await;
        let asked_at = Instant::now();
        let first_asked_at = *unanswered_since.get_or_insert(asked_at);
        let revision = state.lock().unwrap_or_else(PoisonError::into_inner).revision;
        let renewed = match tokio::time::timeout(config.answer_limit(), attempt(revision)).await {
            Ok(Ok(Renewal::Renewed(revision))) => Some(TermState { revision, renewed_at: asked_at }),
            // It may have arrived as soon as it was sent: others wait from there.
            Ok(Ok(Renewal::Arrived(revision))) => Some(TermState { revision, renewed_at: first_asked_at }),
            Ok(Ok(Renewal::Over)) => return,
            Ok(Ok(Renewal::NotYet)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the lease is not renewed yet");
                mend().await;
                None
            }
        };
        if let Some(renewed) = renewed {
            unanswered_since = None;
            *state.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
    }
}

impl Leadership {
    /// Renews the lease that we wrote last with this revision.
    async fn renew_once(&self, revision: u64) -> Result<Renewal, async_nats::Error> {
        match self.store.update(self.place, self.lease(true), revision).await {
            Ok(renewed) => return Ok(Renewal::Renewed(renewed)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(error.into()),
        }
        let Ok(seen) = self.look().await else { return Ok(Renewal::NotYet) };
        let seen = seen.map(|(entry, lease)| (entry.revision, lease.held && lease.id == self.id));
        let written = match after_refusal(seen, revision) {
            Next::Is(renewal) => return Ok(renewal),
            Next::RenewFrom(seen) => self.store.update(self.place, self.lease(true), seen).await.ok(),
            Next::Create => self.store.create(self.place, self.lease(true)).await.ok(),
        };
        Ok(written.map_or(Renewal::NotYet, Renewal::Renewed))
    }
}

/// What is to be done about a renewal that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Is(Renewal),
    /// From another revision.
    RenewFrom(u64),
    Create,
}

/// What follows from the lease as any of the servers has it: its revision, and whether it is ours.
fn after_refusal(seen: Option<(u64, bool)>, renewed_from: u64) -> Next {
    match seen {
        Some((_, false)) => Next::Is(Renewal::Over),
        Some((revision, true)) if revision > renewed_from => Next::Is(Renewal::Arrived(revision)),
        // That of a server that has not taken in the newest, which is no proof of anything; or of a bucket
        // that was made again and counts anew. Only another write tells the two apart.
        Some((revision, true)) => Next::RenewFrom(revision),
        // The lease went with the bucket, and nobody has it yet.
        None => Next::Create,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_old_lease_of_a_server_that_lags_is_no_renewal() {
        for (seen, next) in [
            (Some((8, true)), Next::Is(Renewal::Arrived(8))),
            (Some((7, true)), Next::RenewFrom(7)),
            (Some((1, true)), Next::RenewFrom(1)),
            (Some((8, false)), Next::Is(Renewal::Over)),
            (None, Next::Create),
        ] {
            assert_eq!(after_refusal(seen, 7), next, "{seen:?}");
        }
    }

    /// A turn that was just taken, and what becomes of each attempt to renew it, in order; after them, it
    /// is over. Nothing: no answer comes.
    async fn renewed(attempts: &[Option<Renewal>]) -> (Instant, TermState) {
        let config = LeadershipConfig::named("test");
        let began = Instant::now();
        let state = Mutex::new(TermState { revision: 1, renewed_at: began });
        let next = AtomicUsize::new(0);
        let attempt = |_| async {
            match attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
                Some(Some(renewal)) => Ok(*renewal),
                Some(None) => std::future::pending().await,
                None => Ok(Renewal::Over),
            }
        };
        keep_renewed(&config, &state, attempt, || async {}).await;
        (began, *state.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_leaves_time_to_ask_again_within_the_lease() {
        let lease = LeadershipConfig::named("test").lease;
        for answer in [Renewal::Renewed(3), Renewal::Arrived(2)] {
            let (began, state) = renewed(&[None, Some(answer)]).await;
            assert!(state.renewed_at > began && state.revision > 1, "{answer:?}");
            // Asked again after that, and told so, before the first lease was over.
            assert!(Instant::now() <= began + lease, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_arrived_unnoticed_counts_from_when_it_was_sent() {
        let (began, first) = renewed(&[Some(Renewal::Renewed(2))]).await;
        let sent = first.renewed_at - began;
        let (began, state) = renewed(&[None, None, Some(Renewal::Arrived(2))]).await;
        assert_eq!(state.renewed_at - began, sent);
        let (began, state) = renewed(&[None, Some(Renewal::Renewed(2))]).await;
        assert!(state.renewed_at - began > sent);
    }
}
