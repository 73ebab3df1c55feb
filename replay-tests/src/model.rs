//! A model checker for small worlds: every interleaving of what a few clients, executors and faults
//! can do, breadth first, over the real ledger.
//!
//! A world has one volume and one snapshot of it. Each client submits so many commands, any of its
//! own, at any moment; an executor takes an order, acts and reports, in three moves of their own, and
//! as many faults happen as the world allows, each at any moment where it can. States that differ in
//! nothing that matters (positions, the order in which the same things happened) are one.
//!
//! Every state is checked, and so is every end: where nothing can happen any more, everything is at
//! rest. No run comes back to a state that it has been in, so every run ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use sha2::{Digest as _, Sha256};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::command::{Command, Context, CreateSnapshot, CreateVolume};
use tephra_domain::decide::{Verdict, decide};
use tephra_domain::effect::{Direction, DueEffect, Effect, EffectKey, Failure, FailureKind, Outcome};
use tephra_domain::ids::{CommandId, Position, RequestId, SnapshotId, VolumeId};
use tephra_domain::operation::{Operation, ResourceKey};
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};
use uuid::Uuid;

use crate::beliefs::Beliefs;
use crate::world::{PROJECT, World, actor, gib};

/// Something that a client asks, about the one volume and the one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named after commands")]
pub enum Ask {
    Extend,
    Snapshot,
    DeleteSnapshot,
    Revert,
    Delete,
    DeleteCascade,
    Clone,
    CreateFromSnapshot,
    /// A server with the volume attached writes.
    Write,
    ForceDelete,
    ForceDeleteSnapshot,
    ResetToAvailable,
    ResetToError,
    ResetSnapshotToAvailable,
    Recover,
}

impl Ask {
    /// What any member of the project asks.
    pub const OF_MEMBERS: &[Self] = &[
        Self::Extend,
        Self::Snapshot,
        Self::DeleteSnapshot,
        Self::Revert,
        Self::Delete,
        Self::DeleteCascade,
        Self::Clone,
        Self::CreateFromSnapshot,
        Self::Write,
    ];

    /// What only administrators ask.
    pub const OF_OPERATORS: &[Self] = &[
        Self::ForceDelete,
        Self::ForceDeleteSnapshot,
        Self::ResetToAvailable,
        Self::ResetToError,
        Self::ResetSnapshotToAvailable,
        Self::Recover,
    ];

    fn role(self) -> Role {
        if Self::OF_OPERATORS.contains(&self) { Role::Admin } else { Role::Member }
    }
}

/// A client: what it may ask, and how often it asks.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Any of these, each time.
    pub asks: &'static [Ask],
    /// Commands in a run.
    pub commands: u8,
}

/// A world to be explored.
#[derive(Clone, Debug)]
pub struct Model {
    /// Who asks.
    pub clients: Vec<Client>,
    /// Faults in a run.
    pub faults: u8,
    /// Whether the backend reverts by its own means.
    pub native_revert: bool,
    /// Orders that executors work on at a time.
    pub executors: usize,
}

/// What an exploration has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// States that differ.
    pub states: usize,
    /// Moves from one to another.
    pub moves: usize,
    /// States in which a run can end.
    pub ends: usize,
    /// Moves of the longest run.
    pub longest_run: usize,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, moves, ends, longest_run } = self;
        write!(f, "{states} states, {moves} moves, {ends} ends, the longest run has {longest_run} moves")
    }
}

/// How an executor fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It says so, and has touched nothing.
    Before(FailureKind),
    /// It says so, but the effect holds.
    After(FailureKind),
    /// It says so, and what it wrote is broken.
    Halfway,
    /// It dies before it acts.
    DiesBefore,
    /// It dies after it has acted, before it reports.
    DiesAfter,
}

