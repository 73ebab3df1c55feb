//! Creating a volume: blank, from a snapshot, from another volume, or from an image.
//!
//! | step   | effect                                                                        | undo         | if the undo fails |
//! |--------|-------------------------------------------------------------------------------|--------------|-------------------|
//! | create | CreateVolume, CreateVolumeFromSnapshot, CloneVolume or CreateVolumeFromImage   | DeleteVolume | leave to owner    |
//!
//! Data that the pool already has is cloned there by the backend's own means. Where no pool beside its
//! source takes the volume, it is copied to another by [`super::volume_copy`].
//!
//! A failure goes to the next backend that the scheduler put on the list, at most
//! [`MAX_ATTEMPTS`] in all, and leaves a cleanup debt on the one that failed. Backends tried before
//! are never picked again. After the last one the volume is in `error`, with the reason.

use std::collections::BTreeMap;

use crate::command::{Context, CreateVolume, CreateVolumeFromImage};
use crate::effect::{BackendObject, Effect, Failure, FailureKind};
use crate::event::Event;
use crate::ids::{BackendName, ImageId, OperationId, PoolId, SnapshotId, VolumeId, VolumeTypeId};
use crate::image::ImageFacts;
use crate::ledger::Ledger;
use crate::operation::{Access, IfItFails, IfUndoFails, Operation, PlannedStep, ResourceKey, Step, plan};
use crate::quota::{QuotaResource, UsageCount};
use crate::rejection::Rejection;
use crate::scheduler::{self, DataSource, PlacementDecision, VolumeRequest};
use crate::snapshot::SnapshotState;
use crate::units::SizeGib;
use crate::volume::{VolumeCreateAccepted, VolumeEvent, VolumeSource, VolumeState};
use crate::volume_type::VolumeType;

use super::volume_copy::{CopySource, VolumeCopy};
use super::{OperationKind, Saga, open};

/// Backends that a create is tried on (Cinder's `scheduler_max_attempts`).
pub const MAX_ATTEMPTS: usize = 3;

/// The parameters of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCreate {
    /// The new volume.
    pub volume: VolumeId,
    /// Its size.
    pub size: SizeGib,
    /// Where its data comes from; a snapshot with its volume.
    pub source: CreateSource,
    /// Where it is being made.
    pub pool: PoolId,
    /// Where to go if that fails, best first.
    pub alternatives: Vec<PoolId>,
    /// Backends that failed.
    pub failed_backends: Vec<BackendName>,
}

/// [`VolumeSource`] with what the effect needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateSource {
    /// All zeroes.
    Blank,
    /// A snapshot's data.
    Snapshot {
        /// The snapshot's volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A volume's data.
    Volume(VolumeId),
    /// An image's disk.
    Image(ImageId),
}

/// The steps.
pub const STEPS: &[Step<VolumeCreate>] = &[Step {
    name: "create",
    when: "always",
    count: |_| 1,
    effect: |p, _| {
        let volume = BackendObject::Volume(p.volume);
        match p.source {
            CreateSource::Blank => Effect::CreateVolume { volume, size: p.size },
            CreateSource::Snapshot { volume: of, snapshot } => Effect::CreateVolumeFromSnapshot {
                volume,
                size: p.size,
                snapshot: BackendObject::Snapshot { volume: of, snapshot },
            },
            CreateSource::Volume(source) => {
                Effect::CloneVolume { volume, size: p.size, source: BackendObject::Volume(source) }
            }
            CreateSource::Image(image) => Effect::CreateVolumeFromImage { volume, size: p.size, image },
        }
    },
    if_it_fails: IfItFails::Undo,
    undo: Some(|p, _| Effect::DeleteVolume { volume: BackendObject::Volume(p.volume) }),
    if_undo_fails: IfUndoFails::LeaveToOwner,
}];

/// Checks, in this order: role; id not taken; source exists, belongs to the project and is usable;
/// size given and not below the source's; the image active, and neither its file nor the disk that it
/// asks for larger (`check_image_metadata` of Cinder); type exists and may be used; zone exists; quota (largest
/// volume, number, gigabytes, each also by type).
///
/// # Errors
/// The first of these that does not hold.
pub fn decide(ledger: &Ledger, command: &CreateVolume, ctx: &Context) -> Result<Vec<Event>, Rejection> {
    decide_with(ledger, command, None, ctx)
}

