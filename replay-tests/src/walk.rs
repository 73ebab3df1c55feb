//! A random walk: clients ask for anything, executors are late, die, lie and repeat themselves, and
//! operators interfere at the worst moment. One seed decides everything.
//!
//! Executors are modelled as closely as matters: an order may be delivered any number of times, at
//! any time; an executor locks the volumes concerned, asks whether the attempt is still due, acts,
//! reports and unlocks, and may die between any two of these.

mod attaching;

use std::collections::BTreeSet;

use tephra_domain::actor::{Actor, Role};
use tephra_domain::command::{CleanObject, Command, MetadataChange};
use tephra_domain::decide::Verdict;
use tephra_domain::drift::FoundKind;
use tephra_domain::effect::{DueEffect, Effect, Failure, FailureKind, Outcome};
use tephra_domain::ids::{ProjectId, SnapshotId, VolumeId};
use tephra_domain::operation::ResourceKey;
use tephra_domain::quota::QuotaResource;
use tephra_domain::rejection::Rejection;
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::{VolumeSource, VolumeState};

use crate::beliefs::Beliefs;
use crate::sim_backend::Contents;
use crate::world::{PROJECT, World, actor, gib, pool};

/// An executor that has taken an order and found it due.
struct Busy {
    order: DueEffect,
    locked: BTreeSet<VolumeId>,
}

/// The walk: the world, the orders under way, and what the data should be.
pub struct Walk {
    /// The control plane and its storage.
    pub world: World,
    random: fastrand::Rng,
    /// Every order that was ever published: queues deliver late, and twice.
    published: Vec<DueEffect>,
    busy: Vec<Busy>,
    beliefs: Beliefs,
    seen: usize,
    next_tag: u64,
    faults: bool,
}

