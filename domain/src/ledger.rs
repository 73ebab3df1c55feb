//! The whole state of the control plane, and what can be asked of it.
//!
//! [`crate::evolve`] alone changes it, one event at a time; [`crate::decide`] reads it. Every total
//! in here (usage, pools, users of a type) is a fold over the rows beside it.

use crate::actor::Actor;
use crate::backend::{Backend, PoolUsage};
use crate::command::VolumeTypeRef;
use crate::debt::CleanupDebt;
use crate::effect::{BackendObject, DueEffect, Effect};
use crate::event::IdempotencyScope;
use crate::ids::{
    BackendName, DebtId, OperationId, PoolId, Position, ProjectId, SnapshotId, VolumeId, VolumeTypeId,
    ZoneName,
};
use crate::operation::{Access, Operation, ResourceKey};
use crate::quota::{QuotaLimits, QuotaResource, Usage, UsageCount};
use crate::rejection::Rejection;
use crate::scheduler::PoolStats;
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::units::{SizeGib, Timestamp};
use crate::volume::Volume;
use crate::volume_type::{DEFAULT_TYPE_ID, VolumeType};

/// Where volumes are if nobody says, and no backend is known (Cinder's default).
pub const DEFAULT_ZONE: &str = "nova";

/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_WINDOW_MS: i64 = 24 * 60 * 60 * 1000;

/// A command that was accepted under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedCommand {
    /// A digest of the request.
    pub fingerprint: [u8; 32],
    /// Where its commit is.
    pub position: Position,
    /// When that was.
    pub time: Timestamp,
}

/// One operation's claim on a resource; claims take turns in the order of `opened`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The operation.
    pub operation: OperationId,
    /// How it uses the resource.
    pub access: Access,
}

/// The state.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "tables are named after their rows")]
pub struct Ledger {
    pub volumes: Table<VolumeId, Volume>,
    pub snapshots: Table<SnapshotId, Snapshot>,
    pub volume_types: Table<VolumeTypeId, VolumeType>,
    pub backends: Table<BackendName, Backend>,
    pub operations: Table<OperationId, Operation>,
    pub debts: Table<DebtId, CleanupDebt>,
    pub limits: Table<ProjectId, QuotaLimits>,
    pub usage: Table<ProjectId, Usage>,
    pub pools: Table<PoolId, PoolUsage>,
    pub idempotency: Table<IdempotencyScope, RememberedCommand>,
    /// Who is waiting for whom; derived from `operations`.
    pub claims: Table<ResourceKey, Vec<Claim>>,
    /// Volumes of which an export exists, or may; derived from `volumes`.
    pub exported: Table<VolumeId, ()>,
    /// Limits that were set for everybody; row 0 or none.
    pub default_limits: Table<(), QuotaLimits>,
    /// The last commit taken in; row 0 or none.
    pub(crate) head: Table<(), Position>,
}

macro_rules! each_table {
    ($ledger:expr, $method:ident) => {{
        $ledger.volumes.$method();
        $ledger.snapshots.$method();
        $ledger.volume_types.$method();
        $ledger.backends.$method();
        $ledger.operations.$method();
        $ledger.debts.$method();
        $ledger.limits.$method();
        $ledger.usage.$method();
        $ledger.pools.$method();
        $ledger.idempotency.$method();
        $ledger.claims.$method();
        $ledger.exported.$method();
        $ledger.default_limits.$method();
        $ledger.head.$method();
    }};
}

impl Ledger {
    /// Opens a layer over every table: what happens from here on can be dropped.
    pub fn begin(&mut self) {
        each_table!(self, begin);
    }

    /// Makes the layer part of the state: its commits are acknowledged.
    pub fn merge(&mut self) {
        each_table!(self, merge);
    }

    /// Drops the layer: its commits never happened.
    pub fn discard(&mut self) {
        each_table!(self, discard);
    }

    /// The last commit taken in.
    pub fn position(&self) -> Position {
        self.head.get(&()).copied().unwrap_or_default()
    }

    /// Says which commit the rows stand at. For loading a state that was saved; rebuilds
    /// [`Ledger::claims`] from the open operations.
    pub fn loaded_at(&mut self, position: Position) {
        self.head.insert((), position);
        let mut open: Vec<Operation> =
            self.operations.sorted().into_iter().map(|(_, operation)| operation.clone()).collect();
        open.sort_by_key(|operation| (operation.opened, operation.id));
        for operation in open {
            self.claim(&operation);
        }
    }

