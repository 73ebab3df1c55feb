//! What lists need to know of their rows: fields by name, and the index entries.
//!
//! Every volume and snapshot has an entry in each of these orders, once under its project and once
//! under everybody's; a list that is served by one of them costs what its page costs:
//!
//! | order | field before (created, id) | serves |
//! |---|---|---|
//! | [`CREATED`] | – | the default order |
//! | [`NAME`] | name, missing first | sort by name; the filter on a name |
//! | [`STATUS`] | status as clients see it | sort by status; the filter on statuses |
//! | [`SIZE`] | size | sort by size |
//! | [`OF_VOLUME`] | volume | a volume's snapshots (snapshots only, everybody's only) |
//!
//! Directions are those of the scan: Cinder breaks ties in the direction of the first key.

use tephra_domain::ids::{PoolId, ProjectId, SnapshotId, VolumeId};
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::{Volume, VolumeSource};

use crate::filter::{Hosts, SortValue, host_passes, metadata_passes, time_passes};
use crate::key::{self, Key};
use crate::query::{Filter, SortKey};
use crate::row::Row;
use crate::schema::{self, Index, Rows};

/// The default order.
pub const CREATED: u8 = 0;
/// By name.
pub const NAME: u8 = 1;
/// By status.
pub const STATUS: u8 = 2;
/// By size.
pub const SIZE: u8 = 3;
/// By volume.
pub const OF_VOLUME: u8 = 4;

/// A row that can be listed.
pub trait Listed: Row {
    /// What its markers are.
    type Id: Copy + ToString;
    /// Where the rows are.
    const ROWS: Rows;
    /// Where its index entries are.
    const INDEX: Index;
    /// Whether each belongs to a volume.
    const HAS_VOLUME: bool;

    /// Its id's bytes.
    fn id_bytes(&self) -> [u8; 16];
    /// A marker's bytes.
    fn marker_bytes(marker: Self::Id) -> [u8; 16];
    /// Whose it is.
    fn project(&self) -> &ProjectId;
    /// When it was made.
    fn created_at(&self) -> Timestamp;
    /// Its display name.
    fn name(&self) -> Option<&str>;
    /// Its status as clients see it.
    fn status(&self) -> &'static str;
    /// Its size in GiB.
    fn size_gib(&self) -> u32;
    /// The volume that it belongs to, if it belongs to one.
    fn of_volume(&self) -> Option<VolumeId>;
    /// What a filter that holds for one row only asks for.
    fn only(filter: &Filter) -> Option<[u8; 16]>;
    /// What it is sorted by.
    fn sort_value(&self, key: SortKey, hosts: &Hosts) -> SortValue;
    /// Whether it passes.
    fn passes(&self, filter: &Filter, hosts: &Hosts) -> bool;
    /// How many of them a project has.
    fn total(totals: Totals) -> u64;

    /// (created, id): what every index entry ends with.
    fn age(&self) -> Key {
        let mut key = Key::with_capacity(24);
        key::push_time(&mut key, self.created_at());
        key.extend(self.id_bytes());
        key
    }

    /// Its place in an order.
    fn entry(&self, order: u8, scope: Option<&ProjectId>) -> Key {
        let mut key = vec![order];
        if order == OF_VOLUME {
            key.extend(
                self.of_volume().unwrap_or(VolumeId::from_uuid(uuid::Uuid::nil())).as_uuid().as_bytes(),
            );
        } else {
            key::push_scope(&mut key, scope);
        }
        match order {
            NAME => key::push_optional_text(&mut key, self.name()),
            STATUS => key::push_text(&mut key, self.status()),
            SIZE => key.extend(self.size_gib().to_be_bytes()),
            _created_or_of_volume => {}
        }
        key.extend(self.age());
        key
    }

    /// All its index entries.
    fn entries(&self) -> Vec<Key> {
        let mut entries = Vec::with_capacity(9);
        for scope in [None, Some(self.project())] {
            for order in [CREATED, NAME, STATUS, SIZE] {
                entries.push(self.entry(order, scope));
            }
        }
        if self.of_volume().is_some() {
            entries.push(self.entry(OF_VOLUME, None));
        }
        entries
    }
}

