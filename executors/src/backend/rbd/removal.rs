//! Taking away what clones may still need, and what crashes left on that way.
//!
//! An image with clones goes to the trash under its name's protection: it can be found there by its
//! id, which its clones know. Before that its id is noted in an object of the pool: an operator may put
//! a volume into the trash, too, and what is not noted is for the operator to take out. When a clone has gone, its ancestors in the trash are tried, one after
//! the other. With clones of version 2 Ceph itself removes a snapshot in the snapshots' trash when
//! its last clone goes; with version 1 we hide the snapshot under a name of ours, and remove it when
//! it can be unprotected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cluster;
use super::cli::Of;
use super::failure::Refusal;
use super::names::{self, Place, goes_with_its_volume, is_own, volume_cloned_from};
use super::report::{Image, Parent, Snapshot};

/// A chain of clones is never longer, whatever the settings were when it was made.
const MOST_ANCESTORS: usize = 64;

impl Cluster {
    /// Removes an image, or puts it into the trash for as long as clones or the operator need it.
    pub(super) async fn remove(&self, pool: &str, name: &str, image: &Image) -> Result<(), Failure> {
        if image.snapshot_count > 0 {
            self.drop_snapshots_of(pool, name).await?;
        }
        if !self.config.deferred_deletion.is_zero() {
            return self.put_into_trash(pool, name, image).await;
        }
        match self.cli.remove(pool, name).await {
            Ok(()) | Err(Refusal::Missing) => {}
            Err(Refusal::HasSnapshots) => return self.put_into_trash(pool, name, image).await,
            Err(Refusal::Busy) => {
                self.unwatched(pool, name).await?;
                match self.cli.remove(pool, name).await {
                    Ok(()) | Err(Refusal::Missing) => {}
                    Err(Refusal::HasSnapshots) => return self.put_into_trash(pool, name, image).await,
                    Err(refusal) => return Err(refusal.into_failure("rm")),
                }
            }
            Err(refusal) => return Err(refusal.into_failure("rm")),
        }
        self.release(image.parent.clone()).await;
        Ok(())
    }

    /// A removal or a creation that was killed leaves the name with nothing behind it.
    pub(super) async fn remove_remains(&self, pool: &str, name: &str) -> Result<(), Failure> {
        match self.cli.remove(pool, name).await {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(refusal.into_failure("rm")),
        }
    }

    /// The snapshots of an image that do not go with it.
    pub(super) async fn kept_snapshots(
        &self,
        pool: &str,
        name: &str,
        image: &Image,
    ) -> Result<Vec<String>, Failure> {
        if image.snapshot_count == 0 {
            return Ok(Vec::new());
        }
        let asked = self.cli.snapshots(pool, Of::Name(name)).await;
        let snapshots = asked.map_err(|refusal| refusal.into_failure("snap ls"))?.unwrap_or_default();
        let (_, kept) = sort(&snapshots);
        Ok(kept.into_iter().map(|snapshot| names::shown(name, snapshot.to_owned())).collect())
    }

    /// Where a snapshot is whose volume is none: one that was claimed from an image of others has a name
    /// of its own, but nobody but the pool says in which image. Looking through it takes long, and is
    /// never needed where the volume is there.
    pub(super) async fn with_image_of_others(
        &self,
        pool: &str,
        place: &Place,
    ) -> Result<Option<Place>, Failure> {
        let Some(snapshot) = place.snapshot.as_deref().filter(|name| names::is_claimed(name)) else {
            return Ok(None);
        };
        let image = Place { image: place.image.clone(), snapshot: None };
        if self.seen(pool, &image).await?.is_some() {
            return Ok(None);
        }
        let listed = self.cli.list(pool).await.map_err(|refusal| refusal.into_failure("ls"))?;
        let found = listed.into_iter().find(|listed| listed.snapshot.as_deref() == Some(snapshot));
        Ok(found.map(|listed| Place { image: listed.image, snapshot: listed.snapshot }))
    }

