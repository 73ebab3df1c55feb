//! The lists of what could be taken over, sorted and paged as Cinder's drivers do it in memory
//! (`paginate_entries_list`).

use std::cmp::Ordering;

use serde::Serialize;
use serde_json::Value;
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::rejection::Rejection;
use tephra_domain::units::SizeGib;
use utoipa::ToSchema;

use super::{LIST_CLUSTER, host_of, invalid_input, on_host};
use crate::auth::Identity;
use crate::drift::Look;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::state::AppState;
use crate::v3::params::Params;

/// Which of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What stands by itself.
    Volumes,
    /// Snapshots.
    Snapshots,
}

impl Wanted {
    /// Cinder's word in reasons.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Volumes => "volume",
            Self::Snapshots => "snapshot",
        }
    }

    const fn policy(self) -> &'static str {
        match self {
            Self::Volumes => "volume_extension:list_manageable",
            Self::Snapshots => "snapshot_extension:list_manageable",
        }
    }

    const fn includes(self, object: &FoundObject) -> bool {
        match (self, &object.kind) {
            (Self::Volumes, FoundKind::Volume) | (Self::Snapshots, FoundKind::Snapshot { .. }) => true,
            (Self::Volumes, FoundKind::Snapshot { .. }) | (Self::Snapshots, FoundKind::Volume) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ObjectReference {
    #[serde(rename = "source-name")]
    source_name: String,
}

/// Something on a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Entry {
    reference: ObjectReference,
    /// GiB, rounded up.
    size: u32,
    safe_to_manage: bool,
    /// Of snapshots: what it is a snapshot of.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_reference: Option<ObjectReference>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Detail {
    /// `already managed`, or who uses it.
    reason_not_safe: Option<String>,
    /// What it is in the ledger.
    cinder_id: Option<String>,
    /// Always null.
    extra_info: Option<String>,
}

/// `{"manageable-volumes": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ManageableVolumes {
    #[serde(rename = "manageable-volumes")]
    entries: Vec<Entry>,
}

/// `{"manageable-snapshots": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ManageableSnapshots {
    #[serde(rename = "manageable-snapshots")]
    entries: Vec<Entry>,
}

impl From<Vec<Entry>> for ManageableVolumes {
    fn from(entries: Vec<Entry>) -> Self {
        Self { entries }
    }
}

impl From<Vec<Entry>> for ManageableSnapshots {
    fn from(entries: Vec<Entry>) -> Self {
        Self { entries }
    }
}

/// A page of what a host's pools show.
pub async fn listed(
    state: &AppState,
    identity: &Identity,
    version: Microversion,
    params: &Params,
    wanted: Wanted,
    with_detail: bool,
) -> Result<Vec<Entry>, Fault> {
    identity.actor.require_admin(wanted.policy())?;
    let host = params.get("host").map(ToOwned::to_owned);
    let host = host_of(host, params.get("cluster"), version, LIST_CLUSTER)?;
    let page = Page::parse(params)?;
    let not_found = || Fault::not_found(format!("Service cinder-volume could not be found on host {host}."));
    let (backend, pools) = on_host(state, &host)?.ok_or_else(not_found)?;
    let not_in_service = || Fault::from(Rejection::BackendNotInService { backend: backend.name.clone() });
    if !backend.enabled && !backend.frozen {
        return Err(not_in_service());
    }
    let mut entries = Vec::new();
    for pool in &pools {
        let look = state.look(pool).await?.map_err(|failure| {
            tracing::warn!(%pool, %failure, "a backend cannot be looked at");
            not_in_service()
        })?;
        let of_kind = look.found.iter().filter(|object| wanted.includes(object));
        entries.extend(of_kind.map(|object| entry(&look, object, wanted, with_detail)));
    }
    page.of(entries)
}

