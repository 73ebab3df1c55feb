//! One file per operation: what the command checks and in which order, the events, the step table,
//! and what its end means for the resources.

pub mod attachment_connect;
pub mod attachment_disconnect;
pub mod export_restore;
pub mod object_clean;
pub mod snapshot_create;
pub mod snapshot_delete;
pub mod snapshot_manage;
pub mod snapshot_unmanage;
pub mod status_verify;
pub mod volume_copy;
pub mod volume_create;
pub mod volume_delete;
pub mod volume_extend;
pub mod volume_extend_attached;
pub mod volume_manage;
pub mod volume_recover;
pub mod volume_revert;
pub mod volume_unmanage;
pub mod volume_upload;

use crate::effect::{BackendObject, Failure};
use crate::event::Event;
use crate::ids::{OperationId, PoolId, ProjectId};
use crate::ledger::Ledger;
use crate::operation::{Access, Operation, OperationEvent, PlannedStep, ResourceKey};

pub use attachment_connect::AttachmentConnect;
pub use attachment_disconnect::AttachmentDisconnect;
pub use export_restore::ExportRestore;
pub use object_clean::ObjectClean;
pub use snapshot_create::SnapshotCreate;
pub use snapshot_delete::SnapshotDelete;
pub use snapshot_manage::SnapshotManage;
pub use snapshot_unmanage::SnapshotUnmanage;
pub use status_verify::StatusVerify;
pub use volume_copy::VolumeCopy;
pub use volume_create::VolumeCreate;
pub use volume_delete::VolumeDelete;
pub use volume_extend::VolumeExtend;
pub use volume_extend_attached::VolumeExtendAttached;
pub use volume_manage::VolumeManage;
pub use volume_recover::VolumeRecover;
pub use volume_revert::VolumeRevert;
pub use volume_unmanage::VolumeUnmanage;
pub use volume_upload::VolumeUpload;

/// An operation with its parameters: everything that its steps need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Makes a volume: blank, from a snapshot or from a volume.
    VolumeCreate(VolumeCreate),
    /// Removes a volume, with its snapshots if asked.
    VolumeDelete(VolumeDelete),
    /// Grows a volume.
    VolumeExtend(VolumeExtend),
    /// Puts a snapshot's data back into its volume.
    VolumeRevert(VolumeRevert),
    /// Puts a held safety snapshot's data back.
    VolumeRecover(VolumeRecover),
    /// Takes a snapshot.
    SnapshotCreate(SnapshotCreate),
    /// Removes a snapshot.
    SnapshotDelete(SnapshotDelete),
    /// Asks the backend whether an operator's status is true.
    StatusVerify(StatusVerify),
    /// Takes a volume over that a backend has already.
    VolumeManage(VolumeManage),
    /// Gives a volume up, with its data left on the backend.
    VolumeUnmanage(VolumeUnmanage),
    /// Takes a snapshot over that a backend has already.
    SnapshotManage(SnapshotManage),
    /// Gives a snapshot up, left on the backend.
    SnapshotUnmanage(SnapshotUnmanage),
    /// Removes what the ledger knows nothing of.
    ObjectClean(ObjectClean),
    /// Grows a volume that is attached.
    VolumeExtendAttached(VolumeExtendAttached),
    /// Makes the export of an attachment.
    AttachmentConnect(AttachmentConnect),
    /// Removes the export of an attachment.
    AttachmentDisconnect(AttachmentDisconnect),
    /// Makes an export again that its host has lost.
    ExportRestore(ExportRestore),
    /// Makes an image of a volume.
    VolumeUpload(VolumeUpload),
    /// Makes a volume of what another pool holds.
    VolumeCopy(VolumeCopy),
}

/// What every operation says of itself. The engine needs no more than this.
trait Saga {
    /// Its name in the API and in documents.
    const NAME: &'static str;
    /// The steps, filled in.
    fn steps(&self) -> Vec<PlannedStep>;
    /// Where the work is done. Nothing only if there is no work.
    fn pool(&self) -> Option<&PoolId>;
    /// Where one of the objects is that it works on, if it works in more than one place.
    fn pool_of(&self, _object: &BackendObject) -> Option<&PoolId> {
        self.pool()
    }
    /// What it takes turns on.
    fn uses(&self) -> Vec<(ResourceKey, Access)>;
    /// What one step's success means by itself.
    fn step_completed(&self, _ledger: &Ledger, _step: u16) -> Vec<Event> {
        Vec::new()
    }
    /// What its success means.
    fn completed(&self, ledger: &Ledger) -> Vec<Event>;
    /// What its failure at `step` means, once what could be undone is undone. `restored` is false
    /// if something could not, and an operator is needed.
    fn failed(&self, id: OperationId, step: u16, failure: &Failure, restored: bool) -> Vec<Event>;
    /// What its failure means besides, which depends on what else is so now.
    fn after_failure(&self, _ledger: &Ledger, _restored: bool) -> Vec<Event> {
        Vec::new()
    }
    /// What else must be let go when an operator ends it.
    fn abandoned(&self) -> Vec<Event> {
        Vec::new()
    }
    /// Whether it waits for a backend that cannot be reached, however long, rather than fail.
    fn waits_for_backend(&self) -> bool {
        false
    }
}