const FAULTS: &[Fault] = &[
    Fault::Before(FailureKind::NoSpace),
    Fault::Before(FailureKind::Busy),
    Fault::Before(FailureKind::BackendError),
    Fault::After(FailureKind::TimedOut),
    Fault::Halfway,
    Fault::DiesBefore,
    Fault::DiesAfter,
];

/// What can happen next.
#[derive(Clone, Debug)]
enum Move {
    Ask { client: usize, ask: Ask },
    Take(DueEffect),
    Act(EffectKey),
    Fail(EffectKey, Fault),
    Report(EffectKey),
}

/// An order that an executor holds.
#[derive(Clone, Debug)]
struct Held {
    order: DueEffect,
    outcome: Option<Outcome>,
}

#[derive(Clone)]
struct State {
    world: World,
    beliefs: Beliefs,
    volume: VolumeId,
    /// Commands that each client has submitted.
    asked: Vec<u8>,
    faults: u8,
    held: BTreeMap<EffectKey, Held>,
}

type Key = [u8; 32];

/// What is known of a state that was reached.
struct Reached {
    /// The move that led here first, and the number of the state before it.
    from: Option<(usize, Move)>,
    /// The states that can follow.
    next: Vec<usize>,
}

impl Model {
    /// Explores all there is.
    ///
    /// # Errors
    /// What does not hold, with the shortest run that leads there.
    pub fn explore(&self) -> Result<Explored, String> {
        let first = self.first();
        let mut numbers: BTreeMap<Key, usize> = BTreeMap::from([(first.key(), 0)]);
        let mut reached = vec![Reached { from: None, next: Vec::new() }];
        let mut waiting = VecDeque::from([(0, first)]);
        let mut explored = Explored::default();
        while let Some((number, state)) = waiting.pop_front() {
            let moves = self.moves(&state);
            explored.ends += usize::from(moves.is_empty());
            for next in moves {
                let mut after = state.clone();
                let checked = catch_unwind(AssertUnwindSafe(|| {
                    after.make(&next);
                    after.check();
                }));
                if let Err(panic) = checked {
                    let run = run_to(&reached, number, &next);
                    return Err(format!("{}\nafter this run:\n{run}", said(&*panic)));
                }
                explored.moves += 1;
                let known = reached.len();
                let to = *numbers.entry(after.key()).or_insert(known);
                if let Some(row) = reached.get_mut(number) {
                    row.next.push(to);
                }
                if to == known {
                    reached.push(Reached { from: Some((number, next)), next: Vec::new() });
                    waiting.push_back((to, after));
                }
            }
        }
        explored.states = reached.len();
        explored.longest_run = longest_run(&reached)?;
        Ok(explored)
    }

    fn first(&self) -> State {
        let mut world = World::with_backends(&["one"], self.native_revert);
        let mut beliefs = Beliefs::default();
        let volume = world.given_volume(1, 1);
        observe(&mut beliefs, &mut world);
        beliefs.wrote(volume, 1);
        world.given_snapshot(volume);
        observe(&mut beliefs, &mut world);
        world.write(volume, 2);
        beliefs.wrote(volume, 2);
        let asked = vec![0; self.clients.len()];
        State { world, beliefs, volume, asked, faults: 0, held: BTreeMap::new() }
    }

    /// Everything that can happen in a state.
    fn moves(&self, state: &State) -> Vec<Move> {
        let mut moves = Vec::new();
        for (client, who) in self.clients.iter().enumerate() {
            if state.asked.get(client).is_some_and(|asked| *asked < who.commands) {
                let asks = who.asks.iter().copied().filter(|ask| state.can_be_asked(*ask));
                moves.extend(asks.map(|ask| Move::Ask { client, ask }));
            }
        }
        let locked: BTreeSet<VolumeId> = state.held.values().flat_map(|held| locks(&held.order)).collect();
        if state.held.len() < self.executors {
            let due = state.world.ledger.all_due().into_iter();
            let free = due.filter(|order| locked.is_disjoint(&locks(order)));
            moves.extend(free.map(Move::Take));
        }
        for (key, held) in &state.held {
            if held.outcome.is_some() {
                moves.push(Move::Report(*key));
                continue;
            }
            moves.push(Move::Act(*key));
            if state.faults < self.faults {
                let faults = FAULTS.iter().copied().filter(|fault| state.can_fail(&held.order, *fault));
                moves.extend(faults.map(|fault| Move::Fail(*key, fault)));
            }
        }
        moves
    }
}

