//! Logical volumes of lvm2, thick or thin: the `lvm` backend.
//!
//! One volume group, of one host, is one pool. Objects are named as Cinder names them, so a group of
//! Cinder's can be taken over as it is. The group may hold what is none of ours; that is left alone.
//!
//! Rooms:
//! * [`plan`]: which commands make an effect hold, from what is there. Pure.
//! * [`step`]: those commands, word for word.
//! * [`report`]: what `lvs`, `vgs` and `pvs` say. [`failure`]: what a failed command means.
//! * [`name`]: names and tags. [`extents`]: where in the group something lies.
//! * [`open`]: finding the group, and finding or making the thin pool.
//!
//! Data is never touched by this process itself: reading a suspended device cannot be interrupted,
//! so whatever touches one is a program that can be left behind at its time limit.

mod extents;
mod failure;
mod name;
mod open;
mod plan;
mod report;
mod step;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tephra_domain::backend::{BackendDescription, ExportProtocol};
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolName, ZoneName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::Timestamp;

use self::extents::Segment;
use self::plan::{Observed, Settings};
use self::report::{Lv, Vg};
use self::step::{Commands, Plan, Step, Then};
use super::{Backend, Content};
use crate::export;
use crate::process::{Launcher, Program};
use crate::runner::limits::EffectLimits;

pub use self::open::OpenError;

/// Between two looks at a merge that the kernel is at, or at a device that somebody has open.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often a plan may end with "look again": a revert that meets the leavings of two others
/// needs seven.
const MOST_LOOKS: usize = 16;

/// More commands of lvm2 than any effect needs beside those that touch data, with all that it may have
/// to finish first for attempts that were killed.
const MOST_COMMANDS: u32 = 32;

/// How often an effect may touch all data of a volume: it finishes a merge, clears what one has
/// left, copies, zeroes what is beyond, flushes, and clears the snapshot that was copied from.
const MOST_PASSES: u32 = 6;

/// How new volumes get their space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provisioning {
    /// All of it at once.
    Thick,
    /// From a thin pool, as they are written.
    Thin,
    /// Thin where the pool is there already or the volume group is empty, thick otherwise.
    Auto,
}

/// What happens to the data of thick volumes and snapshots that are deleted. Thin pools give space
/// out as zeroes anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// Nothing: who gets the space next can read it.
    None,
    /// It is overwritten with zeroes.
    Zero {
        /// Only so much at the beginning, in MiB; nothing for all of it.
        limit_mib: Option<u64>,
    },
    /// The disks are told that it is not needed. What they return for it afterwards is theirs.
    Discard,
}

/// A volume group as a backend.
#[derive(Clone, Debug)]
pub struct LvmConfig {
    /// Unique in the deployment.
    pub name: BackendName,
    /// The host part of Cinder's `host@backend#pool`.
    pub host: String,
    /// The volume group.
    pub volume_group: String,
    /// Thick or thin.
    pub provisioning: Provisioning,
    /// The thin pool's name (Cinder's default: `<volume group>-pool`).
    pub thin_pool: String,
    /// What happens to the data of what is deleted.
    pub volume_clear: Clear,
    /// The zone that its volumes are in.
    pub availability_zone: ZoneName,
    /// Its only pool, in the sense of the ledger; mostly named as the backend, as Cinder does.
    pub pool: PoolName,
    /// How much more than the thin pool's size may be provisioned (Cinder's default: 20).
    pub max_over_subscription_ratio: f64,
    /// Per cent of the capacity that are never given away.
    pub reserved_percentage: u8,
    /// How long one command of lvm2 may take.
    pub command_time_limit: Duration,
    /// How long copying, clearing and merging one volume may take.
    pub copy_time_limit: Duration,
    /// How long a device may be open before that counts as use: udev looks into every one that is new
    /// or was written, which takes seconds on a busy host.
    pub busy_patience: Duration,
    /// Where the lock is that keeps two executors from serving one group.
    pub lock_directory: PathBuf,
}

impl LvmConfig {
    /// A volume group with every setting at its default: pool named as the backend, zone `nova`,
    /// thick or thin by what is there, deleted volumes zeroed whole.
    pub fn new(name: BackendName, host: impl Into<String>, volume_group: impl Into<String>) -> Self {
        let volume_group = volume_group.into();
        Self {
            pool: PoolName::new(name.as_str()),
            name,
            host: host.into(),
            provisioning: Provisioning::Auto,
            thin_pool: format!("{volume_group}-pool"),
            volume_group,
            volume_clear: Clear::Zero { limit_mib: None },
            availability_zone: ZoneName::new("nova"),
            max_over_subscription_ratio: 20.0,
            reserved_percentage: 0,
            command_time_limit: Duration::from_secs(120),
            copy_time_limit: Duration::from_secs(24 * 60 * 60),
            busy_patience: Duration::from_secs(10),
            lock_directory: PathBuf::from("/run/lock"),
        }
    }

