//! Whether a row passes a filter, and how rows compare, by Cinder's rules.

use std::collections::BTreeMap;

use tephra_domain::backend::Backend;
use tephra_domain::ids::{BackendName, PoolId};
use tephra_domain::units::Timestamp;

use crate::key::{self, Key};
use crate::query::{SortDirection, SortKey, TimeFilter};

/// The hosts of backends: rows know their pool, clients say `host@backend#pool`.
#[derive(Debug, Default)]
pub struct Hosts(BTreeMap<BackendName, Box<str>>);

impl Hosts {
    /// From all backends there are.
    pub fn of(backends: Vec<Backend>) -> Self {
        Self(backends.into_iter().map(|backend| (backend.name, backend.description.host)).collect())
    }

    /// A pool as Cinder writes it.
    pub fn of_pool(&self, pool: &PoolId) -> String {
        let host = self.0.get(&pool.backend).map_or("", AsRef::as_ref);
        format!("{host}@{}#{}", pool.backend, pool.pool)
    }
}

/// A value to sort by. Missing ones come first.
#[derive(Clone, Debug)]
pub enum SortValue {
    /// None.
    Missing,
    /// A number, a truth (0 or 1) or a moment.
    Number(i64),
    /// Text, by its bytes.
    Text(String),
    /// An id, by its bytes.
    Id([u8; 16]),
}

impl SortValue {
    /// Text that may be missing.
    pub fn text(text: Option<&str>) -> Self {
        text.map_or(Self::Missing, |text| Self::Text(text.to_owned()))
    }

    /// Appends the value so that keys compare in this direction.
    pub fn push(&self, key: &mut Key, direction: SortDirection) {
        let start = key.len();
        match self {
            Self::Missing => key.push(0),
            Self::Number(number) => {
                key.push(1);
                key::push_i64(key, *number);
            }
            Self::Text(text) => {
                key.push(1);
                key::push_text(key, text);
            }
            Self::Id(id) => {
                key.push(1);
                key.extend(id);
            }
        }
        if direction == SortDirection::Descending {
            for byte in key.iter_mut().skip(start) {
                *byte = !*byte;
            }
        }
    }
}

/// The order with its tie-breakers: creation and id, in the direction of the first key (Cinder's
/// `process_sort_params`). Nothing after an id, which has no ties.
pub fn complete_order(sort: &[(SortKey, SortDirection)]) -> Vec<(SortKey, SortDirection)> {
    let direction = sort.first().map_or(SortDirection::Descending, |(_, direction)| *direction);
    let mut order: Vec<(SortKey, SortDirection)> = Vec::new();
    let breakers = [(SortKey::CreatedAt, direction), (SortKey::Id, direction)];
    for (key, direction) in sort.iter().copied().chain(breakers) {
        if order.iter().all(|(earlier, _)| *earlier != key) {
            order.push((key, direction));
        }
        if key == SortKey::Id {
            break;
        }
    }
    order
}

/// Whether a moment passes. A missing one passes nothing, as in SQL.
pub fn time_passes(filter: TimeFilter, moment: Option<Timestamp>) -> bool {
    moment.is_some_and(|moment| match filter {
        TimeFilter::After(other) => moment > other,
        TimeFilter::AtOrAfter(other) => moment >= other,
        TimeFilter::Before(other) => moment < other,
        TimeFilter::AtOrBefore(other) => moment <= other,
        TimeFilter::At(other) => moment == other,
        TimeFilter::NotAt(other) => moment != other,
    })
}

/// Whether a pool's host is the one asked for: whole, or without its pool.
pub fn host_passes(asked: &str, host: &str) -> bool {
    host.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

/// Whether `metadata` holds all of these pairs.
pub fn metadata_passes(asked: &[(String, String)], has: impl Fn(&str, &str) -> bool) -> bool {
    asked.iter().all(|(name, value)| has(name, value))
}
