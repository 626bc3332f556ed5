//! Lengths of time as people write them in a policy: `90s`, `15m`, `1h30m`, `2d`. Knows nothing of calendars;
//! the months and years of retention are [`keep::Span`](crate::keep::Span).

use chrono::TimeDelta;

/// The units, longest first, in seconds.
const UNITS: [(&str, i64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// A text that is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a length of time; write numbers with s, m, h, d or w, such as `90s`, `15m` or `1h30m`"
)]
pub struct DurationError {
    text: String,
}

/// Reads one or more numbers, each followed by its unit (`s`, `m` for minutes, `h`, `d`, `w`).
///
/// # Errors
/// When the text is empty, lacks a unit, has an unknown one, or is longer than 292 years.
pub fn parse(text: &str) -> Result<TimeDelta, DurationError> {
    let error = || DurationError { text: text.to_owned() };
    let mut rest = text.trim();
    let mut seconds: i64 = 0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let number: i64 = number.parse().map_err(|_| error())?;
        let (unit, length) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(error)?;
        seconds = number.checked_mul(*length).and_then(|n| seconds.checked_add(n)).ok_or_else(error)?;
        rest = &tail[unit.len()..];
    }
    TimeDelta::try_seconds(seconds).ok_or_else(error)
}

/// The shortest text that [`parse`] reads back; parts of a second are dropped.
#[must_use]
pub fn print(length: TimeDelta) -> String {
    let mut rest = length.num_seconds();
    let mut text = String::new();
    for (unit, seconds) in UNITS {
        if rest / seconds > 0 {
            text += &format!("{}{unit}", rest / seconds);
            rest %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800)]
        {
            assert_eq!(parse(text).unwrap(), TimeDelta::seconds(seconds), "{text}");
            assert_eq!(parse(&print(TimeDelta::seconds(seconds))).unwrap(), TimeDelta::seconds(seconds));
        }
        assert_eq!(print(TimeDelta::seconds(90)), "1m30s");
    }

    #[test]
    fn what_is_not_a_length_is_refused() {
        for text in ["", "15", "m", "15 m", "-5m", "1y", "99999999999999999999s", "999999999999999999w"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
