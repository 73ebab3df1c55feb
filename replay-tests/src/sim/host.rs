//! A storage host: a backend that survives the executors that drive it, and fails in every way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::effect::{Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::memory::MemoryBackend;
use tephra_executors::export::{Exporter, Exporting};

use super::exports::Exports;
use super::faults::{FaultKind, Faults};
use super::invariants::{Invariant, Violation};
use super::node::Site;
use super::oracle::Oracle;
use super::process::Process;
use super::trace::Trace;

/// The kinds of failure that any effect may meet.
const ANY_FAILURE: [FailureKind; 4] =
    [FailureKind::BackendError, FailureKind::TimedOut, FailureKind::BackendUnavailable, FailureKind::NoSpace];

/// What is the matter with a host, whoever drives it.
#[derive(Debug, Default)]
pub struct HostState {
    /// It does not answer.
    pub down: AtomicBool,
    /// It has no room for anything new.
    pub full: AtomicBool,
}

/// A process's way to a host's storage.
pub struct HostPort {
    store: MemoryBackend,
    exports: Exports,
    /// The storage, with its exports.
    whole: Exporting,
    state: Arc<HostState>,
    process: Process,
    faults: Faults,
    trace: Trace,
    oracle: Oracle,
    random: Mutex<fastrand::Rng>,
}

impl HostPort {
    /// A way for an executor.
    pub fn new(
        store: MemoryBackend,
        exports: Exports,
        state: Arc<HostState>,
        process: Process,
        site: &Site,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            whole: Exporting::in_memory(Arc::new(store.clone()), Arc::new(exports.clone())),
            store,
            exports,
            state,
            process,
            faults: site.faults.clone(),
            trace: site.trace.clone(),
            oracle: site.oracle.clone(),
            random: Mutex::new(random),
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn strikes(&self, kind: FaultKind, one_in: u32) -> bool {
        self.draw(|random| self.faults.strikes(kind, random, one_in))
    }

    async fn die(&self, what: &str, effect: &Effect) -> Failure {
        self.trace.note(&self.process, format_args!("dies {what} {} {}", effect.name(), effect.target()));
        self.process.kill();
        std::future::pending().await
    }

    fn failure(&self, message: &str) -> Failure {
        let kind = self.draw(|random| ANY_FAILURE[random.usize(0..ANY_FAILURE.len())]);
        Failure::new(kind, message)
    }

    async fn before(&self, effect: &Effect) -> Result<(), Failure> {
        if self.state.down.load(Ordering::Relaxed) {
            self.process.run(tokio::time::sleep(Duration::from_secs(1))).await;
            return Err(Failure::new(FailureKind::BackendUnavailable, "the host does not answer"));
        }
        if self.strikes(FaultKind::CrashBeforeAct, 48) {
            return Err(self.die("before", effect).await);
        }
        if self.strikes(FaultKind::ActSlow, 32) {
            let longest = self.draw(|random| [5_000, 120_000, 4_000_000][random.usize(0..3)]);
            let ms = self.draw(|random| random.u64(1_000..=longest));
            self.trace.note(&self.process, format_args!("{} takes {ms} ms", effect.name()));
            self.process.run(tokio::time::sleep(Duration::from_millis(ms))).await;
        } else {
            let ms = self.draw(|random| random.u64(0..50));
            self.process.run(tokio::time::sleep(Duration::from_millis(ms))).await;
        }
        if self.state.full.load(Ordering::Relaxed) && makes_something(effect) {
            return Err(Failure::new(FailureKind::NoSpace, "the host is full"));
        }
        if self.strikes(FaultKind::ActFailsBefore, 16) {
            // what is not there cannot be in use, and what is in use was not touched
            let busy = self.store.object(effect.target()).is_some() && self.draw(fastrand::Rng::bool);
            return Err(match busy {
                true => Failure::new(FailureKind::Busy, "it is in use"),
                false => self.failure("it failed before acting"),
            });
        }
        Ok(())
    }

    /// Where data is written in place, a part of it may be written.
    fn act_in_part(&self, effect: &Effect) {
        if writes_in_place(effect) {
            let garbage = self.draw(|random| random.u64(1 << 60..u64::MAX));
            let target = effect.target();
            self.store.write_block(target, garbage % 7, &garbage.to_le_bytes());
        }
    }

    async fn after(&self, effect: &Effect) -> Result<(), Failure> {
        if self.strikes(FaultKind::CrashAfterAct, 48) {
            return Err(self.die("after", effect).await);
        }
        if self.strikes(FaultKind::ActFailsAfter, 24) {
            return Err(self.failure("it failed after acting"));
        }
        Ok(())
    }
}

fn makes_something(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::CreateVolume { .. }
            | Effect::CreateVolumeFromSnapshot { .. }
            | Effect::CreateVolumeFromImage { .. }
            | Effect::CloneVolume { .. }
            | Effect::CopyVolume { .. }
            | Effect::CreateSnapshot { .. }
            | Effect::ExtendVolume { .. }
    )
}

fn writes_in_place(effect: &Effect) -> bool {
    matches!(effect, Effect::RevertToSnapshot { .. } | Effect::OverwriteVolume { .. })
}

#[async_trait]
impl Backend for HostPort {
    fn name(&self) -> &BackendName {
        self.store.name()
    }

    fn description(&self) -> BackendDescription {
        self.whole.description()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        self.process.survive().await;
        if self.state.down.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureKind::BackendUnavailable, "the host does not answer"));
        }
        self.whole.stats(now).await
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        self.process.survive().await;
        self.before(effect).await?;
        self.process.survive().await;
        if writes_in_place(effect) {
            if self.strikes(FaultKind::CrashDuringAct, 16) {
                self.act_in_part(effect);
                return Err(self.die("during", effect).await);
            }
            if self.strikes(FaultKind::ActPartial, 12) {
                self.act_in_part(effect);
                return Err(self.failure("it failed while acting"));
            }
        }
        if self.oracle.is_whole() && self.exports.is_in_the_way(effect) {
            let found = format!("{} {} while a server has it", effect.name(), effect.target());
            self.oracle.found(Violation { invariant: Invariant::UsedIsLeftAlone, found });
        }
        let acted = self.whole.perform(pool, effect).await;
        let word = if acted.is_ok() { "done" } else { "failed" };
        self.trace.note(&self.process, format_args!("{} {}: {word}", effect.name(), effect.target()));
        acted?;
        self.after(effect).await
    }
    fn exporter(&self) -> Option<Arc<dyn Exporter>> {
        self.whole.exporter()
    }
}
