//! A request's query parameters, and its pages of lists that are held in memory.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use super::list::encode;
use crate::error::Fault;
use crate::state::MAX_LIMIT;

/// Every parameter of a request's query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(Fault::bad_request("The query string is malformed.")),
        }
    }
}

impl Params {
    /// The last value of a parameter, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// The names that are there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The query with one parameter in place of those of that name, for a link.
    pub fn with(&self, name: &str, value: &str) -> String {
        let others = self.0.iter().filter(|(other, _)| other != name);
        let pairs = others.map(|(name, value)| (name.as_str(), value.as_str())).chain([(name, value)]);
        let mut query = String::new();
        for (name, value) in pairs {
            query.push(if query.is_empty() { '?' } else { '&' });
            encode(&mut query, name);
            query.push('=');
            encode(&mut query, value);
        }
        query
    }

    /// A parameter that is yes or no; no if it is not there.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        self.get(name).map_or(Ok(false), |text| query_flag(name, text))
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// 400 with Cinder's words for anything else.
    pub fn count(&self, name: &str) -> Result<Option<usize>, Fault> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.trim().parse::<i64>() {
            Ok(number) => usize::try_from(number)
                .map(Some)
                .map_err(|_| Fault::bad_request(format!("{name} param must be >= 0"))),
            Err(_) => Err(Fault::bad_request(format!("{name} param must be an integer"))),
        }
    }

    /// Rows on a page: what is asked for, [`MAX_LIMIT`] at most.
    ///
    /// # Errors
    /// 400 for what is no count.
    pub fn limit(&self) -> Result<usize, Fault> {
        Ok(self.count("limit")?.map_or(MAX_LIMIT, |limit| limit.min(MAX_LIMIT)))
    }
}

/// A parameter that is true in any of the ways that `strutils.bool_from_string` knows.
///
/// # Errors
/// 400 with Cinder's words for anything else.
pub fn query_flag(name: &str, text: &str) -> Result<bool, Fault> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Ok(false),
        _ => Err(Fault::bad_request(format!("Value '{text}' for '{name}' is not a boolean."))),
    }
}

#[cfg(test)]
impl Params {
    /// Parameters as a test writes them.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, query_flag};
    use crate::state::MAX_LIMIT;

    #[test]
    fn a_query_flag_is_read_as_loosely_as_cinder_reads_it() {
        for yes in ["1", "True", "YES", "on", "t"] {
            assert_eq!(query_flag("usage", yes), Ok(true), "{yes}");
        }
        for no in ["0", "False", "no", "off"] {
            assert_eq!(query_flag("usage", no), Ok(false), "{no}");
        }
        assert!(query_flag("usage", "perhaps").is_err());
    }

    #[test]
    fn a_link_keeps_the_other_parameters() {
        let params = Params::of(&[("marker", "old"), ("name", "a b&c"), ("limit", "2")]);
        assert_eq!(params.with("marker", "new"), "?name=a+b%26c&limit=2&marker=new");
    }

    #[test]
    fn a_limit_is_a_count_and_never_over_the_maximum() {
        let limit = |text: &str| Params::of(&[("limit", text)]).limit();
        assert_eq!(Params::default().limit(), Ok(MAX_LIMIT));
        assert_eq!(limit("7"), Ok(7));
        assert_eq!(limit("999999"), Ok(MAX_LIMIT));
        assert!(limit("-1").is_err_and(|fault| fault.message() == "limit param must be >= 0"));
        assert!(limit("many").is_err_and(|fault| fault.message() == "limit param must be an integer"));
    }
}
