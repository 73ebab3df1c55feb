//! kill -9 between every two changes of an effect.
//!
//! A backend that drives other programs leaves traces at every command, one that works on files at
//! every call. Here an effect is attempted in a process of its own, which kills itself with SIGKILL
//! right after one that changes something; the next attempt finds what that one left, and dies one change further, until an
//! attempt comes to the end. So every state that a crash between two commands can leave is met by
//! an attempt that starts there.
//!
//! The process is the test's own executable, told by its environment what to attempt. The test
//! file has one ignored test for it, which calls [`Attempt::from_environment`], opens the backend
//! over [`Attempt::launcher`] or before [`Attempt::witness`], and performs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Signal, getpid, kill_process};
use tephra_domain::effect::{Direction, DueEffect, Effect, EffectKey};
use tephra_domain::ids::{BackendName, OperationId, PoolId, PoolName, RequestId};
use tephra_domain::units::Timestamp;
use tephra_journal::wire::message::{decode_order, encode_order};
use tephra_journal::work_queue::WorkOrder;
use uuid::Uuid;

use crate::backend::directory::Witness;
use crate::process::{Launcher, Output, ProcessError, Program, Spawner};

/// The effect to attempt, encoded as a work order, in hexadecimal.
const EFFECT: &str = "TEPHRA_ATTEMPT_EFFECT";

/// How many changes the attempt may make before it dies.
const CHANGES: &str = "TEPHRA_ATTEMPT_CHANGES";

/// The file that gets the command after which it died.
const LAST: &str = "TEPHRA_ATTEMPT_LAST";

/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(300);

/// How often effects of one name are interrupted at most, in a suite that is to take less time.
const INTERRUPTIONS: &str = "TEPHRA_INTERRUPTIONS";

/// More attempts than any effect needs.
const MOST_ATTEMPTS: usize = 64;

/// Whether a command changes anything. Attempts do not die after one that only looks.
pub type Changes = fn(&[OsString]) -> bool;

/// Attempts effects in processes that die.
#[derive(Clone, Debug)]
pub struct Interrupter {
    test: &'static str,
    environment: Vec<(OsString, OsString)>,
}

impl Interrupter {
    /// With the name of the ignored test that makes the attempts.
    pub const fn new(test: &'static str) -> Self {
        Self { test, environment: Vec::new() }
    }

    /// One more variable that the attempt needs.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Attempts an effect until an attempt comes to the end, and says after which changes others died.
    ///
    /// # Panics
    /// If an attempt fails otherwise than by dying, or if there is no end.
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    pub async fn attempt_until_done(&self, pool: &PoolName, effect: &Effect) -> Vec<String> {
        let mut changes = 1;
        let mut deaths: Vec<String> = Vec::new();
        for _ in 0..MOST_ATTEMPTS {
            let Some(last) = self.attempt(pool, effect, changes).await else { return deaths };
            // an attempt that begins anew where the last one did must be let further
            changes += usize::from(deaths.contains(&last));
            deaths.push(last);
        }
        panic!("attempts at {effect:?} never come to an end: {deaths:?}");
    }

    /// The command after which the attempt died; nothing if it came to the end.
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    async fn attempt(&self, pool: &PoolName, effect: &Effect, changes: usize) -> Option<String> {
        let Ok(executable) = std::env::current_exe() else { panic!("this test has no executable") };
        let last = std::env::temp_dir().join(format!("tephra-attempt-{}", Uuid::new_v4()));
        let mut program = Program::new(executable, ATTEMPT_LIMIT)
            .args(["--exact", self.test, "--ignored", "--nocapture", "--test-threads", "1"])
            .env(EFFECT, hex::encode(encode_order(&order(pool, effect))))
            .env(CHANGES, changes.to_string())
            .env(LAST, &last);
        for (name, value) in &self.environment {
            program = program.env(name, value);
        }
        let error = program.run().await.err()?;
        let Ok(command) = std::fs::read_to_string(&last) else { panic!("an attempt at {effect:?}: {error}") };
        drop(std::fs::remove_file(&last));
        Some(command)
    }
}

