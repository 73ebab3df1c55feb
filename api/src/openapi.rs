//! The document of every route: served at `/openapi.json`, and committed as `docs/openapi.json`.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;
use crate::{auth, health, ledger_v1, metrics, v3};

const DESCRIPTION: &str = "Block storage that remembers: Cinder's v3 API on an append-only ledger, and the \
ledger's own API. Every route below `/v3` is also there below `/v3/{project_id}`. Which fields and calls of \
`/v3` there are depends on the microversion that `OpenStack-API-Version: volume 3.N` asks for. A POST with an \
`Idempotency-Key` is safe to repeat.";

const TAGS: &[(&str, &str)] = &[
    ("volumes", "Volumes, their actions and metadata."),
    ("snapshots", "Snapshots, their actions and metadata."),
    ("attachments", "What servers use, and how they reach it."),
    ("metadata", "Keys and values that users put on volumes and snapshots."),
    ("types", "Volume types, extra specs and access."),
    ("quotas", "Quotas and limits."),
    ("deployment", "Services, pools, zones and what clients ask about the deployment."),
    ("manage", "Taking over what a backend has already."),
    ("versions", "Versions of the API."),
    ("ledger", "Events, history, past states, operations, debts, drift and verification."),
    ("health", "For those who keep it running. Without a token."),
];

/// Every route that is documented once: those below `/v3` without their twin below a project.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().merge(unversioned()).nest("/v3", v3::routes())
}

/// Every route that is not below `/v3`, and the version documents.
pub fn unversioned() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(v3::versions::routes())
        .merge(health::routes())
        .merge(metrics::routes())
        .routes(routes!(serve))
        .nest("/ledger/v1", ledger_v1::routes())
}

/// The document.
pub fn document() -> OpenApi {
    let (_, routed) = routes().split_for_parts();
    let info = InfoBuilder::new()
        .title("Tephra")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build();
    let tags = TAGS
        .iter()
        .map(|(name, description)| TagBuilder::new().name(*name).description(Some(*description)).build());
    let mut document = OpenApiBuilder::new()
        .info(info)
        .paths(routed.paths)
        .components(routed.components)
        .tags(Some(tags.collect::<Vec<_>>()))
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new())]))
        .build();
    let token = ApiKeyValue::with_description(auth::TOKEN_HEADER, "Whose request it is.");
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", SecurityScheme::ApiKey(ApiKey::Header(token)));
    for (path, item) in &mut document.paths.paths {
        name_operations(path, item);
    }
    document
}

/// Handlers are named for their file (`list`, `show`); in one document names must differ.
fn name_operations(path: &str, item: &mut PathItem) {
    let mut words: Vec<&str> =
        path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if path.ends_with('/') {
        words.push("slash");
    }
    let name = |method: &str, operation: &mut Option<Operation>| {
        if let Some(operation) = operation {
            operation.operation_id = Some(format!("{method}_{}", words.join("_")));
        }
    };
    name("get", &mut item.get);
    name("put", &mut item.put);
    name("post", &mut item.post);
    name("delete", &mut item.delete);
}

/// The document as it is served and committed.
pub fn document_text() -> String {
    // It is made of texts, so it can be written as JSON.
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, content_type = "application/json", body = Object))
)]
async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(document_text);
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::{TAGS, document, document_text};
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Set it to write the document instead of comparing it.
    const REWRITE: &str = "UPDATE_OPENAPI";

    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        if std::env::var_os(REWRITE).is_some() {
            std::fs::write(&path, document_text()).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == document_text(),
            "docs/openapi.json is out of date: run this test with {REWRITE}=1"
        );
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_summary_and_a_known_tag() {
        let document = serde_json::to_value(document()).unwrap();
        let tags: BTreeSet<&str> = TAGS.iter().map(|(name, _)| *name).collect();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap_or_default();
                assert!(names.insert(name.to_owned()), "{method} {path}: {name} is there twice");
                assert!(operation["summary"].is_string(), "{method} {path} says nothing of itself");
                let tag = operation["tags"][0].as_str().unwrap_or_default();
                assert!(tags.contains(tag), "{method} {path} has the unknown tag {tag:?}");
            }
        }
    }
}
