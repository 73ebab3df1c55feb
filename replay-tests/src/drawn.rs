//! Histories drawn at random, and the log that holds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tephra_domain::actor::{Actor, Role};
use tephra_domain::command::{
    Command, Context, CreateSnapshot, CreateVolume, CreateVolumeType, MetadataChange,
};
use tephra_domain::effect::{Failure, FailureKind, Outcome};
use tephra_domain::event::{Commit, Idempotency};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{
    CommandId, IdempotencyKey, Position, ProjectId, RequestId, SnapshotId, VolumeId, VolumeTypeId,
};
use tephra_domain::ledger::Ledger;
use tephra_domain::quota::QuotaResource;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};
use tephra_journal::log::{Block, BlockNumber, Sequenced};
use tephra_journal::memory::MemoryLog;
use tephra_journal::wire::{decode_block, encode_block};
use uuid::Uuid;

use crate::world::{World, actor, gib};

/// Projects of drawn histories.
pub const PROJECTS: &[&str] = &["alpha", "beta"];
/// Names of drawn volumes and snapshots: none, one that begins another, one that is empty.
pub const NAMES: &[Option<&str>] = &[None, Some(""), Some("a"), Some("ab"), Some("b")];
/// Values of the metadata key `k`.
pub const VALUES: &[&str] = &["x", "y"];

/// One thing to do; numbers choose among what there is at the time.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// What to do.
    pub what: u8,
    /// On what.
    pub on: u8,
    /// How.
    pub how: u8,
    /// Milliseconds that pass before it; none is common, so that times are equal now and then.
    pub pause_ms: u8,
}

fn one_move() -> impl Strategy<Value = Move> {
    (0..24_u8, any::<u8>(), any::<u8>(), 0..4_u8).prop_map(|(what, on, how, pause)| Move {
        what,
        on,
        how,
        pause_ms: pause.saturating_sub(1),
    })
}

/// Draws moves.
pub fn moves(at_most: usize) -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec(one_move(), 1..at_most)
}

/// The history of so many moves, always the same one.
///
/// # Panics
/// If none can be drawn.
pub fn example(moves: usize) -> Vec<Commit> {
    let mut runner = TestRunner::deterministic();
    let drawn = proptest::collection::vec(one_move(), moves).new_tree(&mut runner);
    play(&drawn.unwrap_or_else(|reason| panic!("{reason}")).current()).history
}

fn pick<T: Copy>(all: &[T], by: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[usize::from(by) % all.len()])
}

/// Plays moves in a new world.
pub fn play(moves: &[Move]) -> World {
    let mut world = World::with_backends(&["one", "two"], false);
    for project in PROJECTS {
        let limits = BTreeMap::from([(QuotaResource::Volumes, 1000), (QuotaResource::Snapshots, 1000)]);
        world.must(Command::SetQuotaLimits { project: ProjectId::new(*project), limits });
    }
    for one in moves {
        world.now = world.now.plus_ms(i64::from(one.pause_ms));
        let Some((who, command)) = command(&mut world, *one) else { continue };
        let id = world.fresh();
        let idempotency = (one.how.is_multiple_of(7)).then(|| Idempotency {
            key: IdempotencyKey::new(format!("key-{}", one.on)),
            fingerprint: [one.how; 32],
        });
        let ctx = Context {
            command: CommandId::from_uuid(id),
            request: RequestId::new("req-drawn"),
            actor: who,
            now: world.now,
            idempotency,
            pools: world.pools.clone(),
        };
        world.submit_with(ctx, &command);
    }
    world
}