/// How often effects of each name were interrupted, and after which changes attempts died at that.
/// Without it, a suite in which nothing ever dies would pass.
#[derive(Debug)]
pub struct Tally {
    most: u32,
    of: Mutex<BTreeMap<&'static str, Interruptions>>,
}

#[derive(Debug, Default)]
struct Interruptions {
    times: u32,
    deaths: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { most: u32::MAX, of: Mutex::default() }
    }
}

impl Tally {
    /// With no more interruptions than `TEPHRA_INTERRUPTIONS` says, if it does. With fewer than all, what
    /// dies is not complete, and nothing claims that it is.
    ///
    /// # Panics
    /// If that is no number.
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    pub fn from_environment() -> Self {
        let Ok(most) = std::env::var(INTERRUPTIONS) else { return Self::default() };
        let Ok(most) = most.parse() else { panic!("{INTERRUPTIONS}={most} is no number") };
        Self { most, ..Self::default() }
    }

    const fn is_complete(&self) -> bool {
        self.most == u32::MAX
    }

    /// The effects of the suite that a backend performs by itself, by changing something.
    const CHANGING: [&'static str; 12] = [
        "CreateVolume",
        "CreateVolumeFromSnapshot",
        "CloneVolume",
        "DeleteVolume",
        "ExtendVolume",
        "ShrinkVolume",
        "CreateSnapshot",
        "DeleteSnapshot",
        "RevertToSnapshot",
        "OverwriteVolume",
        "Adopt",
        "Disown",
    ];

    /// Whether an effect is to be interrupted, which then counts: not if that has happened to so many
    /// of its name. How many it takes until those have come that go another way (larger than the source,
    /// with snapshots) is for the bench to say; [`Tally::check_died_after`] tells whether it was enough.
    pub fn begin(&self, most: u32, effect: &Effect) -> bool {
        let mut tally = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let of = tally.entry(effect.name()).or_default();
        let is_due = of.times < most.min(self.most) && Self::CHANGING.contains(&effect.name());
        of.times = of.times.saturating_add(u32::from(is_due));
        is_due
    }

    /// Attempts at an effect have died after these changes.
    pub fn died(&self, effect: &Effect, deaths: Vec<String>) {
        let mut tally = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        tally.entry(effect.name()).or_default().deaths.extend(deaths);
    }

    /// Interrupts an effect, if that is to be.
    pub async fn interrupt(&self, most: u32, interrupter: &Interrupter, pool: &PoolName, effect: &Effect) {
        if self.begin(most, effect) {
            self.died(effect, interrupter.attempt_until_done(pool, effect).await);
        }
    }

    /// At the end of the suite, on a backend that reverts by itself or not.
    ///
    /// # Panics
    /// If an attempt at any of the effects was never killed.
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    pub fn check(&self, native_revert: bool) {
        let tally = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let counts: BTreeMap<_, _> =
            tally.iter().map(|(effect, of)| (*effect, (of.times, of.deaths.len()))).collect();
        println!("interrupted (times, deaths): {counts:?}");
        for effect in Self::CHANGING {
            let (times, deaths) = counts.get(effect).copied().unwrap_or_default();
            let is_expected = self.is_complete() && (native_revert || effect != "RevertToSnapshot");
            if is_expected && (times == 0 || deaths == 0) {
                panic!("{effect} never died: {counts:?}");
            }
        }
    }

    /// At the end of the suite: each of these effects had an attempt that died after a change with these
    /// words in it.
    ///
    /// # Panics
    /// If one had none: the suite does not go the way any more on which that is done.
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    pub fn check_died_after(&self, expected: &[(&str, &[&str])]) {
        let tally = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for (effect, changes) in expected.iter().filter(|_| self.is_complete()) {
            let deaths = tally.get(effect).map(|of| of.deaths.as_slice()).unwrap_or_default();
            for change in *changes {
                if !deaths.iter().any(|death| death.contains(change)) {
                    panic!("no attempt at {effect} died after {change:?}, only after {deaths:#?}");
                }
            }
        }
    }
}

