//! What a client asks of a list: page, order and filters, read as Cinder reads them.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde_json::Value;
use tephra_domain::ids::{ProjectId, VolumeTypeId};
use tephra_domain::units::Timestamp;
use tephra_projector::QueryError;
use tephra_projector::query::{Filter, SortDirection, SortKey, TimeFilter};
use utoipa::IntoParams;

use super::wire::check::boolean_word;
use super::wire::python::literal;
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::PathId;
use crate::state::MAX_LIMIT;

/// The largest offset (Cinder's `DB_MAX_INT`).
const MAX_OFFSET: i64 = 0x7FFF_FFFF;
/// From here on a filter that is not allowed is an error; before, it was dropped.
const STRICT_FILTERS: u16 = 31;
/// From here on `bootable` must be a word for true or false.
const STRICT_BOOTABLE: u16 = 2;
/// From here on a snapshot list can be filtered by metadata.
const SNAPSHOT_METADATA_FILTER: u16 = 22;
/// From here on `name~` and the like are understood.
const LIKE_FILTERS: u16 = 34;
/// From here on a list can tell how long it is.
const WITH_COUNT: u16 = 45;
/// From here on times can be compared with.
const TIME_FILTERS: u16 = 60;

/// The page, the order and the filters of a list request.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Rows at most.
    pub limit: usize,
    /// The last row of the page before.
    pub marker: Option<String>,
    /// Rows to skip.
    pub offset: usize,
    /// Empty for Cinder's default, newest first.
    pub sort: Vec<(SortKey, SortDirection)>,
    /// Whether the number of all rows is wanted.
    pub with_count: bool,
    /// What is left: filters by name.
    pub filters: BTreeMap<String, String>,
    /// The query as it came, for the link to the next page.
    query: Vec<(String, String)>,
}

/// What a list request can ask, for the OpenAPI document; [`ListRequest`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Rows at most, up to 1000.
    pub limit: Option<u32>,
    /// The id of the last row of the page before.
    pub marker: Option<String>,
    /// Rows to skip.
    pub offset: Option<u32>,
    /// `key:direction,…`; not together with `sort_key` and `sort_dir`.
    pub sort: Option<String>,
    /// One key to sort by.
    pub sort_key: Option<String>,
    /// `asc` or `desc`.
    pub sort_dir: Option<String>,
    /// Everybody's rows; administrators only.
    pub all_tenants: Option<bool>,
    /// Whether to tell how many rows there are on all pages (3.45).
    pub with_count: Option<bool>,
    /// Only rows of this name.
    pub name: Option<String>,
    /// Only rows of this status.
    pub status: Option<String>,
    /// Only rows with these keys and values, as a Python dictionary.
    pub metadata: Option<String>,
}

/// Whose rows are listed, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Nothing for everybody's.
    pub project: Option<ProjectId>,
    /// All must hold.
    pub filters: Vec<Filter>,
}

/// What is listed: the filters that everybody may use (`etc/cinder/resource_filters.json`) differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Volumes.
    Volumes,
    /// Snapshots.
    Snapshots,
}

impl Listed {
    const fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Volumes => &[
                "name",
                "name~",
                "status",
                "status~",
                "metadata",
                "bootable",
                "migration_status",
                "availability_zone",
                "group_id",
                "size",
                "created_at",
                "updated_at",
                "consumes_quota",
            ],
            Self::Snapshots => &[
                "name",
                "name~",
                "status",
                "status~",
                "volume_id",
                "metadata",
                "availability_zone",
                "consumes_quota",
            ],
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ListRequest {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let version = parts.extensions.get::<Microversion>().copied().unwrap_or(Microversion::MIN);
        let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Fault::bad_request("The query string could not be read."))?;
        Self::read(query, version)
    }
}

impl ListRequest {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 for a limit, an offset or an order that is none.
    pub fn read(query: Vec<(String, String)>, version: Microversion) -> Result<Self, Fault> {
        let mut params: BTreeMap<String, String> = query.iter().cloned().collect();
        let sort = sort_of(&mut params)?;
        let limit = limit_of(params.remove("limit"))?;
        let marker = params.remove("marker");
        let offset = offset_of(params.remove("offset"))?;
        let with_count = if version.is_at_least(WITH_COUNT) {
            params.remove("with_count").map_or(Ok(false), |word| boolean_param("with_count", &word))?
        } else {
            false
        };
        Ok(Self { limit, marker, offset, sort, with_count, filters: params, query })
    }

