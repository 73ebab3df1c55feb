//! Quotas: `/os-quota-sets`, `/os-quota-class-sets` and the names of limits.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use tephra_domain::command::Command;
use tephra_domain::ids::ProjectId;
use tephra_domain::quota::{QuotaLimits, QuotaResource, Usage};
use tephra_domain::volume_type::VolumeType;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::wire::check::{Field, MAX_TEXT, Object};
use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, JsonBody, PathId};
use crate::state::AppState;

/// The largest limit (Cinder's `DB_MAX_INT`).
const MAX_INT: i64 = 0x7FFF_FFFF;
/// The one quota class that there is: the limits of projects for which none were set.
const DEFAULT_CLASS: &str = "default";

/// Quotas of projects, and their defaults.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(show, update, delete))
        .routes(routes!(defaults))
        .routes(routes!(show_class, update_class))
}

/// The project that a quota is asked for: not the one that asks.
#[derive(Clone, Debug)]
struct Target(ProjectId);

impl PathId for Target {
    const PARAM: &'static str = "target_project_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_name("quota_set_name", text)?;
        Ok(Self(ProjectId::new(text)))
    }
}

/// The name of a quota class.
#[derive(Clone, Debug)]
struct QuotaClass(String);

impl PathId for QuotaClass {
    const PARAM: &'static str = "quota_class";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_name("quota_class_name", text)?;
        Ok(Self(text.to_owned()))
    }
}

fn check_name(field: &str, text: &str) -> Result<(), Fault> {
    Field::new(field, &Value::from(text)).text(1, MAX_TEXT).map(|_| ())
}

/// A limit with what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuotaUsage {
    /// -1 is unlimited.
    limit: i64,
    in_use: i64,
    /// Always 0: a command takes its share in the commit that accepts it.
    reserved: i64,
}

/// A limit, alone or with its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum QuotaValue {
    /// Without `usage`.
    Limit(i64),
    /// With `usage=true`.
    Usage(QuotaUsage),
}

/// Limits by name: `volumes`, `volumes_<type>`, ….
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaSet {
    /// The project (or the class) that was asked for; not in answers to changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten)]
    values: BTreeMap<String, QuotaValue>,
}

/// `{"quota_set": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaSetEnvelope {
    quota_set: QuotaSet,
}

/// `{"quota_class_set": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaClassEnvelope {
    quota_class_set: QuotaSet,
}

/// Every limit that there is, by its name: those of the deployment, then three for each type.
pub struct QuotaNames(BTreeMap<String, QuotaResource>);

impl QuotaNames {
    fn of(types: &[VolumeType]) -> Self {
        let plain = QuotaResource::PLAIN.iter().map(|resource| (resource.stem().to_owned(), *resource));
        let typed = types.iter().flat_map(|row| {
            [
                QuotaResource::VolumesOfType(row.id),
                QuotaResource::SnapshotsOfType(row.id),
                QuotaResource::GigabytesOfType(row.id),
            ]
            .map(|resource| (format!("{}_{}", resource.stem(), row.name), resource))
        });
        Self(plain.chain(typed).collect())
    }

    fn load(state: &AppState) -> Result<Self, Fault> {
        let types = state.views.volume_types().map_err(|error| Fault::internal(&error))?;
        Ok(Self::of(&types))
    }
}

/// A project's limits: set for it, else the defaults.
pub struct ProjectQuota {
    set: QuotaLimits,
    defaults: QuotaLimits,
    usage: Usage,
}

impl ProjectQuota {
    /// Reads them.
    ///
    /// # Errors
    /// 500 if the views fail.
    pub fn load(state: &AppState, project: &ProjectId) -> Result<Self, Fault> {
        let load = || {
            Ok(Self {
                set: state.views.limits(project)?,
                defaults: state.views.default_limits()?,
                usage: state.views.usage(project)?,
            })
        };
        load().map_err(|error: tephra_projector::ViewsError| Fault::internal(&error))
    }

    /// The limit in force; -1 is unlimited.
    pub fn limit(&self, resource: QuotaResource) -> i64 {
        let set = self.set.get(&resource).or_else(|| self.defaults.get(&resource));
        set.copied().unwrap_or_else(|| resource.default_limit())
    }

    /// How much is used.
    pub fn in_use(&self, resource: QuotaResource) -> i64 {
        self.usage.of(resource)
    }