    /// Every command has a time limit of its own, at which its effect fails. An effect may take as
    /// long as all of its commands together: ended before, it would go on behind everybody's back,
    /// and the next attempt would meet its locks. Of any kind: there may be a merge to be waited for.
    pub fn limits(&self) -> EffectLimits {
        let commands = self.command_time_limit.saturating_mul(MOST_COMMANDS);
        let all = self.copy_time_limit.saturating_mul(MOST_PASSES).saturating_add(commands);
        EffectLimits { metadata: all, resize: all, remove: all, copy: all, ..EffectLimits::default() }
    }
}

/// The backend.
pub struct LvmBackend {
    config: LvmConfig,
    settings: Settings,
    launcher: Arc<dyn Launcher>,
    /// Held as long as the group is served.
    _lock: File,
}

/// Whether one of the backend's commands changes anything, for tests that die between them.
pub fn changes(argv: &[OsString]) -> bool {
    !argv.first().is_some_and(|program| ["lvs", "vgs", "pvs", "cmp"].iter().any(|looks| program == looks))
}

impl LvmBackend {
    /// Looks for the volume group, finds or makes the thin pool, and takes the lock.
    ///
    /// # Errors
    /// If another process serves the group, or it cannot be used.
    pub async fn open(config: LvmConfig, launcher: Arc<dyn Launcher>) -> Result<Self, OpenError> {
        open::open(config, launcher).await
    }

    /// The settings that it was opened with.
    pub const fn config(&self) -> &LvmConfig {
        &self.config
    }

    /// Whether new volumes are thin.
    pub const fn is_thin(&self) -> bool {
        self.settings.thin_pool.is_some()
    }

    /// The block device of an object. A thin snapshot has none until somebody asks for its
    /// [`Backend::content`].
    pub fn device(&self, object: BackendObject) -> PathBuf {
        name::device(&self.config.volume_group, &name::of(object))
    }

    async fn run(&self, program: Program) -> Result<Vec<u8>, Failure> {
        let output = self.launcher.launch(program).await.map_err(|error| failure::of(&error))?;
        Ok(output.stdout)
    }

    /// Everything in the group, or what a selection (lvmreport(7)) lets through.
    async fn lvs(&self, selection: Option<String>) -> Result<Vec<Lv>, Failure> {
        let program = self.report("lvs").arg("-a").args(["-o", report::LV_COLUMNS]);
        let program = match selection {
            Some(selection) => program.args(["-S".to_owned(), selection]),
            None => program,
        };
        report::lvs(&self.run(program.arg(&self.config.volume_group)).await?)
    }

    async fn vg(&self) -> Result<Vg, Failure> {
        let program = self.report("vgs").args(["-o", report::VG_COLUMNS]).arg(&self.config.volume_group);
        let vg = report::vgs(&self.run(program).await?)?;
        let group = &self.config.volume_group;
        let unavailable = |what: &str| {
            Err(Failure::new(FailureKind::BackendUnavailable, format!("the volume group {group} {what}")))
        };
        match vg {
            None => unavailable("is not there"),
            Some(vg) if vg.is_exported => unavailable("was exported: vgimport brings it back"),
            Some(vg) if vg.is_partial => unavailable("is missing some of its disks"),
            Some(vg) => Ok(vg),
        }
    }

    /// Where everything in the group lies.
    async fn segments(&self) -> Result<Vec<Segment>, Failure> {
        let group = format!("vg_name=\"{}\"", self.config.volume_group);
        let program = self.report("pvs").args(["--segments", "-o", report::SEGMENT_COLUMNS, "-S", &group]);
        report::segments(&self.run(program).await?)
    }

    fn report(&self, command: &str) -> Program {
        Program::new(command, self.config.command_time_limit).stopped_gently().args([
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--binary",
        ])
    }

    async fn observe(&self, effect: &Effect) -> Result<Observed, Failure> {
        let named = |lvs: &[String]| {
            let each: Vec<String> = lvs.iter().map(|lv| format!("lv_name=\"{lv}\"")).collect();
            each.join(" || ")
        };
        let lvs = plan::involved(effect, &self.settings);
        let mut observed = Observed { lvs: self.lvs(Some(named(&lvs))).await?, ..Observed::default() };
        if let Some(lv) = plan::also_involved(effect, &observed) {
            observed.lvs.extend(self.lvs(Some(named(&[lv]))).await?);
        }
        if plan::needs_segments(effect, &observed, &self.settings) {
            observed.segments = self.segments().await?;
        }
        Ok(observed)
    }