fn locks(order: &DueEffect) -> BTreeSet<VolumeId> {
    let objects = std::iter::once(order.effect.target()).chain(order.effect.source());
    objects.map(|object| object.volume()).collect()
}

fn observe(beliefs: &mut Beliefs, world: &mut World) {
    for commit in std::mem::take(&mut world.history) {
        beliefs.observe(world, &commit);
    }
}

impl State {
    fn can_be_asked(&self, ask: Ask) -> bool {
        let is_free = self.world.ledger.claimants(ResourceKey::Volume(self.volume)).is_empty();
        ask != Ask::Write || is_free && self.world.volume_state(self.volume) == VolumeState::Available
    }

    fn can_fail(&self, order: &DueEffect, fault: Fault) -> bool {
        match fault {
            // what is not there cannot be in use
            Fault::Before(FailureKind::Busy) => {
                self.world.storage.contents(&order.pool, order.effect.target()).is_some()
            }
            Fault::Halfway => {
                matches!(order.effect, Effect::RevertToSnapshot { .. } | Effect::OverwriteVolume { .. })
            }
            Fault::Before(_) | Fault::After(_) | Fault::DiesBefore | Fault::DiesAfter => true,
        }
    }

    fn make(&mut self, next: &Move) {
        match next {
            Move::Ask { client, ask } => self.ask(*client, *ask),
            Move::Take(order) => {
                let check = self.decide(&Command::CheckAttempt { key: order.key });
                assert!(check.is_ok(), "an executor may not do what is due: {order:?}");
                self.held.insert(order.key, Held { order: order.clone(), outcome: None });
            }
            Move::Act(key) => self.act(*key),
            Move::Fail(key, fault) => {
                self.faults += 1;
                self.fail(*key, *fault);
            }
            Move::Report(key) => {
                let held = self.held.remove(key);
                if let Some(outcome) = held.and_then(|held| held.outcome) {
                    let stale =
                        self.submit(Actor::system(), 0, Command::ReportOutcome { key: *key, outcome });
                    let is_known = matches!(stale, None | Some(Rejection::StaleReport));
                    assert!(is_known, "a report was refused: {stale:?}");
                }
            }
        }
    }

    fn ask(&mut self, client: usize, ask: Ask) {
        let asked = self.asked.get_mut(client).map_or(0, |asked| {
            *asked += 1;
            u128::from(*asked)
        });
        let id = ((1 + client as u128) << 64) | asked;
        let uuid = Uuid::from_u128(0x4000_8000_0000_0000_0000 | (id << 48) | id);
        if ask == Ask::Write {
            let tag = u64::try_from(id >> 32).unwrap_or(0) + u64::try_from(asked).unwrap_or(0);
            self.world.write(self.volume, tag);
            self.beliefs.wrote(self.volume, tag);
            return;
        }
        let before = self.world.ledger.position();
        let command = self.command(ask, uuid);
        let rejected = self.submit(actor(PROJECT, ask.role()), id, command).is_some();
        assert!(
            !rejected || self.world.ledger.position() == before,
            "{ask:?} was refused and changed something"
        );
    }