#[allow(clippy::too_many_lines, reason = "one arm per kind of move")]
fn command(world: &mut World, one: Move) -> Option<(Actor, Command)> {
    let Move { what, on, how, .. } = one;
    let project = PROJECTS[usize::from(on) % PROJECTS.len()];
    let member = actor(project, Role::Member);
    let admin = actor(project, Role::Admin);
    let name: Option<Box<str>> = pick(NAMES, how).flatten().map(Into::into);
    let metadata = || match pick(VALUES, how) {
        Some(value) if how.is_multiple_of(3) => BTreeMap::from([("k".to_owned(), value.to_owned())]),
        Some(_) | None => BTreeMap::new(),
    };
    let volumes: Vec<VolumeId> = world.ledger.volumes.sorted().into_iter().map(|(id, _)| *id).collect();
    let snapshots: Vec<SnapshotId> = world.ledger.snapshots.sorted().into_iter().map(|(id, _)| *id).collect();
    let volume = pick(&volumes, on);
    let snapshot = pick(&snapshots, on);
    let owner = |world: &World, id: VolumeId| {
        let row = world.ledger.volumes.get(&id);
        row.map_or_else(|| admin.clone(), |row| actor(row.project.as_str(), Role::Member))
    };
    Some(match what {
        0..=4 => {
            let source = match how % 8 {
                0 => snapshot.map_or(VolumeSource::Blank, VolumeSource::Snapshot),
                1 => volume.map_or(VolumeSource::Blank, VolumeSource::Volume),
                _blank => VolumeSource::Blank,
            };
            let create = CreateVolume {
                volume: VolumeId::from_uuid(scattered(world.fresh())),
                name: name.clone(),
                description: name,
                size: Some(gib(1 + u32::from(how % 3))),
                source,
                volume_type: None,
                availability_zone: None,
                metadata: metadata(),
            };
            (member, Command::CreateVolume(Box::new(create)))
        }
        5..=7 => {
            let create = CreateSnapshot {
                snapshot: SnapshotId::from_uuid(scattered(world.fresh())),
                volume: volume?,
                name,
                description: None,
                force: false,
                metadata: metadata(),
            };
            let who = if how.is_multiple_of(5) { admin } else { owner(world, volume?) };
            (who, Command::CreateSnapshot(Box::new(create)))
        }
        8..=14 => {
            let due = world.ledger.all_due();
            let due = pick(&due.iter().collect::<Vec<_>>(), on)?.clone();
            world.now = world.now.max(due.not_before);
            let outcome = match how % 5 {
                0 => Outcome::Failed(Failure::new(pick(FailureKind::ALL, how)?, "drawn")),
                _done => Outcome::Done,
            };
            (Actor::system(), Command::ReportOutcome { key: due.key, outcome })
        }
        15 => {
            let volume = volume?;
            (
                admin,
                Command::DeleteVolume {
                    volume,
                    cascade: how.is_multiple_of(2),
                    force: how.is_multiple_of(5),
                },
            )
        }
        16 => (admin, Command::DeleteSnapshot { snapshot: snapshot?, force: how.is_multiple_of(5) }),
        17 => (
            admin,
            Command::ExtendVolume {
                volume: volume?,
                to: gib(2 + u32::from(how % 5)),
                online: how.is_multiple_of(2),
            },
        ),
        18 => {
            let latest = world.ledger.volumes.get(&volume?)?.snapshots.last().copied();
            (admin, Command::RevertVolume { volume: volume?, snapshot: latest })
        }
        19 => {
            let command = Command::UpdateVolume {
                volume: volume?,
                name: Some(name),
                description: None,
                metadata: Some(metadata()),
            };
            (admin, command)
        }
        20 => match how % 5 {
            0 => (admin, Command::SetVolumeBootable { volume: volume?, bootable: how.is_multiple_of(2) }),
            1 => (admin, Command::SetVolumeReadonly { volume: volume?, readonly: how.is_multiple_of(2) }),
            2 => {
                let change = MetadataChange::Merge(metadata());
                (admin, Command::ChangeSnapshotMetadata { snapshot: snapshot?, change })
            }
            3 => (admin, Command::RecoverVolume { volume: volume? }),
            _update => {
                let command =
                    Command::UpdateSnapshot { snapshot: snapshot?, name: Some(name), description: None };
                (admin, command)
            }
        },
        21 => (admin, Command::ResetVolumeStatus { volume: volume?, to: pick(VolumeState::ALL, how)? }),
        22 => {
            (admin, Command::ResetSnapshotStatus { snapshot: snapshot?, to: pick(SnapshotState::ALL, how)? })
        }
        _rest => (admin, rest(world, on, how)?),
    })
}

