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
            match self.try_once(&mut unchanged).await {
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

/// Renews until somebody else has the lease.
async fn renew(leadership: &Leadership, state: &Mutex<TermState>) {
    let mut interval = tokio::time::interval(leadership.config.renewal_interval());
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval.tick().await;
    loop {
        interval.tick().await;
        let asked_at = Instant::now();
        let revision = state.lock().unwrap_or_else(PoisonError::into_inner).revision;
        let renewed = match leadership.store.update(leadership.place, leadership.lease(true), revision).await
        {
            Ok(renewed) => Some(renewed),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                match leadership.look().await {
                    // A renewal that was not answered had arrived after all.
                    Ok(Some((entry, lease))) if lease.id == leadership.id && lease.held => {
                        Some(entry.revision)
                    }
                    // The lease went with the bucket, and nobody has it yet.
                    Ok(None) => leadership.store.create(leadership.place, leadership.lease(true)).await.ok(),
                    Ok(Some(_)) => {
                        tracing::warn!(candidate = %leadership.config.candidate, place = leadership.place, "the turn is over: another has the lease");
                        return;
                    }
                    Err(_) => None,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the lease is not renewed yet");
                leadership.make_bucket_if_lost().await;
                None
            }
        };
        if let Some(revision) = renewed {
            *state.lock().unwrap_or_else(PoisonError::into_inner) =
                TermState { revision, renewed_at: asked_at };
        }
    }
}
