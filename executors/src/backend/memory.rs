//! Simulated objects in memory: no disk, no delay, every byte looked after.
//!
//! For unit tests, the unwind harness and the simulator. It keeps the same promises as a real
//! backend and fails in the same ways, so what holds over it holds over those.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{self, BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, ImageId, PoolId, PoolName, ZoneName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};

use super::{Backend, Content};

/// The unit in which contents are kept.
pub const BLOCK_BYTES: u64 = 4096;

/// One simulated volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryObject {
    /// Its size.
    pub size: SizeGib,
    /// What was written, by block number; blocks that are not there read as zeroes.
    pub blocks: BTreeMap<u64, Arc<[u8]>>,
    /// Whether somebody uses it: it cannot be deleted, reverted or overwritten meanwhile.
    pub in_use: bool,
}

impl MemoryObject {
    /// Nothing but zeroes.
    pub const fn blank(size: SizeGib) -> Self {
        Self { size, blocks: BTreeMap::new(), in_use: false }
    }

    /// The disk of an image, of which a fake knows but the id.
    fn of_image(image: ImageId, size: SizeGib) -> Self {
        let blocks = BTreeMap::from([(0, image.as_uuid().as_bytes().as_slice().into())]);
        Self { size, blocks, in_use: false }
    }

    fn with_data_of(source: &Self, size: SizeGib) -> Self {
        Self { size, blocks: source.blocks.clone(), in_use: false }
    }
}

/// The settings of a [`MemoryBackend`].
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Unique in the deployment.
    pub name: BackendName,
    /// The host part of Cinder's `host@backend#pool`.
    pub host: String,
    /// The zone that its volumes are in.
    pub availability_zone: ZoneName,
    /// Its only pool.
    pub pool: PoolName,
    /// Its simulated size. Objects take their whole size.
    pub capacity_gib: u64,
    /// Whether the ledger may use `RevertToSnapshot`.
    pub native_revert: bool,
}

impl MemoryConfig {
    /// A large backend with native revert.
    pub fn new(name: &str) -> Self {
        Self {
            name: BackendName::new(name),
            host: "memory".to_owned(),
            availability_zone: ZoneName::new("nova"),
            pool: PoolName::new(name),
            capacity_gib: 1 << 40,
            native_revert: true,
        }
    }
}

/// The backend. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct MemoryBackend {
    config: Arc<MemoryConfig>,
    objects: Arc<Mutex<BTreeMap<BackendObject, MemoryObject>>>,
    /// Objects under names that are none of ours. Taken after `objects`, where both are.
    strangers: Arc<Mutex<BTreeMap<Box<str>, MemoryObject>>>,
    images: Arc<Mutex<BTreeMap<ImageId, MemoryObject>>>,
    /// The objects of other backends that it can read. They do not keep each other alive.
    neighbours: Arc<Mutex<BTreeMap<BackendName, Weak<Mutex<Objects>>>>>,
}

type Objects = BTreeMap<BackendObject, MemoryObject>;

impl MemoryBackend {
    /// An empty backend.
    pub fn new(config: MemoryConfig) -> Self {
        Self {
            config: Arc::new(config),
            objects: Arc::default(),
            strangers: Arc::default(),
            images: Arc::default(),
            neighbours: Arc::default(),
        }
    }

    /// Lets it read another backend's objects, and says so in its description.
    pub fn read_from(&self, other: &Self) {
        self.neighbours().insert(other.config.name.clone(), Arc::downgrade(&other.objects));
    }

    fn neighbours(&self) -> MutexGuard<'_, BTreeMap<BackendName, Weak<Mutex<Objects>>>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object of another backend. Nothing of our own is locked meanwhile: two may read each other.
    fn read_neighbour(&self, from: &PoolId, source: BackendObject) -> Result<MemoryObject, Failure> {
        let objects = self.neighbours().get(&from.backend).and_then(Weak::upgrade);
        let Some(objects) = objects else {
            let message = format!("{source} is on {from}, which cannot be read from here");
            return Err(Failure::new(FailureKind::Unsupported, message));
        };
        let objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
        present(&objects, source).cloned()
    }

