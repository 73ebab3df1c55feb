//! Cinder's v3 API: one file per resource.

pub mod versions;
pub mod wire;

use utoipa_axum::router::OpenApiRouter;

use crate::state::AppState;

/// The routes below `/v3`, which all exist below `/v3/{project_id}` too.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
}
