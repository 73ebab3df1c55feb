//! Cinder's `auth_strategy = noauth`: the token says who one is, `user:project`.

use tephra_domain::actor::Role;

use super::{Claim, is_sane_id};

/// The project of a request that names none, neither in its token nor in its path.
pub(super) const DEFAULT_PROJECT: &str = "default";
/// The user of a request without a usable token.
const DEFAULT_USER: &str = "anonymous";
/// The user who is an administrator.
const ADMIN_USER: &str = "admin";

/// Believes every token.
#[derive(Clone, Debug, Default)]
pub struct NoAuth {
    /// Whether every user is an administrator, as in Cinder, and not only `admin`.
    pub everybody_is_admin: bool,
    /// Whether to listen on addresses that other machines reach, too.
    pub allow_any_address: bool,
}

impl NoAuth {
    pub(super) fn claim(&self, token: Option<&str>) -> Claim {
        let (user, project) =
            token.unwrap_or_default().split_once(':').unwrap_or((token.unwrap_or_default(), ""));
        let user = if is_sane_id(user) { user } else { DEFAULT_USER };
        let is_admin = self.everybody_is_admin || user == ADMIN_USER;
        Claim {
            user: user.to_owned(),
            project: is_sane_id(project).then(|| project.to_owned()),
            role: if is_admin { Role::Admin } else { Role::Member },
        }
    }
}
