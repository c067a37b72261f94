//! Times as people write and read them.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::spec::Span;

/// A point in time: so long ago, or a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Since {
    /// In milliseconds since 1970.
    pub(in crate::cli) time_ms: u64,
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(age) = span(text) {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            return Ok(Self { time_ms: now_ms().saturating_sub(age_ms) });
        }
        let wrong = || format!("`{text}` is no time; write one such as 2h, 7d, 2026-01-31 or 2026-01-31T09:30");
        let local = |at: DateTime| at.to_zoned(TimeZone::system()).map(|at| at.timestamp());
        let date = text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)).or_else(|_| text.parse::<DateTime>());
        // A time with a zone says itself when it is; one without is meant where the person is.
        let at = text.parse::<Timestamp>().or_else(|_| date.and_then(local)).map_err(|_| wrong())?;
        u64::try_from(at.as_millisecond()).map(|time_ms| Self { time_ms }).map_err(|_| wrong())
    }
}

/// Reads a span of time, which may be one of days.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(24 * 3600) * days),
        _ => text.parse::<Span>().map(|span| span.0),
    }
}

/// Returns a time as a person reads it, where the person is.
pub(in crate::cli) fn local(time_ms: u64) -> String {
    let at = i64::try_from(time_ms).ok().and_then(|time_ms| Timestamp::from_millisecond(time_ms).ok());
    at.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// Returns how long ago a time was, as a person says it.
pub(in crate::cli) fn age(time_ms: u64) -> String {
    spoken(now_ms().saturating_sub(time_ms) / 1_000)
}

fn spoken(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_in_their_largest_unit() {
        let said = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 40 * 86_400].map(spoken);
        assert_eq!(said, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "40d"]);
    }

    #[test]
    fn times_are_ages_or_dates() {
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        let age = now_ms() - "2h".parse::<Since>().unwrap().time_ms;
        assert!((7_200_000..7_260_000).contains(&age), "{age}");
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Since { time_ms: 1_000 }));
        assert!("2026-01-31".parse::<Since>().is_ok() && "2026-01-31T09:30".parse::<Since>().is_ok());
        for wrong in ["", "7", "d", "tomorrow", "2026-13-01"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