    async fn drop_snapshots_of(&self, pool: &str, name: &str) -> Result<(), Failure> {
        let asked = self.cli.snapshots(pool, Of::Name(name)).await;
        let snapshots = asked.map_err(|refusal| refusal.into_failure("snap ls"))?.unwrap_or_default();
        let (ours, kept) = sort(&snapshots);
        if !kept.is_empty() {
            let message = format!("{name} has snapshots that the ledger does not know: {}", kept.join(", "));
            return Err(Failure::new(FailureKind::Mismatch, message));
        }
        for snapshot in ours {
            self.drop_snapshot(pool, Of::Name(name), snapshot, Some(name)).await?;
        }
        Ok(())
    }

    /// Nobody who has it open is stopped by the trash, so that is looked at first. A crash after the
    /// mark leaves an image as it was, whose delete comes again, or a mark of an image that is kept,
    /// which is swept up.
    async fn put_into_trash(&self, pool: &str, name: &str, image: &Image) -> Result<(), Failure> {
        self.unwatched(pool, name).await?;
        let marked = self.cli.mark_as_trash(pool, &image.id, name).await;
        marked.map_err(|refusal| refusal.into_failure("setomapval"))?;
        match self.cli.trash_move(pool, name, self.config.deferred_deletion).await {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(refusal.into_failure("trash mv")),
        }
    }

    /// Removes a snapshot. If clones of version 1 need it, it gets a name of ours instead, where
    /// its image has a name at all.
    pub(super) async fn drop_snapshot(
        &self,
        pool: &str,
        image: Of<'_>,
        snapshot: &str,
        hide_in: Option<&str>,
    ) -> Result<(), Failure> {
        match self.cli.snap_remove(pool, image, snapshot).await {
            Ok(()) | Err(Refusal::Missing) => return Ok(()),
            // protected, most likely
            Err(Refusal::Busy) => {}
            Err(refusal) => return Err(refusal.into_failure("snap rm")),
        }
        match self.cli.snap_unprotect(pool, image, snapshot).await {
            Ok(()) => {}
            Err(Refusal::Missing) => return Ok(()),
            // it never was: somebody uses the image
            Err(Refusal::NotProtected) => return Err(Refusal::Busy.into_failure("snap rm")),
            Err(Refusal::Busy) => {
                let Some(image) = hide_in.filter(|_| !is_own(snapshot)) else { return Ok(()) };
                let told = self.cli.snap_rename(pool, image, snapshot, &names::hidden(snapshot)).await;
                return told.map_err(|refusal| refusal.into_failure("snap rename"));
            }
            Err(refusal) => return Err(refusal.into_failure("snap unprotect")),
        }
        match self.cli.snap_remove(pool, image, snapshot).await {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(refusal.into_failure("snap rm")),
        }
    }

    /// A clone has gone: what only it needed goes too. The clone's delete has succeeded whatever
    /// happens here; what is not done is left to the next sweep.
    async fn release(&self, mut parent: Option<Parent>) {
        for _ in 0..MOST_ANCESTORS {
            let Some(ancestor) = parent else { return };
            match self.try_release(&ancestor).await {
                Ok(next) => parent = next,
                Err(failure) => {
                    tracing::warn!(%failure, image = ancestor.image, "what a deleted clone needed stays for now");
                    return;
                }
            }
        }
    }

    /// The next ancestor to be tried, if this one is gone.
    async fn try_release(&self, ancestor: &Parent) -> Result<Option<Parent>, Failure> {
        if !self.config.pools.iter().any(|pool| pool.as_str() == ancestor.pool) {
            return Ok(None);
        }
        if ancestor.trash {
            let marks = self.cli.trash_marks(&ancestor.pool).await;
            if !marks.map_err(|refusal| refusal.into_failure("listomapkeys"))?.contains(&ancestor.id) {
                return Ok(None);
            }
            return self.take_out_of_trash(&ancestor.pool, &ancestor.id).await;
        }
        if is_own(&ancestor.snapshot) {
            self.drop_snapshot(&ancestor.pool, Of::Id(&ancestor.id), &ancestor.snapshot, None).await?;
        }
        Ok(None)
    }