fn entry(look: &Look, object: &FoundObject, wanted: Wanted, with_detail: bool) -> Entry {
    let is_known = look.is_known(&object.name);
    let reason = if is_known {
        Some("already managed".to_owned())
    } else {
        object.in_use.then(|| format!("{} in use", wanted.word()))
    };
    let of = match &object.kind {
        FoundKind::Snapshot { of: Some(of) } => Some(ObjectReference { source_name: of.to_string() }),
        FoundKind::Snapshot { of: None } | FoundKind::Volume => None,
    };
    let id = object.name.split_once('-').map(|(_, id)| id.to_owned()).filter(|_| is_known);
    Entry {
        reference: ObjectReference { source_name: object.name.to_string() },
        size: SizeGib::holding(object.bytes).map_or(0, SizeGib::gib),
        safe_to_manage: reason.is_none(),
        source_reference: of,
        detail: with_detail.then_some(Detail { reason_not_safe: reason, cinder_id: id, extra_info: None }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SortBy {
    Reference,
    Size,
}

/// What is asked of the list.
#[derive(Debug)]
struct Page {
    /// Each with whether it goes up.
    sort: Vec<(SortBy, bool)>,
    marker: Option<String>,
    limit: usize,
    offset: usize,
}

impl Page {
    fn parse(params: &Params) -> Result<Self, Fault> {
        let older = params.get("sort_key").is_some() || params.get("sort_dir").is_some();
        let asked: Vec<(String, String)> = match params.get("sort") {
            Some(_) if older => {
                return Err(Fault::bad_request(
                    "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.",
                ));
            }
            Some(sort) => {
                let words = sort.trim().split(',');
                let split = words.map(|word| word.split_once(':').unwrap_or((word, "")));
                split.map(|(key, direction)| (key.trim().to_owned(), direction.trim().to_owned())).collect()
            }
            None => {
                let text = |name: &str| params.get(name).unwrap_or_default().trim().to_owned();
                let key = Some(text("sort_key")).filter(|key| !key.is_empty());
                vec![(key.unwrap_or_else(|| "reference".to_owned()), text("sort_dir"))]
            }
        };
        let wrong = |name: &str, values: &[&str]| {
            Fault::bad_request(format!("Invalid {name} passed: {}", values.join(", ")))
        };
        let keys: Vec<&str> = asked
            .iter()
            .map(|(key, _)| key.as_str())
            .filter(|key| !["reference", "size"].contains(key))
            .collect();
        if !keys.is_empty() {
            return Err(wrong("sort keys", &keys));
        }
        let directions: Vec<&str> = asked
            .iter()
            .map(|(_, direction)| direction.as_str())
            .filter(|direction| !["", "asc", "desc"].contains(direction))
            .collect();
        if !directions.is_empty() {
            return Err(wrong("sort dirs", &directions));
        }
        let by = |key: &str| if key == "size" { SortBy::Size } else { SortBy::Reference };
        Ok(Self {
            sort: asked.iter().map(|(key, direction)| (by(key), direction == "asc")).collect(),
            marker: params.get("marker").map(marker).transpose()?,
            limit: params.limit()?,
            offset: params.count("offset")?.unwrap_or(0),
        })
    }

    fn of(&self, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Fault> {
        entries.sort_by(|a, b| self.order(a, b));
        let start = match &self.marker {
            None => 0,
            Some(name) => {
                let found = entries.iter().position(|entry| entry.reference.source_name == *name);
                let found = found.ok_or_else(|| {
                    invalid_input(&format!("marker not found: {{'source-name': '{name}'}}"))
                })?;
                found.saturating_add(1)
            }
        };
        Ok(entries.into_iter().skip(start.saturating_add(self.offset)).take(self.limit).collect())
    }

    fn order(&self, a: &Entry, b: &Entry) -> Ordering {
        for (by, goes_up) in &self.sort {
            let order = match by {
                SortBy::Reference => a.reference.source_name.cmp(&b.reference.source_name),
                SortBy::Size => a.size.cmp(&b.size),
            };
            let order = if *goes_up { order } else { order.reverse() };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }
}

/// A reference as JSON, or as Python prints it, which is what cinderclient sends.
fn marker(text: &str) -> Result<String, Fault> {
    let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\"")));
    let refuse = || invalid_input(&format!("marker {text} can not be analysed, please use json like format"));
    let reference: Value = parsed.map_err(|_| refuse())?;
    reference.get("source-name").and_then(Value::as_str).map(ToOwned::to_owned).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::{Entry, ObjectReference, Page};
    use crate::v3::params::Params;

    fn names(params: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let entries = [("b", 1), ("a", 2), ("c", 2)].map(|(name, size)| Entry {
            reference: ObjectReference { source_name: name.to_owned() },
            size,
            safe_to_manage: true,
            source_reference: None,
            detail: None,
        });
        let page = Page::parse(&Params::of(params)).and_then(|page| page.of(entries.into()));
        let page = page.map_err(|fault| fault.message().to_owned())?;
        Ok(page.into_iter().map(|entry| entry.reference.source_name).collect())
    }

    #[test]
    fn a_page_is_sorted_and_cut_as_cinder_does_it() {
        for (params, expected) in [
            (vec![], vec!["c", "b", "a"]),
            (vec![("sort", "reference:asc")], vec!["a", "b", "c"]),
            (vec![("sort", "size:asc,reference:desc")], vec!["b", "c", "a"]),
            (
                vec![("sort_key", "reference"), ("sort_dir", "asc"), ("limit", "1"), ("offset", "1")],
                vec!["b"],
            ),
            (vec![("sort", "reference:asc"), ("marker", r#"{"source-name": "a"}"#)], vec!["b", "c"]),
            (vec![("sort", "reference:asc"), ("marker", "{'source-name': 'b'}")], vec!["c"]),
        ] {
            assert_eq!(names(&params), Ok(expected.into_iter().map(str::to_owned).collect()), "{params:?}");
        }
    }

    #[test]
    fn what_is_no_page_is_refused_in_cinder_s_words() {
        for (params, message) in [
            (vec![("sort", "name")], "Invalid sort keys passed: name"),
            (vec![("sort", "size:up")], "Invalid sort dirs passed: up"),
            (
                vec![("marker", "x")],
                "Invalid input received: marker x can not be analysed, please use json like format",
            ),
            (
                vec![("marker", r#"{"source-name": "x"}"#)],
                "Invalid input received: marker not found: {'source-name': 'x'}",
            ),
        ] {
            assert_eq!(names(&params), Err(message.to_owned()));
        }
    }
}