    fn render(&self, names: &QuotaNames, id: Option<&ProjectId>, with_usage: bool) -> QuotaSetEnvelope {
        let value = |resource| {
            let limit = self.limit(resource);
            if with_usage {
                QuotaValue::Usage(QuotaUsage { limit, in_use: self.in_use(resource), reserved: 0 })
            } else {
                QuotaValue::Limit(limit)
            }
        };
        let values = names.0.iter().map(|(name, resource)| (name.clone(), value(*resource))).collect();
        QuotaSetEnvelope { quota_set: QuotaSet { id: id.map(ToString::to_string), values } }
    }
}

fn check_may_see(identity: &Identity, project: &ProjectId) -> Result<(), Fault> {
    if identity.actor.can_see(project) {
        Ok(())
    } else {
        Err(Fault::forbidden("volume_extension:quotas:show"))
    }
}

/// Shows a project's quota: one's own, or anybody's for administrators.
#[utoipa::path(
    get, path = "/os-quota-sets/{target_project_id}", tag = "quotas",
    params(
        ("target_project_id" = String, Path),
        ("usage" = Option<bool>, Query, description = "with `in_use` and `reserved` of each"),
    ),
    responses((status = 200, body = QuotaSetEnvelope), (status = 403))
)]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    InPath(Target(project)): InPath<Target>,
    params: Params,
) -> Result<Json<QuotaSetEnvelope>, Fault> {
    check_may_see(&identity, &project)?;
    let with_usage = params.flag("usage")?;
    let quota = ProjectQuota::load(&state, &project)?;
    Ok(Json(quota.render(&QuotaNames::load(&state)?, Some(&project), with_usage)))
}

/// Sets some of a project's limits (administrators).
#[utoipa::path(
    put, path = "/os-quota-sets/{target_project_id}", tag = "quotas",
    params(("target_project_id" = String, Path)),
    request_body(content = Object, description = "`{\"quota_set\": {name: limit, …}}`; -1 is unlimited"),
    responses((status = 200, body = QuotaSetEnvelope), (status = 400), (status = 403))
)]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    InPath(Target(project)): InPath<Target>,
    body: JsonBody,
) -> Result<Json<QuotaSetEnvelope>, Fault> {
    let names = QuotaNames::load(&state)?;
    let limits = parse_quota_set(body.require()?, &names)?;
    identity.actor.require_admin("volume_extension:quotas:update")?;
    check_not_below_usage(&limits, &names, &ProjectQuota::load(&state, &project)?)?;
    let command = Command::SetQuotaLimits { project: project.clone(), limits };
    state.submit(&identity, None, command).await?;
    Ok(Json(ProjectQuota::load(&state, &project)?.render(&names, None, false)))
}

fn parse_quota_set(body: &Value, names: &QuotaNames) -> Result<QuotaLimits, Fault> {
    let fields = Object::only(body, "quota_set")?;
    if fields.fields().next().is_none() {
        return Err(fields.refuse("{} should be non-empty"));
    }
    let mut limits = QuotaLimits::new();
    let mut unknown = Vec::new();
    for field in fields.fields() {
        match (names.0.get(field.name()), field.name()) {
            (Some(resource), name) => {
                limits.insert(*resource, parse_limit(name, field.value())?);
            }
            // Clients send these back as they got them.
            (None, "tenant_id" | "id") => {}
            (None, name) => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        return Err(Fault::bad_request(format!("Invalid input received: Bad key(s) in quota set: {names}")));
    }
    Ok(limits)
}

/// A whole number, or the text of one, from -1 to [`MAX_INT`].
fn parse_limit(name: &str, value: &Value) -> Result<i64, Fault> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match number {
        None => Err(Fault::bad_request(format!("{name} must be an integer"))),
        Some(number) if number < -1 => Err(Fault::bad_request(format!("{name} must be >= -1"))),
        Some(number) if number > MAX_INT => Err(Fault::bad_request(format!("{name} must be <= {MAX_INT}"))),
        Some(number) => Ok(number),
    }
}

/// A limit below what exists would be broken from the start. Cinder checks this only for limits
/// that were set before; here it holds for every limit.
fn check_not_below_usage(
    limits: &QuotaLimits,
    names: &QuotaNames,
    quota: &ProjectQuota,
) -> Result<(), Fault> {
    for (resource, limit) in limits {
        let used = quota.in_use(*resource);
        if *limit != -1 && *resource != QuotaResource::PerVolumeGigabytes && *limit < used {
            let key = names.0.iter().find(|(_, other)| *other == resource).map_or("", |(name, _)| name);
            return Err(Fault::bad_request(format!(
                "Quota {key} limit must be equal or greater than existing resources. Current usage is \
                 {used} and the requested limit is {limit}."
            )));
        }
    }
    Ok(())
}

