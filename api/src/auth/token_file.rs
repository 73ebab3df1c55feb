//! Tokens from a file: users, projects and roles of a small deployment.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tephra_domain::actor::Role;

use super::{Claim, is_sane_id};
use crate::error::Fault;

/// Characters of a token given as it is, at least: a shorter one can be guessed.
const MIN_TOKEN: usize = 16;

/// Knows the tokens that a file lists.
#[derive(Clone)]
pub struct TokenFile {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    digest: [u8; 32],
    claim: Claim,
}

/// Why a token file cannot be used. Never says a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It is not the TOML that is expected.
    #[error("the token file cannot be read: {0}")]
    Syntax(String),
    /// Nobody could log in.
    #[error("the token file lists no [[token]]")]
    Empty,
    /// One entry is wrong.
    #[error("entry {number} of the token file: {reason}")]
    Entry {
        /// Counts from 1.
        number: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    token: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    token: Option<String>,
    sha256: Option<String>,
    user: String,
    project: String,
    role: RoleName,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Reader,
    Member,
    Admin,
}

impl TokenFile {
    /// Reads `[[token]]` tables: `token` or `sha256` (of the token, in hex), `user`, `project` and
    /// `role` (`reader`, `member` or `admin`).
    ///
    /// # Errors
    /// What is wrong with the text, without any of its tokens.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let document: Document =
            toml::from_str(text).map_err(|error| TokenFileError::Syntax(error.message().to_owned()))?;
        if document.token.is_empty() {
            return Err(TokenFileError::Empty);
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(document.token.len());
        for (index, row) in document.token.into_iter().enumerate() {
            let wrong = |reason| TokenFileError::Entry { number: index.saturating_add(1), reason };
            let entry = row.entry().map_err(wrong)?;
            if entries.iter().any(|other| other.digest == entry.digest) {
                return Err(wrong("the token is listed before"));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    pub(super) fn claim(&self, token: Option<&str>) -> Result<Claim, Fault> {
        let digest: [u8; 32] = Sha256::digest(token.ok_or_else(unauthorized)?).into();
        // every entry is looked at, so that time does not tell which one matched
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.digest.ct_eq(&digest)) {
                found = Some(&entry.claim);
            }
        }
        found.cloned().ok_or_else(unauthorized)
    }
}

impl Row {
    fn entry(self) -> Result<Entry, &'static str> {
        let digest = match (self.token, self.sha256) {
            (Some(token), None) if token.len() >= MIN_TOKEN => Sha256::digest(token).into(),
            (Some(_), None) => return Err("a token must have at least 16 characters"),
            (None, Some(digest)) => hex::decode(digest)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or("sha256 must be 64 hexadecimal digits")?,
            (Some(_), Some(_)) | (None, None) => return Err("give either token or sha256"),
        };
        if !is_sane_id(&self.user) || !is_sane_id(&self.project) {
            return Err("user and project may have letters, digits and -_.@+ only");
        }
        let role = match self.role {
            RoleName::Reader => Role::Reader,
            RoleName::Member => Role::Member,
            RoleName::Admin => Role::Admin,
        };
        Ok(Entry { digest, claim: Claim { user: self.user, project: Some(self.project), role } })
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenFile({} tokens)", self.entries.len())
    }
}

fn unauthorized() -> Fault {
    Fault::new(axum::http::StatusCode::UNAUTHORIZED, "The request you have made requires authentication.")
}
