//! Volumes on the wire.

use std::collections::BTreeMap;

use serde::Serialize;
use tephra_domain::ids::{BackendName, PoolId, VolumeTypeId};
use tephra_domain::volume::{Volume, VolumeSource};
use tephra_projector::Views;
use utoipa::ToSchema;

use super::attachment::VolumeAttachmentView;
use super::links::{Link, Links};
use super::moment;
use crate::error::Fault;
use crate::microversion::Microversion;

/// The name of the collection in links.
pub const COLLECTION: &str = "volumes";

/// `{"volume": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeEnvelope {
    /// The volume.
    pub volume: VolumeDetail,
}

/// A page of volumes with all their fields.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeDetailList {
    /// The volumes.
    pub volumes: Vec<VolumeDetail>,
    /// The next page, if this one is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes_links: Option<[Link; 1]>,
    /// How many there are on all pages, if asked (3.45).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A page of volumes by id and name.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeSummaryList {
    /// The volumes.
    pub volumes: Vec<VolumeBrief>,
    /// The next page, if this one is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes_links: Option<[Link; 1]>,
    /// How many there are on all pages, if asked (3.45).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A volume by id and name.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeBrief {
    id: String,
    name: Option<Box<str>>,
    links: [Link; 2],
}

impl VolumeBrief {
    /// Shows a volume.
    pub fn new(volume: Volume, links: &Links) -> Self {
        let id = volume.id.to_string();
        Self { links: links.of(COLLECTION, &id), id, name: volume.name }
    }
}

/// A volume with all its fields, as they are at the request's microversion.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeDetail {
    id: String,
    status: &'static str,
    size: u32,
    availability_zone: String,
    created_at: String,
    updated_at: Option<String>,
    name: Option<Box<str>>,
    description: Option<Box<str>>,
    /// The type's name.
    volume_type: Option<String>,
    snapshot_id: Option<String>,
    source_volid: Option<String>,
    metadata: BTreeMap<String, String>,
    links: [Link; 2],
    user_id: String,
    /// `true` or `false`, as a text.
    bootable: &'static str,
    encrypted: bool,
    replication_status: Option<String>,
    consistencygroup_id: Option<String>,
    multiattach: bool,
    attachments: Vec<VolumeAttachmentView>,
    /// What is remembered of the image that it came from; on show and detail only.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_image_metadata: Option<BTreeMap<String, String>>,
    /// Administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    migration_status: Option<Null>,
    /// From 3.13.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<Null>,
    /// From 3.21, administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<Null>,
    /// From 3.48.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_targets: Option<bool>,
    /// From 3.48.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_uuid: Option<Null>,
    /// From 3.61, administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<Null>,
    /// From 3.63.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_type_id: Option<String>,
    /// From 3.65.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
    /// `host@backend#pool`, administrators only.
    #[serde(rename = "os-vol-host-attr:host", skip_serializing_if = "Option::is_none")]
    host: Option<Option<String>>,
    #[serde(rename = "os-vol-tenant-attr:tenant_id", skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
    #[serde(rename = "os-vol-mig-status-attr:migstat", skip_serializing_if = "Option::is_none")]
    migstat: Option<Null>,
    #[serde(rename = "os-vol-mig-status-attr:name_id", skip_serializing_if = "Option::is_none")]
    name_id: Option<Null>,
}

/// A field that is there, and null: what nothing in the ledger has yet.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Null;

/// Who looks, and how: what decides which fields are there.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The dialect.
    pub version: Microversion,
    /// Whether administrators' fields are shown.
    pub is_admin: bool,
    /// Whether the `os-…` fields are there: on show and detail only.
    pub is_extended: bool,
    /// What links begin with.
    pub links: &'a Links,
    /// Names of what volumes refer to by id.
    pub names: &'a Names,
}

/// Names of what volumes refer to by id.
#[derive(Clone, Debug, Default)]
pub struct Names {
    types: BTreeMap<VolumeTypeId, Box<str>>,
    hosts: BTreeMap<BackendName, Box<str>>,
}

