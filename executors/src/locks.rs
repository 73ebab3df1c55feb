//! Per-volume locks on this host.
//!
//! An effect changes one object and may read another. It holds its target's volume alone and its
//! source's volume beside other readers, so two effects never change one volume at once and nobody
//! copies from what is being changed. Locks are taken in the order of the volumes' ids: two effects
//! that need the same two volumes cannot wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tephra_domain::effect::Effect;
use tephra_domain::ids::VolumeId;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type VolumeLock = RwLock<()>;

/// The locks of all volumes that are in use on this host. Cheap to clone; all clones are one set.
#[derive(Clone, Default)]
pub struct VolumeLocks {
    volumes: Arc<Mutex<BTreeMap<VolumeId, Arc<VolumeLock>>>>,
}

/// How an effect holds a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Beside other readers.
    Shared,
    /// Alone.
    Alone,
}

/// What an effect must hold, in the order in which to take it.
pub fn needed(effect: &Effect) -> BTreeMap<VolumeId, Hold> {
    let mut holds = BTreeMap::new();
    if let Some(source) = effect.source() {
        holds.insert(source.volume(), Hold::Shared);
    }
    holds.insert(effect.target().volume(), Hold::Alone);
    holds
}

enum Held {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// Holds volumes until it is dropped.
#[must_use = "the volumes are free again when this is dropped"]
pub struct VolumeGuard {
    locks: VolumeLocks,
    held: Vec<(VolumeId, Option<Held>)>,
}

impl VolumeLocks {
    /// Waits until everything that the effect needs is free, and holds it.
    ///
    /// Who waits longest is served first. Dropping the future gives up what it holds already.
    pub async fn acquire(&self, effect: &Effect) -> VolumeGuard {
        let mut guard = VolumeGuard { locks: self.clone(), held: Vec::new() };
        for (volume, hold) in needed(effect) {
            guard.held.push((volume, None));
            let lock = self.lock_of(volume);
            let held = match hold {
                Hold::Shared => Held::Shared(lock.read_owned().await),
                Hold::Alone => Held::Alone(lock.write_owned().await),
            };
            if let Some(last) = guard.held.last_mut() {
                last.1 = Some(held);
            }
        }
        guard
    }

    /// Number of volumes that somebody holds or waits for.
    pub fn len(&self) -> usize {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody holds or waits for anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock_of(&self, volume: VolumeId) -> Arc<VolumeLock> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(volumes.entry(volume).or_default())
    }

    /// Forgets a volume that nobody else holds or waits for. Everybody who does has a clone of the
    /// lock, and clones are only made under the mutex, so the count cannot grow meanwhile.
    fn forget_if_idle(&self, volume: VolumeId) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if volumes.get(&volume).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            volumes.remove(&volume);
        }
    }
}

impl Drop for VolumeGuard {
    fn drop(&mut self) {
        for (volume, held) in self.held.drain(..) {
            match held {
                Some(Held::Shared(guard)) => drop(guard),
                Some(Held::Alone(guard)) => drop(guard),
                None => {}
            }
            self.locks.forget_if_idle(volume);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;
    use tephra_domain::effect::BackendObject;
    use tephra_domain::units::SizeGib;
    use uuid::Uuid;

    use super::*;

    fn volume(n: u128) -> BackendObject {
        BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
    }

    fn delete(n: u128) -> Effect {
        Effect::DeleteVolume { volume: volume(n) }
    }

    fn clone(of: u128, to: u128) -> Effect {
        Effect::CloneVolume { volume: volume(to), size: SizeGib::new(1).unwrap(), source: volume(of) }
    }

    #[test]
    fn an_effect_holds_its_target_alone_and_its_source_beside_others() {
        let holds: Vec<_> = needed(&clone(9, 1)).into_iter().collect();
        let id = |n| volume(n).volume();
        assert_eq!(holds, [(id(1), Hold::Alone), (id(9), Hold::Shared)]);
        let revert = Effect::OverwriteVolume { volume: volume(1), source: volume(1) };
        assert_eq!(needed(&revert).into_iter().collect::<Vec<_>>(), [(id(1), Hold::Alone)]);
    }

    #[tokio::test]
    async fn readers_share_a_volume_and_a_writer_waits_for_them() {
        let locks = VolumeLocks::default();
        let first = locks.acquire(&clone(1, 2)).await;
        let second = locks.acquire(&clone(1, 3)).now_or_never().expect("two clones of one source");
        assert!(locks.acquire(&delete(1)).now_or_never().is_none());
        drop(first);
        assert!(locks.acquire(&delete(1)).now_or_never().is_none());
        drop(second);
        assert!(locks.acquire(&delete(1)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn nothing_is_remembered_of_volumes_that_nobody_holds() {
        let locks = VolumeLocks::default();
        let held = locks.acquire(&delete(1)).await;
        assert_eq!(locks.len(), 1);
        // it holds its new volume already when it gives up waiting for the source
        assert!(locks.acquire(&clone(1, 0)).now_or_never().is_none());
        assert_eq!(locks.len(), 1);
        drop(held);
        assert!(locks.is_empty());
    }

    #[tokio::test]
    async fn effects_that_need_each_others_volumes_do_not_block_each_other() {
        let locks = VolumeLocks::default();
        let crossing = (0..200_u128).map(|n| {
            let locks = locks.clone();
            tokio::spawn(async move {
                let effect = if n % 2 == 0 { clone(1, 2) } else { clone(2, 1) };
                let _held = locks.acquire(&effect).await;
                tokio::task::yield_now().await;
            })
        });
        let all = tokio::time::timeout(Duration::from_secs(20), join_all(crossing)).await;
        assert!(all.expect("they wait for each other").iter().all(Result::is_ok));
        assert!(locks.is_empty());
    }
}
