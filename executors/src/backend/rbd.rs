//! Volumes as images of a Ceph cluster: the `rbd` backend, by the command lines of `rbd`, `ceph` and `rados`.
//!
//! * Everything is done as one restricted user (`profile rbd` on the pools is enough), with a time
//!   limit on every command: a dead cluster fails one effect and stalls nothing else.
//! * [`plan`] says what an effect needs, [`cli`] has the commands, [`removal`] takes away what
//!   clones may still need, [`report`] reads what is printed, [`failure`] says what went wrong.
//! * A volume or a snapshot with clones can always be deleted: it goes to Ceph's trash, and from
//!   there when its last clone goes. What a crash left on that way is swept up later.
//! * Clones are of version 2 where the cluster lets no client in that is older than Mimic, and of
//!   version 1 otherwise, as Ceph itself decides. Deleting looks at what is there, not at that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::backend::{BackendDescription, ExportProtocol};
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use self::cli::{Cli, Of, Origin};
use self::failure::Refusal;
use self::names::Place;
pub use self::plan::CloneFormat;
use self::plan::{Observed, Step, plan};
use self::removal::{Own, Seen, Sweeper};
use self::report::{Image, capacity};
use super::{Backend, Content};
use crate::export;
use crate::locks::VolumeLocks;
use crate::process::Launcher;
use crate::runner::limits::EffectLimits;

mod cli;
mod config;
mod failure;
mod image;
mod names;
mod plan;
mod removal;
mod report;

pub use self::cli::changes;
pub use self::config::RbdConfig;

/// How often somebody who has an image open is looked for while waiting.
const WATCHER_PAUSE: Duration = Duration::from_secs(1);

/// How often an effect is planned anew because a name was taken that nothing had when it was looked at.
const MOST_PLANS: u32 = 3;

/// How often a name that has nothing behind it is looked at while waiting.
const NAME_PAUSE: Duration = Duration::from_secs(1);

/// The backend.
pub struct RbdBackend {
    config: Arc<RbdConfig>,
    cluster: Arc<Cluster>,
    sweeper: Sweeper,
    /// Hosts and ports, as the cluster last said them.
    monitors: Mutex<Vec<(String, String)>>,
    /// Pools that the cluster did not have when it was last asked.
    missing: Mutex<BTreeSet<PoolName>>,
}

/// Why a step was not done.
enum Stop {
    /// What it was to make has a name that is taken, where nothing was seen under it.
    NameTaken,
    /// It failed.
    Failed(Failure),
}