    async fn bring_about(&self, effect: &Effect) -> Result<(), Failure> {
        let began = Instant::now();
        let mut looks = 0;
        let mut is_half_deleted = false;
        loop {
            let observed = self.observe(effect).await?;
            is_half_deleted |= plan::is_half_deleted(effect, &observed);
            let is_open = observed.lvs.iter().any(|lv| lv.is_open && !lv.is_thin_pool());
            let Plan { steps, mut then } = match plan::plan(effect, &observed, &self.settings) {
                // half deleted is not busy to the ledger, but as open as others while udev looks at it
                Err(open)
                    if matches!(open.kind, FailureKind::Busy | FailureKind::BackendError)
                        && is_open
                        && began.elapsed() < self.config.busy_patience =>
                {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Err(failure) if is_half_deleted => return Err(not_as_it_was(failure)),
                planned => planned?,
            };
            for step in &steps {
                is_half_deleted |= plan::begins_to_delete(effect, step);
                let taken = self.take(step).await;
                if taken.as_ref().is_err_and(|failure| wants_what_others_took(step, failure)) {
                    then = Then::LookAgain;
                    break;
                }
                match taken {
                    Err(failure) if is_half_deleted => return Err(not_as_it_was(failure)),
                    taken => taken?,
                }
                is_half_deleted |= plan::deletes(effect, step);
            }
            match then {
                Then::Done => return Ok(()),
                Then::LookAgain if looks < MOST_LOOKS => looks += 1,
                Then::LookAgain => {
                    let message = format!("{} never settles", effect.target());
                    return Err(Failure::new(FailureKind::BackendError, message));
                }
                Then::Wait if began.elapsed() < self.config.copy_time_limit => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Then::Wait => {
                    let message = format!("the merge into {} does not end", effect.target());
                    return Err(Failure::new(FailureKind::TimedOut, message));
                }
            }
        }
    }

    async fn take(&self, step: &Step) -> Result<(), Failure> {
        let mut taken = Ok(());
        for program in (Commands { config: &self.config }).of(step) {
            match self.run(program).await {
                Ok(_) => {}
                // the device comes back whether or not the volume could grow
                Err(failure) if matches!(step, Step::ExtendInactive { .. }) => {
                    taken = taken.and(Err(failure))
                }
                Err(failure) => return Err(explained(step, failure)),
            }
        }
        taken
    }

    fn has(&self, pool: &PoolName) -> Result<(), Failure> {
        if *pool == self.config.pool {
            return Ok(());
        }
        Err(Failure::new(FailureKind::ObjectMissing, format!("{} has no pool {pool}", self.config.name)))
    }

    fn capabilities(&self) -> BTreeMap<String, String> {
        let mut capabilities = super::capabilities(&self.config.name, "iSCSI");
        let word = |yes: bool| if yes { "True" } else { "False" }.to_owned();
        capabilities.insert("thin_provisioning_support".to_owned(), word(self.is_thin()));
        capabilities.insert("thick_provisioning_support".to_owned(), word(!self.is_thin()));
        capabilities
    }

    /// Without an exporter before it, processes of this host alone reach the devices.
    fn how_to_reach(&self) -> impl Iterator<Item = (String, String)> {
        let devices = format!("/dev/{}", self.config.volume_group);
        export::capabilities(ExportProtocol::Local, [("directory", devices)])
    }
}

/// Whether a step needs extents that were free when it was planned: without them there is another way.
fn wants_what_others_took(step: &Step, failure: &Failure) -> bool {
    let (Step::SnapshotAgain { on, .. } | Step::Hold { on, .. }) = step else { return false };
    !on.is_empty() && failure.kind == FailureKind::NoSpace
}

/// A failure of a delete that cannot be taken back: busy would mean that all is as it was.
fn not_as_it_was(failure: Failure) -> Failure {
    if !failure.kind.leaves_object_untouched() {
        return failure;
    }
    let message = format!("{}, although its data is gone in part", failure.message);
    Failure::new(FailureKind::BackendError, message)
}

/// A failure in the words of the effect, where the command knows less.
fn explained(step: &Step, failure: Failure) -> Failure {
    if let Step::RequireZeroes { lv, from, .. } = step
        && &*failure.message == "cmp failed with exit code 1"
    {
        let message = format!("{lv} holds data beyond {from} bytes; nothing was cut off");
        return Failure::new(FailureKind::Mismatch, message);
    }
    if let Step::SnapshotAgain { lv, of, .. } = step
        && failure.kind == FailureKind::NoSpace
    {
        let message = format!(
            "{of} has been reverted to {lv}, for which there is no room any more, and until it is taken \
             again {of} can only be deleted: {}",
            failure.message
        );
        return Failure::new(FailureKind::NoSpace, message);
    }
    if let Step::Clear { lv, .. } = step
        && failure.kind == FailureKind::Unsupported
    {
        let message = format!("the disks under {lv} cannot discard: set volume_clear to zero or none");
        return Failure::new(FailureKind::Unsupported, message);
    }
    failure
}

#[allow(clippy::cast_precision_loss, reason = "a figure for the scheduler; volume groups are below 2^53 KiB")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[async_trait]
impl Backend for LvmBackend {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        BackendDescription {
            host: self.config.host.as_str().into(),
            driver: "lvm".into(),
            availability_zone: self.config.availability_zone.clone(),
            pools: vec![self.config.pool.clone()],
            native_revert: true,
            capabilities: self.capabilities().into_iter().chain(self.how_to_reach()).collect(),
        }
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let vg = self.vg().await?;
        let lvs = self.lvs(None).await?;
        let is_in_pool = |lv: &&Lv| !self.is_thin() || lv.pool == self.settings.thin_pool;
        let is_volume = |lv: &&Lv| !lv.is_part && lv.name.starts_with("volume-");
        let provisioned: u64 = lvs.iter().filter(is_volume).filter(is_in_pool).map(|lv| lv.bytes).sum();
        let (total, free) = match &self.settings.thin_pool {
            None => (gib(vg.bytes), gib(vg.free_bytes)),
            Some(pool) => {
                let Some(pool) = lvs.iter().find(|lv| lv.name == *pool) else {
                    let message = format!("the thin pool {pool} is gone");
                    return Err(Failure::new(FailureKind::BackendUnavailable, message));
                };
                // without room for metadata there is no room for data either
                let is_full = pool.metadata_percent.is_some_and(|percent| percent >= 100.0);
                let used = if is_full { 100.0 } else { pool.data_percent.unwrap_or(0.0) };
                (gib(pool.bytes), gib(pool.bytes) * (100.0 - used).max(0.0) / 100.0)
            }
        };
        Ok(vec![PoolStats {
            pool: super::pool_id(&self.config.name, &self.config.pool),
            is_up: true,
            total_gib: total,
            free_gib: free,
            provisioned_gib: gib(provisioned),
            max_over_subscription_ratio: self.config.max_over_subscription_ratio,
            reserved_percentage: self.config.reserved_percentage,
            thin: self.is_thin(),
            capabilities: self.capabilities(),
            reported_at: now,
        }])
    }