fn order(pool: &PoolName, effect: &Effect) -> WorkOrder {
    let operation = OperationId::from_uuid(Uuid::nil());
    let key = EffectKey::Step { operation, direction: Direction::Forward, step: 0, attempt: 0 };
    let pool = PoolId { backend: BackendName::new("attempt"), pool: pool.clone() };
    let due = DueEffect { key, pool, effect: effect.clone(), not_before: Timestamp(0) };
    WorkOrder { due, operation, request: RequestId::new("req-attempt") }
}

/// What a process that dies is to attempt.
pub struct Attempt {
    /// Where.
    pub pool: PoolName,
    /// What.
    pub effect: Effect,
    changes: usize,
    last: PathBuf,
}

impl Attempt {
    /// As [`Interrupter`] says; nothing in a process that it did not start.
    pub fn from_environment() -> Option<Self> {
        let order = decode_order(&hex::decode(std::env::var(EFFECT).ok()?).ok()?).ok()?;
        Some(Self {
            pool: order.due.pool.pool,
            effect: order.due.effect,
            changes: std::env::var(CHANGES).ok()?.parse().ok()?,
            last: std::env::var_os(LAST)?.into(),
        })
    }

    /// Runs the backend's programs, and dies after one of them.
    pub fn launcher(&self, changes: Changes) -> Arc<dyn Launcher> {
        Arc::new(DyingLauncher { death: self.death(), changes })
    }

    /// Sees a directory's files change, and dies after one of the changes.
    pub fn witness(&self) -> Arc<dyn Witness> {
        Arc::new(DyingWitness(self.death()))
    }

    fn death(&self) -> Death {
        Death { left: AtomicUsize::new(self.changes), last: self.last.clone() }
    }
}

/// Dies after so many changes.
struct Death {
    left: AtomicUsize,
    last: PathBuf,
}

impl Death {
    fn comes_after(&self, change: &str) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::fs::write(&self.last, change)?;
            kill_process(getpid(), Signal::KILL)?;
        }
        Ok(())
    }
}

struct DyingLauncher {
    death: Death,
    changes: Changes,
}

#[async_trait]
impl Launcher for DyingLauncher {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let argv = program.argv().to_vec();
        let output = Spawner.launch(program).await?;
        if (self.changes)(&argv) {
            let words: Vec<String> = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            self.death
                .comes_after(&words.join(" "))
                .map_err(|source| ProcessError::Broken { program: "kill".to_owned(), source })?;
        }
        Ok(output)
    }
}

struct DyingWitness(Death);

impl Witness for DyingWitness {
    #[allow(clippy::panic, reason = "whatever is not as expected is a failure of the test")]
    fn changed(&self, what: &'static str, name: &str) {
        if let Err(error) = self.0.comes_after(&format!("{what} {name}")) {
            panic!("it cannot die: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tephra_domain::effect::BackendObject;
    use tephra_domain::ids::VolumeId;

    use super::*;

    fn delete() -> Effect {
        Effect::DeleteVolume { volume: BackendObject::Volume(VolumeId::from_uuid(Uuid::nil())) }
    }

    #[test]
    fn an_effect_is_interrupted_as_often_as_asked() {
        let tally = Tally::default();
        assert_eq!([1, 2, 3].map(|_| tally.begin(2, &delete())), [true, true, false]);
    }

    #[test]
    fn what_an_attempt_died_after_is_remembered() {
        let tally = Tally::default();
        tally.died(&delete(), vec!["lvchange --addtag a v".to_owned(), "lvremove v".to_owned()]);
        tally.check_died_after(&[("DeleteVolume", &["lvremove", "--addtag"])]);
    }

    #[test]
    #[should_panic(expected = "no attempt at DeleteVolume died after \"lvremove\"")]
    fn a_way_that_the_suite_does_not_go_is_noticed() {
        let tally = Tally::default();
        tally.died(&delete(), vec!["lvchange --addtag a v".to_owned()]);
        tally.check_died_after(&[("DeleteVolume", &["--addtag", "lvremove"])]);
    }
}
