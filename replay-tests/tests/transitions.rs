//! Walks every status with every event against the transition tables, and keeps the state diagrams
//! in docs/states true. `TEPHRA_UPDATE_DOCS=1` rewrites them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use tephra_domain::attachment::{
    self, AttachMode, Attachment, AttachmentEvent, AttachmentEventKind, AttachmentState, AttachmentStatus,
    Connector,
};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, ImageId, OperationId, SnapshotId};
use tephra_domain::scheduler::PlacementDecision;
use tephra_domain::snapshot::{self, SnapshotEvent, SnapshotEventKind, SnapshotState, SnapshotStatus};
use tephra_domain::units::Timestamp;
use tephra_domain::volume::{self, VolumeEvent, VolumeEventKind, VolumeState, VolumeStatus};
use tephra_replay_tests::docs::check_document;
use tephra_replay_tests::world::{World, gib, pool};
use uuid::Uuid;

const OPERATION: OperationId = OperationId::from_uuid(Uuid::from_u128(1));
const SNAPSHOT: SnapshotId = SnapshotId::from_uuid(Uuid::from_u128(2));
const IMAGE: ImageId = ImageId::from_uuid(Uuid::from_u128(5));

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "it failed")
}

/// Every kind of event, more than once where its content decides where it leads.
fn volume_events() -> Vec<VolumeEvent> {
    let operation = OPERATION;
    let mut events = vec![
        VolumeEvent::Rescheduled {
            failed: pool("one"),
            failure: failure(FailureKind::NoSpace),
            placement: PlacementDecision::default(),
        },
        VolumeEvent::Created,
        VolumeEvent::CreateFailed { operation, failure: failure(FailureKind::NoSpace) },
        VolumeEvent::DeleteAccepted { operation },
        VolumeEvent::Deleted,
        VolumeEvent::DeleteFailed { operation, failure: failure(FailureKind::Busy) },
        VolumeEvent::DeleteFailed { operation, failure: failure(FailureKind::BackendError) },
        VolumeEvent::ExtendAccepted { operation, to: gib(2) },
        VolumeEvent::Extended { to: gib(2) },
        VolumeEvent::RevertAccepted { operation, snapshot: SNAPSHOT },
        VolumeEvent::Reverted,
        VolumeEvent::ResetAccepted { operation },
        VolumeEvent::ResetFailed { operation, failure: failure(FailureKind::ObjectMissing) },
        VolumeEvent::DetailsUpdated { name: None, description: None },
        VolumeEvent::MetadataReplaced { metadata: BTreeMap::new() },
        VolumeEvent::BootableChanged { bootable: true },
        VolumeEvent::ReadonlyChanged { readonly: true },
        VolumeEvent::ImageMetadataReplaced { metadata: BTreeMap::new() },
        VolumeEvent::Managed,
        VolumeEvent::ManageFailed { operation, failure: failure(FailureKind::ObjectMissing) },
        VolumeEvent::UnmanageAccepted { operation },
        VolumeEvent::Unmanaged,
        VolumeEvent::UploadAccepted { operation, image: IMAGE },
        VolumeEvent::Uploaded { image: IMAGE },
        VolumeEvent::UploadFailed { operation, failure: failure(FailureKind::TimedOut) },
    ];
    for restored in [true, false] {
        let failure = || failure(FailureKind::BackendError);
        events.push(VolumeEvent::ExtendFailed { operation, failure: failure(), restored });
        events.push(VolumeEvent::RevertFailed { operation, failure: failure(), restored });
        events.push(VolumeEvent::UnmanageFailed { operation, failure: failure(), restored });
    }
    events.extend(VolumeState::ALL.iter().map(|to| VolumeEvent::StatusReset { to: *to }));
    events.extend(volume::USES.iter().map(|to| VolumeEvent::UseChanged { to: *to }));
    events
}

/// Every status in a state, more than once where its data decides where events lead.
fn volume_statuses(state: VolumeState) -> Vec<VolumeStatus> {
    let operation = OPERATION;
    match state {
        VolumeState::Absent => Vec::new(),
        VolumeState::Creating => vec![VolumeStatus::Creating { operation }],
        VolumeState::Deleting => {
            VolumeState::ALL.iter().map(|from| VolumeStatus::Deleting { operation, from: *from }).collect()
        }
        VolumeState::Extending => vec![VolumeStatus::Extending { operation, to: gib(2) }],
        VolumeState::Reverting => vec![VolumeStatus::Reverting { operation, snapshot: SNAPSHOT }],
        VolumeState::Verifying => vec![VolumeStatus::Verifying { operation, from: VolumeState::Error }],
        VolumeState::Managing => vec![VolumeStatus::Managing { operation }],
        VolumeState::Uploading => vec![VolumeStatus::Uploading { operation, image: IMAGE }],
        VolumeState::Unmanaging => {
            VolumeState::ALL.iter().map(|from| VolumeStatus::Unmanaging { operation, from: *from }).collect()
        }
        VolumeState::Available
        | VolumeState::Error
        | VolumeState::ErrorDeleting
        | VolumeState::ErrorExtending
        | VolumeState::ErrorRestoring
        | VolumeState::ErrorManaging
        | VolumeState::ErrorBackingUp
        | VolumeState::Maintenance
        | VolumeState::Reserved
        | VolumeState::Attaching
        | VolumeState::InUse
        | VolumeState::Detaching => VolumeStatus::at_rest(state).into_iter().collect(),
    }
}

