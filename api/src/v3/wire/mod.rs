//! Bodies of the v3 API, in and out: Cinder's fields, no more and no fewer.

pub mod attachment;
pub mod check;
pub mod connector;
pub mod links;
pub mod python;
pub mod requests;
pub mod snapshot;
pub mod volume;

use jiff::tz::TimeZone;
use tephra_domain::units::Timestamp;

/// A moment as Cinder writes it: UTC without saying so, six digits of microseconds.
pub fn moment(at: Timestamp) -> String {
    const PRINTER: jiff::fmt::temporal::DateTimePrinter =
        jiff::fmt::temporal::DateTimePrinter::new().precision(Some(6));
    let at = jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default();
    PRINTER.datetime_to_string(&at.to_zoned(TimeZone::UTC).datetime())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_no_zone_and_six_digits() {
        assert_eq!(moment(Timestamp(1_448_766_104_000_050)), "2015-11-29T03:01:44.000050");
        assert_eq!(moment(Timestamp(0)), "1970-01-01T00:00:00.000000");
    }
}