    /// Removes an image in the trash if nothing needs it any more, and says what it was a clone of.
    async fn take_out_of_trash(&self, pool: &str, id: &str) -> Result<Option<Parent>, Failure> {
        let asked = self.cli.info(pool, Of::Id(id), None).await;
        let image = asked.map_err(|refusal| refusal.into_failure("info"))?;
        if image.as_ref().is_some_and(|image| image.snapshot_count > 0) {
            self.drop_unneeded_snapshots(pool, id).await?;
        }
        match self.cli.trash_remove(pool, id).await {
            Ok(()) | Err(Refusal::Missing) => {
                if let Err(refusal) = self.cli.unmark_as_trash(pool, id).await {
                    let failure = refusal.into_failure("rmomapkey");
                    tracing::warn!(pool, id, %failure, "the mark of what left the trash stays for now");
                }
                Ok(image.and_then(|image| image.parent))
            }
            Err(Refusal::HasSnapshots | Refusal::NotExpired | Refusal::Busy) => Ok(None),
            Err(refusal) => Err(refusal.into_failure("trash rm")),
        }
    }

    async fn drop_unneeded_snapshots(&self, pool: &str, id: &str) -> Result<(), Failure> {
        let asked = self.cli.snapshots(pool, Of::Id(id)).await;
        for snapshot in asked.map_err(|refusal| refusal.into_failure("snap ls"))?.unwrap_or_default() {
            if snapshot.is_in_trash() {
                // one that clones need refuses; one that a crash left without any goes
                match self.cli.snap_remove_by_id(pool, Of::Id(id), snapshot.id).await {
                    Ok(()) | Err(Refusal::Missing | Refusal::Busy) => {}
                    Err(refusal) => return Err(refusal.into_failure("snap rm")),
                }
            } else if goes_with_its_volume(&snapshot.name) {
                self.drop_snapshot(pool, Of::Id(id), &snapshot.name, None).await?;
            }
        }
        Ok(())
    }

    /// Removes the backend's own snapshots that nothing needs. One that a clone is to be made from is
    /// needed until the clone is there, which holds on to it then. Which of ours are at that the
    /// locks say; an executor that has been overtaken may be at it elsewhere, so one that has only
    /// just been seen is left alone, too.
    async fn sweep_snapshots(&self, pool: &str, missed: &mut Missed) {
        let began = Instant::now();
        let listed = match self.cli.list(pool).await {
            Ok(listed) => listed,
            Err(refusal) => return missed.note(pool, "snapshots", refusal.into_failure("ls")),
        };
        let own: Vec<Own> = listed
            .into_iter()
            .filter_map(|listed| Some(Own { image: listed.image, snapshot: listed.snapshot? }))
            .filter(|own| is_own(&own.snapshot))
            .collect();
        let old = self.seen.for_long(pool, &own, began, self.config.sweep_interval);
        for own in &own {
            let _alone = match volume_cloned_from(&own.snapshot) {
                None => None,
                Some(_) if !old.contains(own) => continue,
                Some(volume) => {
                    let clone = Effect::DeleteVolume { volume: BackendObject::Volume(volume) };
                    let Some(alone) = self.cloning.acquire(&clone).now_or_never() else { continue };
                    Some(alone)
                }
            };
            let dropped = self.drop_snapshot(pool, Of::Name(&own.image), &own.snapshot, None).await;
            missed.note_of(pool, &own.image, dropped);
        }
    }

    /// Takes out what we have put in. A mark without its image is forgotten once it has been seen so for
    /// long: somebody may be about to put the image in.
    async fn sweep_trash(&self, pool: &str, missed: &mut Missed) {
        let began = Instant::now();
        let marks = match self.cli.trash_marks(pool).await {
            Ok(marks) => marks,
            Err(refusal) => return missed.note(pool, "trash", refusal.into_failure("listomapkeys")),
        };
        let trash = match self.cli.trash(pool).await {
            Ok(trash) => trash,
            Err(refusal) => return missed.note(pool, "trash", refusal.into_failure("trash ls")),
        };
        for entry in trash.iter().filter(|entry| marks.contains(&entry.id)) {
            let taken = self.take_out_of_trash(pool, &entry.id).await;
            if let Some(parent) = missed.note_of(pool, &entry.name, taken) {
                self.release(parent).await;
            }
        }
        let is_in_trash = |id: &&String| trash.iter().any(|entry| entry.id == **id);
        let idle: Vec<String> = marks.iter().filter(|id| !is_in_trash(id)).cloned().collect();
        for id in self.idle_marks.for_long(pool, &idle, began, self.config.sweep_interval) {
            let unmarked = self.cli.unmark_as_trash(pool, &id).await;
            missed.note_of(pool, &id, unmarked.map_err(|refusal| refusal.into_failure("rmomapkey")));
        }
    }