/// What a project, or everybody, has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Volumes.
    pub volumes: u64,
    /// Their sizes together, in GiB.
    pub volume_gib: u64,
    /// Snapshots.
    pub snapshots: u64,
}

fn host(pool: &PoolId, hosts: &Hosts) -> SortValue {
    SortValue::Text(hosts.of_pool(pool))
}

impl Listed for Volume {
    type Id = VolumeId;
    const ROWS: Rows = schema::VOLUMES;
    const INDEX: Index = schema::VOLUME_INDEX;
    const HAS_VOLUME: bool = false;

    fn id_bytes(&self) -> [u8; 16] {
        self.id.as_uuid().into_bytes()
    }

    fn marker_bytes(marker: VolumeId) -> [u8; 16] {
        marker.as_uuid().into_bytes()
    }

    fn project(&self) -> &ProjectId {
        &self.project
    }

    fn created_at(&self) -> Timestamp {
        self.created_at
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn status(&self) -> &'static str {
        self.status.wire_name()
    }

    fn size_gib(&self) -> u32 {
        self.size.gib()
    }

    fn of_volume(&self) -> Option<VolumeId> {
        None
    }

    fn only(filter: &Filter) -> Option<[u8; 16]> {
        if let Filter::VolumeId(id) = filter { Some(id.as_uuid().into_bytes()) } else { None }
    }

    fn sort_value(&self, key: SortKey, hosts: &Hosts) -> SortValue {
        match key {
            SortKey::Id => SortValue::Id(self.id_bytes()),
            SortKey::Status => SortValue::text(Some(self.status())),
            SortKey::Size => SortValue::Number(i64::from(self.size_gib())),
            SortKey::AvailabilityZone => SortValue::text(Some(self.availability_zone.as_str())),
            SortKey::Name => SortValue::text(self.name()),
            SortKey::Bootable => SortValue::Number(i64::from(self.bootable)),
            SortKey::CreatedAt => SortValue::Number(self.created_at.0),
            SortKey::UpdatedAt => self.updated_at.map_or(SortValue::Missing, |at| SortValue::Number(at.0)),
            SortKey::VolumeId => SortValue::Missing,
            SortKey::Host => self.pool.as_ref().map_or(SortValue::Missing, |pool| host(pool, hosts)),
            SortKey::Project => SortValue::text(Some(self.project.as_str())),
            SortKey::VolumeType => SortValue::Id(self.volume_type.as_uuid().into_bytes()),
            SortKey::Description => SortValue::text(self.description.as_deref()),
        }
    }

    fn passes(&self, filter: &Filter, hosts: &Hosts) -> bool {
        match filter {
            Filter::Name(asked) => self.name() == Some(asked),
            Filter::NameLike(part) => self.name().is_some_and(|name| name.contains(part)),
            Filter::Description(asked) => self.description.as_deref() == Some(asked),
            Filter::DescriptionLike(part) => {
                self.description.as_deref().is_some_and(|text| text.contains(part))
            }
            Filter::Status(asked) => asked.iter().any(|status| status == self.status()),
            Filter::StatusLike(part) => self.status().contains(part),
            Filter::Metadata(asked) => metadata_passes(asked, |name, value| {
                self.metadata.get(name).is_some_and(|has| has == value)
                    || self.has_admin_metadata(name, value)
            }),
            Filter::AvailabilityZone(zone) => self.availability_zone.as_str() == zone,
            Filter::VolumeType(id) => self.volume_type == *id,
            Filter::Bootable(asked) => self.bootable == *asked,
            Filter::Host(asked) => {
                self.pool.as_ref().is_some_and(|pool| host_passes(asked, &hosts.of_pool(pool)))
            }
            Filter::SnapshotId(id) => self.source == VolumeSource::Snapshot(*id),
            Filter::SourceVolume(id) => self.source == VolumeSource::Volume(*id),
            Filter::VolumeId(id) => self.id == *id,
            Filter::User(user) => self.user.as_str() == user,
            Filter::SizeGib(gib) => self.size.gib() == *gib,
            Filter::CreatedAt(time) => time_passes(*time, Some(self.created_at)),
            Filter::UpdatedAt(time) => time_passes(*time, self.updated_at),
            Filter::Nothing => false,
        }
    }

