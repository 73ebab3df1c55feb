//! How fast blocks are written and read: `cargo run --release -p tephra-journal --example replay_speed`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{Command, CreateVolume, CreateVolumeType};
use tephra_domain::effect::Outcome;
use tephra_domain::ids::{
    BackendName, CommandId, PoolId, PoolName, ProjectId, RequestId, UserId, VolumeId, ZoneName,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::QuotaResource;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::VolumeSource;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use tephra_journal::embedded::EmbeddedLog;
use tephra_journal::gateway::Submission;
use tephra_journal::log::{AppendOutcome, Block, BlockNumber, Log};
use tephra_journal::memory::MemoryLog;
use tephra_journal::sequencer::{BatchContext, CaughtUp, Decided, SequencerCore, catch_up};
use tephra_journal::wire::{decode_block, encode_block, verify_hash};
use uuid::Uuid;

const VOLUMES: usize = 100_000;
const APPENDS: u64 = 2_000;

fn submission(actor: Actor, command: Command) -> Submission {
    let id = Uuid::new_v4();
    let request = RequestId::new(format!("req-{id}"));
    Submission { id: CommandId::from_uuid(id), request, actor, idempotency: None, command }
}

fn preparations(pool: &PoolId) -> Vec<Submission> {
    let commands = [
        Command::CreateVolumeType(Box::new(CreateVolumeType {
            volume_type: DEFAULT_TYPE_ID,
            name: DEFAULT_TYPE_NAME.into(),
            description: None,
            is_public: true,
            extra_specs: BTreeMap::new(),
        })),
        Command::RegisterBackend {
            backend: pool.backend.clone(),
            description: Box::new(BackendDescription {
                host: "host".into(),
                driver: "directory".into(),
                availability_zone: ZoneName::new("nova"),
                pools: vec![pool.pool.clone()],
                native_revert: true,
                capabilities: BTreeMap::new(),
            }),
        },
        Command::SetQuotaDefaults {
            limits: [(QuotaResource::Volumes, -1), (QuotaResource::Gigabytes, -1)].into(),
        },
    ];
    commands.into_iter().map(|command| submission(Actor::system(), command)).collect()
}

fn create(project: usize) -> Result<Submission, Box<dyn Error>> {
    let actor = Actor {
        user: UserId::new("somebody"),
        project: ProjectId::new(format!("project-{project}")),
        role: Role::Member,
        address: Some("192.0.2.1".into()),
    };
    let command = Command::CreateVolume(Box::new(CreateVolume {
        volume: VolumeId::from_uuid(Uuid::new_v4()),
        name: Some("data".into()),
        description: None,
        size: Some(SizeGib::new(1).ok_or("a size")?),
        source: VolumeSource::Blank,
        volume_type: None,
        availability_zone: None,
        metadata: BTreeMap::new(),
    }));
    Ok(submission(actor, command))
}

struct Made {
    blocks: Vec<Arc<Block>>,
    bytes: Vec<Arc<[u8]>>,
}

fn decide(core: &mut SequencerCore<()>, commands: Vec<Submission>, pools: &[PoolStats], made: &mut Made) {
    let mut waiting = commands.into_iter().map(|command| (command, ()).into()).collect();
    loop {
        let context = BatchContext { now: Timestamp(1), pools: pools.to_vec(), block_id: Uuid::new_v4() };
        match core.decide_batch(&mut waiting, context) {
            Decided::Answers(_) => return,
            Decided::Append(batch) => {
                made.bytes.push(batch.bytes);
                made.blocks.extend(core.acknowledged().map(|(block, _)| block));
            }
        }
    }
}

fn make_history() -> Result<Made, Box<dyn Error>> {
    let pool = PoolId { backend: BackendName::new("one"), pool: PoolName::new("one") };
    let pools = [PoolStats {
        pool: pool.clone(),
        is_up: true,
        total_gib: 1e9,
        free_gib: 1e9,
        provisioned_gib: 0.0,
        max_over_subscription_ratio: 20.0,
        reserved_percentage: 0,
        thin: true,
        capabilities: BTreeMap::new(),
        reported_at: Timestamp(1),
    }];
    let mut core = SequencerCore::new(CaughtUp::default());
    let mut made = Made { blocks: Vec::new(), bytes: Vec::new() };
    decide(&mut core, preparations(&pool), &pools, &mut made);
    let started = Instant::now();
    let creates = (0..VOLUMES).map(|n| create(n % 100)).collect::<Result<_, _>>()?;
    decide(&mut core, creates, &pools, &mut made);
    let reports = core.ledger().all_due().into_iter().map(|due| {
        let command = Command::ReportOutcome { key: due.key, outcome: Outcome::Done };
        submission(Actor::system(), command)
    });
    let reports = reports.collect();
    decide(&mut core, reports, &pools, &mut made);
    say("commands decided", 2 * VOLUMES, started);
    Ok(made)
}

#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "a figure to look at")]
fn say(what: &str, count: usize, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!("{what:<44}{count:>9} in {seconds:>6.2} s = {:>9.0}/s", count as f64 / seconds);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let made = make_history()?;
    let events = made.blocks.iter().flat_map(|block| &block.commits).map(|c| c.commit.events.len()).sum();
    let size: usize = made.bytes.iter().map(|bytes| bytes.len()).sum();
    println!("{events} events, {} blocks, {size} bytes", made.blocks.len());

    let started = Instant::now();
    for block in &made.blocks {
        std::hint::black_box(encode_block(block.id, block.previous_hash, &block.commits));
    }
    say("events encoded, with SHA-256", events, started);

    let started = Instant::now();
    for bytes in &made.bytes {
        verify_hash(BlockNumber(1), bytes)?;
    }
    say("events passed by verify_hash", events, started);

    let started = Instant::now();
    for bytes in &made.bytes {
        std::hint::black_box(decode_block(BlockNumber(1), bytes)?);
    }
    say("events decoded, with SHA-256", events, started);

    let log = MemoryLog::holding(made.bytes.clone());
    let started = Instant::now();
    let caught_up = catch_up(Ledger::default(), BlockNumber(0), &log).await?;
    say("events replayed into state (decode and evolve)", events, started);
    println!("{} volumes, position {}", caught_up.ledger.volumes.len(), caught_up.head.position);

    let folder = tempfile::tempdir()?;
    let log = EmbeddedLog::open(&folder.path().join("journal.redb"))?;
    let bytes: Arc<[u8]> = vec![0x5a; 1024].into();
    let started = Instant::now();
    for expected in 0..APPENDS {
        match log.append(BlockNumber(expected), Arc::clone(&bytes)).await {
            AppendOutcome::Appended(_) => {}
            other @ (AppendOutcome::Conflict { .. } | AppendOutcome::Unknown { .. }) => {
                return Err(format!("{other:?}").into());
            }
        }
    }
    say("durable appends of 1 KiB, one at a time", usize::try_from(APPENDS)?, started);
    Ok(())
}
