//! `/extensions`: which of Cinder's extensions are spoken here.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Identity;
use crate::error::Fault;
use crate::request::{InPath, PathId};
use crate::state::AppState;

/// The list of extensions, and each.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

/// One of Cinder's extensions.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Extension {
    name: &'static str,
    alias: &'static str,
    description: &'static str,
    /// When Cinder last changed it.
    updated: &'static str,
    /// Always empty, as in Cinder.
    links: [&'static str; 0],
}

const fn extension(
    name: &'static str,
    alias: &'static str,
    description: &'static str,
    updated: &'static str,
) -> Extension {
    Extension { name, alias, description, updated, links: [] }
}

/// Those of Cinder's extensions whose calls and fields are all served here. Clients turn features on
/// by this list.
pub const EXTENSIONS: &[Extension] = &[
    extension("AdminActions", "os-admin-actions", "Enable admin actions.", "2012-08-25T00:00:00+00:00"),
    extension(
        "AvailabilityZones",
        "os-availability-zone",
        "Describe Availability Zones.",
        "2013-06-27T00:00:00+00:00",
    ),
    extension(
        "ExtendedServices",
        "os-extended-services",
        "Extended services support.",
        "2014-01-10T00:00:00-00:00",
    ),
    extension(
        "ExtendedSnapshotAttributes",
        "os-extended-snapshot-attributes",
        "Extended SnapshotAttributes support.",
        "2012-06-19T00:00:00+00:00",
    ),
    extension(
        "QuotaClasses",
        "os-quota-class-sets",
        "Quota classes management support.",
        "2012-03-12T00:00:00+00:00",
    ),
    extension("Quotas", "os-quota-sets", "Quota management support.", "2011-08-08T00:00:00+00:00"),
    extension("Scheduler_stats", "scheduler-stats", "Scheduler stats support.", "2014-09-07T00:00:00+00:00"),
    extension("Services", "os-services", "Services support.", "2012-10-28T00:00:00-00:00"),
    extension(
        "TypesExtraSpecs",
        "os-types-extra-specs",
        "Type extra specs support.",
        "2011-08-24T00:00:00+00:00",
    ),
    extension("TypesManage", "os-types-manage", "Types manage support.", "2011-08-24T00:00:00+00:00"),
    extension(
        "UsedLimits",
        "os-used-limits",
        "Provide data on limited resources that are being used.",
        "2013-10-03T00:00:00+00:00",
    ),
    extension(
        "VolumeHostAttribute",
        "os-vol-host-attr",
        "Expose host as an attribute of a volume.",
        "2011-11-03T00:00:00+00:00",
    ),
    extension(
        "VolumeMigStatusAttribute",
        "os-vol-mig-status-attr",
        "Expose migration_status as an attribute of a volume.",
        "2013-08-08T00:00:00+00:00",
    ),
    extension(
        "VolumeTenantAttribute",
        "os-vol-tenant-attr",
        "Expose the internal project_id as an attribute of a volume.",
        "2011-11-03T00:00:00+00:00",
    ),
    extension(
        "VolumeTypeAccess",
        "os-volume-type-access",
        "Volume type access support.",
        "2014-06-26T00:00:00Z",
    ),
];

/// `{"extensions": […]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtensionList {
    extensions: &'static [Extension],
}

/// `{"extension": …}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtensionEnvelope {
    extension: Extension,
}

#[derive(Debug)]
struct Alias(String);

impl PathId for Alias {
    const PARAM: &'static str = "alias";

    fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Self(text.to_owned()))
    }
}

/// Lists extensions.
#[utoipa::path(
    get, path = "/extensions", tag = "deployment",
    responses((status = 200, body = ExtensionList))
)]
async fn list(_: Identity) -> Json<ExtensionList> {
    Json(ExtensionList { extensions: EXTENSIONS })
}

/// Shows an extension.
#[utoipa::path(
    get, path = "/extensions/{alias}", tag = "deployment",
    params(("alias" = String, Path)),
    responses((status = 200, body = ExtensionEnvelope), (status = 404))
)]
async fn show(_: Identity, InPath(Alias(alias)): InPath<Alias>) -> Result<Json<ExtensionEnvelope>, Fault> {
    let found = EXTENSIONS.iter().find(|extension| extension.alias == alias);
    found.map(|extension| Json(ExtensionEnvelope { extension: *extension })).ok_or_else(Fault::no_such_route)
}