    fn command(&self, ask: Ask, fresh: Uuid) -> Command {
        let volume = self.volume;
        let snapshots = self.world.ledger.snapshots.sorted();
        let snapshot = snapshots.first().map_or(SnapshotId::from_uuid(Uuid::nil()), |(id, _)| **id);
        let latest = self.world.ledger.volumes.get(&volume).and_then(|row| row.snapshots.last()).copied();
        let copy_of = |source| {
            Command::CreateVolume(Box::new(CreateVolume {
                volume: VolumeId::from_uuid(fresh),
                name: None,
                description: None,
                size: None,
                source,
                volume_type: None,
                availability_zone: None,
                metadata: BTreeMap::new(),
            }))
        };
        match ask {
            Ask::Extend => Command::ExtendVolume { volume, to: gib(2), online: false },
            Ask::Snapshot => Command::CreateSnapshot(Box::new(CreateSnapshot {
                snapshot: SnapshotId::from_uuid(fresh),
                volume,
                name: None,
                description: None,
                force: false,
                metadata: BTreeMap::new(),
            })),
            Ask::DeleteSnapshot => Command::DeleteSnapshot { snapshot, force: false },
            Ask::Revert => Command::RevertVolume { volume, snapshot: latest },
            Ask::Delete => Command::DeleteVolume { volume, cascade: false, force: false },
            Ask::DeleteCascade => Command::DeleteVolume { volume, cascade: true, force: false },
            Ask::Clone => copy_of(VolumeSource::Volume(volume)),
            Ask::CreateFromSnapshot => copy_of(VolumeSource::Snapshot(snapshot)),
            Ask::ForceDelete => Command::DeleteVolume { volume, cascade: true, force: true },
            Ask::ForceDeleteSnapshot => Command::DeleteSnapshot { snapshot, force: true },
            Ask::ResetToAvailable => Command::ResetVolumeStatus { volume, to: VolumeState::Available },
            Ask::ResetToError => Command::ResetVolumeStatus { volume, to: VolumeState::Error },
            Ask::ResetSnapshotToAvailable => {
                Command::ResetSnapshotStatus { snapshot, to: SnapshotState::Available }
            }
            Ask::Recover => Command::RecoverVolume { volume },
            Ask::Write => unreachable!("a write is no command"),
        }
    }