    /// Takes a saved volume in, with what is derived from it.
    pub fn load_volume(&mut self, volume: Volume) {
        if volume.has_exports() {
            self.exported.insert(volume.id, ());
        }
        self.volumes.insert(volume.id, volume);
    }

    /// Volumes on a backend of which an export exists, or may, by id, after one of them.
    pub fn volumes_exported_on(
        &self,
        backend: &BackendName,
        after: Option<VolumeId>,
    ) -> impl Iterator<Item = &Volume> {
        let later = self.exported.sorted().into_iter().filter(move |(id, ())| Some(**id) > after);
        let rows = later.filter_map(|(id, ())| self.volumes.get(id));
        rows.filter(|volume| volume.pool.as_ref().is_some_and(|pool| pool.backend == *backend))
    }

    pub(crate) fn claim(&mut self, operation: &Operation) {
        for (key, access) in operation.kind.uses() {
            let mut claims = self.claims.get(&key).cloned().unwrap_or_default();
            claims.push(Claim { operation: operation.id, access });
            self.claims.insert(key, claims);
        }
    }

    pub(crate) fn release(&mut self, operation: &Operation) {
        for (key, _) in operation.kind.uses() {
            let mut claims = self.claims.get(&key).cloned().unwrap_or_default();
            claims.retain(|claim| claim.operation != operation.id);
            if claims.is_empty() {
                self.claims.remove(&key);
            } else {
                self.claims.insert(key, claims);
            }
        }
    }

    /// Operations that an earlier one keeps waiting on this resource, and that one itself.
    pub fn claimants(&self, key: ResourceKey) -> Vec<OperationId> {
        self.claims.get(&key).map_or_else(Vec::new, |claims| claims.iter().map(|c| c.operation).collect())
    }

    /// The operation that must end before this one may go on, if there is one.
    pub fn blocked_by(&self, operation: &Operation) -> Option<OperationId> {
        operation.kind.uses().into_iter().find_map(|(key, access)| {
            let claims = self.claims.get(&key)?;
            claims
                .iter()
                .take_while(|claim| claim.operation != operation.id)
                .find(|earlier| access == Access::Exclusive || earlier.access == Access::Exclusive)
                .map(|earlier| earlier.operation)
        })
    }

    /// The effect that an operation waits for, unless it waits for another operation first.
    pub fn due_effect(&self, id: OperationId) -> Option<DueEffect> {
        let operation = self.operations.get(&id)?;
        if self.blocked_by(operation).is_some() { None } else { operation.due() }
    }

    /// Every effect that is due: what a dispatcher publishes after a restart.
    pub fn all_due(&self) -> Vec<DueEffect> {
        let operations = self.operations.sorted().into_iter().filter_map(|(id, _)| self.due_effect(*id));
        let debts = self.debts.sorted().into_iter().filter_map(|(_, debt)| debt.due());
        operations.chain(debts).collect()
    }

    /// The volume, if the actor may know of it.
    ///
    /// # Errors
    /// [`Rejection::VolumeNotFound`], also for other projects' volumes.
    pub fn visible_volume(&self, id: VolumeId, actor: &Actor) -> Result<&Volume, Rejection> {
        self.volumes
            .get(&id)
            .filter(|volume| actor.can_see(&volume.project))
            .ok_or(Rejection::VolumeNotFound { volume: id })
    }

    /// The snapshot, if the actor may know of it.
    ///
    /// # Errors
    /// [`Rejection::SnapshotNotFound`], also for other projects' snapshots.
    pub fn visible_snapshot(&self, id: SnapshotId, actor: &Actor) -> Result<&Snapshot, Rejection> {
        self.snapshots
            .get(&id)
            .filter(|snapshot| actor.can_see(&snapshot.project))
            .ok_or(Rejection::SnapshotNotFound { snapshot: id })
    }

    /// A type by id, whoever asks.
    ///
    /// # Errors
    /// [`Rejection::VolumeTypeNotFound`].
    pub fn type_by_id(&self, id: VolumeTypeId) -> Result<&VolumeType, Rejection> {
        self.volume_types
            .get(&id)
            .ok_or_else(|| Rejection::VolumeTypeNotFound { name: id.to_string().into() })
    }

    /// The type that is used where nobody names one.
    ///
    /// # Errors
    /// [`Rejection::VolumeTypeNotFoundByName`] in a ledger that was never initialised.
    pub fn default_type(&self) -> Result<&VolumeType, Rejection> {
        self.type_by_id(DEFAULT_TYPE_ID)
    }

