//! The views: one redb file, and everything that is read from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tephra_domain::backend::{Backend, PoolUsage};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::event::IdempotencyScope;
use tephra_domain::ids::{
    BackendName, DebtId, OperationId, PoolId, Position, ProjectId, SnapshotId, VolumeId, VolumeTypeId,
};
use tephra_domain::ledger::{Ledger, RememberedCommand};
use tephra_domain::quota::{QuotaLimits, Usage};
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::Volume;
use tephra_domain::volume_type::VolumeType;
use tephra_journal::log::{BlockNumber, Log};
use tokio::sync::watch;

use crate::error::{QueryError, ViewsError};
use crate::history::ResourceRef;
use crate::operations::{OperationQuery, OperationRecord};
use crate::query::{Filter, ListQuery, Page};

/// How far the views have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last block taken in.
    pub block: BlockNumber,
    /// Its last commit.
    pub position: Position,
    /// Its hash; all zero before the first.
    pub hash: [u8; 32],
    /// The latest time of any commit so far.
    pub time: Timestamp,
}

/// Volumes counted (`/volumes/summary`, microversions 3.12 and 3.36).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSummary {
    /// How many.
    pub count: u64,
    /// Their sizes together, in GiB.
    pub total_gib: u64,
    /// Each key of their metadata with its distinct values.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
}

/// The views. Cloning gives another handle to the same file.
#[derive(Clone, Debug)]
pub struct Views {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    checkpoint: watch::Sender<Checkpoint>,
}

fn not_yet<T>() -> Result<T, ViewsError> {
    Err(ViewsError::Storage("the views are empty".to_owned()))
}

#[allow(
    unused_variables,
    clippy::unused_self,
    clippy::unused_async,
    reason = "signatures come before bodies"
)]
impl Views {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`ViewsError::MustRebuild`] if the file is damaged or of another schema.
    pub fn open(path: &Path) -> Result<Self, ViewsError> {
        not_yet()
    }

    /// Deletes the file if it is there, and makes an empty one.
    ///
    /// # Errors
    /// If the file cannot be removed or made.
    pub fn create_fresh(path: &Path) -> Result<Self, ViewsError> {
        Ok(Self { inner: Arc::new(Inner { checkpoint: watch::Sender::new(Checkpoint::default()) }) })
    }

    /// How far the views have come.
    pub fn checkpoint(&self) -> Checkpoint {
        *self.inner.checkpoint.borrow()
    }

    /// Returns once the views have taken this commit in.
    pub async fn wait_for(&self, position: Position) {
        let mut watching = self.inner.checkpoint.subscribe();
        // The sender lives in `self`, so the channel cannot be closed meanwhile.
        drop(watching.wait_for(|checkpoint| checkpoint.position >= position).await);
    }

    /// The whole state, for a sequencer that starts.
    pub fn load_ledger(&self) -> Result<Ledger, ViewsError> {
        not_yet()
    }

    /// A digest of the whole state, equal for equal states wherever it is taken.
    pub fn state_hash(&self) -> Result<[u8; 32], ViewsError> {
        not_yet()
    }

    /// A volume.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, ViewsError> {
        not_yet()
    }

    /// A snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, ViewsError> {
        not_yet()
    }

    /// A page of volumes.
    pub fn volumes(&self, query: &ListQuery<VolumeId>) -> Result<Page<Volume>, QueryError> {
        Ok(not_yet()?)
    }

    /// A page of snapshots.
    pub fn snapshots(&self, query: &ListQuery<SnapshotId>) -> Result<Page<Snapshot>, QueryError> {
        Ok(not_yet()?)
    }

    /// Volumes counted. Without filters it costs the same for any number of volumes;
    /// `with_metadata` adds a look at each distinct pair of key and value.
    pub fn summary(
        &self,
        project: Option<&ProjectId>,
        filters: &[Filter],
        with_metadata: bool,
    ) -> Result<VolumeSummary, ViewsError> {
        not_yet()
    }

    /// Every volume type, by id.
    pub fn volume_types(&self) -> Result<Vec<VolumeType>, ViewsError> {
        not_yet()
    }

    /// A volume type.
    pub fn volume_type(&self, id: VolumeTypeId) -> Result<Option<VolumeType>, ViewsError> {
        not_yet()
    }

    /// Every backend, by name.
    pub fn backends(&self) -> Result<Vec<Backend>, ViewsError> {
        not_yet()
    }

    /// A backend.
    pub fn backend(&self, name: &BackendName) -> Result<Option<Backend>, ViewsError> {
        not_yet()
    }

    /// A page of operations, open and ended, the one that opened last first.
    pub fn operations(&self, query: &OperationQuery) -> Result<Page<OperationRecord>, QueryError> {
        Ok(not_yet()?)
    }

    /// An operation, open or ended.
    pub fn operation(&self, id: OperationId) -> Result<Option<OperationRecord>, ViewsError> {
        not_yet()
    }

    /// Every cleanup debt, by id.
    pub fn debts(&self) -> Result<Vec<CleanupDebt>, ViewsError> {
        not_yet()
    }

    /// A cleanup debt.
    pub fn debt(&self, id: DebtId) -> Result<Option<CleanupDebt>, ViewsError> {
        not_yet()
    }

    /// What a project uses.
    pub fn usage(&self, project: &ProjectId) -> Result<Usage, ViewsError> {
        not_yet()
    }

    /// The limits that were set for a project; what is not in here has its default.
    pub fn limits(&self, project: &ProjectId) -> Result<QuotaLimits, ViewsError> {
        not_yet()
    }

    /// The limits that were set for everybody; what is not in here has Cinder's default.
    pub fn default_limits(&self) -> Result<QuotaLimits, ViewsError> {
        not_yet()
    }

    /// What is placed on each pool, by pool.
    pub fn pool_usage(&self) -> Result<Vec<(PoolId, PoolUsage)>, ViewsError> {
        not_yet()
    }

    /// The command that was accepted under a key. Whether the key is still remembered is for the
    /// caller to say: see [`tephra_domain::ledger::IDEMPOTENCY_WINDOW_MS`].
    pub fn remembered(&self, scope: &IdempotencyScope) -> Result<Option<RememberedCommand>, ViewsError> {
        not_yet()
    }

    /// The positions of up to `limit` commits about a resource, from `from` on, in order.
    pub fn history(
        &self,
        resource: &ResourceRef,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ViewsError> {
        not_yet()
    }

    /// The block that holds a commit. Nothing if the views have not come so far.
    pub fn locate(&self, position: Position) -> Result<Option<BlockNumber>, ViewsError> {
        not_yet()
    }

    /// The last commit up to and at a moment.
    pub async fn position_at(&self, log: &dyn Log, time: Timestamp) -> Result<Position, ViewsError> {
        not_yet()
    }
}