#[test]
fn a_volume_goes_exactly_where_its_table_says() {
    let mut world = World::default();
    let id = world.given_volume(1, 0);
    let template = world.ledger.volumes.get(&id).unwrap().clone();
    let mut taken: BTreeSet<(VolumeState, VolumeEventKind, VolumeState)> = BTreeSet::new();
    for from in VolumeState::ALL {
        let statuses = volume_statuses(*from);
        for (status, event) in statuses.iter().flat_map(|s| volume_events().into_iter().map(move |e| (s, e)))
        {
            let mut row = template.clone();
            row.status = status.clone();
            let before = row.clone();
            match row.apply(Timestamp(1), &event) {
                Ok(stays) => {
                    let to = if stays { row.status.state() } else { VolumeState::Absent };
                    assert!(volume::is_transition(*from, event.kind(), to), "{from:?} {event:?} {to:?}");
                    taken.insert((*from, event.kind(), to));
                }
                Err(_) => assert_eq!(row, before, "what is refused changes nothing: {from:?} {event:?}"),
            }
        }
    }
    // a volume begins by being accepted: that row is taken by Volume::accepted, not by apply
    taken.insert((VolumeState::Absent, VolumeEventKind::CreateAccepted, VolumeState::Creating));
    taken.insert((VolumeState::Absent, VolumeEventKind::ManageAccepted, VolumeState::Managing));
    for row in volume::TRANSITIONS {
        assert!(taken.contains(row), "nothing takes {row:?}");
    }
}

fn snapshot_events() -> Vec<SnapshotEvent> {
    let operation = OPERATION;
    let mut events = vec![
        SnapshotEvent::Created,
        SnapshotEvent::CreateFailed { operation, failure: failure(FailureKind::NoSpace) },
        SnapshotEvent::DeleteAccepted { operation },
        SnapshotEvent::Deleted,
        SnapshotEvent::DeleteFailed { operation, failure: failure(FailureKind::Busy) },
        SnapshotEvent::DeleteFailed { operation, failure: failure(FailureKind::BackendError) },
        SnapshotEvent::RestoreAccepted { operation },
        SnapshotEvent::RestoreEnded,
        SnapshotEvent::ResetAccepted { operation },
        SnapshotEvent::ResetFailed { operation, failure: failure(FailureKind::ObjectMissing) },
        SnapshotEvent::DetailsUpdated { name: None, description: None },
        SnapshotEvent::MetadataReplaced { metadata: BTreeMap::new() },
        SnapshotEvent::Managed,
        SnapshotEvent::ManageFailed { operation, failure: failure(FailureKind::ObjectMissing) },
        SnapshotEvent::UnmanageAccepted { operation },
        SnapshotEvent::Unmanaged,
    ];
    for restored in [true, false] {
        let failure = failure(FailureKind::BackendError);
        events.push(SnapshotEvent::UnmanageFailed { operation, failure, restored });
    }
    events.extend(SnapshotState::ALL.iter().map(|to| SnapshotEvent::StatusReset { to: *to }));
    events
}

/// Every status in a state, more than once where its data decides where events lead.
fn snapshot_statuses(state: SnapshotState) -> Vec<SnapshotStatus> {
    let operation = OPERATION;
    match state {
        SnapshotState::Absent => Vec::new(),
        SnapshotState::Creating => vec![SnapshotStatus::Creating { operation }],
        SnapshotState::Deleting => SnapshotState::ALL
            .iter()
            .map(|from| SnapshotStatus::Deleting { operation, from: *from })
            .collect(),
        SnapshotState::Unmanaging => SnapshotState::ALL
            .iter()
            .map(|from| SnapshotStatus::Unmanaging { operation, from: *from })
            .collect(),
        SnapshotState::Restoring => vec![SnapshotStatus::Restoring { operation }],
        SnapshotState::Verifying => {
            vec![SnapshotStatus::Verifying { operation, from: SnapshotState::Error }]
        }
        SnapshotState::Available | SnapshotState::Error | SnapshotState::ErrorDeleting => {
            SnapshotStatus::at_rest(state).into_iter().collect()
        }
    }
}

