//! What every backend can do.
//!
//! A backend looks, and acts so that an effect holds afterwards. Performing an effect twice equals
//! performing it once, and a crash at any point is repaired by performing it again.
//!
//! * [`directory`]: volumes as sparse files, on a local file system or on NFS.
//! * [`lvm`]: logical volumes of lvm2, thick or thin.
//! * [`rbd`]: volumes as images of a Ceph cluster.
//! * [`memory`]: simulated objects, for tests and the simulator. [`faulty`]: any backend, failing
//!   by script. [`conformance`]: what every backend must show.

pub mod conformance;
pub mod directory;
pub mod faulty;
pub mod lvm;
pub mod memory;
pub mod rbd;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use async_trait::async_trait;
use tephra_domain::backend::BackendDescription;
use tephra_domain::drift::FoundObject;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_domain::scheduler::PoolStats;
use tephra_domain::units::{SizeGib, Timestamp};

use crate::export::Exporter;
use crate::runner::limits::EffectLimits;

/// Where the bytes of an object are, for a program on this host that reads or writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// As `qemu-img` and `tgtd` name it: the path of a file or a block device, or `rbd:…`.
    pub location: OsString,
}

/// A kind of storage, configured.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Its name, unique in the deployment.
    fn name(&self) -> &BackendName;

    /// What it tells the ledger when it starts.
    fn description(&self) -> BackendDescription;

    /// How full its pools are. `provisioned_gib` is left at what the backend itself can see.
    async fn stats(&self, now: Timestamp) -> Result<Vec<PoolStats>, Failure>;

    /// Whether another process was seen to serve its storage. Then nothing more is done here, and whatever
    /// this one thinks it has done counts for nothing.
    fn is_taken_over(&self) -> bool {
        false
    }

    /// Whether executors on other hosts reach its storage, too, and nothing there keeps them apart. Then
    /// whoever may have lost an order stops at once what it does for it ([`crate::fence`]). Elsewhere
    /// it goes on: the order comes back to the same executor, and what took hours need not begin again.
    /// Asked for each order.
    fn is_shared(&self) -> bool {
        false
    }

    /// How long each kind of effect may take: at least as long as the backend itself waits for what
    /// it does. Asked once, when a runner starts.
    fn limits(&self) -> EffectLimits {
        EffectLimits::default()
    }

    /// Brings the effect about on one of its pools, or says why not. Idempotent.
    async fn perform(&self, pool: &PoolName, effect: &Effect) -> Result<(), Failure>;

    /// Everything that is on one of its pools, whoever made it: objects of ours under the names
    /// that the ledger gives, others under their own. Only looks, and leaves out what belongs to
    /// the backend itself (lock files, unfinished copies, pool metadata).
    async fn list(&self, pool: &PoolName) -> Result<Vec<FoundObject>, Failure> {
        Err(Failure::new(FailureKind::Unsupported, format!("{}#{pool} cannot list its objects", self.name())))
    }

    /// Where an object's bytes are, ready to be read and written. Whoever asks holds the object: no
    /// effect is performed on it meanwhile.
    async fn content(&self, pool: &PoolName, object: BackendObject) -> Result<Content, Failure> {
        let message = format!("{}#{pool} cannot show the bytes of {object}", self.name());
        Err(Failure::new(FailureKind::Unsupported, message))
    }

    /// Whether a volume that it has just made holds zeroes by itself, so that none need be written.
    fn new_volumes_hold_zeroes(&self) -> bool {
        false
    }

    /// A volume that it has made holds zeroes from this byte to its end, durably, whatever its space held.
    /// Whoever asks fills the rest.
    async fn zero_beyond(&self, _pool: &PoolName, volume: BackendObject, _bytes: u64) -> Result<(), Failure> {
        if self.new_volumes_hold_zeroes() {
            return Ok(());
        }
        let message = format!("{} cannot zero what is beyond the data of {volume}", self.name());
        Err(Failure::new(FailureKind::Unsupported, message))
    }

    /// Makes a volume of this size of an image that is in this storage already, zeroes beyond, without
    /// copying it. `locations` are what the image store says of where the image is. `false` if none of
    /// them can be used so: the volume is then to be made blank, and to be filled. Idempotent, also
    /// where earlier attempts had the other answer.
    async fn clone_image(
        &self,
        _pool: &PoolName,
        _volume: BackendObject,
        _size: SizeGib,
        _locations: &[String],
    ) -> Result<bool, Failure> {
        Ok(false)
    }

    /// What makes its volumes reachable, where they are not by themselves.
    fn exporter(&self) -> Option<Arc<dyn Exporter>> {
        None
    }
}

/// What a backend says of an effect that is performed for it by [`crate::image::Images`].
pub(crate) fn needs_images(effect: &Effect) -> Failure {
    Failure::new(FailureKind::Unsupported, format!("{} needs an image store to be configured", effect.name()))
}

/// What a backend says of an effect that is performed for it by [`crate::copy::Neighbours`].
pub(crate) fn needs_neighbours(effect: &Effect) -> Failure {
    let message = format!("{} needs an executor that serves both backends", effect.name());
    Failure::new(FailureKind::Unsupported, message)
}

/// What every backend of ours offers to volume types, whatever its kind (Cinder's names).
pub(crate) fn capabilities(backend: &BackendName, storage_protocol: &str) -> BTreeMap<String, String> {
    [
        ("volume_backend_name", backend.as_str()),
        ("vendor_name", "Tephra"),
        ("driver_version", env!("CARGO_PKG_VERSION")),
        ("storage_protocol", storage_protocol),
        ("thin_provisioning_support", "True"),
        ("thick_provisioning_support", "False"),
        ("multiattach", "True"),
        ("QoS_support", "False"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

pub(crate) fn pool_id(backend: &BackendName, pool: &PoolName) -> PoolId {
    PoolId { backend: backend.clone(), pool: pool.clone() }
}