impl Names {
    /// Those that one volume needs.
    ///
    /// # Errors
    /// If the views cannot be read.
    pub fn of(views: &Views, volume: &Volume, is_admin: bool) -> Result<Self, Fault> {
        let mut names = Self::default();
        if let Some(row) = views.volume_type(volume.volume_type)? {
            names.types.insert(row.id, row.name);
        }
        if let (true, Some(pool)) = (is_admin, &volume.pool)
            && let Some(row) = views.backend(&pool.backend)?
        {
            names.hosts.insert(row.name, row.description.host);
        }
        Ok(names)
    }

    /// All of them, for a list.
    ///
    /// # Errors
    /// If the views cannot be read.
    pub fn all(views: &Views, is_admin: bool) -> Result<Self, Fault> {
        let types = views.volume_types()?.into_iter().map(|row| (row.id, row.name)).collect();
        let backends = if is_admin { views.backends()? } else { Vec::new() };
        let hosts = backends.into_iter().map(|row| (row.name, row.description.host)).collect();
        Ok(Self { types, hosts })
    }

    /// Cinder's `host@backend#pool`.
    fn host(&self, pool: &PoolId) -> String {
        let host = self.hosts.get(&pool.backend).map_or("", |host| host);
        format!("{host}@{}#{}", pool.backend, pool.pool)
    }
}

impl VolumeDetail {
    /// Shows a volume.
    pub fn new(volume: Volume, look: Look<'_>) -> Self {
        let Look { version, is_admin, is_extended, links, names } = look;
        let from = |minor: u16| version.is_at_least(minor).then_some(Null);
        let id = volume.id.to_string();
        let (snapshot_id, source_volid) = match volume.source {
            VolumeSource::Blank | VolumeSource::Image(_) => (None, None),
            VolumeSource::Snapshot(id) => (Some(id.to_string()), None),
            VolumeSource::Volume(id) => (None, Some(id.to_string())),
        };
        let attachments = VolumeAttachmentView::all(&volume, is_admin);
        let mut metadata = volume.metadata;
        if let Some(readonly) = volume.readonly {
            // the one piece of administrators' metadata that Cinder shows among the user's
            metadata.insert("readonly".to_owned(), if readonly { "True" } else { "False" }.to_owned());
        }
        let type_id = volume.volume_type.to_string();
        let type_name = names.types.get(&volume.volume_type).map(ToString::to_string);
        let admins_extended = (is_admin && is_extended).then_some(Null);
        Self {
            status: volume.status.wire_name(),
            size: volume.size.gib(),
            availability_zone: volume.availability_zone.to_string(),
            created_at: moment(volume.created_at),
            updated_at: volume.updated_at.map(moment),
            name: volume.name,
            description: volume.description,
            volume_type: type_name.or_else(|| (!version.is_at_least(63)).then(|| type_id.clone())),
            snapshot_id,
            source_volid,
            metadata,
            links: links.of(COLLECTION, &id),
            id,
            user_id: volume.user.to_string(),
            bootable: if volume.bootable { "true" } else { "false" },
            encrypted: false,
            replication_status: None,
            consistencygroup_id: None,
            multiattach: volume.multiattach,
            volume_image_metadata: (is_extended && !volume.image_metadata.is_empty())
                .then_some(volume.image_metadata),
            attachments,
            migration_status: is_admin.then_some(Null),
            group_id: from(13),
            provider_id: from(21).filter(|_| is_admin),
            shared_targets: version.is_at_least(48).then_some(false),
            service_uuid: from(48),
            cluster_name: from(61).filter(|_| is_admin),
            volume_type_id: version.is_at_least(63).then_some(type_id),
            consumes_quota: version.is_at_least(65).then_some(true),
            host: admins_extended.map(|_| volume.pool.as_ref().map(|pool| names.host(pool))),
            tenant_id: is_extended.then(|| volume.project.to_string()),
            migstat: admins_extended,
            name_id: admins_extended,
        }
    }
}