#[test]
fn a_snapshot_goes_exactly_where_its_table_says() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let id = world.given_snapshot(volume);
    let template = world.ledger.snapshots.get(&id).unwrap().clone();
    let mut taken: BTreeSet<(SnapshotState, SnapshotEventKind, SnapshotState)> = BTreeSet::new();
    for from in SnapshotState::ALL {
        let statuses = snapshot_statuses(*from);
        for (status, event) in
            statuses.iter().flat_map(|s| snapshot_events().into_iter().map(move |e| (s, e)))
        {
            let mut row = template.clone();
            row.status = status.clone();
            let before = row.clone();
            match row.apply(Timestamp(1), &event) {
                Ok(stays) => {
                    let to = if stays { row.status.state() } else { SnapshotState::Absent };
                    assert!(snapshot::is_transition(*from, event.kind(), to), "{from:?} {event:?} {to:?}");
                    taken.insert((*from, event.kind(), to));
                }
                Err(_) => assert_eq!(row, before, "what is refused changes nothing: {from:?} {event:?}"),
            }
        }
    }
    taken.insert((SnapshotState::Absent, SnapshotEventKind::CreateAccepted, SnapshotState::Creating));
    taken.insert((SnapshotState::Absent, SnapshotEventKind::ManageAccepted, SnapshotState::Creating));
    for row in snapshot::TRANSITIONS {
        assert!(taken.contains(row), "nothing takes {row:?}");
    }
}

const ATTACHMENT: AttachmentId = AttachmentId::from_uuid(Uuid::from_u128(3));

fn attachment_events() -> Vec<AttachmentEvent> {
    let operation = OPERATION;
    let (connector, mode) = (Connector::default(), AttachMode::ReadWrite);
    let failure = || failure(FailureKind::BackendError);
    vec![
        AttachmentEvent::Reserved { instance: None, mode: None },
        AttachmentEvent::ConnectAccepted { operation, connector, mode },
        AttachmentEvent::Connected,
        AttachmentEvent::ConnectFailed { operation, failure: failure(), restored: true },
        AttachmentEvent::ConnectFailed { operation, failure: failure(), restored: false },
        AttachmentEvent::Attached { instance: None, host: None, mountpoint: None, mode },
        AttachmentEvent::Completed,
        AttachmentEvent::DisconnectAccepted { operation },
        AttachmentEvent::Disconnected,
        AttachmentEvent::DisconnectFailed { operation, failure: failure() },
        AttachmentEvent::Deleted,
    ]
}

fn attachment_status(state: AttachmentState) -> Option<AttachmentStatus> {
    let operation = OPERATION;
    match state {
        AttachmentState::Absent => None,
        AttachmentState::Reserved => Some(AttachmentStatus::Reserved),
        AttachmentState::Connecting => Some(AttachmentStatus::Connecting { operation }),
        AttachmentState::Attaching => Some(AttachmentStatus::Attaching),
        AttachmentState::Attached => Some(AttachmentStatus::Attached),
        AttachmentState::Disconnecting => {
            Some(AttachmentStatus::Disconnecting { operation, from: AttachmentState::Attached })
        }
        AttachmentState::ErrorAttaching => Some(AttachmentStatus::ErrorAttaching),
        AttachmentState::ErrorDetaching => Some(AttachmentStatus::ErrorDetaching),
    }
}

#[test]
fn an_attachment_goes_exactly_where_its_table_says() {
    let mut taken: BTreeSet<(AttachmentState, AttachmentEventKind, AttachmentState)> = BTreeSet::new();
    for from in AttachmentState::ALL {
        let Some(status) = attachment_status(*from) else { continue };
        for event in attachment_events() {
            let mut row = Attachment::reserved(ATTACHMENT, Timestamp(0), None, None);
            row.status = status.clone();
            let before = row.clone();
            match row.apply(Timestamp(1), &event) {
                Ok(stays) => {
                    let to = if stays { row.status.state() } else { AttachmentState::Absent };
                    assert!(attachment::is_transition(*from, event.kind(), to), "{from:?} {event:?} {to:?}");
                    taken.insert((*from, event.kind(), to));
                }
                Err(_) => assert_eq!(row, before, "what is refused changes nothing: {from:?} {event:?}"),
            }
        }
    }
    taken.insert((AttachmentState::Absent, AttachmentEventKind::Reserved, AttachmentState::Reserved));
    for row in attachment::TRANSITIONS {
        assert!(taken.contains(row), "nothing takes {row:?}");
    }
}

fn diagram<S: Copy + Ord, K: std::fmt::Debug>(
    rows: &[(S, K, S)],
    absent: S,
    name: impl Fn(S) -> &'static str,
) -> String {
    let node = |state: S| if state == absent { "[*]".to_owned() } else { name(state).replace('-', "_") };
    let mut text = String::from("stateDiagram-v2\n");
    for (from, event, to) in rows {
        writeln!(text, "    {} --> {}: {event:?}", node(*from), node(*to)).unwrap();
    }
    text
}

#[test]
fn the_state_diagrams_are_true() {
    let volumes = diagram(volume::TRANSITIONS, VolumeState::Absent, VolumeState::as_str);
    check_document("docs/states/volume.mmd", &volumes);
    let snapshots = diagram(snapshot::TRANSITIONS, SnapshotState::Absent, SnapshotState::as_str);
    check_document("docs/states/snapshot.mmd", &snapshots);
    let attachments = diagram(attachment::TRANSITIONS, AttachmentState::Absent, AttachmentState::as_str);
    check_document("docs/states/attachment.mmd", &attachments);
}