fn rest(world: &mut World, on: u8, how: u8) -> Option<Command> {
    let project = ProjectId::new(PROJECTS[usize::from(on) % PROJECTS.len()]);
    let types: Vec<VolumeTypeId> =
        world.ledger.volume_types.sorted().into_iter().map(|(id, _)| *id).collect();
    let backends: Vec<_> = world.ledger.backends.sorted().into_iter().map(|(name, _)| name.clone()).collect();
    let debts: Vec<_> = world.ledger.debts.sorted().into_iter().map(|(id, _)| *id).collect();
    Some(match how % 8 {
        0 => Command::CreateVolumeType(Box::new(CreateVolumeType {
            volume_type: VolumeTypeId::from_uuid(world.fresh()),
            name: format!("type-{on}").into(),
            description: None,
            is_public: on.is_multiple_of(2),
            extra_specs: BTreeMap::new(),
        })),
        1 => Command::DeleteVolumeType { volume_type: pick(&types, on)? },
        2 => Command::GrantTypeAccess { volume_type: pick(&types, on)?, project },
        3 => Command::SetQuotaDefaults { limits: BTreeMap::from([(QuotaResource::Backups, i64::from(on))]) },
        4 => Command::SetQuotaLimits {
            project,
            limits: BTreeMap::from([(QuotaResource::Gigabytes, 500 + i64::from(on))]),
        },
        5 => Command::DisableBackend {
            backend: backends.get(usize::from(on) % backends.len().max(1))?.clone(),
            reason: None,
        },
        6 => {
            Command::EnableBackend { backend: backends.get(usize::from(on) % backends.len().max(1))?.clone() }
        }
        _release => Command::ReleaseDebt { debt: pick(&debts, on)? },
    })
}

/// The same id, its bytes elsewhere: ids of real volumes come in no order.
fn scattered(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

/// Commits as a chain of blocks, their sizes taken from `sizes` again and again.
///
/// # Panics
/// If a block that was just made cannot be read.
pub fn blocks(history: &[Commit], sizes: &[usize]) -> (Vec<Arc<Block>>, Vec<Arc<[u8]>>) {
    let sequenced = (1..).map(Position).zip(history);
    let mut sequenced = sequenced
        .map(|(position, commit)| Sequenced { position, commit: Arc::new(commit.clone()) })
        .peekable();
    let (mut blocks, mut bytes) = (Vec::new(), Vec::new());
    let mut hash = [0; 32];
    let mut sizes = sizes.iter().cycle();
    while sequenced.peek().is_some() {
        let size = sizes.next().copied().unwrap_or(1).max(1);
        let commits: Vec<Sequenced> = sequenced.by_ref().take(size).collect();
        let number = BlockNumber(1 + u64::try_from(blocks.len()).unwrap_or_default());
        let encoded = encode_block(Uuid::from_u128(u128::from(number.0)), hash, &commits);
        let block = decode_block(number, &encoded.bytes).unwrap_or_else(|error| panic!("{error}"));
        hash = block.hash;
        blocks.push(Arc::new(block));
        bytes.push(encoded.bytes);
    }
    (blocks, bytes)
}

/// A log that holds a history.
pub fn log_of(history: &[Commit], sizes: &[usize]) -> MemoryLog {
    MemoryLog::holding(blocks(history, sizes).1)
}

/// The state after the first `commits` commits.
///
/// # Panics
/// If the history is illegal.
pub fn replay(history: &[Commit], commits: usize) -> Ledger {
    let mut ledger = Ledger::default();
    for (position, commit) in (1..).map(Position).zip(&history[..commits]) {
        apply_commit(&mut ledger, position, commit).unwrap_or_else(|illegal| panic!("{illegal}"));
    }
    ledger
}