    /// The marker as an id.
    ///
    /// # Errors
    /// 404 if nothing can have it.
    pub fn marker_id<Id: PathId>(&self) -> Result<Option<Id>, Fault> {
        self.marker.as_deref().map(Id::parse).transpose()
    }

    /// The query of the next page.
    pub fn next_query(&self, last: &str) -> String {
        let mut pairs: Vec<(&str, &str)> =
            self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        pairs.retain(|(name, _)| *name != "marker");
        pairs.push(("marker", last));
        let mut out = String::new();
        for (index, (name, value)) in pairs.iter().enumerate() {
            out.push(if index == 0 { '?' } else { '&' });
            encode(&mut out, name);
            out.push('=');
            encode(&mut out, value);
        }
        out
    }

    /// Whose rows are meant and which, for this asker at this microversion.
    ///
    /// # Errors
    /// 400 for a filter that the asker may not use (from 3.31) or whose value makes no sense.
    pub fn scope(&self, listed: Listed, identity: &Identity, version: Microversion) -> Result<Scope, Fault> {
        self.scope_where(listed, identity, version, version.is_at_least(STRICT_FILTERS))
    }

    /// As [`Self::scope`], but a filter that the asker may not use is dropped at every microversion,
    /// as Cinder's summary does.
    ///
    /// # Errors
    /// 400 for a filter whose value makes no sense.
    pub fn lenient_scope(
        &self,
        listed: Listed,
        identity: &Identity,
        version: Microversion,
    ) -> Result<Scope, Fault> {
        self.scope_where(listed, identity, version, false)
    }

    fn scope_where(
        &self,
        listed: Listed,
        identity: &Identity,
        version: Microversion,
        is_strict: bool,
    ) -> Result<Scope, Fault> {
        let mut params = self.filters.clone();
        let all_tenants = match params.remove("all_tenants") {
            Some(word) if identity.is_admin() => boolean_param("all_tenants", &word)?,
            Some(_) | None => false,
        };
        if !identity.is_admin() {
            let is_allowed = |name: &str| {
                listed.allowed().contains(&name)
                    && (!name.ends_with('~') || version.is_at_least(LIKE_FILTERS))
            };
            let unknown: Vec<String> = params.keys().filter(|name| !is_allowed(name)).cloned().collect();
            if is_strict && !unknown.is_empty() {
                return Err(Fault::bad_request(format!(
                    "Invalid filters {} are found in query options.",
                    unknown.join(",")
                )));
            }
            params.retain(|name, _| is_allowed(name));
        }
        let own = identity.actor.project.clone();
        let mut scope = Scope { project: (!all_tenants).then_some(own), filters: Vec::new() };
        for (name, value) in &params {
            if name == "project_id" {
                scope.narrow_to(value);
            } else {
                scope.filters.extend(filters_of(listed, name, value, version)?);
            }
        }
        Ok(scope)
    }
}

impl Scope {
    fn narrow_to(&mut self, project: &str) {
        match &self.project {
            Some(own) if own.as_str() == project => {}
            Some(_) => self.filters.push(Filter::Nothing),
            None => self.project = Some(ProjectId::new(project)),
        }
    }
}

/// The fault of a list that cannot be given. A marker that is not there is a thing that is not there:
/// `kind` says which kind.
pub fn unlisted(error: QueryError, kind: &str) -> Fault {
    match error {
        QueryError::MarkerNotFound { marker } => {
            Fault::not_found(format!("{kind} {marker} could not be found."))
        }
        error @ (QueryError::BeyondHead { .. } | QueryError::Views(_)) => error.into(),
    }
}

/// One of Cinder's words for true and false, in a query.
///
/// # Errors
/// 400 if it is none.
pub fn boolean_param(name: &str, word: &str) -> Result<bool, Fault> {
    let known = boolean_word(word).or_else(|| boolean_word(&word.to_ascii_lowercase()));
    known.ok_or_else(|| Fault::bad_request(format!("Value '{word}' for '{name}' is not a boolean.")))
}

