//! Snapshots on the wire.

use std::collections::BTreeMap;

use serde::Serialize;
use tephra_domain::snapshot::{Snapshot, SnapshotState};
use utoipa::ToSchema;

use super::links::Link;
use super::moment;
use super::volume::Null;
use crate::microversion::Microversion;

/// `{"snapshot": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotEnvelope {
    /// The snapshot.
    pub snapshot: SnapshotDetail,
}

/// A page of snapshots.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotList {
    /// The snapshots.
    pub snapshots: Vec<SnapshotDetail>,
    /// The next page, if this one is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_links: Option<[Link; 1]>,
    /// How many there are on all pages, if asked (3.45).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A snapshot, as it is at the request's microversion.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotDetail {
    id: String,
    created_at: String,
    updated_at: Option<String>,
    name: Option<Box<str>>,
    description: Option<Box<str>>,
    volume_id: String,
    status: &'static str,
    size: u32,
    metadata: BTreeMap<String, String>,
    /// From 3.14.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_snapshot_id: Option<Null>,
    /// From 3.41.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    /// From 3.65.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
    #[serde(rename = "os-extended-snapshot-attributes:project_id", skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
    #[serde(rename = "os-extended-snapshot-attributes:progress", skip_serializing_if = "Option::is_none")]
    progress: Option<&'static str>,
}

/// Which fields a snapshot is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// In the plain list: those that every microversion has.
    Brief,
    /// In answers to create and update.
    Detail,
    /// On show and in the detailed list: with the `os-…` ones.
    Extended,
}

impl SnapshotDetail {
    /// Shows a snapshot.
    pub fn new(snapshot: Snapshot, fields: Fields, version: Microversion) -> Self {
        let is_from = |minor: u16| fields != Fields::Brief && version.is_at_least(minor);
        let is_extended = fields == Fields::Extended;
        let progress = match snapshot.status.state() {
            SnapshotState::Creating => "0%",
            SnapshotState::Absent
            | SnapshotState::Available
            | SnapshotState::Deleting
            | SnapshotState::Restoring
            | SnapshotState::Verifying
            | SnapshotState::Error
            | SnapshotState::ErrorDeleting
            | SnapshotState::Unmanaging => "100%",
        };
        Self {
            id: snapshot.id.to_string(),
            created_at: moment(snapshot.created_at),
            updated_at: snapshot.updated_at.map(moment),
            name: snapshot.name,
            description: snapshot.description,
            volume_id: snapshot.volume.to_string(),
            status: snapshot.status.wire_name(),
            size: snapshot.size.gib(),
            metadata: snapshot.metadata,
            group_snapshot_id: is_from(14).then_some(Null),
            user_id: is_from(41).then(|| snapshot.user.to_string()),
            consumes_quota: is_from(65).then_some(true),
            project_id: is_extended.then(|| snapshot.project.to_string()),
            progress: is_extended.then_some(progress),
        }
    }
}