    fn total(totals: Totals) -> u64 {
        totals.volumes
    }
}

/// Metadata that Cinder keeps beside the users', and finds with the same filter.
trait AdminMetadata {
    fn has_admin_metadata(&self, name: &str, value: &str) -> bool;
}

impl AdminMetadata for Volume {
    fn has_admin_metadata(&self, name: &str, value: &str) -> bool {
        let readonly = self.readonly.map(|readonly| if readonly { "True" } else { "False" });
        name == "readonly" && readonly == Some(value)
    }
}

impl Listed for Snapshot {
    type Id = SnapshotId;
    const ROWS: Rows = schema::SNAPSHOTS;
    const INDEX: Index = schema::SNAPSHOT_INDEX;
    const HAS_VOLUME: bool = true;

    fn id_bytes(&self) -> [u8; 16] {
        self.id.as_uuid().into_bytes()
    }

    fn marker_bytes(marker: SnapshotId) -> [u8; 16] {
        marker.as_uuid().into_bytes()
    }

    fn project(&self) -> &ProjectId {
        &self.project
    }

    fn created_at(&self) -> Timestamp {
        self.created_at
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn status(&self) -> &'static str {
        self.status.wire_name()
    }

    fn size_gib(&self) -> u32 {
        self.size.gib()
    }

    fn of_volume(&self) -> Option<VolumeId> {
        Some(self.volume)
    }

    fn only(filter: &Filter) -> Option<[u8; 16]> {
        if let Filter::SnapshotId(id) = filter { Some(id.as_uuid().into_bytes()) } else { None }
    }

    fn sort_value(&self, key: SortKey, hosts: &Hosts) -> SortValue {
        match key {
            SortKey::Id => SortValue::Id(self.id_bytes()),
            SortKey::Status => SortValue::text(Some(self.status())),
            SortKey::Size => SortValue::Number(i64::from(self.size_gib())),
            SortKey::Name => SortValue::text(self.name()),
            SortKey::CreatedAt => SortValue::Number(self.created_at.0),
            SortKey::UpdatedAt => self.updated_at.map_or(SortValue::Missing, |at| SortValue::Number(at.0)),
            SortKey::VolumeId => SortValue::Id(self.volume.as_uuid().into_bytes()),
            SortKey::Host => host(&self.pool, hosts),
            SortKey::Project => SortValue::text(Some(self.project.as_str())),
            SortKey::VolumeType => SortValue::Id(self.volume_type.as_uuid().into_bytes()),
            SortKey::Description => SortValue::text(self.description.as_deref()),
            SortKey::AvailabilityZone | SortKey::Bootable => SortValue::Missing,
        }
    }

    fn passes(&self, filter: &Filter, hosts: &Hosts) -> bool {
        match filter {
            Filter::Name(asked) => self.name() == Some(asked),
            Filter::NameLike(part) => self.name().is_some_and(|name| name.contains(part)),
            Filter::Description(asked) => self.description.as_deref() == Some(asked),
            Filter::DescriptionLike(part) => {
                self.description.as_deref().is_some_and(|text| text.contains(part))
            }
            Filter::Status(asked) => asked.iter().any(|status| status == self.status()),
            Filter::StatusLike(part) => self.status().contains(part),
            Filter::Metadata(asked) => {
                metadata_passes(asked, |name, value| self.metadata.get(name).is_some_and(|has| has == value))
            }
            Filter::VolumeType(id) => self.volume_type == *id,
            Filter::Host(asked) => host_passes(asked, &hosts.of_pool(&self.pool)),
            Filter::SnapshotId(id) => self.id == *id,
            Filter::VolumeId(id) => self.volume == *id,
            Filter::User(user) => self.user.as_str() == user,
            Filter::SizeGib(gib) => self.size.gib() == *gib,
            Filter::CreatedAt(time) => time_passes(*time, Some(self.created_at)),
            Filter::UpdatedAt(time) => time_passes(*time, self.updated_at),
            // A snapshot has none of these, so it can have none of their values.
            Filter::AvailabilityZone(_) | Filter::Bootable(_) | Filter::SourceVolume(_) | Filter::Nothing => {
                false
            }
        }
    }

    fn total(totals: Totals) -> u64 {
        totals.snapshots
    }
}