fn limit_of(text: Option<String>) -> Result<usize, Fault> {
    let Some(text) = text else { return Ok(MAX_LIMIT) };
    match integer(&text) {
        None => Err(Fault::bad_request("limit param must be an integer")),
        Some(limit) if limit < 0 => Err(Fault::bad_request("limit param must be positive")),
        Some(limit) => Ok(usize::try_from(limit).map_or(MAX_LIMIT, |limit| limit.min(MAX_LIMIT))),
    }
}

fn offset_of(text: Option<String>) -> Result<usize, Fault> {
    let Some(text) = text else { return Ok(0) };
    match integer(&text) {
        None => Err(Fault::bad_request("offset must be an integer")),
        Some(offset) if offset < 0 => Err(Fault::bad_request("offset must be >= 0")),
        Some(offset) if offset > MAX_OFFSET => {
            Err(Fault::bad_request(format!("offset must be <= {MAX_OFFSET}")))
        }
        Some(offset) => Ok(usize::try_from(offset).unwrap_or(usize::MAX)),
    }
}

/// An integer of any length; one that is too long is as large as can be.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: i64 = digits.parse().unwrap_or(i64::MAX);
    Some(if is_negative { value.saturating_neg() } else { value })
}

fn sort_of(params: &mut BTreeMap<String, String>) -> Result<Vec<(SortKey, SortDirection)>, Fault> {
    let (sort, key, direction) =
        (params.remove("sort"), params.remove("sort_key"), params.remove("sort_dir"));
    if sort.is_some() && (key.is_some() || direction.is_some()) {
        return Err(Fault::bad_request(
            "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' \
             parameter.",
        ));
    }
    let mut order = Vec::new();
    match sort {
        Some(sort) => {
            for part in sort.trim().split(',') {
                let (key, direction) = part.split_once(':').unwrap_or((part, ""));
                let direction = if direction.is_empty() { "desc" } else { direction };
                order.push((sort_key(key.trim())?, sort_direction(direction.trim())?));
            }
        }
        None => {
            let key = key.unwrap_or_else(|| "created_at".to_owned());
            let direction = direction.unwrap_or_else(|| "desc".to_owned());
            order.push((sort_key(key.trim())?, sort_direction(direction.trim())?));
        }
    }
    // what is not named is sorted by last, in the direction of what is named first
    let first = order.first().map_or(SortDirection::Descending, |(_, direction)| *direction);
    if order == [(SortKey::CreatedAt, SortDirection::Descending)] {
        return Ok(Vec::new());
    }
    for key in [SortKey::CreatedAt, SortKey::Id] {
        if order.iter().all(|(named, _)| *named != key) {
            order.push((key, first));
        }
    }
    Ok(order)
}

fn sort_key(name: &str) -> Result<SortKey, Fault> {
    Ok(match name {
        "id" => SortKey::Id,
        "status" => SortKey::Status,
        "size" | "volume_size" => SortKey::Size,
        "availability_zone" => SortKey::AvailabilityZone,
        "name" | "display_name" => SortKey::Name,
        "bootable" => SortKey::Bootable,
        "created_at" => SortKey::CreatedAt,
        "updated_at" => SortKey::UpdatedAt,
        "volume_id" => SortKey::VolumeId,
        "host" => SortKey::Host,
        "project_id" => SortKey::Project,
        "volume_type_id" => SortKey::VolumeType,
        "description" | "display_description" => SortKey::Description,
        _ => return Err(Fault::bad_request("Invalid input received: Invalid sort key")),
    })
}

fn sort_direction(name: &str) -> Result<SortDirection, Fault> {
    match name {
        "asc" => Ok(SortDirection::Ascending),
        "desc" => Ok(SortDirection::Descending),
        _ => Err(Fault::bad_request(
            "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.",
        )),
    }
}

