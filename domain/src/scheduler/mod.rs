//! Which pool takes a new volume, and what spoke for and against each.
//!
//! Cinder's default filters (availability zone, capacity, capabilities) and its capacity weigher,
//! with the verdicts kept in the event. A volume made from another resource stays beside it; only where
//! that is not possible does it go to another pool, whose executor must be able to read the source.

pub mod filters;
pub mod weighers;

use std::collections::BTreeMap;

use crate::effect::{Failure, FailureKind};
use crate::ids::{PoolId, ZoneName};
use crate::ledger::Ledger;
use crate::units::{SizeGib, Timestamp};

/// How full a pool is and what it can do, as its executor last said. Soft state: never an event.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStats {
    /// The pool.
    pub pool: PoolId,
    /// Whether its executor is alive.
    pub is_up: bool,
    /// Size, in GiB.
    pub total_gib: f64,
    /// Free, in GiB.
    pub free_gib: f64,
    /// What the backend saw provisioned there when this was measured, in GiB: also by others, and nothing
    /// where it does not look.
    pub provisioned_gib: f64,
    /// How much more than `total_gib` may be provisioned thinly (Cinder: 20).
    pub max_over_subscription_ratio: f64,
    /// Per cent of `total_gib` that is never given away.
    pub reserved_percentage: u8,
    /// Whether volumes take space only as they are written.
    pub thin: bool,
    /// What volume types may ask for.
    pub capabilities: BTreeMap<String, String>,
    /// When this was measured.
    pub reported_at: Timestamp,
}

/// What a new volume needs.
#[derive(Clone, Copy, Debug)]
pub struct VolumeRequest<'a> {
    /// Its size.
    pub size: SizeGib,
    /// Its zone, if it must be a certain one.
    pub availability_zone: Option<&'a ZoneName>,
    /// What its type asks for.
    pub extra_specs: &'a BTreeMap<String, String>,
    /// What it is made from, if that is on a pool.
    pub source: Option<DataSource<'a>>,
}

/// What a volume is made from.
#[derive(Clone, Copy, Debug)]
pub struct DataSource<'a> {
    /// Where it is.
    pub pool: &'a PoolId,
    /// Whether copying it elsewhere begins with a snapshot of it, which changes its backend.
    pub must_be_snapshotted: bool,
}

/// The filters, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterName {
    /// Alive and enabled.
    Service,
    /// In the zone asked for.
    AvailabilityZone,
    /// Room enough.
    Capacity,
    /// Can what the type asks for.
    Capabilities,
    /// Where the source is, or where it can be read.
    Source,
}

impl FilterName {
    /// All of them, in order.
    pub const ALL: &[Self] =
        &[Self::Service, Self::AvailabilityZone, Self::Capacity, Self::Capabilities, Self::Source];

    /// A stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::AvailabilityZone => "availability_zone",
            Self::Capacity => "capacity",
            Self::Capabilities => "capabilities",
            Self::Source => "source",
        }
    }
}

/// What one pool was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pool.
    pub pool: PoolId,
    /// The first filter that refused it, with the reason; nothing if all let it pass.
    pub refused: Option<(FilterName, Box<str>)>,
    /// The weigher's score in thousandths of a GiB: the higher, the better. 0 for refused ones.
    pub score: i64,
}

/// Where a volume goes, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementDecision {
    /// The best pool; nothing if none will do.
    pub chosen: Option<PoolId>,
    /// The others that would do, best first, one per backend.
    pub alternatives: Vec<PoolId>,
    /// Every pool that was looked at.
    pub candidates: Vec<Candidate>,
}

impl PlacementDecision {
    /// The failure of a volume that no pool takes, with each pool's reason.
    pub fn no_valid_backend(&self) -> Failure {
        let mut message = String::from("No valid backend was found.");
        for candidate in &self.candidates {
            if let Some((filter, reason)) = &candidate.refused {
                message.push_str(&format!(" {}: {} ({}).", candidate.pool, reason, filter.as_str()));
            }
        }
        if self.candidates.is_empty() {
            message.push_str(" No backend has reported its capacity yet.");
        }
        Failure::new(FailureKind::NoValidBackend, message)
    }
}

/// How far a pool is from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    SamePool,
    SameBackend,
    Elsewhere,
}

/// What can be made near its source is not copied further: the backend clones it, or at least one
/// storage has both.
fn keep_nearest(source: &PoolId, candidates: &mut [Candidate]) {
    let distance = |pool: &PoolId| match pool {
        pool if pool == source => Distance::SamePool,
        pool if pool.backend == source.backend => Distance::SameBackend,
        _ => Distance::Elsewhere,
    };
    let passed = candidates.iter().filter(|candidate| candidate.refused.is_none());
    let Some((nearest, near)) =
        passed.map(|candidate| (distance(&candidate.pool), candidate.pool.clone())).min()
    else {
        return;
    };
    for candidate in candidates.iter_mut().filter(|candidate| candidate.refused.is_none()) {
        if distance(&candidate.pool) > nearest {
            let reason = format!("the source is on {source}, and {near} is nearer to it");
            candidate.refused = Some((FilterName::Source, reason.into()));
            candidate.score = 0;
        }
    }
}

/// Asks every filter about every pool, and weighs those that pass.
pub fn place(ledger: &Ledger, request: &VolumeRequest<'_>, pools: &[PoolStats]) -> PlacementDecision {
    let mut candidates: Vec<Candidate> = pools
        .iter()
        .map(|stats| {
            let refused = FilterName::ALL.iter().find_map(|filter| {
                filters::refusal(*filter, ledger, request, stats, pools)
                    .map(|reason| (*filter, reason.into()))
            });
            let score = if refused.is_some() { 0 } else { weighers::capacity_score(ledger, stats) };
            Candidate { pool: stats.pool.clone(), refused, score }
        })
        .collect();
    if let Some(source) = request.source {
        keep_nearest(source.pool, &mut candidates);
    }
    candidates.sort_by(|a, b| {
        (a.refused.is_some(), -a.score, &a.pool).cmp(&(b.refused.is_some(), -b.score, &b.pool))
    });
    let mut passed = candidates.iter().filter(|c| c.refused.is_none()).map(|c| c.pool.clone());
    let chosen = passed.next();
    let mut alternatives: Vec<PoolId> = Vec::new();
    for pool in passed {
        let is_taken = chosen.iter().chain(&alternatives).any(|other| other.backend == pool.backend);
        if !is_taken {
            alternatives.push(pool);
        }
    }
    PlacementDecision { chosen, alternatives, candidates }
}