macro_rules! each {
    ($kind:expr, $saga:ident => $body:expr) => {
        match $kind {
            OperationKind::VolumeCreate($saga) => $body,
            OperationKind::VolumeDelete($saga) => $body,
            OperationKind::VolumeExtend($saga) => $body,
            OperationKind::VolumeRevert($saga) => $body,
            OperationKind::VolumeRecover($saga) => $body,
            OperationKind::SnapshotCreate($saga) => $body,
            OperationKind::SnapshotDelete($saga) => $body,
            OperationKind::StatusVerify($saga) => $body,
            OperationKind::VolumeManage($saga) => $body,
            OperationKind::VolumeUnmanage($saga) => $body,
            OperationKind::SnapshotManage($saga) => $body,
            OperationKind::SnapshotUnmanage($saga) => $body,
            OperationKind::ObjectClean($saga) => $body,
            OperationKind::VolumeExtendAttached($saga) => $body,
            OperationKind::AttachmentConnect($saga) => $body,
            OperationKind::AttachmentDisconnect($saga) => $body,
            OperationKind::ExportRestore($saga) => $body,
            OperationKind::VolumeUpload($saga) => $body,
            OperationKind::VolumeCopy($saga) => $body,
        }
    };
}

impl OperationKind {
    /// The names of all operations: what is listed here has tests that run it through every failure.
    pub const NAMES: &'static [&'static str] = &[
        VolumeCreate::NAME,
        VolumeDelete::NAME,
        VolumeExtend::NAME,
        VolumeRevert::NAME,
        VolumeRecover::NAME,
        SnapshotCreate::NAME,
        SnapshotDelete::NAME,
        StatusVerify::NAME,
        VolumeManage::NAME,
        VolumeUnmanage::NAME,
        SnapshotManage::NAME,
        SnapshotUnmanage::NAME,
        ObjectClean::NAME,
        VolumeExtendAttached::NAME,
        AttachmentConnect::NAME,
        AttachmentDisconnect::NAME,
        ExportRestore::NAME,
        VolumeUpload::NAME,
        VolumeCopy::NAME,
    ];

    /// Its name in the API and in documents, for example `volume_revert`.
    pub fn name(&self) -> &'static str {
        fn name_of<S: Saga>(_: &S) -> &'static str {
            S::NAME
        }
        each!(self, saga => name_of(saga))
    }

    /// The steps, filled in.
    pub fn steps(&self) -> Vec<PlannedStep> {
        each!(self, saga => saga.steps())
    }

    /// Where the work is done. Nothing only if there is no work.
    pub fn pool(&self) -> Option<&PoolId> {
        each!(self, saga => saga.pool())
    }

    /// Where one of the objects is that it works on: mostly [`Self::pool`].
    pub fn pool_of(&self, object: &BackendObject) -> Option<&PoolId> {
        each!(self, saga => saga.pool_of(object))
    }

    /// What it takes turns on.
    pub fn uses(&self) -> Vec<(ResourceKey, Access)> {
        each!(self, saga => saga.uses())
    }

    /// What one step's success means by itself.
    pub fn step_completed(&self, ledger: &Ledger, step: u16) -> Vec<Event> {
        each!(self, saga => saga.step_completed(ledger, step))
    }

    /// What its success means.
    pub fn completed(&self, ledger: &Ledger) -> Vec<Event> {
        each!(self, saga => saga.completed(ledger))
    }

    /// What its failure means, once what could be undone is undone.
    pub fn failed(&self, id: OperationId, step: u16, failure: &Failure, restored: bool) -> Vec<Event> {
        each!(self, saga => saga.failed(id, step, failure, restored))
    }

    /// What its failure means besides, which depends on what else is so now.
    pub fn after_failure(&self, ledger: &Ledger, restored: bool) -> Vec<Event> {
        each!(self, saga => saga.after_failure(ledger, restored))
    }

    /// What else must be let go when an operator ends it.
    pub fn abandoned(&self) -> Vec<Event> {
        each!(self, saga => saga.abandoned())
    }

    /// Whether it waits for a backend that cannot be reached, however long, rather than fail.
    pub fn waits_for_backend(&self) -> bool {
        each!(self, saga => saga.waits_for_backend())
    }

    /// Where it begins again after a failure, if it may: only what makes a volume goes elsewhere.
    pub fn rescheduled(
        &self,
        ledger: &Ledger,
        operation: &Operation,
        failure: &Failure,
    ) -> Option<(Self, Vec<Event>)> {
        match self {
            Self::VolumeCreate(create) => create
                .rescheduled(ledger, operation, failure)
                .map(|(kind, events)| (Self::VolumeCreate(kind), events)),
            Self::VolumeCopy(copy) => copy
                .rescheduled(ledger, operation, failure)
                .map(|(kind, events)| (Self::VolumeCopy(kind), events)),
            Self::VolumeDelete(_)
            | Self::VolumeExtend(_)
            | Self::VolumeRevert(_)
            | Self::VolumeRecover(_)
            | Self::SnapshotCreate(_)
            | Self::SnapshotDelete(_)
            | Self::StatusVerify(_)
            | Self::VolumeManage(_)
            | Self::VolumeUnmanage(_)
            | Self::SnapshotManage(_)
            | Self::SnapshotUnmanage(_)
            | Self::ObjectClean(_)
            | Self::VolumeExtendAttached(_)
            | Self::AttachmentConnect(_)
            | Self::AttachmentDisconnect(_)
            | Self::ExportRestore(_)
            | Self::VolumeUpload(_) => None,
        }
    }
}

/// The events that open an operation, and complete it at once if it has no steps.
fn open(ledger: &Ledger, id: OperationId, project: &ProjectId, kind: OperationKind) -> Vec<Event> {
    let mut events =
        vec![Event::Operation(id, OperationEvent::Opened { project: project.clone(), kind: kind.clone() })];
    if kind.steps().is_empty() {
        events.extend(kind.completed(ledger));
        events.push(Event::Operation(
            id,
            OperationEvent::Closed { end: crate::operation::OperationEnd::Completed },
        ));
    }
    events
}
