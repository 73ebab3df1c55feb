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
     `i_know_that_noauth_lets_everybody_in = true`"
)]
pub struct OpenToAll {
    /// Where it was to listen.
    pub address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = r#"
        [[token]]
        token = "0123456789abcdef"
        user = "alice"
        project = "demo"
        role = "member"

        [[token]]
        # of "the-admins-own-token"
        sha256 = "DIGEST"
        user = "root"
        project = "ops"
        role = "admin"
    "#;

    fn who(
        auth: &Authenticator,
        token: Option<&str>,
        path: Option<&str>,
    ) -> Result<(String, String, Role), u16> {
        auth.authenticate(token, path)
            .map(|actor| (actor.user.to_string(), actor.project.to_string(), actor.role))
            .map_err(|fault| fault.status().as_u16())
    }

    #[test]
    fn without_authentication_the_token_says_who_one_is() {
        let auth = Authenticator::NoAuth(NoAuth::default());
        for (token, path, user, project, role) in [
            (Some("alice:demo"), Some("demo"), "alice", "demo", Role::Member),
            (Some("alice:demo"), None, "alice", "demo", Role::Member),
            (Some("admin:demo"), Some("other"), "admin", "other", Role::Admin),
            (Some("notused"), None, "notused", "default", Role::Member),
            (Some("notused"), Some("p-1"), "notused", "p-1", Role::Member),
            (Some("admin"), None, "admin", "default", Role::Admin),
            (Some(""), Some("demo"), "anonymous", "demo", Role::Member),
            (Some("sp ace:demo"), None, "anonymous", "demo", Role::Member),
            (None, Some("demo"), "anonymous", "demo", Role::Member),
            (None, None, "anonymous", "default", Role::Member),
        ] {
            let expected = Ok((user.to_owned(), project.to_owned(), role));
            assert_eq!(who(&auth, token, path), expected, "{token:?} at {path:?}");
        }
        assert_eq!(who(&auth, Some("alice:demo"), Some("other")), Err(400));
        assert_eq!(who(&auth, None, Some("../../etc")), Err(400));
        assert_eq!(who(&auth, None, Some(&"x".repeat(256))), Err(400));
    }

    #[test]
    fn everybody_can_be_made_an_administrator() {
        let auth = Authenticator::NoAuth(NoAuth { everybody_is_admin: true, ..NoAuth::default() });
        assert_eq!(
            who(&auth, Some("bob:demo"), None),
            Ok(("bob".to_owned(), "demo".to_owned(), Role::Admin))
        );
    }

    #[test]
    fn a_token_file_knows_its_tokens_and_no_others() {
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("the-admins-own-token"));
        let text = TOKENS.replace("DIGEST", &digest);
        let auth = Authenticator::TokenFile(TokenFile::parse(&text).unwrap());
        let alice = Ok(("alice".to_owned(), "demo".to_owned(), Role::Member));
        assert_eq!(who(&auth, Some("0123456789abcdef"), Some("demo")), alice);
        assert_eq!(who(&auth, Some("0123456789abcdef"), Some("ops")), Err(400));
        let root = Ok(("root".to_owned(), "demo".to_owned(), Role::Admin));
        assert_eq!(who(&auth, Some("the-admins-own-token"), Some("demo")), root);
        for unknown in [None, Some(""), Some("admin:demo"), Some(digest.as_str()), Some("0123456789abcdeF")] {
            assert_eq!(who(&auth, unknown, Some("demo")), Err(401), "{unknown:?}");
        }
    }

    #[test]
    fn a_wrong_token_file_is_refused_without_telling_a_token() {
        let secret = "a-secret-of-my-own";
        let row = |fields: &str| format!("[[token]]\n{fields}\n");
        for (text, expected) in [
            (String::new(), "the token file lists no [[token]]"),
            (row("token = 'short'\nuser='u'\nproject='p'\nrole='member'"), "at least 16 characters"),
            (row("user='u'\nproject='p'\nrole='member'"), "either token or sha256"),
            (row("sha256='ab'\nuser='u'\nproject='p'\nrole='member'"), "64 hexadecimal digits"),
            (row(&format!("token='{secret}'\nuser='u u'\nproject='p'\nrole='member'")), "letters, digits"),
            (row(&format!("token='{secret}'\nuser='u'\nproject='p'\nrole='king'")), "cannot be read"),
            (
                row(&format!("token='{secret}'\nuser='u'\nproject='p'\nrole='member'")).repeat(2),
                "listed before",
            ),
        ] {
            let error = TokenFile::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} for {text:?}");
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn without_authentication_only_this_machine_is_listened_to() {
        let open = Authenticator::NoAuth(NoAuth::default());
        for address in ["127.0.0.1:8776", "[::1]:8776"] {
            assert!(check_listen(address.parse().unwrap(), &open).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:8776", "192.0.2.1:8776", "[::]:8776"] {
            assert!(check_listen(address.parse().unwrap(), &open).is_err(), "{address}");
        }
        let meant = Authenticator::NoAuth(NoAuth { allow_any_address: true, ..NoAuth::default() });
        assert!(check_listen("0.0.0.0:8776".parse().unwrap(), &meant).is_ok());
    }
}
