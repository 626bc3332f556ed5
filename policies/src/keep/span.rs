//! restic's durations, `1y5m7d2h`, and what lies that far back. Here `m` is months. Knows nothing of rules.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::schedule;

/// A text that is not a span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a span; write numbers with y, m (months), d or h, such as `30d` or `1y6m`")]
pub struct SpanError {
    text: String,
}

/// Years, months, days and hours, each counted by the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Years.
    pub years: u16,
    /// Months.
    pub months: u16,
    /// Days.
    pub days: u16,
    /// Hours, of real time.
    pub hours: u16,
}

impl Span {
    /// Reads `1y5m7d2h`, in any order; a unit given twice counts the last time (restic's rule).
    ///
    /// # Errors
    /// When the text is empty, lacks a unit, has an unknown one, or a number above 65,535 or below 0.
    pub fn parse(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError { text: text.to_owned() };
        let mut span = Self::default();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number = rest[..digits].parse().map_err(|_| error())?;
            match rest.as_bytes()[digits] {
                b'y' => span.years = number,
                b'm' => span.months = number,
                b'd' => span.days = number,
                b'h' => span.hours = number,
                _ => return Err(error()),
            }
            rest = &rest[digits + 1..];
        }
        Ok(span)
    }

    /// True when it has no length: restic takes such a span as not given.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The instant that lies this far before `from`, by the calendar of the zone. `None` before the calendar
    /// begins. As Go's `time.AddDate`, which restic uses: a date that does not exist runs over (31 March less
    /// a month is "31 February", so 3 March), then hours are taken off in real time.
    pub(super) fn before(&self, from: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let civil = schedule::reading(zone, from);
        let months = i64::from(civil.year()) * 12 + i64::from(civil.month0())
            - i64::from(self.years) * 12
            - i64::from(self.months);
        let year = i32::try_from(months.div_euclid(12)).ok()?;
        let month = u32::try_from(months.rem_euclid(12)).ok()? + 1;
        let days = TimeDelta::days(i64::from(civil.day0()) - i64::from(self.days));
        let date = NaiveDate::from_ymd_opt(year, month, 1)?.checked_add_signed(days)?;
        go_date(date.and_time(civil.time()), zone)?.checked_sub_signed(TimeDelta::hours(self.hours.into()))
    }
}

/// The instant of a civil time as Go's `time.Date` finds it: take the offset that is in force at that time
/// read as UTC, and correct once if the result lies in another. Differs from ours only next to a change.
fn go_date(civil: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    let guess = schedule::offset(zone, civil.and_utc());
    if guess.is_zero() {
        return Some(civil.and_utc());
    }
    let offset = schedule::offset(zone, civil.and_utc().checked_sub_signed(guess)?);
    civil.and_utc().checked_sub_signed(offset)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        if self.is_zero() { f.write_str("0h") } else { Ok(()) }
    }
}