    /// Everything that exists now.
    pub fn objects(&self) -> BTreeMap<BackendObject, MemoryObject> {
        self.lock().clone()
    }

    /// One object, if it exists.
    pub fn object(&self, object: BackendObject) -> Option<MemoryObject> {
        self.lock().get(&object).cloned()
    }

    /// Writes one block, zero-padded, as a user of the volume would. Whether the object exists and
    /// the block is within it.
    pub fn write_block(&self, object: BackendObject, block: u64, content: &[u8]) -> bool {
        let mut objects = self.lock();
        let Some(found) = objects.get_mut(&object) else { return false };
        if block >= found.size.bytes() / BLOCK_BYTES {
            return false;
        }
        found.blocks.insert(block, content.into());
        true
    }

    /// Says whether somebody uses an object.
    pub fn set_in_use(&self, object: BackendObject, in_use: bool) {
        if let Some(found) = self.lock().get_mut(&object) {
            found.in_use = in_use;
        }
    }

    /// Loses an object behind the ledger's back.
    pub fn lose(&self, object: BackendObject) {
        self.lock().remove(&object);
    }

    /// Puts something there that the ledger knows nothing of.
    pub fn put_stranger(&self, name: &str, object: MemoryObject) {
        self.strangers().insert(name.into(), object);
    }