/// As [`decide`], from an image.
///
/// # Errors
/// As [`decide`].
pub fn decide_from_image(
    ledger: &Ledger,
    command: &CreateVolumeFromImage,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    let create = CreateVolume { source: VolumeSource::Image(command.image.id), ..command.create.clone() };
    decide_with(ledger, &create, Some(&command.image), ctx)
}

fn decide_with(
    ledger: &Ledger,
    command: &CreateVolume,
    image: Option<&ImageFacts>,
    ctx: &Context,
) -> Result<Vec<Event>, Rejection> {
    ctx.actor.require_member("volume:create")?;
    if ledger.volumes.contains_key(&command.volume) {
        return Err(Rejection::VolumeExists { volume: command.volume });
    }
    let source = usable_source(ledger, command.source, image, ctx)?;
    let size = chosen_size(command.size, &source)?;
    if let Some(image) = image {
        fits(image, size)?;
    }
    let volume_type = chosen_type(ledger, command, &source, ctx)?;
    if let Some(zone) = &command.availability_zone
        && !ledger.has_zone(zone)
    {
        return Err(Rejection::AvailabilityZoneInvalid { zone: zone.clone() });
    }
    ledger.check_quota(
        &ctx.actor.project,
        volume_type.id,
        UsageCount { volumes: 1, snapshots: 0, gigabytes: i64::from(size.gib()) },
        Some(size),
        QuotaResource::Volumes,
    )?;

    let request = VolumeRequest {
        size,
        availability_zone: command.availability_zone.as_ref(),
        extra_specs: &volume_type.extra_specs,
        source: source.pool.as_ref().map(|pool| DataSource { pool, must_be_snapshotted: source.is_volume() }),
    };
    let placement = scheduler::place(ledger, &request, &ctx.pools);
    let operation = OperationId::from(ctx.command);
    let availability_zone = command
        .availability_zone
        .clone()
        .or_else(|| placement.chosen.as_ref().and_then(|pool| ledger.zone_of(&pool.backend)))
        .unwrap_or_else(|| ledger.default_zone());
    let accepted = VolumeCreateAccepted {
        operation,
        project: ctx.actor.project.clone(),
        user: ctx.actor.user.clone(),
        name: command.name.clone(),
        description: command.description.clone(),
        size,
        volume_type: volume_type.id,
        availability_zone,
        source: command.source,
        metadata: command.metadata.clone(),
        multiattach: volume_type.is_multiattach(),
        bootable: source.bootable,
        placement: placement.clone(),
    };
    let mut events = vec![Event::Volume(command.volume, VolumeEvent::CreateAccepted(Box::new(accepted)))];
    if !source.image_metadata.is_empty() {
        let metadata = source.image_metadata.clone();
        events.push(Event::Volume(command.volume, VolumeEvent::ImageMetadataReplaced { metadata }));
    }
    match placement.chosen.clone() {
        None => events.push(Event::Volume(
            command.volume,
            VolumeEvent::CreateFailed { operation, failure: placement.no_valid_backend() },
        )),
        Some(pool) => {
            let attempts =
                Attempts { pool, alternatives: placement.alternatives.clone(), failed_backends: Vec::new() };
            let kind = source.made_by(operation, command.volume, size, attempts);
            events.extend(open(ledger, operation, &ctx.actor.project, kind));
        }
    }
    Ok(events)
}

struct Source {
    kind: CreateSource,
    size: Option<SizeGib>,
    volume_type: Option<VolumeTypeId>,
    pool: Option<PoolId>,
    bootable: bool,
    image_metadata: BTreeMap<String, String>,
}

impl Source {
    const fn is_volume(&self) -> bool {
        match self.kind {
            CreateSource::Volume(_) => true,
            CreateSource::Blank | CreateSource::Snapshot { .. } | CreateSource::Image(_) => false,
        }
    }

