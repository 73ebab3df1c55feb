//! Measures the views: how fast a log is taken in, and what reading costs with few and many
//! volumes. `cargo run --release -p tephra-projector --example measure -- [VOLUMES]`

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a measurement prints, and stops at the first failure"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tephra_domain::actor::{Actor, Role};
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::{Command, Context, CreateVolume, CreateVolumeType};
use tephra_domain::decide::{Verdict, submit};
use tephra_domain::effect::Outcome;
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{
    BackendName, CommandId, PoolId, PoolName, ProjectId, RequestId, UserId, VolumeId, ZoneName,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::QuotaResource;
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tephra_domain::volume::VolumeSource;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use tephra_journal::log::{BlockNumber, Log, Sequenced};
use tephra_journal::memory::MemoryLog;
use tephra_journal::wire::{decode_block, encode_block};
use tephra_projector::Views;
use tephra_projector::query::{Filter, ListQuery, SortDirection, SortKey};
use tephra_projector::runner::rebuild;
use uuid::Uuid;

/// Commits in a block: what a busy sequencer makes.
const BLOCK_COMMITS: usize = 1000;
/// Volumes of the small project.
const SMALL: u64 = 1000;

struct Writer {
    ledger: Ledger,
    log: Arc<MemoryLog>,
    pending: Vec<Sequenced>,
    hash: [u8; 32],
    head: BlockNumber,
    now: Timestamp,
    drawn: u64,
    events: u64,
}

impl Writer {
    fn fresh(&mut self) -> Uuid {
        self.drawn += 1;
        // Ids come in no order, as clients' do.
        Uuid::from_u128(u128::from(self.drawn).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    async fn submit(&mut self, project: &str, command: &Command) {
        self.now = Timestamp(self.now.0 + 10);
        let pool = PoolId { backend: BackendName::new("one"), pool: PoolName::new("one") };
        let ctx = Context {
            command: CommandId::from_uuid(self.fresh()),
            request: RequestId::new("req-0c2d1c5e-5c6f-4c8e-9f0e-2f7b6a0f4d11"),
            actor: Actor {
                user: UserId::new("c3b1e0c2a9a94b1d9f0b5f8e1d2c3b4a"),
                project: ProjectId::new(project),
                role: Role::Admin,
                address: None,
            },
            now: self.now,
            idempotency: None,
            pools: vec![PoolStats {
                pool,
                is_up: true,
                total_gib: 1e12,
                free_gib: 1e12,
                provisioned_gib: 0.0,
                max_over_subscription_ratio: 20.0,
                reserved_percentage: 0,
                thin: true,
                capabilities: BTreeMap::new(),
                reported_at: self.now,
            }],
        };
        if let Verdict::Accepted { position, commit } = submit(&mut self.ledger, command, &ctx) {
            self.events += u64::try_from(commit.events.len()).unwrap_or_default();
            self.pending.push(Sequenced { position, commit: Arc::new(commit) });
        }
        if self.pending.len() >= BLOCK_COMMITS {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let block = encode_block(Uuid::from_u128(u128::from(self.head.0)), self.hash, &self.pending);
        self.hash = block.hash;
        self.log.append(self.head, block.bytes).await;
        self.head = BlockNumber(self.head.0 + 1);
        self.pending.clear();
    }

    async fn volume(&mut self, project: &str) -> VolumeId {
        let volume = VolumeId::from_uuid(self.fresh());
        let create = CreateVolume {
            volume,
            name: Some(format!("volume-of-{project}-{}", self.drawn).into()),
            description: None,
            size: SizeGib::new(1 + u32::try_from(self.drawn % 64).unwrap_or_default()),
            source: VolumeSource::Blank,
            volume_type: None,
            availability_zone: None,
            metadata: BTreeMap::new(),
        };
        self.submit(project, &Command::CreateVolume(Box::new(create))).await;
        for due in self.ledger.all_due() {
            self.submit(project, &Command::ReportOutcome { key: due.key, outcome: Outcome::Done }).await;
        }
        volume
    }
}

async fn write(volumes: u64) -> (Writer, Vec<VolumeId>) {
    let mut writer = Writer {
        ledger: Ledger::default(),
        log: Arc::new(MemoryLog::new()),
        pending: Vec::new(),
        hash: [0; 32],
        head: BlockNumber(0),
        now: Timestamp(1_750_000_000_000_000),
        drawn: 0,
        events: 0,
    };
    let first = CreateVolumeType {
        volume_type: DEFAULT_TYPE_ID,
        name: DEFAULT_TYPE_NAME.into(),
        description: None,
        is_public: true,
        extra_specs: BTreeMap::new(),
    };
    writer.submit("admin", &Command::CreateVolumeType(Box::new(first))).await;
    let description = BackendDescription {
        host: "host".into(),
        driver: "directory".into(),
        availability_zone: ZoneName::new("nova"),
        pools: vec![PoolName::new("one")],
        native_revert: true,
        capabilities: BTreeMap::new(),
    };
    let register =
        Command::RegisterBackend { backend: BackendName::new("one"), description: Box::new(description) };
    writer.submit("admin", &register).await;
    for project in ["small", "large"] {
        let limits = BTreeMap::from([(QuotaResource::Volumes, -1), (QuotaResource::Gigabytes, -1)]);
        let project = ProjectId::new(project);
        writer.submit("admin", &Command::SetQuotaLimits { project, limits }).await;
    }
    let mut large = Vec::new();
    for n in 0..volumes.max(SMALL) {
        large.push(writer.volume("large").await);
        if n < SMALL {
            writer.volume("small").await;
        }
    }
    writer.flush().await;
    (writer, large)
}

fn per_second(count: u64, took: Duration) -> String {
    let rate = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64();
    format!("{rate:>12.0} /s")
}

fn repeat(what: &str, mut work: impl FnMut(u64)) {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(1) {
        work(count);
        count += 1;
    }
    println!("{what:<52} {}", per_second(count, start.elapsed()));
}

fn page(project: &str) -> ListQuery<VolumeId> {
    ListQuery {
        project: Some(ProjectId::new(project)),
        filters: Vec::new(),
        sort: Vec::new(),
        marker: None,
        offset: 0,
        limit: 100,
        with_count: false,
    }
}

fn read(views: &Views, large: &[VolumeId]) {
    let at = |n: u64| large[usize::try_from(n.wrapping_mul(7919) % large.len() as u64).unwrap_or_default()];
    repeat("show", |n| assert!(views.volume(at(n)).expect("reads").is_some()));
    for project in ["small", "large"] {
        repeat(&format!("list, first page of 100, {project} project"), |_| {
            assert_eq!(views.volumes(&page(project)).expect("reads").rows.len(), 100);
        });
    }
    let half = large[large.len() / 2];
    repeat("list, page of 100 from the middle, large project", |_| {
        let query = ListQuery { marker: Some(half), ..page("large") };
        assert_eq!(views.volumes(&query).expect("reads").rows.len(), 100);
    });
    repeat("list by name, page of 100, large project", |_| {
        let query = ListQuery { sort: vec![(SortKey::Name, SortDirection::Ascending)], ..page("large") };
        assert_eq!(views.volumes(&query).expect("reads").rows.len(), 100);
    });
    repeat("list with a status and a count, page of 100, small", |_| {
        let filters = vec![Filter::Status(vec!["available".into()])];
        let query = ListQuery { filters, with_count: true, ..page("small") };
        assert_eq!(views.volumes(&query).expect("reads").rows.len(), 100);
    });
    repeat("list by zone (no index), page of 100, large project", |_| {
        let sort = vec![(SortKey::AvailabilityZone, SortDirection::Ascending)];
        let query = ListQuery { sort, ..page("large") };
        assert_eq!(views.volumes(&query).expect("reads").rows.len(), 100);
    });
    repeat("summary of the large project", |_| {
        assert!(views.summary(Some(&ProjectId::new("large")), &[], false).expect("reads").count > 0);
    });
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let volumes = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let start = Instant::now();
    let (writer, large) = write(volumes).await;
    println!("decided and encoded {} events in {:.1?}", writer.events, start.elapsed());

    let start = Instant::now();
    let mut state = Ledger::default();
    for (number, bytes) in writer.log.read(BlockNumber(1), usize::MAX).await? {
        for one in decode_block(number, &bytes)?.commits {
            apply_commit(&mut state, one.position, &one.commit)?;
        }
    }
    println!("{:<52} {}", "replay into state, events", per_second(writer.events, start.elapsed()));
    drop(state);

    let path = std::env::temp_dir().join(format!("tephra-measure-{}.redb", std::process::id()));
    let start = Instant::now();
    let log: Arc<dyn Log> = writer.log.clone();
    let views = rebuild(log, &path, |_| {}).await?;
    println!("{:<52} {}", "replay into views, events", per_second(writer.events, start.elapsed()));
    println!("{:<52} {:>12} MiB", "file", std::fs::metadata(&path)?.len() >> 20);
    read(&views, &large);
    drop(views);
    let start = Instant::now();
    let views = Views::open(&path)?;
    println!("{:<52} {:>12.1?}", "open", start.elapsed());
    let start = Instant::now();
    let ledger = views.load_ledger()?;
    println!("{:<52} {:>12.1?} ({} volumes)", "load the whole state", start.elapsed(), ledger.volumes.len());
    drop(views);
    std::fs::remove_file(&path)?;
    Ok(())
}
