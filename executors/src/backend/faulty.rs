//! Any backend, failing by script. For tests only: nothing in the product makes one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{BackendObject, Effect, Failure};
use tephra_domain::ids::{BackendName, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tokio::sync::Notify;

use super::{Backend, Content};
use crate::export::Exporter;
use crate::runner::limits::EffectLimits;

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Before the backend acts: nothing is done (unless the fault only delays).
    Before,
    /// After it acted: everything is done, but the caller hears something else.
    After,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The backend says no.
    Fail(Failure),
    /// It never answers, as if the host had died.
    Crash,
    /// The code panics.
    Panic,
    /// It takes this long.
    Delay(Duration),
    /// It waits until the test lets it go on.
    Gate(Arc<Notify>),
}

/// One line of the script.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Only effects of this name ([`Effect::name`]); nothing for all.
    pub effect: Option<&'static str>,
    /// Before or after acting.
    pub strikes: Strikes,
    /// What goes wrong.
    pub fault: Fault,
    /// Skips this many matching calls first.
    pub skip: u32,
    /// Strikes this many times, then no more.
    pub times: u32,
}

impl Rule {
    /// A fault that strikes once, at the next effect of this name.
    pub const fn once(effect: &'static str, strikes: Strikes, fault: Fault) -> Self {
        Self { effect: Some(effect), strikes, fault, skip: 0, times: 1 }
    }

    /// A fault that strikes every effect of this name.
    pub const fn always(effect: &'static str, strikes: Strikes, fault: Fault) -> Self {
        Self { effect: Some(effect), strikes, fault, skip: 0, times: u32::MAX }
    }

    fn strikes_now(&mut self, effect: &Effect, strikes: Strikes) -> bool {
        if self.strikes != strikes || self.effect.is_some_and(|name| name != effect.name()) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times == 0 {
            return false;
        }
        if self.times != u32::MAX {
            self.times -= 1;
        }
        true
    }
}

/// A backend with a script of faults around it.
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    script: Mutex<Vec<Rule>>,
    stats_failure: Mutex<Option<Failure>>,
    calls: Mutex<Vec<Effect>>,
    limits: Mutex<Option<EffectLimits>>,
    is_shared: AtomicBool,
}

impl FaultyBackend {
    /// Passes everything through until a fault is injected.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            script: Mutex::default(),
            stats_failure: Mutex::default(),
            calls: Mutex::default(),
            limits: Mutex::default(),
            is_shared: AtomicBool::default(),
        }
    }

    /// Adds a line to the script. The first line that matches a call strikes.
    pub fn inject(&self, rule: Rule) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// No more faults.
    pub fn heal(&self) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.fail_stats(None);
    }

    /// From now on the backend shows neither figures nor objects, for this reason; or it does again.
    pub fn fail_stats(&self, failure: Option<Failure>) {
        *self.stats_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// A runner that starts from now on gives effects so much time.
    pub fn limit(&self, limits: EffectLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
    }

    /// From now on executors on other hosts reach its storage, too.
    pub fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// Every effect that was asked for, in order, whatever became of it.
    pub fn calls(&self) -> Vec<Effect> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self, effect: &Effect, strikes: Strikes) -> Option<Fault> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.iter_mut().find_map(|rule| rule.strikes_now(effect, strikes).then(|| rule.fault.clone()))
    }

    #[allow(clippy::panic, reason = "a panicking backend is one of the faults that tests ask for")]
    async fn strike(&self, effect: &Effect, strikes: Strikes) -> Result<(), Failure> {
        match self.fault(effect, strikes) {
            None => Ok(()),
            Some(Fault::Fail(failure)) => Err(failure),
            Some(Fault::Crash) => std::future::pending().await,
            Some(Fault::Panic) => panic!("the script says that {} panics", effect.name()),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Some(Fault::Gate(gate)) => {
                gate.notified().await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Backend for FaultyBackend {
    fn name(&self) -> &BackendName {
        self.inner.name()
    }

    fn description(&self) -> BackendDescription {
        self.inner.description()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let failure = self.stats_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match failure {
            Some(failure) => Err(failure),
            None => self.inner.stats(now).await,
        }
    }

    fn is_taken_over(&self) -> bool {
        self.inner.is_taken_over()
    }

    fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed) || self.inner.is_shared()
    }

    fn limits(&self) -> EffectLimits {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        limits.unwrap_or_else(|| self.inner.limits())
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(effect.clone());
        self.strike(effect, Strikes::Before).await?;
        self.inner.perform(pool, effect).await?;
        self.strike(effect, Strikes::After).await
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        self.inner.new_volumes_hold_zeroes()
    }

    async fn zero_beyond(&self, pool: &PoolName, volume: BackendObject, bytes: u64) -> Result<(), Failure> {
        self.inner.zero_beyond(pool, volume, bytes).await
    }

    async fn clone_image(
        &self,
        pool: &PoolName,
        volume: BackendObject,
        size: SizeGib,
        locations: &[String],
    ) -> Result<bool, Failure> {
        self.inner.clone_image(pool, volume, size, locations).await
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        let failure = self.stats_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match failure {
            Some(failure) => Err(failure),
            None => self.inner.list(pool).await,
        }
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        self.inner.content(pool, object).await
    }

    fn exporter(&self) -> Option<Arc<dyn Exporter>> {
        self.inner.exporter()
    }
}
