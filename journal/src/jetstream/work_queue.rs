//! Work orders on a JetStream stream, for executors on other hosts.
//!
//! Each attempt has a subject of its own and the stream keeps one message a subject, so an order
//! that is there already is refused: the same attempt twice is one order for as long as it is not
//! done. Each backend has one durable consumer, whichever hosts take from it. Who publishes orders
//! makes it, not who takes them: a consumer says where the server sends messages, and an executor that
//! could choose that could have them sent into the ledger.
//!
//! A delivery is leased: without a sign of life ([`Delivery::keep`]) the server delivers it again,
//! any number of times, because an order that is due stays due. An order that keeps coming back is
//! said loudly, and counted ([`metrics::ORDERS_TROUBLED_TOTAL`]). Acks are no fencing: a late one, of an executor that was given up, counts too. That
//! is why the ledger takes reports for the attempt that it waits for, and for no other, and why whoever
//! has an order knows until when it surely is theirs ([`super::lease`]).
//!
//! What is lost here is published again from the state, so on one server the stream does not wait
//! for the disk: its syncs would only delay those of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, AckKind, Context, ErrorCode};
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures::StreamExt;
use tephra_domain::effect::EffectKey;
use tephra_domain::ids::BackendName;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checks::check_place;
use super::connect::{NatsConfig, NatsError, ledger_jetstream};
use super::lease::{OrderLease, uptime};
use super::log::{code_of, get_or_create, is_lost};
use super::placement::{placement, warn_if_elsewhere};
use crate::metrics;
use crate::subjects::{Cell, work_consumer};
use crate::wire::message::{decode_order, encode_order};
use crate::work_queue::{Delivery, Lease, WorkOrder, WorkQueue};

/// Orders that may be on their way to the server unacknowledged.
const PUBLISHING_ORDERS: usize = 512;

/// How long an order is tried to be published. What is given up is due again at the next dispatch.
const PUBLISH_TIME: Duration = Duration::from_secs(30);

/// How long the server keeps a request for an order open at most.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// A lease counts from the request, so that one part of so many may be over when the order comes.
const REQUESTS_PER_LEASE: u32 = 3;

/// The waits while NATS does not answer.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The longest wait while there is no consumer: nobody has published an order for the backend yet, and
/// the first one should not wait long.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// How long a backend's consumer is taken to be there. After that, the next order makes sure of it, so
/// that one that somebody has deleted comes back.
const CONSUMER_KNOWN_FOR: Duration = Duration::from_secs(10);

/// The pause before it is looked again whether the stream is there.
const STREAM_SOUGHT_EVERY: Duration = Duration::from_secs(1);

/// How often it is tried to acknowledge. If none comes through, the order comes again, and the
/// ledger says that it is done.
const ACK_ATTEMPTS: usize = 5;

/// A sign of life may take one of so many parts of a lease to be answered.
const LEASE_PARTS: u32 = 5;

/// Why a message is not stored: here, that its subject has one.
const STORE_FAILED: ErrorCode = ErrorCode::STREAM_STORE_FAILED;
const SUBJECT_IS_TAKEN: &str = "maximum messages per subject";

/// How orders are leased and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// How long a delivery is an executor's without a sign of life.
    pub lease: Duration,
    /// The wait before an order that was given back is delivered again; it doubles each time.
    pub give_back_min: Duration,
    /// The longest such wait.
    pub give_back_max: Duration,
    /// After so many deliveries an order is in trouble, and said to be.
    pub troubled_after: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            give_back_min: Duration::from_millis(500),
            give_back_max: Duration::from_secs(60),
            troubled_after: 10,
        }
    }
}

impl QueueConfig {
    /// The wait before the delivery after `deliveries`.
    fn give_back_delay(&self, deliveries: u32) -> Duration {
        let doublings = deliveries.saturating_sub(1).min(16);
        self.give_back_min.saturating_mul(1 << doublings).min(self.give_back_max)
    }
}

/// The queue of one cell. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct JetStreamQueue {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    cell: Cell,
    config: QueueConfig,
    context: Context,
    stream: Stream<()>,
    /// What the stream is to be, to whoever publishes.
    wanted: Option<Config>,
    /// When it was last made sure that the stream is there.
    sought: tokio::sync::Mutex<Option<Instant>>,
    publishing: Arc<Semaphore>,
    /// Those that orders are taken from.
    consumers: Mutex<BTreeMap<BackendName, Consumer<PullConfig>>>,
    /// When the consumer of a backend was last known to be there to whoever publishes.
    made: tokio::sync::Mutex<BTreeMap<BackendName, Instant>>,
    stop: CancellationToken,
}