    /// A type as a client names it, if the actor's project may use it.
    ///
    /// # Errors
    /// [`Rejection::VolumeTypeNotFound`] or [`Rejection::VolumeTypeNotFoundByName`].
    pub fn usable_type(&self, named: &VolumeTypeRef, actor: &Actor) -> Result<&VolumeType, Rejection> {
        let (found, name): (_, Box<str>) = match named {
            VolumeTypeRef::Id(id) => (self.volume_types.get(id), id.to_string().into()),
            VolumeTypeRef::Named(name) => {
                let by_id = name.parse().ok().and_then(|id: VolumeTypeId| self.volume_types.get(&id));
                (by_id.or_else(|| self.type_by_name(name)), name.clone())
            }
        };
        let is_id = name.parse::<VolumeTypeId>().is_ok();
        found.filter(|volume_type| actor.can_see_type(volume_type)).ok_or(if is_id {
            Rejection::VolumeTypeNotFound { name }
        } else {
            Rejection::VolumeTypeNotFoundByName { name }
        })
    }

    /// A type by its name, whoever asks. Types are few: this looks at all of them.
    pub fn type_by_name(&self, name: &str) -> Option<&VolumeType> {
        self.volume_types.sorted().into_iter().map(|(_, t)| t).find(|t| *t.name == *name)
    }

    /// Whether any backend is in the zone.
    pub fn has_zone(&self, zone: &ZoneName) -> bool {
        let backends = self.backends.sorted();
        if backends.is_empty() {
            return zone.as_str() == DEFAULT_ZONE;
        }
        backends.into_iter().any(|(_, backend)| backend.description.availability_zone == *zone)
    }

    /// The zone of a backend.
    pub fn zone_of(&self, backend: &BackendName) -> Option<ZoneName> {
        self.backends.get(backend).map(|backend| backend.description.availability_zone.clone())
    }

    /// The zone of volumes for which nobody named one and no pool was found.
    pub fn default_zone(&self) -> ZoneName {
        let first = self.backends.sorted().into_iter().next();
        first.map_or_else(|| ZoneName::new(DEFAULT_ZONE), |(_, b)| b.description.availability_zone.clone())
    }