    /// The operation that makes a volume of it: a copy where the source is on another pool.
    fn made_by(
        &self,
        operation: OperationId,
        volume: VolumeId,
        size: SizeGib,
        attempts: Attempts,
    ) -> OperationKind {
        let Attempts { pool, alternatives, failed_backends } = attempts;
        let from = self.pool.as_ref().filter(|from| **from != pool);
        match (CopySource::of(self.kind), from) {
            (Some(source), Some(from)) => {
                let from = from.clone();
                OperationKind::VolumeCopy(VolumeCopy {
                    operation,
                    volume,
                    size,
                    source,
                    from,
                    pool,
                    alternatives,
                    failed_backends,
                })
            }
            (Some(_), None) | (None, _) => OperationKind::VolumeCreate(VolumeCreate {
                volume,
                size,
                source: self.kind,
                pool,
                alternatives,
                failed_backends,
            }),
        }
    }
}

/// The image can become a volume of that size (Cinder's `check_image_metadata`).
fn fits(image: &ImageFacts, size: SizeGib) -> Result<(), Rejection> {
    if &*image.status != "active" {
        return Err(Rejection::ImageNotActive { image: image.id });
    }
    let image_gib = image.size_bytes.unwrap_or(0).div_ceil(1 << 30);
    if image_gib > u64::from(size.gib()) {
        return Err(Rejection::SizeBelowImage { size, image_gib });
    }
    if image.min_disk_gib > size.gib() {
        return Err(Rejection::SizeBelowMinDisk { size, min_disk_gib: image.min_disk_gib });
    }
    Ok(())
}

fn usable_source(
    ledger: &Ledger,
    source: VolumeSource,
    image: Option<&ImageFacts>,
    ctx: &Context,
) -> Result<Source, Rejection> {
    match source {
        VolumeSource::Image(id) => {
            let facts = image.ok_or(Rejection::ImageFactsMissing { image: id })?;
            Ok(Source {
                kind: CreateSource::Image(id),
                size: None,
                volume_type: None,
                pool: None,
                bootable: true,
                image_metadata: facts.metadata.clone(),
            })
        }
        VolumeSource::Blank => Ok(Source {
            kind: CreateSource::Blank,
            size: None,
            volume_type: None,
            pool: None,
            bootable: false,
            image_metadata: BTreeMap::new(),
        }),
        VolumeSource::Snapshot(id) => {
            let snapshot = ledger.visible_snapshot(id, &ctx.actor)?;
            if snapshot.status.state() != SnapshotState::Available {
                return Err(Rejection::SourceSnapshotNotUsable);
            }
            Ok(Source {
                kind: CreateSource::Snapshot { volume: snapshot.volume, snapshot: id },
                size: Some(snapshot.size),
                volume_type: Some(snapshot.volume_type),
                pool: Some(snapshot.pool.clone()),
                bootable: ledger.volumes.get(&snapshot.volume).is_some_and(|volume| volume.bootable),
                image_metadata: ledger
                    .volumes
                    .get(&snapshot.volume)
                    .map_or_else(BTreeMap::new, |volume| volume.image_metadata.clone()),
            })
        }
        VolumeSource::Volume(id) => {
            let volume = ledger.visible_volume(id, &ctx.actor)?;
            if !matches!(volume.status.state(), VolumeState::Available | VolumeState::InUse) {
                return Err(Rejection::SourceVolumeNotUsable);
            }
            Ok(Source {
                kind: CreateSource::Volume(id),
                size: Some(volume.size),
                volume_type: Some(volume.volume_type),
                pool: volume.pool.clone(),
                bootable: volume.bootable,
                image_metadata: volume.image_metadata.clone(),
            })
        }
    }
}

fn chosen_size(asked: Option<SizeGib>, source: &Source) -> Result<SizeGib, Rejection> {
    let size = asked.or(source.size).ok_or(Rejection::VolumeSizeMissing)?;
    match (&source.kind, source.size) {
        (CreateSource::Snapshot { .. }, Some(least)) if size < least => {
            Err(Rejection::SizeBelowSnapshot { size, snapshot_size: least })
        }
        (CreateSource::Volume(_), Some(least)) if size < least => {
            Err(Rejection::SizeBelowSource { size, source_size: least })
        }
        (
            CreateSource::Blank
            | CreateSource::Snapshot { .. }
            | CreateSource::Volume(_)
            | CreateSource::Image(_),
            _,
        ) => Ok(size),
    }
}

fn chosen_type<'a>(
    ledger: &'a Ledger,
    command: &CreateVolume,
    source: &Source,
    ctx: &Context,
) -> Result<&'a VolumeType, Rejection> {
    match (&command.volume_type, source.volume_type) {
        (Some(asked), _) => ledger.usable_type(asked, &ctx.actor),
        (None, Some(id)) => ledger.type_by_id(id),
        (None, None) => ledger.default_type(),
    }
}

