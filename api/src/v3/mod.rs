//! Cinder's v3 API: one file per resource.

mod action;
mod attach_actions;
pub mod attachments;
pub mod availability_zones;
pub mod extensions;
mod image_actions;
pub mod limits;
pub mod list;
pub mod manage;
pub mod messages;
pub mod metadata;
pub mod params;
pub mod pools;
pub mod quota_sets;
pub mod resource_filters;
pub mod services;
pub mod snapshot_actions;
pub mod snapshots;
pub mod summary;
pub mod type_access;
pub mod type_extra_specs;
pub mod types;
pub mod versions;
pub mod volume_actions;
pub mod volumes;
pub mod wire;

use utoipa_axum::router::OpenApiRouter;

use crate::state::AppState;

/// The routes below `/v3`, which all exist below `/v3/{project_id}` too.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(attachments::routes())
        .merge(availability_zones::routes())
        .merge(extensions::routes())
        .merge(limits::routes())
        .merge(manage::routes())
        .merge(messages::routes())
        .merge(pools::routes())
        .merge(quota_sets::routes())
        .merge(resource_filters::routes())
        .merge(services::routes())
        .merge(summary::routes())
        .merge(type_access::routes())
        .merge(type_extra_specs::routes())
        .merge(types::routes())
        .merge(volumes::routes())
        .merge(volume_actions::routes())
        .merge(snapshots::routes())
        .merge(snapshot_actions::routes())
        .merge(metadata::routes())
}