    /// Refuses changes to what is on a frozen backend.
    ///
    /// # Errors
    /// [`Rejection::BackendFrozen`].
    pub fn require_not_frozen(&self, pool: Option<&PoolId>) -> Result<(), Rejection> {
        let Some(pool) = pool else { return Ok(()) };
        match self.backends.get(&pool.backend) {
            Some(backend) if backend.frozen => {
                Err(Rejection::BackendFrozen { backend: pool.backend.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The backend of a pool, if it takes work now.
    ///
    /// # Errors
    /// [`Rejection::BackendFrozen`], or [`Rejection::BackendNotInService`] if it is unknown, disabled or
    /// has not shown the pool lately.
    pub fn backend_in_service(&self, pool: &PoolId, pools: &[PoolStats]) -> Result<&Backend, Rejection> {
        self.require_not_frozen(Some(pool))?;
        let is_up = pools.iter().any(|stats| stats.pool == *pool && stats.is_up);
        self.backends
            .get(&pool.backend)
            .filter(|backend| backend.enabled && is_up)
            .ok_or_else(|| Rejection::BackendNotInService { backend: pool.backend.clone() })
    }

    /// Whether something of this name on a pool is the ledger's: a volume, a snapshot, what an open
    /// operation is about, or what is owed.
    pub fn knows_name(&self, pool: &PoolId, name: &str) -> bool {
        let id = |prefix: &str| name.strip_prefix(prefix);
        let volume = id("volume-").and_then(|id| self.volumes.get(&id.parse().ok()?));
        let snapshot = id("snapshot-").and_then(|id| self.snapshots.get(&id.parse().ok()?));
        if volume.is_some_and(|volume| volume.pool.as_ref().is_none_or(|on| on == pool))
            || snapshot.is_some_and(|snapshot| snapshot.pool == *pool)
        {
            return true;
        }
        let is_about =
            |effect: &Effect| effect.outside_name() == Some(name) || effect.target().to_string() == name;
        let is_here = |open: &Operation, effect: &Effect| open.kind.pool_of(&effect.target()) == Some(pool);
        let mut effects = self.operations.sorted().into_iter().flat_map(|(_, open)| {
            let effects = open.kind.steps().into_iter().flat_map(|step| [Some(step.effect), step.undo]);
            effects.flatten().filter(|effect| is_here(open, effect)).collect::<Vec<_>>()
        });
        let mut debts = self.debts.sorted().into_iter().filter(|(_, debt)| debt.pool == *pool);
        effects.any(|effect| is_about(&effect)) || debts.any(|(_, debt)| debt.object.to_string() == name)
    }

    /// Whether the backend reverts a volume by its own means.
    pub fn reverts_natively(&self, backend: &BackendName) -> bool {
        self.backends.get(backend).is_some_and(|backend| backend.description.native_revert)
    }

    /// The limit in force for a project; -1 is none.
    pub fn limit(&self, project: &ProjectId, resource: QuotaResource) -> i64 {
        let set = |limits: Option<&QuotaLimits>| limits.and_then(|limits| limits.get(&resource).copied());
        set(self.limits.get(project)).unwrap_or_else(|| self.default_limit(resource))
    }

    /// The limit of projects for which none was set.
    pub fn default_limit(&self, resource: QuotaResource) -> i64 {
        let set = self.default_limits.get(&()).and_then(|limits| limits.get(&resource).copied());
        set.unwrap_or_else(|| resource.default_limit())
    }

    /// Refuses what would go over a limit. `single` is the size of the volume concerned. Checked in
    /// this order: the single volume's size; the count named `first`; then volumes, snapshots and
    /// gigabytes, each in all and then by type.
    ///
    /// # Errors
    /// The rejection that Cinder gives for the limit that is exceeded.
    pub fn check_quota(
        &self,
        project: &ProjectId,
        volume_type: VolumeTypeId,
        more: UsageCount,
        single: Option<SizeGib>,
        first: QuotaResource,
    ) -> Result<(), Rejection> {
        if let Some(size) = single {
            let limit = self.limit(project, QuotaResource::PerVolumeGigabytes);
            if limit >= 0 && i64::from(size.gib()) > limit {
                return Err(Rejection::VolumeSizeExceedsLimit { size, limit });
            }
        }
        let usage = self.usage.get(project);
        let mut checks = [
            (QuotaResource::Volumes, more.volumes),
            (QuotaResource::VolumesOfType(volume_type), more.volumes),
            (QuotaResource::Snapshots, more.snapshots),
            (QuotaResource::SnapshotsOfType(volume_type), more.snapshots),
            (QuotaResource::Gigabytes, more.gigabytes),
            (QuotaResource::GigabytesOfType(volume_type), more.gigabytes),
        ];
        checks.sort_by_key(|(resource, _)| *resource != first);
        for (resource, requested) in checks {
            let limit = self.limit(project, resource);
            let consumed = usage.map_or(0, |usage| usage.of(resource));
            if requested > 0 && limit >= 0 && consumed.saturating_add(requested) > limit {
                let name = self.quota_name(resource);
                return Err(Rejection::over_quota(resource, name, requested, limit, consumed));
            }
        }
        Ok(())
    }

    /// Cinder's name of a limit: `volumes`, or `volumes_<type name>`.
    pub fn quota_name(&self, resource: QuotaResource) -> Box<str> {
        match resource.volume_type().and_then(|id| self.volume_types.get(&id)) {
            None => resource.stem().into(),
            Some(volume_type) => format!("{}_{}", resource.stem(), volume_type.name).into(),
        }
    }

    /// Debts over snapshots of a volume on its pool: they must go before the volume can.
    pub fn owed_snapshots_of(&self, volume: VolumeId, pool: Option<&PoolId>) -> Vec<(DebtId, BackendObject)> {
        let debts = self.debts.sorted().into_iter();
        debts
            .filter(|(_, debt)| {
                debt.object.volume() == volume && debt.object.is_snapshot() && Some(&debt.pool) == pool
            })
            .map(|(id, debt)| (*id, debt.object))
            .collect()
    }

    /// The safety snapshot of a volume that waits for an operator.
    pub fn held_safety_snapshot_of(&self, volume: VolumeId) -> Option<(DebtId, BackendObject)> {
        let debts = self.debts.sorted().into_iter();
        debts
            .filter(|(_, debt)| debt.held && debt.object.volume() == volume && debt.object.is_snapshot())
            .map(|(id, debt)| (*id, debt.object))
            .next_back()
    }
}