impl VolumeCreate {
    /// The next backend, if there is one and the attempts are not used up.
    pub(super) fn rescheduled(
        &self,
        ledger: &Ledger,
        operation: &Operation,
        failure: &Failure,
    ) -> Option<(Self, Vec<Event>)> {
        // an image that is not acceptable here is so nowhere
        let is_the_images_fault = matches!(
            failure.kind,
            FailureKind::Mismatch | FailureKind::ObjectMissing | FailureKind::Unsupported
        );
        if is_the_images_fault && matches!(self.source, CreateSource::Image(_)) {
            return None;
        }
        let (next, event) = self.attempts().next(ledger, failure)?;
        let Attempts { pool, alternatives, failed_backends } = next;
        let kind = Self { pool, alternatives, failed_backends, ..self.clone() };
        debug_assert_eq!(operation.kind.pool(), Some(&self.pool), "an operation reschedules itself");
        Some((kind, vec![Event::Volume(self.volume, event)]))
    }

    fn attempts(&self) -> Attempts {
        Attempts {
            pool: self.pool.clone(),
            alternatives: self.alternatives.clone(),
            failed_backends: self.failed_backends.clone(),
        }
    }
}

/// Where a volume is being made, and where else it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempts {
    pub pool: PoolId,
    pub alternatives: Vec<PoolId>,
    pub failed_backends: Vec<BackendName>,
}

impl Attempts {
    /// The next backend, with the event that says so, if there is one and the attempts are not used up.
    pub(super) fn next(self, ledger: &Ledger, failure: &Failure) -> Option<(Self, VolumeEvent)> {
        let Self { pool: failed, alternatives, mut failed_backends } = self;
        failed_backends.push(failed.backend.clone());
        if failed_backends.len() >= MAX_ATTEMPTS {
            return None;
        }
        let usable = |pool: &PoolId| {
            !failed_backends.contains(&pool.backend)
                && ledger.backends.get(&pool.backend).is_some_and(|backend| backend.enabled)
        };
        let mut rest: Vec<PoolId> = alternatives.into_iter().filter(usable).collect();
        if rest.is_empty() {
            return None;
        }
        let pool = rest.remove(0);
        let event = VolumeEvent::Rescheduled {
            failed,
            failure: failure.clone(),
            placement: PlacementDecision {
                chosen: Some(pool.clone()),
                alternatives: rest.clone(),
                candidates: Vec::new(),
            },
        };
        Some((Self { pool, alternatives: rest, failed_backends }, event))
    }

    /// What the volume's failure is when there is no other backend.
    pub(super) fn all_failed(&self, last: &Failure) -> Failure {
        if self.failed_backends.is_empty() {
            return last.clone();
        }
        let tried = self.failed_backends.len().saturating_add(1);
        Failure::new(FailureKind::NoValidBackend, format!("{tried} backends failed; the last one: {last}"))
    }
}

impl Saga for VolumeCreate {
    const NAME: &'static str = "volume_create";

    fn steps(&self) -> Vec<PlannedStep> {
        plan(STEPS, self)
    }

    fn pool(&self) -> Option<&PoolId> {
        Some(&self.pool)
    }

    fn uses(&self) -> Vec<(ResourceKey, Access)> {
        let mut uses = vec![(ResourceKey::Volume(self.volume), Access::Exclusive)];
        match self.source {
            CreateSource::Blank | CreateSource::Image(_) => {}
            CreateSource::Snapshot { volume, snapshot } => {
                uses.push((ResourceKey::Volume(volume), Access::Shared));
                uses.push((ResourceKey::Snapshot(snapshot), Access::Shared));
            }
            CreateSource::Volume(source) => uses.push((ResourceKey::Volume(source), Access::Shared)),
        }
        uses
    }

    fn completed(&self, _ledger: &Ledger) -> Vec<Event> {
        vec![Event::Volume(self.volume, VolumeEvent::Created)]
    }

    fn failed(&self, id: OperationId, _step: u16, failure: &Failure, _restored: bool) -> Vec<Event> {
        let failure = self.attempts().all_failed(failure);
        vec![Event::Volume(self.volume, VolumeEvent::CreateFailed { operation: id, failure })]
    }
}
