//! A backend in memory whose contents are tags: enough to say whether data came back, and to fail
//! or crash at any effect. A fake, for tests and simulation only.

use std::collections::BTreeMap;

use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, ImageId, PoolId};
use tephra_domain::units::SizeGib;

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its size.
    pub size: SizeGib,
    /// Stands for the data; 0 is all zeroes.
    pub tag: u64,
}

/// Stands for the disk of an image.
pub fn tag_of(image: ImageId) -> u64 {
    image.as_uuid().as_u64_pair().1
}

/// Objects by pool and name.
#[derive(Clone, Debug, Default)]
pub struct SimBackend {
    /// What exists.
    pub objects: BTreeMap<(PoolId, BackendObject), Contents>,
    /// What exists under names that are none of ours.
    pub strangers: BTreeMap<(PoolId, Box<str>), Contents>,
    /// What hosts can reach, and the size that they see.
    pub exports: BTreeMap<(PoolId, AttachmentId), (BackendObject, SizeGib)>,
    /// What is in the image store.
    pub images: BTreeMap<ImageId, Contents>,
}

impl SimBackend {
    /// What an object holds, if it exists.
    pub fn contents(&self, pool: &PoolId, object: BackendObject) -> Option<Contents> {
        self.objects.get(&(pool.clone(), object)).copied()
    }

    /// Writes data into an object, as a server with the volume attached would.
    pub fn write(&mut self, pool: &PoolId, object: BackendObject, tag: u64) {
        if let Some(contents) = self.objects.get_mut(&(pool.clone(), object)) {
            contents.tag = tag;
        }
    }

    fn existing(&self, pool: &PoolId, object: BackendObject) -> Result<Contents, Failure> {
        self.contents(pool, object)
            .ok_or_else(|| Failure::new(FailureKind::ObjectMissing, format!("{object} is not on {pool}")))
    }

    /// What is taken over under the name `from`, unless it has been already.
    fn adopted(
        &mut self,
        pool: &PoolId,
        object: BackendObject,
        from: &str,
        size: Option<SizeGib>,
    ) -> Result<Contents, Failure> {
        if let Some(contents) = self.contents(pool, object) {
            return Ok(contents);
        }
        let outside = (pool.clone(), Box::from(from));
        match self.strangers.get(&outside) {
            None => Err(Failure::new(FailureKind::ObjectMissing, format!("{from} is not on {pool}"))),
            Some(contents) if size.is_some_and(|size| size != contents.size) => {
                Err(Failure::new(FailureKind::Mismatch, format!("{from} has another size")))
            }
            Some(contents) => {
                let contents = *contents;
                self.strangers.remove(&outside);
                Ok(contents)
            }
        }
    }

    /// Brings an effect about. Idempotent, like every backend.
    ///
    /// # Errors
    /// What a real backend would say.
    pub fn perform(&mut self, pool: &PoolId, effect: &Effect) -> Result<(), Failure> {
        let put = |object: BackendObject, contents: Contents| ((pool.clone(), object), contents);
        let (key, contents) = match effect {
            Effect::CreateVolume { volume, size } => match self.contents(pool, *volume) {
                Some(contents) => put(*volume, contents),
                None => put(*volume, Contents { size: *size, tag: 0 }),
            },
            Effect::CreateVolumeFromImage { volume, size, image } => {
                put(*volume, Contents { size: *size, tag: tag_of(*image) })
            }
            Effect::CreateVolumeFromSnapshot { volume, size, snapshot: source }
            | Effect::CloneVolume { volume, size, source } => {
                put(*volume, Contents { size: *size, tag: self.existing(pool, *source)?.tag })
            }
            Effect::CopyVolume { volume, size, from, source } => {
                put(*volume, Contents { size: *size, tag: self.existing(from, *source)?.tag })
            }
            Effect::DeleteVolume { volume: object } | Effect::DeleteSnapshot { snapshot: object } => {
                self.objects.remove(&(pool.clone(), *object));
                return Ok(());
            }
            Effect::ExtendVolume { volume, to } | Effect::ShrinkVolume { volume, to } => {
                put(*volume, Contents { size: *to, ..self.existing(pool, *volume)? })
            }
            Effect::CreateSnapshot { snapshot } => match self.contents(pool, *snapshot) {
                Some(contents) => put(*snapshot, contents),
                None => put(*snapshot, self.existing(pool, BackendObject::Volume(snapshot.volume()))?),
            },
            Effect::RevertToSnapshot { volume, snapshot: source }
            | Effect::OverwriteVolume { volume, source } => {
                self.existing(pool, *volume)?;
                put(*volume, self.existing(pool, *source)?)
            }
            Effect::Verify { object, size } => {
                let contents = self.existing(pool, *object)?;
                if contents.size != *size {
                    return Err(Failure::new(FailureKind::Mismatch, format!("{object} has another size")));
                }
                return Ok(());
            }
            Effect::Adopt { object, from, size } => put(*object, self.adopted(pool, *object, from, *size)?),
            Effect::ExportVolume { volume, export } => {
                let contents = self.existing(pool, *volume)?;
                self.exports.insert((pool.clone(), export.attachment), (*volume, contents.size));
                return Ok(());
            }
            Effect::UnexportVolume { attachment, .. } => {
                self.exports.remove(&(pool.clone(), *attachment));
                return Ok(());
            }
            Effect::UploadImage { volume, image } => {
                let contents = self.existing(pool, *volume)?;
                self.images.insert(image.id, contents);
                return Ok(());
            }
            Effect::RemoveImage { image, .. } => {
                self.images.remove(image);
                return Ok(());
            }
            Effect::Disown { object, to } => {
                if let Some(contents) = self.objects.remove(&(pool.clone(), *object)) {
                    self.strangers.insert((pool.clone(), to.clone()), contents);
                }
                return Ok(());
            }
        };
        self.objects.insert(key, contents);
        Ok(())
    }
}