    /// See [`super::RbdBackend::sweep`]. Whatever fails holds up nothing else, on no pool.
    pub(super) async fn sweep(&self) -> Result<(), Failure> {
        let mut missed = Missed::default();
        for pool in &self.config.pools {
            self.sweep_snapshots(pool.as_str(), &mut missed).await;
            self.sweep_trash(pool.as_str(), &mut missed).await;
        }
        missed.told()
    }
}

/// What a sweep could not do.
#[derive(Default)]
struct Missed {
    count: usize,
    first: Option<Failure>,
}

impl Missed {
    fn note(&mut self, pool: &str, what: &str, failure: Failure) {
        tracing::warn!(pool, what, %failure, "not swept");
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert(failure);
    }

    fn note_of<T>(&mut self, pool: &str, what: &str, swept: Result<T, Failure>) -> Option<T> {
        swept.map_err(|failure| self.note(pool, what, failure)).ok()
    }

    fn told(self) -> Result<(), Failure> {
        let Some(first) = self.first else { return Ok(()) };
        let message = format!("{} could not be swept, the first because of: {}", self.count, first.message);
        Err(Failure::new(first.kind, message))
    }
}

/// Names of snapshots that go with their volume, and of those that stand in its way. Those in the
/// snapshots' trash do neither.
fn sort(snapshots: &[Snapshot]) -> (Vec<&str>, Vec<&str>) {
    let named = snapshots.iter().filter(|snapshot| !snapshot.is_in_trash());
    named.map(|snapshot| snapshot.name.as_str()).partition(|name| goes_with_its_volume(name))
}

/// A snapshot of the backend's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Own {
    image: String,
    snapshot: String,
}

/// What of the backend's own is on each pool, and since when it has been seen.
pub(super) struct Seen<T> {
    since: Mutex<BTreeMap<String, BTreeMap<T, Instant>>>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { since: Mutex::default() }
    }
}

impl<T: Clone + Ord> Seen<T> {
    /// Those that have been there for so long. What is not there any more is forgotten.
    fn for_long(&self, pool: &str, own: &[T], now: Instant, age: Duration) -> BTreeSet<T> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let before = since.remove(pool).unwrap_or_default();
        let after = own.iter().map(|own| (own.clone(), before.get(own).copied().unwrap_or(now)));
        let after: BTreeMap<T, Instant> = after.collect();
        let old = after.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= age);
        let old = old.map(|(own, _)| own.clone()).collect();
        since.insert(pool.to_owned(), after);
        old
    }
}

/// Sweeps now and then, one sweep at a time, beside everything else.
#[derive(Default)]
pub(super) struct Sweeper {
    latest: Mutex<Option<(Instant, JoinHandle<()>)>>,
}

impl Sweeper {
    /// Begins a sweep if the latest is over, and long enough ago.
    pub fn sweep_in_time(&self, cluster: &Arc<Cluster>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = latest.as_ref().is_none_or(|(began, sweep)| {
            sweep.is_finished() && began.elapsed() >= cluster.config.sweep_interval
        });
        if !is_due {
            return;
        }
        let cluster = Arc::clone(cluster);
        let sweep = tokio::spawn(async move {
            if let Err(failure) = cluster.sweep().await {
                tracing::warn!(backend = %cluster.config.name, %failure, "not everything was swept");
            }
        });
        *latest = Some((Instant::now(), sweep));
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let latest = self.latest.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sweep)) = latest {
            sweep.abort();
        }
    }
}

#[cfg(test)]
mod tests;
