//! What can be asked of the views: the shapes of lists, filters and pages.

use tephra_domain::ids::{ProjectId, SnapshotId, VolumeId, VolumeTypeId};
use tephra_domain::units::Timestamp;

/// A comparison with a moment (`created_at=gt:…`, microversion 3.60).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFilter {
    /// Later.
    After(Timestamp),
    /// Later or at.
    AtOrAfter(Timestamp),
    /// Earlier.
    Before(Timestamp),
    /// Earlier or at.
    AtOrBefore(Timestamp),
    /// At.
    At(Timestamp),
    /// Not at.
    NotAt(Timestamp),
}

/// What a row must be to be listed. All must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Display name is exactly this.
    Name(String),
    /// Display name contains this (`name~=`, 3.34).
    NameLike(String),
    /// Description is exactly this.
    Description(String),
    /// Description contains this.
    DescriptionLike(String),
    /// Status as clients see it is one of these.
    Status(Vec<String>),
    /// Status as clients see it contains this.
    StatusLike(String),
    /// These keys have these values.
    Metadata(Vec<(String, String)>),
    /// A volume's zone.
    AvailabilityZone(String),
    /// A volume's type.
    VolumeType(VolumeTypeId),
    /// A volume's `bootable`.
    Bootable(bool),
    /// The host, `host@backend#pool`, or without the pool for all pools.
    Host(String),
    /// A volume's source snapshot, or a snapshot's own id.
    SnapshotId(SnapshotId),
    /// A volume's source volume.
    SourceVolume(VolumeId),
    /// A snapshot's volume, or a volume's own id.
    VolumeId(VolumeId),
    /// Who created it.
    User(String),
    /// Size in GiB.
    SizeGib(u32),
    /// When it was created.
    CreatedAt(TimeFilter),
    /// When it last changed.
    UpdatedAt(TimeFilter),
    /// A filter that nothing can pass.
    Nothing,
}

/// What rows can be sorted by (Cinder's keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// `id`
    Id,
    /// `status`
    Status,
    /// `size`
    Size,
    /// `availability_zone`
    AvailabilityZone,
    /// `name`, `display_name`
    Name,
    /// `bootable`
    Bootable,
    /// `created_at`
    CreatedAt,
    /// `updated_at`
    UpdatedAt,
    /// `volume_id` of a snapshot
    VolumeId,
    /// `host`
    Host,
    /// `project_id`
    Project,
    /// `volume_type_id`
    VolumeType,
    /// `description`
    Description,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortDirection {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A list that is asked for. `Id` is the type of its markers.
#[derive(Clone, Debug)]
pub struct ListQuery<Id> {
    /// Only this project's; nothing for all.
    pub project: Option<ProjectId>,
    /// All must hold.
    pub filters: Vec<Filter>,
    /// In this order of importance; then by creation and by id, in the direction of the first key
    /// (`process_sort_params` of Cinder). Empty is Cinder's default: creation, newest first, then
    /// id, descending. What a row does not have comes before all values.
    pub sort: Vec<(SortKey, SortDirection)>,
    /// The last row of the page before.
    pub marker: Option<Id>,
    /// Rows to skip after that.
    pub offset: usize,
    /// Rows at most.
    pub limit: usize,
    /// Whether the number of all rows that pass the filters is wanted too (3.45).
    pub with_count: bool,
}

impl<Id> ListQuery<Id> {
    /// Whether a page costs the same however many rows the project has: no filter, and an order that
    /// is kept as an index.
    pub fn is_indexed(&self) -> bool {
        self.filters.is_empty() && crate::list::is_indexed(&self.sort)
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// How many there are on all pages together, if asked.
    pub count: Option<u64>,
}
