//! Links in answers: to the thing itself, and to the next page.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Fault;
use crate::request::base_url;
use crate::state::AppState;

/// A link, as Cinder writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Link {
    /// `self`, `bookmark` or `next`.
    pub rel: &'static str,
    /// Where to.
    pub href: String,
}

/// What links of one answer begin with. They name the project if the request did.
#[derive(Clone, Debug)]
pub struct Links {
    base: String,
    project: Option<String>,
}

impl Links {
    /// Links that begin with this, and name this project.
    pub const fn new(base: String, project: Option<String>) -> Self {
        Self { base, project }
    }

    fn href(&self, version: &str, rest: &[&str]) -> String {
        let mut href = String::with_capacity(self.base.len().saturating_add(112));
        href.push_str(&self.base);
        href.push_str(version);
        for part in self.project.as_deref().iter().chain(rest) {
            href.push('/');
            href.push_str(part);
        }
        href
    }

    /// The links of one thing of a collection.
    pub fn of(&self, collection: &str, id: &str) -> [Link; 2] {
        [
            Link { rel: "self", href: self.href("/v3", &[collection, id]) },
            Link { rel: "bookmark", href: self.href("", &[collection, id]) },
        ]
    }

    /// The link to the next page of a list, with its query.
    pub fn next(&self, list: &str, query: &str) -> [Link; 1] {
        let mut href = self.href("/v3", &[list]);
        href.push_str(query);
        [Link { rel: "next", href }]
    }
}

impl FromRequestParts<AppState> for Links {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Fault> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let project = params.as_ref().and_then(|params| {
            params.iter().find_map(|(name, value)| (name == "project_id").then(|| value.to_owned()))
        });
        Ok(Self::new(base_url(state, &parts.headers), project))
    }
}