/// Gives a project the defaults again (administrators).
#[utoipa::path(
    delete, path = "/os-quota-sets/{target_project_id}", tag = "quotas",
    params(("target_project_id" = String, Path)),
    responses((status = 200), (status = 403))
)]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    InPath(Target(project)): InPath<Target>,
) -> Result<(), Fault> {
    state.submit(&identity, None, Command::ClearQuotaLimits { project }).await?;
    Ok(())
}

/// Shows the limits that a project has if none are set for it.
#[utoipa::path(
    get, path = "/os-quota-sets/{target_project_id}/defaults", tag = "quotas",
    params(("target_project_id" = String, Path)),
    responses((status = 200, body = QuotaSetEnvelope), (status = 403))
)]
async fn defaults(
    State(state): State<AppState>,
    identity: Identity,
    InPath(Target(project)): InPath<Target>,
) -> Result<Json<QuotaSetEnvelope>, Fault> {
    check_may_see(&identity, &project)?;
    Ok(Json(default_quota(&state)?.render(&QuotaNames::load(&state)?, Some(&project), false)))
}

fn default_quota(state: &AppState) -> Result<ProjectQuota, Fault> {
    let defaults = state.views.default_limits().map_err(|error| Fault::internal(&error))?;
    Ok(ProjectQuota { set: QuotaLimits::new(), defaults, usage: Usage::default() })
}

fn render_class(state: &AppState, id: Option<String>) -> Result<Json<QuotaClassEnvelope>, Fault> {
    let quota = default_quota(state)?.render(&QuotaNames::load(state)?, None, false).quota_set;
    Ok(Json(QuotaClassEnvelope { quota_class_set: QuotaSet { id, ..quota } }))
}

/// Shows the defaults; every class but `default` has them unchanged (administrators).
#[utoipa::path(
    get, path = "/os-quota-class-sets/{quota_class}", tag = "quotas",
    params(("quota_class" = String, Path)),
    responses((status = 200, body = QuotaClassEnvelope), (status = 403))
)]
async fn show_class(
    State(state): State<AppState>,
    identity: Identity,
    InPath(QuotaClass(class)): InPath<QuotaClass>,
) -> Result<Json<QuotaClassEnvelope>, Fault> {
    identity.actor.require_admin("volume_extension:quota_classes:get")?;
    render_class(&state, Some(class))
}

/// Sets some of the defaults (administrators; the class `default` only).
#[utoipa::path(
    put, path = "/os-quota-class-sets/{quota_class}", tag = "quotas",
    params(("quota_class" = String, Path)),
    request_body(content = Object, description = "`{\"quota_class_set\": {name: limit, …}}`"),
    responses((status = 200, body = QuotaClassEnvelope), (status = 400), (status = 403))
)]
async fn update_class(
    State(state): State<AppState>,
    identity: Identity,
    InPath(QuotaClass(class)): InPath<QuotaClass>,
    body: JsonBody,
) -> Result<Json<QuotaClassEnvelope>, Fault> {
    let limits = parse_class(body.require()?, &QuotaNames::load(&state)?)?;
    identity.actor.require_admin("volume_extension:quota_classes:update")?;
    if class != DEFAULT_CLASS {
        return Err(Fault::bad_request(format!(
            "Invalid input received: Quota class {class} cannot be set: only the class '{DEFAULT_CLASS}' has \
             limits of its own."
        )));
    }
    state.submit(&identity, None, Command::SetQuotaDefaults { limits }).await?;
    render_class(&state, None)
}

fn parse_class(body: &Value, names: &QuotaNames) -> Result<QuotaLimits, Fault> {
    let fields = Object::only(body, "quota_class_set")?;
    let mut limits = QuotaLimits::new();
    let mut unknown = Vec::new();
    for field in fields.fields() {
        match names.0.get(field.name()) {
            Some(resource) => {
                let limit = parse_limit(field.name(), field.value());
                limits.insert(*resource, limit.map_err(|fault| field.refuse(fault.message()))?);
            }
            None => unknown.push(field.name()),
        }
    }
    if unknown.is_empty() {
        return Ok(limits);
    }
    let names = unknown.join(", ");
    Err(Fault::bad_request(format!("Invalid input received: Bad key(s) in quota class set: {names}")))
}

