//! Durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// No drain lasts longer than this; beyond it clocks overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A duration in flags, in the environment and in the file: `1500ms`, `10s`, `5m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Span(Duration::ZERO));
        }
        match humantime::parse_duration(text) {
            Ok(span) if span <= LONGEST => Ok(Span(span)),
            Ok(_) => Err(format!("`{text}` is longer than a year; write 1500ms, 10s or 5m")),
            Err(_) => Err(format!("`{text}` is no duration; write 1500ms, 10s or 5m")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The pod's `terminationGracePeriodSeconds`: a bare number is seconds, as in the manifest.
///
/// # Errors
/// When it is neither a number of seconds nor a duration.
pub fn parse_grace_period(text: &str) -> Result<Span, String> {
    match text.parse() {
        Ok(seconds) if Duration::from_secs(seconds) <= LONGEST => {
            Ok(Span(Duration::from_secs(seconds)))
        }
        _ => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_shown() {
        for text in ["1500ms", "10s", "5m", "1h 30m", "0"] {
            let span: Span = text.parse().expect("a duration");
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!("1500ms".parse(), Ok(Span(Duration::from_millis(1500))));
    }

    #[test]
    fn a_bare_number_is_no_duration_but_a_grace_period() {
        let error = "10".parse::<Span>().expect_err("no unit");
        assert!(error.contains("write 1500ms, 10s or 5m"), "{error}");
        assert_eq!(parse_grace_period("30"), Ok(Span(Duration::from_secs(30))));
        assert_eq!(parse_grace_period("5m"), Ok(Span(Duration::from_secs(300))));
        assert!("-1s".parse::<Span>().is_err());
        assert!("99999999999999999999y".parse::<Span>().is_err());
        assert!("2years".parse::<Span>().is_err());
        assert!(parse_grace_period("18446744073709551615").is_err());
    }
}