    fn limits(&self) -> EffectLimits {
        self.config.limits()
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        self.has(pool)?;
        self.bring_about(effect).await
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        self.has(pool)?;
        let lvs = self.lvs(Some(format!("lv_name=\"{}\"", name::of(object)))).await?;
        for step in plan::readable(object, &Observed { lvs, ..Observed::default() })? {
            self.take(&step).await?;
        }
        Ok(Content { location: self.device(object).into() })
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        self.is_thin()
    }

    async fn zero_beyond(&self, pool: &PoolName, volume: BackendObject, bytes: u64) -> Result<(), Failure> {
        self.has(pool)?;
        let lvs = self.lvs(Some(format!("lv_name=\"{}\"", name::of(volume)))).await?;
        for step in plan::zeroed_beyond(volume, bytes, &Observed { lvs, ..Observed::default() })? {
            self.take(&step).await?;
        }
        Ok(())
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        self.has(pool)?;
        self.vg().await?;
        let lvs = self.lvs(None).await?;
        Ok(lvs.iter().filter(|lv| is_listed(lv)).map(found).collect())
    }
}

/// Whether it is somebody's data: no pool, no hidden part of one, nothing unfinished.
fn is_listed(lv: &Lv) -> bool {
    !lv.is_part && !name::is_passing(&lv.name) && !lv.has_tag(name::INCOMPLETE)
}

fn found(lv: &Lv) -> FoundObject {
    let name = name::unescaped(&lv.name);
    let is_snapshot = lv.is_thick_snapshot() || lv.is_thin() && lv.attributes.ends_with('k');
    let kind = if is_snapshot {
        FoundKind::Snapshot { of: lv.origin.as_deref().map(|origin| name::unescaped(origin).into()) }
    } else {
        FoundKind::Volume
    };
    FoundObject { name: name.into(), kind, bytes: lv.shown_bytes(), in_use: lv.is_open }
}

#[cfg(test)]
mod tests;