    /// Everything that exists now under names that are none of ours.
    pub fn strangers(&self) -> MutexGuard<'_, BTreeMap<Box<str>, MemoryObject>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made of volumes, as if the image store were in memory too.
    pub fn images(&self) -> MutexGuard<'_, BTreeMap<ImageId, MemoryObject>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, effect: &Effect) -> Result<(), Failure> {
        if let Effect::CopyVolume { volume, size, from, source } = effect {
            let data = self.read_neighbour(from, *source)?;
            return self.copy(*volume, *size, &data);
        }
        let mut objects = self.lock();
        match effect {
            Effect::CopyVolume { .. } => Err(super::needs_neighbours(effect)),
            Effect::CreateVolume { volume, size } => {
                self.create(&mut objects, *volume, MemoryObject::blank(*size))
            }
            Effect::CreateVolumeFromImage { volume, size, image } => {
                self.create(&mut objects, *volume, MemoryObject::of_image(*image, *size))
            }
            Effect::CreateVolumeFromSnapshot { volume, size, snapshot: source }
            | Effect::CloneVolume { volume, size, source } => {
                if let Some(existing) = objects.get(volume) {
                    return same_size(*volume, existing, *size);
                }
                let from = present(&objects, *source)?;
                if from.size > *size {
                    return Err(mismatch(format!("{source} is larger than {size} GiB")));
                }
                let made = MemoryObject::with_data_of(from, *size);
                self.create(&mut objects, *volume, made)
            }
            Effect::CreateSnapshot { snapshot } => {
                if objects.contains_key(snapshot) {
                    return Ok(());
                }
                let from = present(&objects, BackendObject::Volume(snapshot.volume()))?;
                let made = MemoryObject::with_data_of(from, from.size);
                self.create(&mut objects, *snapshot, made)
            }
            Effect::DeleteVolume { volume: object } | Effect::DeleteSnapshot { snapshot: object } => {
                if objects.get(object).is_some_and(|found| found.in_use) {
                    return Err(busy(*object));
                }
                objects.remove(object);
                Ok(())
            }
            Effect::ExtendVolume { volume, to } => {
                let mut found = present(&objects, *volume)?.clone();
                found.size = found.size.max(*to);
                objects.insert(*volume, found);
                Ok(())
            }
            Effect::ShrinkVolume { volume, to } => shrink(&mut objects, *volume, *to),
            Effect::RevertToSnapshot { volume, snapshot: source }
            | Effect::OverwriteVolume { volume, source } => overwrite(&mut objects, *volume, *source),
            Effect::Verify { object, size } => same_size(*object, present(&objects, *object)?, *size),
            Effect::Adopt { object, from, size } => self.adopt(&mut objects, *object, from, *size),
            Effect::Disown { object, to } => self.disown(&mut objects, *object, to),
            Effect::ExportVolume { volume, .. } => present(&objects, *volume).map(|_| ()),
            Effect::UploadImage { volume, image } => {
                let data = present(&objects, *volume)?.clone();
                self.images().insert(image.id, data);
                Ok(())
            }
            Effect::RemoveImage { image, .. } => {
                self.images().remove(image);
                Ok(())
            }
            Effect::UnexportVolume { .. } => Ok(()),
        }
    }

    fn copy(&self, volume: BackendObject, size: SizeGib, data: &MemoryObject) -> Result<(), Failure> {
        if data.size > size {
            return Err(mismatch(format!("the source of {volume} is larger than {size} GiB")));
        }
        let mut objects = self.lock();
        let made = MemoryObject::with_data_of(data, size);
        self.create(&mut objects, volume, made.clone())?;
        // where an attempt had died, a part of it was there
        objects.insert(volume, made);
        Ok(())
    }

    fn adopt(
        &self,
        objects: &mut Objects,
        object: BackendObject,
        from: &str,
        size: Option<SizeGib>,
    ) -> Result<(), Failure> {
        if let Some(existing) = objects.get(&object) {
            return same_size(object, existing, size.unwrap_or(existing.size));
        }
        let mut strangers = self.strangers();
        let Some(found) = strangers.get(from) else {
            return Err(Failure::new(FailureKind::ObjectMissing, format!("{from} does not exist")));
        };
        if found.in_use {
            return Err(Failure::new(FailureKind::Busy, format!("{from} is in use")));
        }
        if let Some(size) = size.filter(|size| *size != found.size) {
            return Err(mismatch(format!("{from} is {} GiB, not {size} GiB", found.size)));
        }
        if let Some(found) = strangers.remove(from) {
            objects.insert(object, found);
        }
        Ok(())
    }

    fn disown(&self, objects: &mut Objects, object: BackendObject, to: &str) -> Result<(), Failure> {
        let Some(found) = objects.get(&object) else { return Ok(()) };
        if found.in_use {
            return Err(busy(object));
        }
        let mut strangers = self.strangers();
        if strangers.contains_key(to) {
            return Err(mismatch(format!("{to} exists already")));
        }
        if let Some(found) = objects.remove(&object) {
            strangers.insert(to.into(), found);
        }
        Ok(())
    }

    fn create(&self, objects: &mut Objects, name: BackendObject, made: MemoryObject) -> Result<(), Failure> {
        if let Some(existing) = objects.get(&name) {
            return same_size(name, existing, made.size);
        }
        let used: u64 = objects.values().map(|object| u64::from(object.size.gib())).sum();
        if used.saturating_add(u64::from(made.size.gib())) > self.config.capacity_gib {
            return Err(Failure::new(FailureKind::NoSpace, format!("{name}: no space left")));
        }
        objects.insert(name, made);
        Ok(())
    }
}

fn shrink(objects: &mut Objects, volume: BackendObject, to: SizeGib) -> Result<(), Failure> {
    let mut found = present(objects, volume)?.clone();
    if found.size < to {
        return Err(mismatch(format!("{volume} is {} GiB, smaller than {to} GiB", found.size)));
    }
    if found.in_use && found.size > to {
        return Err(busy(volume));
    }
    let end = to.bytes() / BLOCK_BYTES;
    if found.blocks.range(end..).any(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        return Err(mismatch(format!("{volume} holds data beyond {to} GiB")));
    }
    drop(found.blocks.split_off(&end));
    found.size = to;
    objects.insert(volume, found);
    Ok(())
}

