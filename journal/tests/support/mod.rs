//! What the tests of this crate share: blocks, submissions, and a sequencer with its parts.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses a part of this, and may panic"
)]

pub mod log_suite;

use std::collections::BTreeMap;
use std::sync::Arc;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{Command, CreateVolume};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{
    BackendName, CommandId, PoolId, PoolName, Position, ProjectId, RequestId, UserId, VolumeId, VolumeTypeId,
    ZoneName,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::{QuotaLimits, QuotaResource};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::VolumeSource;
use tephra_domain::volume_type::VolumeTypeEvent;
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::feed::Feed;
use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
use tephra_journal::ids::RandomIds;
use tephra_journal::in_process_queue::InProcessQueue;
use tephra_journal::log::{BlockNumber, Log, Sequenced};
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::sequencer::{
    CaughtUp, Sequencer, SequencerConfig, SequencerHandle, SequencerParts, bootstrap, catch_up,
};
use tephra_journal::wire::{EncodedBlock, encode_block};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const BACKEND: &str = "disk";

pub fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// A block with one small commit.
pub fn small_block(position: u64, previous_hash: [u8; 32]) -> EncodedBlock {
    let commit = Commit {
        command: CommandId::from_uuid(uuid(u128::from(position))),
        request: RequestId::new("req-1"),
        causation: None,
        actor: Actor::system(),
        time: Timestamp(1_000_000),
        idempotency: None,
        events: vec![Event::VolumeType(VolumeTypeId::from_uuid(uuid(7)), VolumeTypeEvent::Deleted)],
    };
    let sequenced = Sequenced { position: Position(position), commit: Arc::new(commit) };
    encode_block(Uuid::new_v4(), previous_hash, &[sequenced])
}

/// A chain of that many blocks.
pub fn chain(blocks: u64) -> Vec<EncodedBlock> {
    let mut previous = [0; 32];
    (1..=blocks)
        .map(|position| {
            let block = small_block(position, previous);
            previous = block.hash;
            block
        })
        .collect()
}

pub fn member() -> Actor {
    Actor {
        user: UserId::new("somebody"),
        project: ProjectId::new("alpha"),
        role: Role::Member,
        address: Some("192.0.2.1".into()),
    }
}

pub fn submission(actor: Actor, command: Command) -> Submission {
    let id = Uuid::new_v4();
    Submission {
        id: CommandId::from_uuid(id),
        request: RequestId::new(format!("req-{id}")),
        actor,
        idempotency: None,
        command,
    }
}

pub fn create_volume(size_gib: u32) -> Submission {
    let create = CreateVolume {
        volume: VolumeId::from_uuid(Uuid::new_v4()),
        name: Some("data".into()),
        description: None,
        size: SizeGib::new(size_gib),
        source: VolumeSource::Blank,
        volume_type: None,
        availability_zone: None,
        metadata: BTreeMap::new(),
    };
    submission(member(), Command::CreateVolume(Box::new(create)))
}

pub fn pool_stats(now: Timestamp) -> PoolStats {
    PoolStats {
        pool: PoolId { backend: BackendName::new(BACKEND), pool: PoolName::new(BACKEND) },
        is_up: true,
        total_gib: 1e9,
        free_gib: 1e9,
        provisioned_gib: 0.0,
        max_over_subscription_ratio: 20.0,
        reserved_percentage: 0,
        thin: true,
        capabilities: BTreeMap::new(),
        reported_at: now,
    }
}

pub fn register_backend() -> Submission {
    let description = BackendDescription {
        host: "host".into(),
        driver: "directory".into(),
        availability_zone: ZoneName::new("nova"),
        pools: vec![PoolName::new(BACKEND)],
        native_revert: true,
        capabilities: BTreeMap::new(),
    };
    let backend = BackendName::new(BACKEND);
    submission(Actor::system(), Command::RegisterBackend { backend, description: Box::new(description) })
}

pub fn raise_quota() -> Submission {
    let limits: QuotaLimits = [(QuotaResource::Volumes, -1), (QuotaResource::Gigabytes, -1)].into();
    submission(Actor::system(), Command::SetQuotaDefaults { limits })
}

/// A running sequencer with what a test looks at.
pub struct Running {
    pub handle: SequencerHandle,
    pub log: Arc<dyn Log>,
    pub queue: InProcessQueue,
    pub feed: Feed,
    pub cancel: CancellationToken,
}

impl Running {
    /// At the end of a log, with no retry that takes long.
    pub async fn over(log: Arc<dyn Log>) -> Self {
        let caught_up = catch_up(Ledger::default(), BlockNumber(0), &*log).await.unwrap();
        Self::from(log, caught_up)
    }

    pub fn from(log: Arc<dyn Log>, caught_up: CaughtUp) -> Self {
        Self::begin(log, caught_up, None)
    }

    /// One that begins a turn, as where several candidates are.
    pub async fn in_turn(log: Arc<dyn Log>, sequencer: &str) -> Self {
        let caught_up = catch_up(Ledger::default(), BlockNumber(0), &*log).await.unwrap();
        Self::begin(log, caught_up, Some(sequencer))
    }

    pub fn begin(log: Arc<dyn Log>, caught_up: CaughtUp, turn_of: Option<&str>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::not_before(caught_up.head.time));
        let pools = PoolBoard::default();
        pools.report(pool_stats(clock.now().plus_ms(3_600_000)));
        let (queue, feed, cancel) =
            (InProcessQueue::new(Arc::clone(&clock)), Feed::new(), CancellationToken::new());
        let parts = SequencerParts {
            log: Arc::clone(&log),
            pools,
            queue: Arc::new(queue.clone()),
            feed: feed.clone(),
            clock,
            ids: Arc::new(RandomIds),
            cancel: cancel.clone(),
            turn_of: turn_of.map(Into::into),
        };
        let config = SequencerConfig { retry_min_ms: 1, retry_max_ms: 5, drain_ms: 50, ..Default::default() };
        let handle = Sequencer::start(config, caught_up, parts);
        Self { handle, log, queue, feed, cancel }
    }

    /// With the default type, a backend, and no limits.
    pub async fn ready(log: Arc<dyn Log>) -> Self {
        let running = Self::over(log).await;
        running.make_ready().await;
        running
    }

    /// As [`Running::ready`], on a log where that may have been done before.
    pub async fn ready_again(log: Arc<dyn Log>) -> Self {
        let running = Self::over(log).await;
        if running.log.head().await.unwrap() == BlockNumber(0) {
            running.make_ready().await;
        }
        running
    }

    /// As [`Running::ready_again`], where several candidates are.
    pub async fn ready_in_turn(log: Arc<dyn Log>, sequencer: &str) -> Self {
        let is_new = log.head().await.unwrap() == BlockNumber(0);
        let running = Self::in_turn(log, sequencer).await;
        if is_new {
            running.make_ready().await;
        }
        running
    }

    pub async fn make_ready(&self) {
        bootstrap(&self.handle).await.unwrap();
        self.handle.submit(register_backend()).await.unwrap();
        self.handle.submit(raise_quota()).await.unwrap();
    }

    pub async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.handle.submit(submission).await
    }

    pub async fn stop(&self) {
        self.cancel.cancel();
        self.handle.drained().await.unwrap();
    }
}

/// The state that the log leads to.
pub async fn replayed(log: &dyn Log) -> CaughtUp {
    catch_up(Ledger::default(), BlockNumber(0), log).await.unwrap()
}

/// How long anything may take.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// Where a command was accepted.
pub fn position(result: Result<Receipt, SubmitError>) -> Position {
    match result {
        Ok(Receipt::Accepted { position, .. }) => position,
        other => panic!("{other:?}"),
    }
}

/// Sends them all at once, and gives the answers in the same order.
pub async fn all_at_once(running: &Running, many: Vec<Submission>) -> Vec<Result<Receipt, SubmitError>> {
    let tasks: Vec<_> = many
        .into_iter()
        .map(|one| {
            let handle = running.handle.clone();
            tokio::spawn(async move { handle.submit(one).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap());
    }
    answers
}