#[cfg(test)]
mod tests {
    use super::{ProjectQuota, QuotaNames, check_not_below_usage, parse_class, parse_quota_set};
    use serde_json::{Value, json};
    use std::collections::{BTreeMap, BTreeSet};
    use tephra_domain::ids::ProjectId;
    use tephra_domain::quota::{QuotaLimits, QuotaResource, Usage, UsageCount};
    use tephra_domain::units::Timestamp;
    use tephra_domain::volume_type::{DEFAULT_TYPE_ID, VolumeType};

    fn names() -> QuotaNames {
        QuotaNames::of(&[VolumeType {
            id: DEFAULT_TYPE_ID,
            name: "fast".into(),
            description: None,
            is_public: true,
            extra_specs: BTreeMap::new(),
            access: BTreeSet::new(),
            created_at: Timestamp(0),
            updated_at: None,
            users: 0,
        }])
    }

    fn quota() -> ProjectQuota {
        let mut usage = Usage::default();
        usage.add(DEFAULT_TYPE_ID, UsageCount { volumes: 3, snapshots: 1, gigabytes: 40 }, 1);
        ProjectQuota {
            set: QuotaLimits::from([(QuotaResource::Volumes, 20)]),
            defaults: QuotaLimits::from([(QuotaResource::Volumes, 15), (QuotaResource::Snapshots, 12)]),
            usage,
        }
    }

    #[test]
    fn a_quota_set_holds_every_limit_in_force_and_three_for_each_type() {
        let rendered = serde_json::to_value(quota().render(&names(), Some(&ProjectId::new("p")), false));
        let expected = json!({ "quota_set": {
            "id": "p",
            "volumes": 20, "snapshots": 12, "gigabytes": 1000, "per_volume_gigabytes": -1,
            "backups": 10, "backup_gigabytes": 1000, "groups": 10,
            "volumes_fast": -1, "snapshots_fast": -1, "gigabytes_fast": -1,
        }});
        assert_eq!(rendered.ok(), Some(expected));
    }

    #[test]
    fn usage_is_what_exists_in_all_and_by_type() {
        let rendered = serde_json::to_value(quota().render(&names(), None, true)).unwrap_or_default();
        for (name, usage) in [
            ("volumes", json!({ "limit": 20, "in_use": 3, "reserved": 0 })),
            ("gigabytes_fast", json!({ "limit": -1, "in_use": 40, "reserved": 0 })),
            ("backups", json!({ "limit": 10, "in_use": 0, "reserved": 0 })),
        ] {
            assert_eq!(rendered["quota_set"][name], usage, "{name}");
        }
    }

    fn refused(body: &Value) -> Option<String> {
        let parsed = parse_quota_set(body, &names());
        let checked = parsed.and_then(|limits| check_not_below_usage(&limits, &names(), &quota()));
        checked.err().map(|fault| fault.message().to_owned())
    }

    #[test]
    fn a_limit_is_a_known_name_and_a_whole_number_not_below_usage() {
        for (set, words) in [
            (
                json!({ "volumes": 3, "gigabytes_fast": "40", "snapshots": -1, "id": "p", "tenant_id": "p" }),
                None,
            ),
            (json!({ "per_volume_gigabytes": 0 }), None),
            (
                json!({ "rockets": 1, "volumes": 5 }),
                Some("Invalid input received: Bad key(s) in quota set: rockets"),
            ),
            (json!({ "volumes": 1.5 }), Some("volumes must be an integer")),
            (json!({ "volumes": "many" }), Some("volumes must be an integer")),
            (json!({ "volumes": null }), Some("volumes must be an integer")),
            (json!({ "volumes": -2 }), Some("volumes must be >= -1")),
            (json!({ "volumes": 2_147_483_648_u64 }), Some("volumes must be <= 2147483647")),
            (
                json!({ "volumes": 2 }),
                Some(
                    "Quota volumes limit must be equal or greater than existing resources. Current usage is 3 \
                     and the requested limit is 2.",
                ),
            ),
            (
                json!({}),
                Some("Invalid input for field/attribute quota_set. Value: {}. {} should be non-empty"),
            ),
        ] {
            assert_eq!(refused(&json!({ "quota_set": set })).as_deref(), words, "{set}");
        }
        assert_eq!(refused(&json!({})).as_deref(), Some("'quota_set' is a required property"));
    }

    #[test]
    fn a_class_takes_no_unknown_name_at_all() {
        assert!(parse_class(&json!({ "quota_class_set": { "volumes": 7 } }), &names()).is_ok());
        for wrong in [json!({ "id": "p" }), json!({ "volumes": "x" }), json!({ "volumes": -2 })] {
            assert!(parse_class(&json!({ "quota_class_set": wrong }), &names()).is_err());
        }
    }
}