fn overwrite(objects: &mut Objects, volume: BackendObject, source: BackendObject) -> Result<(), Failure> {
    let from = present(objects, source)?;
    let found = present(objects, volume)?;
    if found.in_use {
        return Err(busy(volume));
    }
    if from.size > found.size {
        return Err(mismatch(format!("{source} is larger than {volume}")));
    }
    let made = MemoryObject::with_data_of(from, found.size);
    objects.insert(volume, made);
    Ok(())
}

fn present(objects: &Objects, name: BackendObject) -> Result<&MemoryObject, Failure> {
    objects
        .get(&name)
        .ok_or_else(|| Failure::new(FailureKind::ObjectMissing, format!("{name} does not exist")))
}

fn same_size(name: BackendObject, found: &MemoryObject, size: SizeGib) -> Result<(), Failure> {
    if found.size == size {
        Ok(())
    } else {
        Err(mismatch(format!("{name} is {} GiB, not {size} GiB", found.size)))
    }
}

fn mismatch(message: String) -> Failure {
    Failure::new(FailureKind::Mismatch, message)
}

fn busy(name: BackendObject) -> Failure {
    Failure::new(FailureKind::Busy, format!("{name} is in use"))
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &BackendName {
        &self.config.name
    }

    fn description(&self) -> BackendDescription {
        BackendDescription {
            host: self.config.host.as_str().into(),
            driver: "memory".into(),
            availability_zone: self.config.availability_zone.clone(),
            pools: vec![self.config.pool.clone()],
            native_revert: self.config.native_revert,
            capabilities: super::capabilities(&self.config.name, "memory"),
        }
        .reading(self.neighbours().keys())
    }

    #[allow(clippy::cast_precision_loss, reason = "capacities are far below 2^53 GiB")]
    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure> {
        let used: u64 = self.lock().values().map(|object| u64::from(object.size.gib())).sum();
        Ok(vec![PoolStats {
            pool: super::pool_id(&self.config.name, &self.config.pool),
            is_up: true,
            total_gib: self.config.capacity_gib as f64,
            free_gib: self.config.capacity_gib.saturating_sub(used) as f64,
            provisioned_gib: used as f64,
            max_over_subscription_ratio: 1.0,
            reserved_percentage: 0,
            thin: false,
            capabilities: super::capabilities(&self.config.name, "memory"),
            reported_at: now,
        }])
    }

    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure> {
        if *pool != self.config.pool {
            let message = format!("{} has no pool {pool}", self.config.name);
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        self.act(effect)
    }

    async fn content(&self, _pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        present(&self.lock(), object).map(|_| Content { location: format!("/memory/{object}").into() })
    }

    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        if *pool != self.config.pool {
            let message = format!("{} has no pool {pool}", self.config.name);
            return Err(Failure::new(FailureKind::ObjectMissing, message));
        }
        let found = |name: String, kind: FoundKind, object: &MemoryObject| FoundObject {
            name: name.into(),
            kind,
            bytes: object.size.bytes(),
            in_use: object.in_use,
        };
        let objects = self.lock();
        let ours = objects.iter().map(|(name, object)| {
            let of = name.is_snapshot().then(|| BackendObject::Volume(name.volume()).to_string().into());
            let kind = of.map_or(FoundKind::Volume, |of| FoundKind::Snapshot { of: Some(of) });
            found(name.to_string(), kind, object)
        });
        let strangers = self.strangers();
        let others = strangers.iter().map(|(name, object)| {
            let is_snapshot = effect::is_unmanaged_snapshot(name);
            let kind = if is_snapshot { FoundKind::Snapshot { of: None } } else { FoundKind::Volume };
            found(name.to_string(), kind, object)
        });
        Ok(ours.chain(others).collect())
    }
}
