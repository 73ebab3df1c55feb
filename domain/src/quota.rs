//! Quotas: limits per project, and usage as a fold over what exists.
//!
//! There are no reservations: a command takes its share in the commit that accepts it, and the
//! commit in which the resource ends gives it back. Names and defaults are Cinder's.

use std::collections::BTreeMap;

use crate::ids::{ProjectId, VolumeTypeId};

/// Something that a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaResource {
    /// Number of volumes.
    Volumes,
    /// Number of snapshots.
    Snapshots,
    /// GiB of volumes and snapshots together.
    Gigabytes,
    /// The largest single volume, in GiB.
    PerVolumeGigabytes,
    /// Number of backups.
    Backups,
    /// GiB of backups.
    BackupGigabytes,
    /// Number of groups.
    Groups,
    /// Number of volumes of one type.
    VolumesOfType(VolumeTypeId),
    /// Number of snapshots of volumes of one type.
    SnapshotsOfType(VolumeTypeId),
    /// GiB of volumes and snapshots of one type.
    GigabytesOfType(VolumeTypeId),
}

impl QuotaResource {
    /// Those that do not depend on a type.
    pub const PLAIN: &[Self] = &[
        Self::Volumes,
        Self::Snapshots,
        Self::Gigabytes,
        Self::PerVolumeGigabytes,
        Self::Backups,
        Self::BackupGigabytes,
        Self::Groups,
    ];

    /// Cinder's default limit; -1 is none.
    pub const fn default_limit(self) -> i64 {
        match self {
            Self::Volumes | Self::Snapshots | Self::Backups | Self::Groups => 10,
            Self::Gigabytes | Self::BackupGigabytes => 1000,
            Self::PerVolumeGigabytes
            | Self::VolumesOfType(_)
            | Self::SnapshotsOfType(_)
            | Self::GigabytesOfType(_) => -1,
        }
    }

    /// Cinder's name, without the type's name (`volumes`, and `volumes_<type>` for one type).
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Volumes | Self::VolumesOfType(_) => "volumes",
            Self::Snapshots | Self::SnapshotsOfType(_) => "snapshots",
            Self::Gigabytes | Self::GigabytesOfType(_) => "gigabytes",
            Self::PerVolumeGigabytes => "per_volume_gigabytes",
            Self::Backups => "backups",
            Self::BackupGigabytes => "backup_gigabytes",
            Self::Groups => "groups",
        }
    }

    /// The type, if it is about one.
    pub const fn volume_type(self) -> Option<VolumeTypeId> {
        match self {
            Self::VolumesOfType(id) | Self::SnapshotsOfType(id) | Self::GigabytesOfType(id) => Some(id),
            Self::Volumes
            | Self::Snapshots
            | Self::Gigabytes
            | Self::PerVolumeGigabytes
            | Self::Backups
            | Self::BackupGigabytes
            | Self::Groups => None,
        }
    }
}

/// Limits that somebody set; what is not in here has its default. -1 is unlimited.
pub type QuotaLimits = BTreeMap<QuotaResource, i64>;

/// What happens to quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaEvent {
    /// These limits of a project are set; others stay.
    LimitsSet {
        /// The project.
        project: ProjectId,
        /// Limits by resource.
        limits: QuotaLimits,
    },
    /// The project has the defaults again.
    LimitsCleared {
        /// The project.
        project: ProjectId,
    },
    /// These defaults (Cinder's quota class `default`) are set; others stay.
    DefaultsSet {
        /// Limits by resource.
        limits: QuotaLimits,
    },
}

/// Counts of one kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCount {
    /// Volumes.
    pub volumes: i64,
    /// Snapshots.
    pub snapshots: i64,
    /// GiB of both.
    pub gigabytes: i64,
}

impl UsageCount {
    /// Nothing of anything.
    pub const fn is_zero(&self) -> bool {
        self.volumes == 0 && self.snapshots == 0 && self.gigabytes == 0
    }

    /// Adds `other`, or takes it away if `sign` is -1.
    pub const fn add(&mut self, other: Self, sign: i64) {
        self.volumes = self.volumes.saturating_add(other.volumes.saturating_mul(sign));
        self.snapshots = self.snapshots.saturating_add(other.snapshots.saturating_mul(sign));
        self.gigabytes = self.gigabytes.saturating_add(other.gigabytes.saturating_mul(sign));
    }
}

/// What a project uses, in all and by type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All types together.
    pub total: UsageCount,
    /// By volume type; a type that is not used is not in here.
    pub by_type: BTreeMap<VolumeTypeId, UsageCount>,
}

impl Usage {
    /// Adds `count` of one type, or takes it away if `sign` is -1.
    pub fn add(&mut self, volume_type: VolumeTypeId, count: UsageCount, sign: i64) {
        self.total.add(count, sign);
        let of_type = self.by_type.entry(volume_type).or_default();
        of_type.add(count, sign);
        if of_type.is_zero() {
            self.by_type.remove(&volume_type);
        }
    }

    /// How much of a resource is in use.
    pub fn of(&self, resource: QuotaResource) -> i64 {
        let of_type = |id| self.by_type.get(&id).copied().unwrap_or_default();
        match resource {
            QuotaResource::Volumes => self.total.volumes,
            QuotaResource::Snapshots => self.total.snapshots,
            QuotaResource::Gigabytes => self.total.gigabytes,
            QuotaResource::VolumesOfType(id) => of_type(id).volumes,
            QuotaResource::SnapshotsOfType(id) => of_type(id).snapshots,
            QuotaResource::GigabytesOfType(id) => of_type(id).gigabytes,
            QuotaResource::PerVolumeGigabytes
            | QuotaResource::Backups
            | QuotaResource::BackupGigabytes
            | QuotaResource::Groups => 0,
        }
    }
}