impl Stop {
    fn of(command: &str, refusal: Refusal) -> Self {
        if refusal == Refusal::Exists { Self::NameTaken } else { Self::Failed(refusal.into_failure(command)) }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What effects are performed with.
struct Cluster {
    config: Arc<RbdConfig>,
    cli: Cli,
    clone_format: OnceCell<CloneFormat>,
    /// Held by whoever makes a clone, or removes the snapshot that one was to be made from.
    cloning: VolumeLocks,
    seen: Seen<Own>,
    /// Marks of images that are not in the trash.
    idle_marks: Seen<String>,
    fsid: OnceCell<String>,
}

impl RbdBackend {
    /// Asks the cluster nothing: one that does not answer now may answer later.
    pub fn new(config: RbdConfig, launcher: Arc<dyn Launcher>) -> Self {
        let config = Arc::new(config);
        let clone_format = config.clone_format.map_or_else(OnceCell::new, OnceCell::from);
        let cli = Cli::new(Arc::clone(&config), launcher);
        let cluster = Arc::new(Cluster {
            config: Arc::clone(&config),
            cli,
            clone_format,
            cloning: VolumeLocks::default(),
            seen: Seen::default(),
            idle_marks: Seen::default(),
            fsid: OnceCell::new(),
        });
        Self {
            config,
            cluster,
            sweeper: Sweeper::default(),
            monitors: Mutex::default(),
            missing: Mutex::default(),
        }
    }

    /// The settings that it was made with.
    pub fn config(&self) -> &RbdConfig {
        &self.config
    }

    /// Removes what interrupted deletes and clones left on every pool, and what may leave the trash
    /// now. Happens by itself too, see [`RbdConfig::sweep_interval`].
    ///
    /// # Errors
    /// If anything could not be looked at or not be removed, which held up nothing else.
    pub async fn sweep(&self) -> Result<(), Failure> {
        self.cluster.sweep().await
    }

    /// How hosts reach images, which they do by themselves, besides what every backend says.
    fn capabilities(&self) -> BTreeMap<String, String> {
        let mut capabilities = super::capabilities(&self.config.name, "ceph");
        let monitors = self.monitors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (hosts, ports): (Vec<_>, Vec<_>) = monitors.into_iter().unzip();
        let facts = [
            Some(("user", self.config.user.clone())),
            self.config.cluster.clone().map(|cluster| ("cluster_name", cluster)),
            self.config.secret_uuid.clone().map(|secret| ("secret_uuid", secret)),
            (!hosts.is_empty()).then(|| ("hosts", hosts.join(","))),
            (!ports.is_empty()).then(|| ("ports", ports.join(","))),
        ];
        capabilities.extend(export::capabilities(ExportProtocol::Rbd, facts.into_iter().flatten()));
        capabilities
    }

    /// Says in the log which pools are down for that reason, when it changes.
    fn tell_missing(&self, missing: BTreeSet<PoolName>) {
        let mut known = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let backend = &self.config.name;
        for pool in missing.difference(&known) {
            tracing::warn!(%backend, %pool, "the pool is down: the cluster has no such pool");
        }
        for pool in known.difference(&missing) {
            tracing::info!(%backend, %pool, "the cluster has the pool again");
        }
        *known = missing;
    }

    fn known(&self, pool: &PoolName) -> Result<(), Failure> {
        if self.config.pools.contains(pool) {
            return Ok(());
        }
        Err(Failure::new(FailureKind::ObjectMissing, format!("{} has no pool {pool}", self.config.name)))
    }
}

impl Cluster {
    async fn perform(&self, pool: &str, effect: &Effect) -> Result<(), Failure> {
        let _cloning = if matches!(effect, Effect::CloneVolume { .. }) {
            Some(self.cloning.acquire(effect).await)
        } else {
            None
        };
        for _ in 0..MOST_PLANS {
            let observed = self.observe(pool, effect).await?;
            let format = self.format_for(effect, &observed).await?;
            let steps = plan(pool, effect, &observed, self.config.flatten_volume_from_snapshot, format)?;
            match self.act_all(pool, effect.target(), steps).await {
                Ok(()) => return Ok(()),
                Err(Stop::NameTaken) => self.settle_name(pool, &Place::of(effect.target()).image).await?,
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        let message = format!("something else is making {} all the time", effect.target());
        Err(Failure::new(FailureKind::Busy, message))
    }

    async fn act_all(&self, pool: &str, target: BackendObject, steps: Vec<Step>) -> Result<(), Stop> {
        for step in steps {
            self.act(pool, target, step).await?;
        }
        Ok(())
    }

    /// An image was to be made under a name that nothing had, and the name is taken. Either somebody
    /// else has made the image meanwhile: then there is data in it that may be a user's, and it is for
    /// a new plan to say what is to be done. Or an attempt died in the middle of making or removing it
    /// and left a name without an image, which is removed; but only after as long as a command that is
    /// making it just now could take, and right after a look.
    async fn settle_name(&self, pool: &str, name: &str) -> Result<(), Failure> {
        let longest = cli::quick_limit(&self.config);
        let began = Instant::now();
        loop {
            let looked = Instant::now();
            let asked = self.cli.info(pool, Of::Name(name), None).await;
            if asked.map_err(|refusal| refusal.into_failure("info"))?.is_some() {
                return Ok(());
            }
            // a look that is older has been overtaken while we were held still
            if began.elapsed() >= longest && looked.elapsed() < longest {
                return self.remove_remains(pool, name).await;
            }
            tokio::time::sleep(NAME_PAUSE).await;
        }
    }

    async fn observe(&self, pool: &str, effect: &Effect) -> Result<Observed, Failure> {
        let place = Place::of_target(effect);
        let mut found = self.seen(pool, &place).await?;
        let outside = match effect.outside_name() {
            // what is ours already, or not there to be given up, makes the other name meaningless
            Some(name) if found.is_some() == matches!(effect, Effect::Disown { .. }) => {
                self.seen(pool, &place.renamed(name)).await?
            }
            Some(_) | None => None,
        };
        let kept = match (effect, &outside) {
            (Effect::Adopt { object: BackendObject::TemporaryVolume { .. }, from, .. }, Some(image)) => {
                self.kept_snapshots(pool, from, image).await?
            }
            _ => Vec::new(),
        };
        let mut elsewhere = None;
        if found.is_none() && matches!(effect, Effect::DeleteSnapshot { .. }) {
            elsewhere = self.with_image_of_others(pool, &place).await?;
            if let Some(place) = &elsewhere {
                found = self.seen(pool, place).await?;
            }
        }
        let needs_source = match effect {
            Effect::CreateVolumeFromSnapshot { .. } | Effect::CloneVolume { .. } => {
                found.as_ref().is_none_or(|found| found.parent.is_some())
            }
            Effect::CreateVolume { .. }
            | Effect::CreateVolumeFromImage { .. }
            | Effect::CopyVolume { .. }
            | Effect::DeleteVolume { .. }
            | Effect::ExtendVolume { .. }
            | Effect::ShrinkVolume { .. }
            | Effect::CreateSnapshot { .. }
            | Effect::DeleteSnapshot { .. }
            | Effect::RevertToSnapshot { .. }
            | Effect::OverwriteVolume { .. }
            | Effect::Verify { .. }
            | Effect::Adopt { .. }
            | Effect::Disown { .. }
            | Effect::ExportVolume { .. }
            | Effect::UnexportVolume { .. }
            | Effect::UploadImage { .. }
            | Effect::RemoveImage { .. } => effect.source().is_some(),
        };
        let source = match effect.source().filter(|_| needs_source) {
            Some(source) => self.seen(pool, &Place::of(source)).await?,
            None => None,
        };
        let is_deep = match (effect, &source) {
            (Effect::CreateVolumeFromSnapshot { .. } | Effect::CloneVolume { .. }, Some(source)) => {
                self.is_deep(source).await?
            }
            _ => false,
        };
        Ok(Observed { target: found, source, outside, kept, elsewhere, is_deep })
    }

    async fn seen(&self, pool: &str, place: &Place) -> Result<Option<Image>, Failure> {
        let asked = self.cli.info(pool, Of::Name(&place.image), place.snapshot.as_deref()).await;
        asked.map_err(|refusal| refusal.into_failure("info"))
    }

    /// Whether an image has so many ancestors that a clone of it is one too many.
    async fn is_deep(&self, image: &Image) -> Result<bool, Failure> {
        let mut parent = image.parent.clone();
        for ancestors in 1..=self.config.max_clone_depth {
            let Some(next) = parent else { return Ok(false) };
            if ancestors == self.config.max_clone_depth {
                return Ok(true);
            }
            let asked = self.cli.info(&next.pool, Of::Id(&next.id), None).await;
            let found = asked.map_err(|refusal| refusal.into_failure("info"))?;
            parent = found.and_then(|found| found.parent);
        }
        // only a limit of 0 comes here
        Ok(true)
    }

    /// Asked for only where a clone is about to be made.
    async fn format_for(&self, effect: &Effect, observed: &Observed) -> Result<CloneFormat, Failure> {
        let clones = matches!(effect, Effect::CreateVolumeFromSnapshot { .. } | Effect::CloneVolume { .. });
        if !clones || observed.target.is_some() || observed.source.is_none() {
            return Ok(CloneFormat::V2);
        }
        let asked = self.clone_format.get_or_try_init(|| self.cli.clone_format()).await;
        asked.copied().map_err(|refusal| refusal.into_failure("osd get-require-min-compat-client"))
    }

    async fn act(&self, pool: &str, target: BackendObject, step: Step) -> Result<(), Stop> {
        let name = Place::of(target).image;
        let cli = &self.cli;
        let acted = match step {
            Step::Create { bytes } => {
                return cli.create(pool, &name, bytes).await.map_err(|refusal| Stop::of("create", refusal));
            }
            Step::Clone { from } => {
                let origin = Origin { pool, image: &from.image, snapshot: from.name() };
                let told = self.clone_from(origin, pool, &name).await;
                return told.map_err(|refusal| Stop::of("clone", refusal));
            }
            Step::CloneImage { from } => {
                let told = self.clone_from(from.origin(), pool, &name).await;
                return told.map_err(|refusal| Stop::of("clone", refusal));
            }
            Step::Snapshot { at } => match cli.snap_create(pool, &at.image, at.name()).await {
                Ok(()) | Err(Refusal::Exists) => Ok(()),
                Err(Refusal::Missing) => {
                    Err(Failure::new(FailureKind::ObjectMissing, format!("{} does not exist", at.image)))
                }
                Err(refusal) => Err(refusal.into_failure("snap create")),
            },
            Step::Protect { at } => match cli.snap_protect(pool, &at.image, at.name()).await {
                // that is what it says of one that is protected
                Ok(()) | Err(Refusal::Busy) => Ok(()),
                Err(refusal) => Err(refusal.into_failure("snap protect")),
            },
            Step::Grow { bytes } => {
                cli.resize(pool, &name, bytes, false).await.map_err(|refusal| refusal.into_failure("resize"))
            }
            Step::Shrink { bytes } => self.shrink(pool, &name, bytes).await,
            Step::Flatten => match cli.flatten(pool, &name).await {
                Ok(()) => Ok(()),
                Err(refusal) => Err(refusal.into_failure("flatten")),
            },
            Step::DropSnapshot { at } => {
                self.drop_snapshot(pool, Of::Name(&at.image), at.name(), Some(&at.image)).await
            }
            Step::Remove { image } => self.remove(pool, &name, &image).await,
            Step::RemoveRemains => self.remove_remains(pool, &name).await,
            Step::Rollback { to } => {
                self.unwatched(pool, &name).await?;
                cli.snap_rollback(pool, &name, to.name())
                    .await
                    .map_err(|refusal| refusal.into_failure("snap rollback"))
            }
            Step::CopyOver { from } => {
                self.unwatched(pool, &name).await?;
                let source = (from.image.as_str(), from.snapshot.as_deref());
                cli.copy_over(pool, source, &name).await.map_err(|refusal| refusal.into_failure("convert"))
            }
            Step::Rename { from, to } => self.rename(pool, &from, &to).await,
        };
        Ok(acted?)
    }

    async fn clone_from(&self, from: Origin<'_>, pool: &str, name: &str) -> Result<(), Refusal> {
        let format = self.clone_format.get().copied().unwrap_or(CloneFormat::V2);
        self.cli.clone(from, pool, name, format).await
    }

    /// What is cut off must be zeroes. Data that was written and zeroed again counts as data: only
    /// looking at every byte could tell.
    async fn shrink(&self, pool: &str, name: &str, bytes: u64) -> Result<(), Failure> {
        let beyond = self.cli.has_data_beyond(pool, name, bytes).await;
        if beyond.map_err(|refusal| refusal.into_failure("diff"))? {
            let message = format!("{name} has data beyond {bytes} bytes, which shrinking would cut off");
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        let told = self.cli.resize(pool, name, bytes, true).await;
        told.map_err(|refusal| refusal.into_failure("resize"))
    }

    async fn rename(&self, pool: &str, from: &Place, to: &Place) -> Result<(), Failure> {
        match (&from.snapshot, &to.snapshot) {
            (Some(old), Some(new)) => {
                let told = self.cli.snap_rename(pool, &from.image, old, new).await;
                told.map_err(|refusal| refusal.into_failure("snap rename"))
            }
            _ => {
                self.unwatched(pool, &from.image).await?;
                let told = self.cli.rename(pool, &from.image, &to.image).await;
                told.map_err(|refusal| refusal.into_failure("rename"))
            }
        }
    }

    /// Waits until nobody has the image open, within bounds.
    async fn unwatched(&self, pool: &str, name: &str) -> Result<(), Failure> {
        let waiting = Instant::now();
        loop {
            let watchers = match self.cli.watchers(pool, name).await {
                Ok(watchers) => watchers,
                Err(Refusal::Missing) => return Ok(()),
                Err(refusal) => return Err(refusal.into_failure("status")),
            };
            if watchers.is_empty() {
                return Ok(());
            }
            if waiting.elapsed() >= self.config.watcher_wait {
                let message = format!("{name} is in use by {}", watchers.join(", "));
                return Err(Failure::new(FailureKind::Busy, message));
            }
            tokio::time::sleep(WATCHER_PAUSE.min(self.config.watcher_wait)).await;
        }
    }

    /// Writes to a full pool are never answered: looks whether that is why, and says so.
    async fn explained(&self, pool: &PoolName, failure: Failure) -> Failure {
        if failure.kind != FailureKind::TimedOut {
            return failure;
        }
        let details = self.cli.pool_details().await.unwrap_or_default();
        let full = details.iter().find(|detail| detail.pool_name == pool.as_str()).and_then(|it| it.full());
        match full {
            Some(full) => Failure::new(FailureKind::NoSpace, format!("the pool {pool} {full}")),
            None => failure,
        }
    }
}

#[async_trait]
impl Backend for RbdBackend {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        BackendDescription {
            host: self.config.host.as_str().into(),
            driver: "rbd".into(),
            availability_zone: self.config.availability_zone.clone(),
            pools: self.config.pools.clone(),
            native_revert: self.config.native_revert,
            capabilities: self.capabilities(),
        }
    }

    /// The ledger knows what it has provisioned; asking every image for its size would take
    /// longer on a large pool than the figures are good for.
    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let asked = self.cluster.cli.usage().await;
        let (usage, details, monitors) = asked.map_err(|refusal| refusal.into_failure("df"))?;
        if let Some(monitors) = monitors {
            *self.monitors.lock().unwrap_or_else(PoisonError::into_inner) = monitors.addresses();
        }
        if usage.stats.total_bytes == 0 {
            let message = "the cluster does not know its size: is there a ceph-mgr, and an OSD?";
            return Err(Failure::new(FailureKind::BackendUnavailable, message));
        }
        let mut pools = Vec::new();
        let mut missing = BTreeSet::new();
        for pool in &self.config.pools {
            let figures = usage.pools.iter().find(|usage| usage.name == pool.as_str());
            let detail = details.iter().find(|detail| detail.pool_name == pool.as_str());
            let capacity = figures.zip(detail).map(|(figures, detail)| capacity(figures.stats, detail));
            if capacity.is_none() {
                missing.insert(pool.clone());
            }
            pools.push(PoolStats {
                pool: super::pool_id(&self.config.name, pool),
                is_up: capacity.is_some(),
                total_gib: gib(capacity.map_or(0, |capacity| capacity.total)),
                free_gib: gib(capacity.map_or(0, |capacity| capacity.free)),
                provisioned_gib: 0.0,
                max_over_subscription_ratio: self.config.max_over_subscription_ratio,
                reserved_percentage: self.config.reserved_percentage,
                thin: true,
                capabilities: super::capabilities(&self.config.name, "ceph"),
                reported_at: now,
            });
        }
        self.tell_missing(missing);
        if pools.iter().all(|pool| !pool.is_up) {
            let message = "the cluster has none of the backend's pools";
            return Err(Failure::new(FailureKind::BackendUnavailable, message));
        }
        self.sweeper.sweep_in_time(&self.cluster);
        Ok(pools)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn limits(&self) -> EffectLimits {
        self.config.limits()
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        self.known(pool)?;
        match self.cluster.perform(pool.as_str(), effect).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.cluster.explained(pool, failure).await),
        }
    }

    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        self.known(pool)?;
        let place = Place::of(object);
        if self.cluster.seen(pool.as_str(), &place).await?.is_none() {
            return Err(Failure::new(FailureKind::ObjectMissing, format!("{object} is not there")));
        }
        let snapshot = place.snapshot.as_deref();
        let location = self.cluster.cli.qemu_name(pool.as_str(), &place.image, snapshot);
        Ok(Content { location: location.into() })
    }

    async fn clone_image(
        &self,
        pool: &PoolName,
        volume: BackendObject,
        size: SizeGib,
        locations: &[String],
    ) -> Result<bool, Failure> {
        self.known(pool)?;
        match self.cluster.clone_image(pool.as_str(), volume, size, locations).await {
            Ok(is_clone) => Ok(is_clone),
            Err(failure) => Err(self.cluster.explained(pool, failure).await),
        }
    }

    fn new_volumes_hold_zeroes(&self) -> bool {
        true
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        self.known(pool)?;
        let listed = self.cluster.cli.list(pool.as_str()).await;
        let listed = listed.map_err(|refusal| refusal.into_failure("ls"))?;
        let ours = listed.into_iter().filter(|it| !it.snapshot.as_deref().is_some_and(names::is_own));
        let found = ours.map(|it| {
            let in_use = it.lock_type.is_some();
            let (name, kind) = match it.snapshot {
                Some(snapshot) => {
                    let name = names::shown(&it.image, snapshot);
                    (name, FoundKind::Snapshot { of: Some(it.image.into()) })
                }
                None => (it.image, FoundKind::Volume),
            };
            FoundObject { name: name.into(), kind, bytes: it.size, in_use }
        });
        Ok(found.collect())
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a figure for the scheduler; pools are below 2^53 KiB"
)]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests;