    fn act(&mut self, key: EffectKey) {
        let Some(held) = self.held.get_mut(&key) else { return };
        held.outcome = Some(match self.world.storage.perform(&held.order.pool, &held.order.effect) {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure),
        });
    }

    fn fail(&mut self, key: EffectKey, fault: Fault) {
        let Some(mut held) = self.held.remove(&key) else { return };
        let (pool, effect) = (held.order.pool.clone(), held.order.effect.clone());
        let outcome = match fault {
            Fault::DiesBefore => return,
            Fault::DiesAfter => {
                drop(self.world.storage.perform(&pool, &effect));
                return;
            }
            Fault::Before(kind) => Failure::new(kind, "before acting"),
            Fault::After(kind) => {
                drop(self.world.storage.perform(&pool, &effect));
                Failure::new(kind, "after acting")
            }
            Fault::Halfway => {
                self.world.storage.write(&pool, effect.target(), u64::MAX);
                Failure::new(FailureKind::NoSpace, "halfway")
            }
        };
        held.outcome = Some(Outcome::Failed(outcome));
        self.held.insert(key, held);
    }

    /// Time stands still, so that the same things done in another order lead to the same state.
    fn context(&self, actor: Actor, id: u128) -> Context {
        Context {
            command: CommandId::from_uuid(Uuid::from_u128(0x8000_4000_8000_0000_0000_0000 | id)),
            request: RequestId::new("req-model"),
            actor,
            now: self.world.now,
            idempotency: None,
            pools: self.world.pools.clone(),
        }
    }

    fn decide(&self, command: &Command) -> Result<Vec<tephra_domain::event::Event>, Rejection> {
        decide(&self.world.ledger, command, &self.context(Actor::system(), 0))
    }

    fn submit(&mut self, actor: Actor, id: u128, command: Command) -> Option<Rejection> {
        let context = self.context(actor, id);
        let verdict = self.world.submit_with(context, &command);
        observe(&mut self.beliefs, &mut self.world);
        match verdict {
            Verdict::Accepted { .. } | Verdict::NothingToDo | Verdict::Repeated { .. } => None,
            Verdict::Rejected(rejection) => Some(rejection),
        }
    }

    fn check(&self) {
        self.world.check_state();
        self.check_fences();
        if self.held.is_empty() && self.world.ledger.all_due().is_empty() {
            self.world.check_state_at_rest();
            self.beliefs.check(&self.world);
        }
    }

    /// Attempts that are over may be neither done nor reported.
    fn check_fences(&self) {
        for (id, operation) in self.world.ledger.operations.sorted() {
            for attempt in 0..operation.attempt {
                for direction in [Direction::Forward, Direction::Undo] {
                    for step in 0..u16::try_from(operation.kind.steps().len()).unwrap_or(u16::MAX) {
                        let key = EffectKey::Step { operation: *id, direction, step, attempt };
                        let check = self.decide(&Command::CheckAttempt { key });
                        assert_eq!(check, Err(Rejection::StaleReport), "{key} may be done");
                        let report = Command::ReportOutcome { key, outcome: Outcome::Done };
                        assert_eq!(self.decide(&report), Err(Rejection::StaleReport), "{key} is believed");
                    }
                }
            }
        }
    }

    /// Stands for the state, without what does not matter: positions, except for who came first.
    fn key(&self) -> Key {
        let ledger = &self.world.ledger;
        let mut operations: Vec<Operation> =
            ledger.operations.sorted().into_iter().map(|(_, operation)| operation.clone()).collect();
        operations.sort_by_key(|operation| operation.opened);
        for (turn, operation) in (0..).zip(&mut operations) {
            operation.opened = Position(turn);
        }
        let mut text = String::new();
        let parts: [&dyn fmt::Debug; 8] = [
            &ledger.volumes.sorted(),
            &ledger.snapshots.sorted(),
            &ledger.debts.sorted(),
            &operations,
            &self.world.storage,
            &self.beliefs,
            &(&self.asked, self.faults),
            &self.held,
        ];
        for part in parts {
            let written = write!(text, "{part:?}");
            debug_assert!(written.is_ok());
        }
        Sha256::digest(text).into()
    }
}

/// The moves of the longest run: Kahn's order, which exists if no run comes back to where it was.
fn longest_run(reached: &[Reached]) -> Result<usize, String> {
    let mut ways_in = vec![0_usize; reached.len()];
    for to in reached.iter().flat_map(|row| &row.next) {
        ways_in[*to] += 1;
    }
    let mut depths = vec![0_usize; reached.len()];
    let mut free = vec![0];
    let mut ordered = 0;
    while let Some(number) = free.pop() {
        ordered += 1;
        for to in &reached[number].next {
            depths[*to] = depths[*to].max(depths[number] + 1);
            ways_in[*to] -= 1;
            if ways_in[*to] == 0 {
                free.push(*to);
            }
        }
    }
    if ordered < reached.len() {
        return Err("a run comes back to a state that it has been in: it need not end".to_owned());
    }
    Ok(depths.into_iter().max().unwrap_or(0))
}

/// The moves that lead to a state, and one more, a line each.
fn run_to(reached: &[Reached], state: usize, last: &Move) -> String {
    let mut lines = vec![last.to_string()];
    let mut at = state;
    while let Some((from, step)) = reached[at].from.as_ref() {
        lines.push(step.to_string());
        at = *from;
    }
    lines.reverse();
    lines.join("\n")
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { client, ask } => write!(f, "client {client} asks: {ask:?}"),
            Self::Take(order) => write!(f, "an executor takes {}: {:?}", order.key, order.effect),
            Self::Act(key) => write!(f, "it does {key}"),
            Self::Fail(key, fault) => write!(f, "it fails at {key}: {fault:?}"),
            Self::Report(key) => write!(f, "it reports {key}"),
        }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}
