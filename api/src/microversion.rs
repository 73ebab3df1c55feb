//! Microversions: which dialect of the v3 API a request speaks.

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, request::Parts};

use crate::error::Fault;

/// The header that asks for one, and that says which one answered.
pub const HEADER: &str = "openstack-api-version";
/// [`HEADER`] as Cinder spells it in `Vary`.
const HEADER_AS_SPELT: &str = "OpenStack-API-Version";
/// The service's name within the header.
const SERVICE: &str = "volume";

/// A version 3.N. Requests that name none speak 3.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion(u16);

impl Microversion {
    /// The first, and that of requests without a header.
    pub const MIN: Self = Self(0);
    /// The last one known.
    pub const MAX: Self = Self(71);

    /// Whether 3.`minor` and later are meant.
    pub const fn is_at_least(self, minor: u16) -> bool {
        self.0 >= minor
    }

    /// The N of 3.N.
    pub const fn minor(self) -> u16 {
        self.0
    }

    /// Answers as if the route were not there before 3.`minor`, as Cinder does.
    ///
    /// # Errors
    /// The bare 404.
    pub fn require(self, minor: u16) -> Result<(), Fault> {
        if self.is_at_least(minor) { Ok(()) } else { Err(Fault::no_such_route()) }
    }

    /// What a request's headers ask for.
    ///
    /// # Errors
    /// 400 for what is no version, 406 for one that is out of range, 404 where the header names
    /// other services only (so in Cinder).
    pub fn negotiate(headers: &HeaderMap) -> Result<Self, Fault> {
        let Some(value) = headers.get(HEADER) else { return Ok(Self::MIN) };
        let text = value.to_str().map_err(|_| invalid("?"))?;
        let named = text.split(',').find(|part| part.contains(SERVICE)).ok_or_else(Fault::no_such_route)?;
        let mut words = named.split_whitespace();
        let (Some(_), Some(version), None) = (words.next(), words.next(), words.next()) else {
            return Err(invalid(named.trim()));
        };
        if version == "latest" {
            return Ok(Self::MAX);
        }
        let (major, minor) = version.split_once('.').ok_or_else(|| invalid(version))?;
        if !is_number(major, false) || !is_number(minor, true) {
            return Err(invalid(version));
        }
        match (major, minor.parse()) {
            ("3", Ok(minor)) if minor <= Self::MAX.0 => Ok(Self(minor)),
            _ => Err(Fault::new(
                StatusCode::NOT_ACCEPTABLE,
                format!(
                    "Version {version} is not supported by the API. Minimum is {} and maximum is {}.",
                    Self::MIN,
                    Self::MAX
                ),
            )),
        }
    }

    /// Says in an answer which version it speaks.
    pub fn announce(self, headers: &mut HeaderMap) {
        let value = if self == Self::MIN {
            Ok(HeaderValue::from_static("volume 3.0"))
        } else {
            HeaderValue::try_from(format!("{SERVICE} {self}"))
        };
        if let Ok(value) = value {
            headers.insert(HEADER, value);
            headers.insert(axum::http::header::VARY, HeaderValue::from_static(HEADER_AS_SPELT));
        }
    }
}

fn is_number(text: &str, zero: bool) -> bool {
    (zero && text == "0")
        || (!text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn invalid(version: &str) -> Fault {
    Fault::bad_request(format!(
        "API Version String {version} is of invalid format. Must be of format MajorNum.MinorNum."
    ))
}

impl std::fmt::Display for Microversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "3.{}", self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for Microversion {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        match parts.extensions.get::<Self>() {
            Some(version) => Ok(*version),
            None => Self::negotiate(&parts.headers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: Option<&'static str>) -> Result<Microversion, (u16, String)> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(HEADER, HeaderValue::from_static(value));
        }
        Microversion::negotiate(&headers)
            .map_err(|fault| (fault.status().as_u16(), fault.message().to_owned()))
    }

    #[test]
    fn versions_in_range_are_spoken() {
        for (value, minor) in [
            (None, 0),
            (Some("volume 3.0"), 0),
            (Some("volume 3.44"), 44),
            (Some("volume latest"), 71),
            (Some("compute 2.1,volume 3.7"), 7),
            (Some("compute 2.1, volume 3.7"), 7),
        ] {
            assert_eq!(asked(value), Ok(Microversion(minor)), "{value:?}");
        }
    }

    #[test]
    fn other_versions_are_refused_in_cinders_words() {
        let out_of_range = |version| {
            format!("Version {version} is not supported by the API. Minimum is 3.0 and maximum is 3.71.")
        };
        let malformed = |version| {
            format!("API Version String {version} is of invalid format. Must be of format MajorNum.MinorNum.")
        };
        for (value, status, message) in [
            ("volume 3.72", 406, out_of_range("3.72")),
            ("volume 2.0", 406, out_of_range("2.0")),
            ("volume 4.0", 406, out_of_range("4.0")),
            ("volume 3.99999999999", 406, out_of_range("3.99999999999")),
            ("volume 3", 400, malformed("3")),
            ("volume 3.", 400, malformed("3.")),
            ("volume 3.01", 400, malformed("3.01")),
            ("volume 03.1", 400, malformed("03.1")),
            ("volume 3.1.4", 400, malformed("3.1.4")),
            ("volume -3.1", 400, malformed("-3.1")),
            ("volume", 400, malformed("volume")),
            ("compute 2.1", 404, "The resource could not be found.".to_owned()),
            ("", 404, "The resource could not be found.".to_owned()),
        ] {
            assert_eq!(asked(Some(value)), Err((status, message)), "{value}");
        }
    }

    #[test]
    fn answers_say_which_version_they_speak() {
        let mut headers = HeaderMap::new();
        Microversion(59).announce(&mut headers);
        assert_eq!(headers[HEADER], "volume 3.59");
        assert_eq!(headers["vary"], "OpenStack-API-Version");
    }
}
