//! Times as people read them. The API's times are RFC 3339 to the microsecond; a table shows whole seconds. Owns no
//! clock.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// The same instant to the second, in UTC; what is not RFC 3339 is shown as it is.
#[must_use]
pub fn show(time: &str) -> String {
    match DateTime::parse_from_rfc3339(time) {
        Ok(at) => at.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Secs, true),
        Err(_) => time.to_owned(),
    }
}

/// [`show`], or a dash.
#[must_use]
pub fn show_or_dash(time: Option<&String>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| show(time))
}

/// How long it was from one instant to another, such as `1m05s`; a dash where one is not known.
#[must_use]
pub fn between(from: Option<&String>, to: Option<&String>) -> String {
    let read = |time: Option<&String>| time.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
    match (read(from), read(to)) {
        (Some(from), Some(to)) => span(to - from),
        _ => "-".to_owned(),
    }
}

fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0..10) => format!("{}.{}s", seconds, span.subsec_millis().max(0) / 100),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// An RFC 3339 instant given on the command line.
///
/// # Errors
/// When it is none; says how one looks.
pub fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.with_timezone(&Utc))
        .map_err(|_| format!("`{text}` is not an RFC 3339 instant, such as 2026-03-29T02:30:00+01:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lose_their_fraction_and_nothing_else() {
        assert_eq!(show("2026-03-29T02:30:00.123456Z"), "2026-03-29T02:30:00Z");
        assert_eq!(show("2026-03-29T02:30:00+01:00"), "2026-03-29T01:30:00Z");
        assert_eq!(show("soon"), "soon");
        assert_eq!(show_or_dash(None), "-");
    }

    #[test]
    fn spans_are_short() {
        let shown = [1_540, 12_900, 65_000, 3_600_000 * 26].map(|ms| span(TimeDelta::milliseconds(ms)));
        assert_eq!(shown, ["1.5s", "12s", "1m05s", "26h00m"]);
        assert_eq!(between(Some(&"2026-01-01T00:00:00Z".to_owned()), None), "-");
    }

    #[test]
    fn an_instant_needs_its_zone() {
        assert!(parse("2026-01-01T00:00:00Z").is_ok());
        assert!(parse("2026-01-01").is_err_and(|what| what.contains("such as 2026-03-29T02:30:00+01:00")));
    }
}
