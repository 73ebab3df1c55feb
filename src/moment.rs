//! Moments and positions as a person types them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// How moments may be written, for help texts and messages.
pub const MOMENT_FORMS: &str =
    "`now`, `5m ago`, `2026-03-01`, `2026-03-01 14:03`, `2026-03-01 14:03:10` (UTC), or RFC 3339";

/// A place in the ledger's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointInHistory {
    /// After this commit.
    Position(u64),
    /// After the last commit at or before this moment.
    Moment(Timestamp),
}

/// Reads a moment. What has no zone is UTC, as everything that tephra prints.
///
/// # Errors
/// A sentence that says what is understood.
pub fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(now);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return civil
            .to_zoned(TimeZone::UTC)
            .map(|zoned| zoned.timestamp())
            .map_err(|_| format!("`{text}` is beyond the calendar"));
    }
    if let Some(timestamp) = ago(text, now) {
        return Ok(timestamp);
    }
    Err(format!("`{text}` is not a moment; understood are {MOMENT_FORMS}"))
}

fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let span: Span = text.strip_suffix("ago")?.trim_end().parse().ok()?;
    now.to_zoned(TimeZone::UTC).checked_sub(span).ok().map(|zoned| zoned.timestamp())
}

/// Reads a position (a whole number) or a moment.
///
/// # Errors
/// A sentence that says what is understood.
pub fn parse_point(text: &str, now: Timestamp) -> Result<PointInHistory, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(PointInHistory::Position)
            .map_err(|_| format!("`{text}` is no position: it is too large"));
    }
    parse_moment(text, now)
        .map(PointInHistory::Moment)
        .map_err(|reason| format!("{reason}; or a position, a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let read = parse_moment(text, now).map(|moment| moment.to_string());
        assert_eq!(read.as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn moments_are_read_in_every_form_that_the_help_names() {
        check("now", "2026-03-01T12:00:00Z");
        check("5m ago", "2026-03-01T11:55:00Z");
        check("90s ago", "2026-03-01T11:58:30Z");
        check("2h 30m ago", "2026-03-01T09:30:00Z");
        check("3d ago", "2026-02-26T12:00:00Z");
        check("2026-02-28", "2026-02-28T00:00:00Z");
        check("2026-02-28 14:03", "2026-02-28T14:03:00Z");
        check("2026-02-28 14:03:10", "2026-02-28T14:03:10Z");
        check("2026-02-28T14:03:10.25Z", "2026-02-28T14:03:10.25Z");
        check("2026-02-28T14:03:10+02:00", "2026-02-28T12:03:10Z");
    }

    #[test]
    fn what_is_no_moment_is_refused_with_the_forms_that_are() {
        let now = Timestamp::UNIX_EPOCH;
        for text in ["", "yesterday", "5 apples ago", "2026-02-30", "14:03", "ago"] {
            let refused = parse_moment(text, now).unwrap_err();
            assert!(refused.contains("5m ago"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_whole_number_is_a_position() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(parse_point("42", now), Ok(PointInHistory::Position(42)));
        assert_eq!(parse_point("now", now), Ok(PointInHistory::Moment(now)));
        assert!(parse_point("99999999999999999999", now).is_err());
        assert!(parse_point("-1", now).is_err());
    }
}
