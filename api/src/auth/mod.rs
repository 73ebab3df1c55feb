//! Who asks: from the headers of a request to an [`Actor`].

mod noauth;
mod token_file;

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams};
use axum::http::{HeaderMap, request::Parts};
use tephra_domain::actor::{Actor, Role};
use tephra_domain::ids::{ProjectId, RequestId};

use crate::error::Fault;
use crate::request::RequestIds;
use crate::state::AppState;

pub use noauth::NoAuth;
pub use token_file::{TokenFile, TokenFileError};

/// The header that carries the token.
pub const TOKEN_HEADER: &str = "x-auth-token";
/// Characters of a project's or user's id, at most (the width of Cinder's columns).
const MAX_ID: usize = 255;

/// Turns tokens into actors.
#[derive(Clone, Debug)]
pub enum Authenticator {
    /// Believes what the token says: for one machine, or behind something that checks.
    NoAuth(NoAuth),
    /// Knows the tokens that a file lists.
    TokenFile(TokenFile),
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    user: String,
    /// Nothing: any, so the path decides.
    project: Option<String>,
    role: Role,
}

impl Authenticator {
    /// The actor behind a token, for the project that the path names, if it names one.
    ///
    /// # Errors
    /// 401 for a token that nobody has, 400 if the path names another project than the token.
    pub fn authenticate(&self, token: Option<&str>, path_project: Option<&str>) -> Result<Actor, Fault> {
        let claim = match self {
            Self::NoAuth(noauth) => noauth.claim(token),
            Self::TokenFile(file) => file.claim(token)?,
        };
        let project = match (path_project, claim.project) {
            (Some(named), _) if !is_sane_id(named) => return Err(wrong_project()),
            (Some(named), Some(own)) if named != own && claim.role != Role::Admin => {
                return Err(wrong_project());
            }
            (Some(named), _) => named.to_owned(),
            (None, Some(own)) => own,
            (None, None) => noauth::DEFAULT_PROJECT.to_owned(),
        };
        Ok(Actor {
            user: tephra_domain::ids::UserId::new(claim.user),
            project: ProjectId::new(project),
            role: claim.role,
            address: None,
        })
    }
}

fn wrong_project() -> Fault {
    Fault::bad_request("Malformed request url")
}

/// Whether a text can be a project's or a user's id: anything that is safe to print and to store.
fn is_sane_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_ID
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+'))
}

/// Who asks, and under which request id.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who.
    pub actor: Actor,
    /// The correlation id of everything that the request causes.
    pub request: RequestId,
}

impl Identity {
    /// Whether administrators' fields are to be shown.
    pub fn is_admin(&self) -> bool {
        self.actor.role == Role::Admin
    }
}

impl FromRequestParts<AppState> for Identity {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Fault> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let path_project = params.as_ref().and_then(|params| {
            params.iter().find_map(|(name, value)| (name == "project_id").then_some(value))
        });
        let mut actor = state.auth.authenticate(token_of(&parts.headers), path_project)?;
        actor.address = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|ConnectInfo(address)| address.ip().to_string().into());
        let request = match parts.extensions.get::<RequestIds>() {
            Some(ids) => ids.correlation.clone(),
            None => RequestIds::draw(&parts.headers).correlation,
        };
        Ok(Self { actor, request })
    }
}

fn token_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok())
}

/// Refuses to listen where anybody could reach a server that believes every token.
///
/// # Errors
/// [`OpenToAll`], unless the settings allow it in so many words.
pub fn check_listen(address: SocketAddr, auth: &Authenticator) -> Result<(), OpenToAll> {
    match auth {
        Authenticator::TokenFile(_) => Ok(()),
        Authenticator::NoAuth(noauth) if noauth.allow_any_address || address.ip().is_loopback() => Ok(()),
        Authenticator::NoAuth(_) => Err(OpenToAll { address }),
    }
}

/// Without authentication, only this machine may be listened to.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing to listen on {address} without authentication: anybody who reaches it would be an \
     administrator. Configure a token file, listen on 127.0.0.1, or set \
     `allow_unauthenticated_access_from_anywhere = true`"
)]
pub struct OpenToAll {
    /// Where it was to listen.
    pub address: SocketAddr,
}