/// The filters that a name and a value stand for. None where every row passes. What is no filter
/// passes no row, as in Cinder.
fn filters_of(listed: Listed, name: &str, value: &str, version: Microversion) -> Result<Vec<Filter>, Fault> {
    let volumes = listed == Listed::Volumes;
    let likes = version.is_at_least(LIKE_FILTERS);
    let filter = match name {
        "name" | "display_name" => Filter::Name(value.to_owned()),
        "display_description" => Filter::Description(value.to_owned()),
        "name~" if likes => Filter::NameLike(value.to_owned()),
        "description~" if likes => Filter::DescriptionLike(value.to_owned()),
        "status~" if likes => Filter::StatusLike(value.to_owned()),
        "status" => statuses(value),
        "metadata" if !volumes && !version.is_at_least(SNAPSHOT_METADATA_FILTER) => return Ok(Vec::new()),
        "metadata" => metadata(value),
        "availability_zone" => Filter::AvailabilityZone(unquoted(value)),
        "size" | "volume_size" => value.trim().parse().map_or(Filter::Nothing, Filter::SizeGib),
        "user_id" => Filter::User(unquoted(value)),
        "volume_type_id" => value.parse::<VolumeTypeId>().map_or(Filter::Nothing, Filter::VolumeType),
        "bootable" if volumes => Filter::Bootable(bootable(value, version)?),
        "host" if volumes => Filter::Host(unquoted(value)),
        "snapshot_id" if volumes => value.parse().map_or(Filter::Nothing, Filter::SnapshotId),
        "source_volid" if volumes => value.parse().map_or(Filter::Nothing, Filter::SourceVolume),
        "id" if volumes => value.parse().map_or(Filter::Nothing, Filter::VolumeId),
        "id" => value.parse().map_or(Filter::Nothing, Filter::SnapshotId),
        "volume_id" if !volumes => value.parse().map_or(Filter::Nothing, Filter::VolumeId),
        "created_at" | "updated_at" if !version.is_at_least(TIME_FILTERS) => return Ok(Vec::new()),
        "created_at" => return times(value, Filter::CreatedAt),
        "updated_at" => return times(value, Filter::UpdatedAt),
        "consumes_quota" | "use_quota" => {
            let consumes = boolean_param("use_quota", value)?;
            return Ok(if consumes { Vec::new() } else { vec![Filter::Nothing] });
        }
        _ => Filter::Nothing,
    };
    Ok(vec![filter])
}

fn unquoted(value: &str) -> String {
    match literal(value) {
        Some(Value::String(text)) => text,
        _ => value.to_owned(),
    }
}

fn statuses(value: &str) -> Filter {
    match literal(value) {
        Some(Value::Array(items)) => {
            Filter::Status(items.iter().filter_map(|item| item.as_str().map(ToOwned::to_owned)).collect())
        }
        Some(Value::String(status)) => Filter::Status(vec![status]),
        _ => Filter::Status(vec![value.to_owned()]),
    }
}

fn metadata(value: &str) -> Filter {
    let Some(Value::Object(fields)) = literal(value) else { return Filter::Nothing };
    let pair = |(key, value): (String, Value)| (key, super::wire::python::str(&value));
    Filter::Metadata(fields.into_iter().map(pair).collect())
}

fn bootable(value: &str, version: Microversion) -> Result<bool, Fault> {
    if !version.is_at_least(STRICT_BOOTABLE) {
        return Ok(!value.eq_ignore_ascii_case("false"));
    }
    let known = boolean_word(value).or_else(|| boolean_word(&value.to_ascii_lowercase()));
    known.ok_or_else(|| Fault::bad_request(format!("Invalid input received: 'bootable = {value}'")))
}

/// One filter for each comparison of `gt:…,lt:…`.
fn times(value: &str, filter: impl Fn(TimeFilter) -> Filter) -> Result<Vec<Filter>, Fault> {
    let mut found = Vec::new();
    for part in value.split(',') {
        let (operator, time) = part.split_once(':').unwrap_or((part, part));
        let comparison: fn(Timestamp) -> TimeFilter = match operator {
            "gt" => TimeFilter::After,
            "gte" => TimeFilter::AtOrAfter,
            "lt" => TimeFilter::Before,
            "lte" => TimeFilter::AtOrBefore,
            "eq" => TimeFilter::At,
            "neq" => TimeFilter::NotAt,
            _ => return Err(Fault::bad_request(format!("Invalid {operator} operator"))),
        };
        let at = parse_moment(time).ok_or_else(|| Fault::bad_request(format!("Invalid {time} value")))?;
        found.push(filter(comparison(at)));
    }
    Ok(found)
}

/// A moment in ISO 8601; without a zone it is UTC.
pub fn parse_moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let zoned = text.parse::<jiff::Timestamp>();
    let at = zoned.or_else(|_| {
        let civil: jiff::civil::DateTime = text.parse()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    at.ok().map(|at| Timestamp(at.as_microsecond()))
}

/// Percent-encodes what is not unreserved; a space is a plus sign, as in forms.
pub(super) fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