fn wanted_stream(nats: &NatsConfig) -> Config {
    Config {
        name: nats.cell.work_stream(),
        description: Some("Work orders: one message is one attempt at one effect".to_owned()),
        subjects: vec![nats.cell.work_subjects()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        placement: placement(nats),
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        persist_mode: (nats.replicas == 1).then_some(PersistenceMode::Async),
        ..Config::default()
    }
}

impl JetStreamQueue {
    /// The queue for whoever publishes: makes the stream if there is none, also when it is lost later.
    /// Ends with `stop`.
    ///
    /// # Errors
    /// If the stream cannot be made, or [`NatsError::Refused`] if it is there and not where it should be.
    pub async fn open(
        client: &Client,
        nats: &NatsConfig,
        config: QueueConfig,
        stop: CancellationToken,
    ) -> Result<Self, NatsError> {
        let wanted = wanted_stream(nats);
        let info = get_or_create(&ledger_jetstream(client, nats), &wanted).await?;
        check_place(&info, &wanted)?;
        warn_if_elsewhere(&info, &wanted);
        Self::over(client, nats, config, Some(wanted), stop).await
    }

    /// The queue for whoever takes orders. The stream may be made later. Ends with `stop`.
    ///
    /// # Errors
    /// If its name is refused.
    pub async fn open_to_take(
        client: &Client,
        nats: &NatsConfig,
        config: QueueConfig,
        stop: CancellationToken,
    ) -> Result<Self, NatsError> {
        Self::over(client, nats, config, None, stop).await
    }

    async fn over(
        client: &Client,
        nats: &NatsConfig,
        config: QueueConfig,
        wanted: Option<Config>,
        stop: CancellationToken,
    ) -> Result<Self, NatsError> {
        let context = ledger_jetstream(client, nats);
        let name = nats.cell.work_stream();
        let stream = context
            .get_stream_no_info(&name)
            .await
            .map_err(|error| NatsError::jetstream(format!("stream {name}"), error))?;
        let shared = Shared {
            client: client.clone(),
            cell: nats.cell.clone(),
            config,
            context,
            stream,
            wanted,
            sought: tokio::sync::Mutex::default(),
            publishing: Arc::new(Semaphore::new(PUBLISHING_ORDERS)),
            consumers: Mutex::default(),
            made: tokio::sync::Mutex::default(),
            stop,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

fn retry_waits(longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Whether the stream refuses an order because it has it.
fn is_there_already(error: &PublishError) -> bool {
    code_of(error) == Some(STORE_FAILED) && source_text(error).contains(SUBJECT_IS_TAKEN)
}

fn source_text(error: &PublishError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

impl Shared {
    async fn send(
        &self,
        subject: &str,
        payload: Bytes,
    ) -> Result<jetstream::context::PublishAckFuture, PublishError> {
        self.context.send_publish(subject.to_owned(), PublishMessage::build().payload(payload)).await
    }

    async fn publish_surely(
        &self,
        key: EffectKey,
        subject: String,
        payload: Bytes,
        sent: Result<jetstream::context::PublishAckFuture, PublishError>,
    ) {
        let mut sent = sent;
        for wait in retry_waits(RETRY_MAX) {
            let acknowledged = match sent {
                Ok(acknowledgement) => acknowledgement.await.map(drop),
                Err(error) => Err(error),
            };
            match acknowledged {
                Ok(()) => return,
                Err(error) if is_there_already(&error) => return,
                Err(error) => {
                    tracing::debug!(%key, %error, "an order is not published yet");
                    if error.kind() == PublishErrorKind::StreamNotFound {
                        self.make_stream().await;
                    }
                }
            }
            tokio::time::sleep(wait).await;
            sent = self.send(&subject, payload.clone()).await;
        }
    }

    /// Makes the stream if it is lost. Nobody who listens may also mean that it has no leader just now,
    /// so the servers are asked, by one at a time and not again and again.
    async fn make_stream(&self) {
        let Some(wanted) = &self.wanted else { return };
        let mut sought = self.sought.lock().await;
        if sought.is_some_and(|before| before.elapsed() < STREAM_SOUGHT_EVERY) {
            return;
        }
        match is_lost(&self.context, &wanted.name).await {
            Ok(false) => {}
            Ok(true) => match get_or_create(&self.context, wanted).await {
                Ok(_) => {
                    // Its consumers went with it.
                    self.made.lock().await.clear();
                    tracing::warn!(
                        stream = wanted.name,
                        "the stream of work orders was lost, and is made again"
                    );
                }
                Err(error) => tracing::warn!(%error, "the stream of work orders is lost"),
            },
            Err(error) => tracing::debug!(%error, "nobody says whether the stream of work orders is there"),
        }
        *sought = Some(Instant::now());
    }

    /// Makes the consumer of a backend, unless it was there a moment ago.
    async fn make_consumer(&self, backend: &BackendName) -> Result<(), async_nats::Error> {
        let mut made = self.made.lock().await;
        if made.get(backend).is_some_and(|known| known.elapsed() < CONSUMER_KNOWN_FOR) {
            return Ok(());
        }
        let name = work_consumer(backend);
        let config = PullConfig {
            durable_name: Some(name.clone()),
            name: Some(name),
            description: Some(format!("Orders for backend {backend}")),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.config.lease,
            max_deliver: -1,
            max_ack_pending: -1,
            filter_subject: self.cell.backend_work_subjects(backend),
            ..PullConfig::default()
        };
        self.stream.create_consumer(config).await?;
        made.insert(backend.clone(), Instant::now());
        Ok(())
    }

    async fn make_consumer_surely(&self, backend: &BackendName) {
        for wait in retry_waits(RETRY_MAX) {
            match self.make_consumer(backend).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%backend, %error, "a consumer of orders is not made yet"),
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn consumer(&self, backend: &BackendName) -> Result<Consumer<PullConfig>, async_nats::Error> {
        if let Some(known) = self.consumers.lock().unwrap_or_else(PoisonError::into_inner).get(backend) {
            return Ok(known.clone());
        }
        let consumer = self.stream.get_consumer::<PullConfig>(&work_consumer(backend)).await?;
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.insert(backend.clone(), consumer.clone());
        Ok(consumer)
    }

    fn forget_consumer(&self, backend: &BackendName) {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).remove(backend);
    }

    /// One order, if one comes in time.
    async fn take(
        self: &Arc<Self>,
        backend: &BackendName,
    ) -> Result<Option<JetStreamDelivery>, async_nats::Error> {
        let consumer = self.consumer(backend).await?;
        // no order is delivered for a request before that is sent
        let asked = uptime();
        let open_for = REQUEST_TIME.min(self.config.lease / REQUESTS_PER_LEASE);
        let mut messages = consumer.batch().max_messages(1).expires(open_for).messages().await?;
        let Some(message) = messages.next().await else { return Ok(None) };
        let message = message?;
        let deliveries = u32::try_from(message.info()?.delivered).unwrap_or(u32::MAX);
        match decode_order(&message.payload) {
            Ok(order) => {
                if deliveries >= self.config.troubled_after {
                    tracing::error!(order = %order.due.key, %backend, deliveries, "an order keeps coming back");
                    let backend = backend.as_str().to_owned();
                    ::metrics::counter!(metrics::ORDERS_TROUBLED_TOTAL, "backend" => backend).increment(1);
                }
                let give_back_after = self.config.give_back_delay(deliveries);
                let lease = Arc::new(OrderLease::new(self.config.lease, asked));
                let shared = Arc::clone(self);
                Ok(Some(JetStreamDelivery { shared, message: Some(message), order, lease, give_back_after }))
            }
            Err(reason) => {
                // Written by a newer program: left for an executor that knows it.
                tracing::error!(%backend, subject = %message.subject, %reason, "an order cannot be read");
                message.ack_with(AckKind::Nak(Some(self.config.give_back_max))).await?;
                Ok(None)
            }
        }
    }

    /// Takes an order for whoever waits. Whoever no longer waits when it comes gives it back: a
    /// request that the server has cannot be taken back without losing an order's lease.
    async fn take_for(
        self: &Arc<Self>,
        backend: &BackendName,
        mut asker: oneshot::Sender<JetStreamDelivery>,
    ) {
        let mut waits = retry_waits(LOOK_MAX);
        while !asker.is_closed() {
            match self.take(backend).await {
                Ok(Some(delivery)) => {
                    if let Err(mut unwanted) = asker.send(delivery) {
                        unwanted.give_back_after = Duration::ZERO;
                    }
                    return;
                }
                Ok(None) => waits = retry_waits(LOOK_MAX),
                Err(reason) => {
                    tracing::debug!(%backend, %reason, "no orders can be taken now");
                    self.forget_consumer(backend);
                    let wait = waits.next().unwrap_or(LOOK_MAX);
                    tokio::select! {
                        () = asker.closed() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }
}

#[async_trait]
impl WorkQueue for JetStreamQueue {
    async fn publish(&self, order: WorkOrder) {
        let shared = Arc::clone(&self.shared);
        let key = order.due.key;
        let backend = order.due.pool.backend.clone();
        let subject = shared.cell.work_subject(&backend, key);
        let payload = Bytes::from(encode_order(&order));
        let Ok(place) = Arc::clone(&shared.publishing).acquire_owned().await else { return };
        // Handed over here, so that orders arrive in their order; waited for elsewhere.
        let sent = shared.send(&subject, payload.clone()).await;
        tokio::spawn(async move {
            let publishing = async {
                shared.publish_surely(key, subject, payload, sent).await;
                // Afterwards: the stream may just have been made again.
                shared.make_consumer_surely(&backend).await;
            };
            let in_time = tokio::time::timeout(PUBLISH_TIME, publishing);
            if let Some(Err(_elapsed)) = shared.stop.run_until_cancelled(in_time).await {
                tracing::warn!(%key, "NATS does not take an order; it is published again when it is due again");
            }
            drop(place);
        });
    }

    async fn next(&self, backend: &BackendName) -> Option<Box<dyn Delivery>> {
        let (asker, answer) = oneshot::channel();
        let (shared, backend) = (Arc::clone(&self.shared), backend.clone());
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(shared.take_for(&backend, asker)).await
        });
        answer.await.ok().map(|delivery| Box::new(delivery) as Box<dyn Delivery>)
    }
}

struct JetStreamDelivery {
    shared: Arc<Shared>,
    message: Option<jetstream::Message>,
    order: WorkOrder,
    lease: Arc<OrderLease>,
    give_back_after: Duration,
}

#[async_trait]
impl Delivery for JetStreamDelivery {
    fn order(&self) -> &WorkOrder {
        &self.order
    }

    fn lease(&self) -> Arc<dyn Lease> {
        Arc::<OrderLease>::clone(&self.lease)
    }

    /// Answered by the server, or it counts for nothing. One that nobody listens to is answered too,
    /// with an error that only a request sees.
    async fn keep(&self) {
        let Some(subject) = self.message.as_ref().and_then(|message| message.reply.clone()) else { return };
        let sent = uptime();
        let asked = self.shared.client.request(subject, AckKind::Progress.into());
        match tokio::time::timeout(self.shared.config.lease / LEASE_PARTS, asked).await {
            Ok(Ok(_granted)) => self.lease.renew(sent),
            Ok(Err(error)) => {
                tracing::debug!(order = %self.order.due.key, %error, "a sign of life was not taken");
            }
            Err(_elapsed) => tracing::debug!(order = %self.order.due.key, "a sign of life was not answered"),
        }
    }

    async fn acknowledge(mut self: Box<Self>) {
        let Some(message) = self.message.take() else { return };
        for wait in retry_waits(RETRY_MAX).take(ACK_ATTEMPTS) {
            match message.double_ack().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(order = %self.order.due.key, %error, "an order is done, but not taken off yet");
                }
            }
            tokio::time::sleep(wait).await;
        }
        tracing::warn!(order = %self.order.due.key, "an order is done, but could not be taken off the queue");
    }
}

impl Drop for JetStreamDelivery {
    fn drop(&mut self) {
        let (Some(message), Ok(runtime)) = (self.message.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        // it may be somebody else's, from whom giving it back would take it
        if self.lease.left().is_none() {
            return;
        }
        let delay = (!self.give_back_after.is_zero()).then_some(self.give_back_after);
        let key = self.order.due.key;
        runtime.spawn(async move {
            if let Err(error) = message.ack_with(AckKind::Nak(delay)).await {
                tracing::debug!(order = %key, %error, "an order is given back when its lease ends");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::QueueConfig;

    #[test]
    fn an_order_that_is_given_back_again_and_again_comes_ever_later_up_to_a_limit() {
        let config = QueueConfig::default();
        let delays = [1, 2, 3, 7, 8, u32::MAX].map(|deliveries| config.give_back_delay(deliveries));
        let expected = [500, 1_000, 2_000, 32_000, 60_000, 60_000].map(Duration::from_millis);
        assert_eq!(delays, expected);
    }
}
