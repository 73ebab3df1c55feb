//! Writes a ledger of many volumes, as a long-lived deployment would have it, without the HTTP and
//! the files: every commit is decided by the same code and appended to the same log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tephra_domain::actor::{Actor, Role};
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{Command, Context, CreateVolume, CreateVolumeType};
use tephra_domain::decide::{Verdict, submit};
use tephra_domain::effect::Outcome;
use tephra_domain::ids::{
    BackendName, CommandId, OperationId, PoolId, PoolName, ProjectId, RequestId, UserId, VolumeId, ZoneName,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::QuotaResource;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::VolumeSource;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, Sequenced};
use tephra_journal::wire::encode_block;
use uuid::Uuid;

/// Commits in one block: about what a busy server groups.
const COMMITS_A_BLOCK: usize = 512;

/// The pause before an append that was not acknowledged is tried again.
const APPEND_AGAIN: Duration = Duration::from_millis(50);

/// The project that all volumes belong to.
pub const PROJECT: &str = "bench";

/// What was written.
pub struct Filled {
    /// Events in the log.
    pub events: u64,
    /// Some of the volumes.
    pub sample: Vec<VolumeId>,
}

/// Fills an empty log with `volumes` available volumes of [`PROJECT`].
///
/// # Errors
/// If the log cannot be written.
pub async fn fill(log: Arc<dyn Log>, volumes: usize, progress: impl Fn(usize)) -> anyhow::Result<Filled> {
    let mut writer = Writer::new(log);
    let default_type = Command::CreateVolumeType(Box::new(CreateVolumeType {
        volume_type: DEFAULT_TYPE_ID,
        name: DEFAULT_TYPE_NAME.into(),
        description: Some("Default Volume Type".into()),
        is_public: true,
        extra_specs: BTreeMap::new(),
    }));
    writer.submit(Actor::system(), Uuid::new_v4(), &default_type).await?;
    let pool = PoolId { backend: BackendName::new("directory"), pool: PoolName::new("directory") };
    let register = Command::RegisterBackend {
        backend: pool.backend.clone(),
        description: Box::new(BackendDescription {
            host: "bench".into(),
            driver: "directory".into(),
            availability_zone: ZoneName::new("nova"),
            pools: vec![pool.pool.clone()],
            native_revert: true,
            capabilities: BTreeMap::new(),
        }),
    };
    writer.submit(Actor::system(), Uuid::new_v4(), &register).await?;
    let unlimited = [QuotaResource::Volumes, QuotaResource::Gigabytes].map(|resource| (resource, -1)).into();
    let limits = Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits: unlimited };
    writer.submit(Actor::system(), Uuid::new_v4(), &limits).await?;
    writer.pools.push(stats(&pool));

    let user = Actor {
        user: UserId::new("somebody"),
        project: ProjectId::new(PROJECT),
        role: Role::Member,
        address: None,
    };
    let mut sample = Vec::new();
    let every = (volumes / 10_000).max(1);
    for number in 0..volumes {
        let volume = VolumeId::from_uuid(Uuid::new_v4());
        let create = Command::CreateVolume(Box::new(CreateVolume {
            volume,
            name: Some(format!("volume {number}").into()),
            description: None,
            size: SizeGib::new(1),
            source: VolumeSource::Blank,
            volume_type: None,
            availability_zone: None,
            metadata: BTreeMap::new(),
        }));
        let id = Uuid::new_v4();
        writer.submit(user.clone(), id, &create).await?;
        let operation = OperationId::from(CommandId::from_uuid(id));
        if let Some(due) = writer.ledger.due_effect(operation) {
            let report = Command::ReportOutcome { key: due.key, outcome: Outcome::Done };
            writer.submit(Actor::system(), Uuid::new_v4(), &report).await?;
        }
        if number % every == 0 {
            sample.push(volume);
            progress(number);
        }
    }
    writer.append().await?;
    Ok(Filled { events: writer.events, sample })
}

fn stats(pool: &PoolId) -> PoolStats {
    PoolStats {
        pool: pool.clone(),
        is_up: true,
        total_gib: 1e12,
        free_gib: 1e12,
        provisioned_gib: 0.0,
        max_over_subscription_ratio: 20.0,
        reserved_percentage: 0,
        thin: true,
        capabilities: BTreeMap::new(),
        reported_at: Timestamp(0),
    }
}

struct Writer {
    log: Arc<dyn Log>,
    ledger: Ledger,
    head: BlockNumber,
    hash: [u8; 32],
    waiting: Vec<Sequenced>,
    pools: Vec<PoolStats>,
    now: Timestamp,
    events: u64,
}

impl Writer {
    fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            ledger: Ledger::default(),
            head: BlockNumber(0),
            hash: [0; 32],
            waiting: Vec::new(),
            pools: Vec::new(),
            now: Timestamp(1_760_000_000_000_000),
            events: 0,
        }
    }

    async fn submit(&mut self, actor: Actor, id: Uuid, command: &Command) -> anyhow::Result<()> {
        self.now = self.now.plus_ms(1);
        let ctx = Context {
            command: CommandId::from_uuid(id),
            request: RequestId::new(format!("req-{}", Uuid::new_v4())),
            actor,
            now: self.now,
            idempotency: None,
            pools: self.pools.clone(),
        };
        match submit(&mut self.ledger, command, &ctx) {
            Verdict::Accepted { position, commit } => {
                self.events += commit.events.len() as u64;
                self.waiting.push(Sequenced { position, commit: Arc::new(commit) });
            }
            Verdict::NothingToDo | Verdict::Repeated { .. } => {}
            Verdict::Rejected(rejection) => bail!("{command:?}: {rejection}"),
        }
        if self.waiting.len() >= COMMITS_A_BLOCK {
            self.append().await?;
        }
        Ok(())
    }

    async fn append(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let block = encode_block(Uuid::new_v4(), self.hash, &self.waiting);
        // The same bytes again until they are known to be there, as the sequencer does.
        self.head = loop {
            match self.log.append(self.head, Arc::clone(&block.bytes)).await {
                AppendOutcome::Appended(number) => break number,
                AppendOutcome::Unknown { reason } => {
                    tracing::debug!(reason, "a block is appended again");
                    tokio::time::sleep(APPEND_AGAIN).await;
                }
                outcome @ AppendOutcome::Conflict { .. } => bail!("appending: {outcome:?}"),
            }
        };
        self.hash = block.hash;
        self.waiting.clear();
        Ok(())
    }
}