impl Walk {
    /// A world with three backends, decided by the seed.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::with_neighbours(&["one", "two", "three"], random.bool());
        let limits = [(QuotaResource::Volumes, 12), (QuotaResource::Snapshots, 12)].into();
        world.must(Command::SetQuotaLimits { project: ProjectId::new(PROJECT), limits });
        let seen = world.history.len();
        Self {
            world,
            random,
            published: Vec::new(),
            busy: Vec::new(),
            beliefs: Beliefs::default(),
            seen,
            next_tag: 0,
            faults: true,
        }
    }

    /// Takes so many steps, then lets everything come to rest and checks it.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn run(&mut self, steps: usize) {
        for step in 0..steps {
            self.step();
            if step % 16 == 0 {
                self.world.check_invariants();
            }
        }
        self.come_to_rest();
        self.world.check_at_rest();
        self.lose_exports();
        self.come_to_rest();
        self.world.check_at_rest();
        self.beliefs.check(&self.world);
    }

    fn step(&mut self) {
        match self.random.u8(0..10) {
            0 => self.attach_or_detach(),
            1..=3 => self.client(),
            4 => self.operator(),
            5..=6 => self.take_an_order(),
            _ => self.go_on_with_one(),
        }
        self.observe();
    }

    fn client(&mut self) {
        let command = match self.random.u8(0..11) {
            0 | 1 => {
                let size_gib = self.random.u32(1..4);
                self.world.new_volume(size_gib).1
            }
            2 => {
                let source = match (self.random.bool(), self.any_volume(), self.any_snapshot()) {
                    (true, Some(volume), _) => VolumeSource::Volume(volume),
                    (_, _, Some(snapshot)) => VolumeSource::Snapshot(snapshot),
                    (_, _, None) => return,
                };
                self.world.new_volume_from(None, source).1
            }
            3 => {
                let Some(volume) = self.any_volume() else { return };
                Command::ExtendVolume { volume, to: gib(self.random.u32(1..8)), online: self.random.bool() }
            }
            4 | 5 => {
                let Some(volume) = self.any_volume() else { return };
                self.world.new_snapshot(volume).1
            }
            6 => {
                let Some(snapshot) = self.any_snapshot() else { return };
                Command::DeleteSnapshot { snapshot, force: false }
            }
            7 => {
                let Some(volume) = self.any_volume() else { return };
                let latest = self.world.ledger.volumes.get(&volume).and_then(|row| row.snapshots.last());
                Command::RevertVolume { volume, snapshot: latest.copied() }
            }
            8 => {
                let Some(volume) = self.any_volume() else { return };
                Command::DeleteVolume { volume, cascade: self.random.bool(), force: false }
            }
            9 => {
                let Some(volume) = self.any_volume() else { return };
                let change = MetadataChange::Merge([("k".to_owned(), "v".to_owned())].into());
                Command::ChangeVolumeMetadata { volume, change }
            }
            _ => return self.write_somewhere(),
        };
        let who = if self.random.u8(0..20) == 0 {
            actor("stranger", Role::Member)
        } else {
            actor(PROJECT, Role::Member)
        };
        self.submit(who, &command);
    }

    /// A server with the volume attached writes, while no operation is at work on the volume.
    fn write_somewhere(&mut self) {
        let Some(volume) = self.any_volume() else { return };
        let is_free = self.world.ledger.claimants(ResourceKey::Volume(volume)).is_empty();
        if is_free && matches!(self.world.volume_state(volume), VolumeState::Available | VolumeState::InUse) {
            self.next_tag += 1;
            self.world.write(volume, self.next_tag);
            self.beliefs.wrote(volume, self.next_tag);
        }
    }

    fn operator(&mut self) {
        if self.random.u8(0..4) != 0 {
            return;
        }
        let command = match self.random.u8(0..11) {
            7 => self.take_something_over(),
            8 => {
                let Some(volume) = self.any_volume() else { return };
                Command::UnmanageVolume { volume }
            }
            9 => {
                let Some(snapshot) = self.any_snapshot() else { return };
                Command::UnmanageSnapshot { snapshot }
            }
            10 => {
                let strangers: Vec<_> = self.world.storage.strangers.keys().cloned().collect();
                let Some((pool, name)) = self.random.choice(strangers) else { return };
                Command::CleanObject(Box::new(CleanObject { pool, name, kind: FoundKind::Volume }))
            }
            0 => {
                let Some(volume) = self.any_volume() else { return };
                Command::DeleteVolume { volume, cascade: self.random.bool(), force: true }
            }
            1 | 2 => {
                let Some(volume) = self.any_volume() else { return };
                let states = [VolumeState::Available, VolumeState::Error, VolumeState::Maintenance];
                let to = self.random.choice(states).unwrap_or(VolumeState::Error);
                Command::ResetVolumeStatus { volume, to }
            }
            3 => {
                let Some(snapshot) = self.any_snapshot() else { return };
                let to = if self.random.bool() { SnapshotState::Available } else { SnapshotState::Error };
                Command::ResetSnapshotStatus { snapshot, to }
            }
            4 => {
                let Some(volume) = self.any_volume() else { return };
                Command::RecoverVolume { volume }
            }
            5 => {
                let debts: Vec<_> = self.world.ledger.debts.sorted().into_iter().map(|(id, _)| *id).collect();
                let Some(debt) = self.random.choice(debts) else { return };
                Command::ReleaseDebt { debt }
            }
            _ => {
                let Some(snapshot) = self.any_snapshot() else { return };
                Command::DeleteSnapshot { snapshot, force: true }
            }
        };
        self.submit(actor(PROJECT, Role::Admin), &command);
    }

    /// Something that is there already, or that an administrator has put there.
    fn take_something_over(&mut self) -> Command {
        let strangers: Vec<_> = self.world.storage.strangers.iter().map(|(k, v)| (k.clone(), *v)).collect();
        let ((pool, name), contents) = match self.random.choice(strangers) {
            Some(found) if self.random.bool() => found,
            Some(_) | None => {
                self.next_tag += 1;
                let name = format!("legacy-{}", self.next_tag);
                self.world.given_stranger("two", &name, 2, self.next_tag);
                self.beliefs.put(&name, self.next_tag);
                ((pool("two"), name.into()), Contents { size: gib(2), tag: self.next_tag })
            }
        };
        self.world.new_managed(pool.backend.as_str(), &name, contents.size.gib()).1
    }

    fn submit(&mut self, who: Actor, command: &Command) {
        let before = self.world.ledger.position();
        match self.world.submit_as(who, command) {
            Verdict::Accepted { .. } | Verdict::NothingToDo | Verdict::Repeated { .. } => {}
            Verdict::Rejected(_) => assert_eq!(self.world.ledger.position(), before, "{command:?}"),
        }
    }

    /// An executor takes an order: a fresh one, or one that the queue delivers late or again.
    fn take_an_order(&mut self) {
        let due = self.world.ledger.all_due();
        let order = if self.faults && !self.published.is_empty() && self.random.u8(0..4) == 0 {
            self.random.choice(&self.published).cloned()
        } else {
            self.random.choice(&due).cloned()
        };
        let Some(order) = order else { return };
        if !self.published.iter().any(|known| known.key == order.key) {
            self.published.push(order.clone());
        }
        let locked: BTreeSet<VolumeId> = std::iter::once(order.effect.target())
            .chain(order.effect.source())
            .map(|object| object.volume())
            .collect();
        if self.busy.iter().any(|busy| !busy.locked.is_disjoint(&locked)) {
            return;
        }
        self.world.now = self.world.now.max(order.not_before);
        let check = Command::CheckAttempt { key: order.key };
        if self.world.when_as(Actor::system(), check).is_ok() {
            self.busy.push(Busy { order, locked });
        }
    }

    /// A busy executor acts and reports; or fails, or dies, before or after acting.
    fn go_on_with_one(&mut self) {
        if self.busy.is_empty() {
            return;
        }
        let Busy { order, .. } = self.busy.swap_remove(self.random.usize(0..self.busy.len()));
        let act = |walk: &mut Self| walk.world.storage.perform(&order.pool, &order.effect);
        let kinds =
            [FailureKind::BackendError, FailureKind::NoSpace, FailureKind::Busy, FailureKind::TimedOut];
        let kind = self.random.choice(kinds).unwrap_or(FailureKind::BackendError);
        let fault = if self.faults { self.random.u8(0..12) } else { u8::MAX };
        let outcome = match fault {
            0 => return,
            1 => {
                drop(act(self));
                return;
            }
            // what is not there cannot be in use
            2 if kind != FailureKind::Busy || self.is_there(&order) => {
                Outcome::Failed(Failure::new(kind, "before acting"))
            }
            // a busy object is one that was not touched
            3 if kind != FailureKind::Busy => {
                self.half_do(&order);
                Outcome::Failed(Failure::new(kind, "after acting"))
            }
            _ => match act(self) {
                Ok(()) => Outcome::Done,
                Err(failure) => Outcome::Failed(failure),
            },
        };
        let reports = if fault == 4 { 2 } else { 1 };
        for _ in 0..reports {
            match self.world.report(order.key, outcome.clone()) {
                Ok(_) | Err(Rejection::StaleReport) => {}
                Err(other) => panic!("{order:?}: {other}"),
            }
        }
    }

    fn is_there(&self, order: &DueEffect) -> bool {
        self.world.storage.contents(&order.pool, order.effect.target()).is_some()
    }

    /// Acts, and where data is written, perhaps only in part.
    fn half_do(&mut self, order: &DueEffect) {
        drop(self.world.storage.perform(&order.pool, &order.effect));
        let writes = matches!(order.effect, Effect::RevertToSnapshot { .. } | Effect::OverwriteVolume { .. });
        if writes && self.random.bool() {
            self.world.storage.write(&order.pool, order.effect.target(), u64::MAX);
        }
    }

    /// No more faults: everything that is due gets done.
    fn come_to_rest(&mut self) {
        self.faults = false;
        for _ in 0..20_000 {
            while !self.busy.is_empty() {
                self.go_on_with_one();
                self.observe();
            }
            let Some(due) = self.world.next_due() else { return };
            let check = Command::CheckAttempt { key: due.key };
            self.world.when_as(Actor::system(), check).unwrap_or_else(|rejection| panic!("{rejection}"));
            self.busy.push(Busy { order: due, locked: BTreeSet::new() });
        }
        panic!("it does not come to rest: {:?}", self.world.ledger.all_due());
    }

    /// Follows the history as a client would, to know what the data should be.
    fn observe(&mut self) {
        for commit in self.world.history.get(self.seen..).unwrap_or_default() {
            self.beliefs.observe(&self.world, commit);
        }
        self.seen = self.world.history.len();
    }

    fn any_volume(&mut self) -> Option<VolumeId> {
        let ids: Vec<VolumeId> = self.world.ledger.volumes.sorted().into_iter().map(|(id, _)| *id).collect();
        self.random.choice(ids)
    }

    fn any_snapshot(&mut self) -> Option<SnapshotId> {
        let ids: Vec<SnapshotId> =
            self.world.ledger.snapshots.sorted().into_iter().map(|(id, _)| *id).collect();
        self.random.choice(ids)
    }
}
