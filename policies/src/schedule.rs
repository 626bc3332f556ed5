//! When: five cron fields read in a time zone, as instants. Knows nothing of policies, machines or runs.
//!
//! The `cron` crate parses; what happens when the clocks change is decided here, because the crate skips a
//! run in the spring gap and doubles it in autumn:
//!
//! - A schedule that names its hours is pinned to **civil times** and runs once for each: a time that does
//!   not exist runs at the first valid instant after the gap, a time that is repeated runs at the earlier of
//!   the two. Several times that fall into one gap become one run.
//! - A schedule of **every hour** (`*/30 * * * *`, `15 * * * *`) follows the clock: it runs at each instant
//!   whose reading matches, so in both of the repeated hours, and not in the hour that does not exist. With
//!   an offset change of whole hours, that is evenly spaced in real time.
//!
//! Vixie cron draws the same line, but by the spelling (a `*` at the start of the minute or hour field). Here
//! it is drawn by meaning: `*/15 2 * * *` and `0 */2 * * *` are pinned, for there an hour could be lost.
//!
//! `@every 15m` is no civil time at all: real time since 1970, whatever the clocks show.
//!
//! Instants come out strictly increasing, whatever the zone does.

mod civil;
mod fields;
#[cfg(test)]
mod tests;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use crate::{duration, suggest};
pub(crate) use civil::{instant, offset, reading};
use fields::Fields;
pub(crate) use fields::weekday;

/// A cron expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields.
    #[error("`{text}` has {found} fields; a schedule has five: minute, hour, day of month, month, weekday")]
    FieldCount {
        /// The expression.
        text: String,
        /// How many fields it has.
        found: usize,
    },
    /// A field that is not understood.
    #[error(
        "the {field} field `{text}` is not understood; it takes {allowed}, ranges `a-b`, lists `a,b` and steps `*/n`"
    )]
    Field {
        /// Which of the five.
        field: &'static str,
        /// What it says.
        text: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// An `@` word that is not known.
    #[error("`{text}` is not known; did you mean `{suggestion}`?")]
    Nickname {
        /// The word.
        text: String,
        /// The nearest word that is.
        suggestion: &'static str,
    },
    /// An `@every` without a length of time that makes sense.
    #[error("`{text}` is not understood; write a whole number of seconds to days, such as `@every 15m`")]
    Every {
        /// The expression.
        text: String,
    },
    /// A day that no calendar has.
    #[error("`{text}` never comes: no month has such a day")]
    NeverMatches {
        /// The expression.
        text: String,
    },
}

/// A time zone that is not in the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a time zone; use an IANA name such as `{suggestion}`")]
pub struct ZoneError {
    name: String,
    suggestion: &'static str,
}

/// Finds a zone by its IANA name, such as `Europe/Berlin`; letters count as they stand.
///
/// # Errors
/// When there is no such zone, with the nearest name there is.
pub fn zone(name: &str) -> Result<Tz, ZoneError> {
    name.parse().map_err(|_| {
        let names: Vec<&'static str> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
        ZoneError {
            name: name.to_owned(),
            suggestion: suggest::nearest(name, &names).unwrap_or("Europe/Berlin"),
        }
    })
}

/// Cron fields in a time zone. Equal schedules have the same text and zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    cron: String,
    zone: Tz,
    times: Times,
}

/// What an expression means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    /// Civil times.
    Fields(Fields),
    /// Each whole multiple of so many seconds since 1970.
    Every(i64),
}

impl Schedule {
    /// Reads five fields (numbers, names, ranges, lists, steps) or one of `@hourly`, `@daily`, `@midnight`,
    /// `@weekly`, `@monthly`, `@yearly`, `@annually`, or `@every` and a length of time. Weekdays 0 and 7 are Sunday. A start with a step (`5/15`)
    /// goes on to the end of the field. When day of month and weekday are both restricted, either is enough.
    ///
    /// # Errors
    /// When the text is not that, or names a day that never comes (30 February).
    pub fn new(cron: &str, zone: Tz) -> Result<Self, CronError> {
        let cron = cron.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let times = match cron.strip_prefix("@every") {
            Some(length) => {
                Times::Every(every(length).ok_or_else(|| CronError::Every { text: cron.clone() })?)
            }
            None => Times::Fields(Fields::parse(&cron)?),
        };
        Ok(Self { cron, zone, times })
    }

    /// The expression, single blanks between the fields.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.cron
    }

    /// The zone whose civil time the fields speak of.
    #[must_use]
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// True when the schedule follows the clock through a change of offset, false when it is pinned to civil
    /// times (see the module).
    #[must_use]
    pub fn follows_the_clock(&self) -> bool {
        match &self.times {
            Times::Fields(fields) => fields.every_hour(),
            Times::Every(_) => true,
        }
    }

    /// The first instant after `after`, exclusive; `None` only at the end of the calendar.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.times {
            Times::Fields(fields) if fields.every_hour() => self.next_by_the_clock(fields, after),
            Times::Fields(fields) => self.next_pinned(fields, after),
            Times::Every(seconds) => {
                let past = after.timestamp().div_euclid(*seconds);
                DateTime::from_timestamp(past.checked_add(1)?.checked_mul(*seconds)?, 0)
            }
        }
    }

    /// The instants at or after `from` and before `to`, in order.
    pub fn between(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + use<'_> {
        let first =
            from.checked_sub_signed(TimeDelta::nanoseconds(1)).and_then(|before| self.next_after(before));
        std::iter::successors(first, |at| self.next_after(*at)).take_while(move |at| *at < to)
    }

    /// Civil times in order, each mapped to its one instant; the mapping never decreases, so the first that
    /// lies after `after` is the answer. In the second of two repeated hours that skips what already ran.
    fn next_pinned(&self, fields: &Fields, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = minute_of(reading(self.zone, after));
        loop {
            let civil = fields.next_at_or_after(from)?;
            let at = instant(self.zone, civil);
            if at > after {
                return Some(at);
            }
            from = civil.checked_add_signed(TimeDelta::minutes(1))?;
        }
    }

    /// Walks stretches of constant offset, in which civil and real time run alike. Stretches are at most a
    /// day, so that one look at both ends finds a change; days without a match are jumped over.
    fn next_by_the_clock(&self, fields: &Fields, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let day = TimeDelta::days(1);
        let mut from = minute_of(reading(self.zone, after)).checked_add_signed(TimeDelta::minutes(1))?;
        let mut start = after;
        loop {
            let offset = offset(self.zone, start);
            let at = fields.next_at_or_after(from)?.checked_sub_signed(offset)?.and_utc();
            let end = start.checked_add_signed(day)?;
            match civil::next_change(self.zone, start, end) {
                Some(change) if at >= change => start = change,
                None if at >= end => {
                    // A clock set back may show a matching day again, so two days are walked before the jump,
                    // and the jump lands two days early.
                    let walked = start - after >= day * 2;
                    start = if walked { end.max(at - day * 2) } else { end };
                }
                _ => return Some(at),
            }
            from = minute_from(reading(self.zone, start))?;
        }
    }
}

/// The seconds of an `@every`: at least one, at most 31 days.
fn every(length: &str) -> Option<i64> {
    let seconds = duration::parse(length.trim()).ok()?.num_seconds();
    (1..=31 * 86_400).contains(&seconds).then_some(seconds)
}

/// The whole minute that a reading lies in.
fn minute_of(reading: NaiveDateTime) -> NaiveDateTime {
    reading.with_second(0).and_then(|minute| minute.with_nanosecond(0)).unwrap_or(reading)
}

/// The first whole minute at or after a reading.
fn minute_from(reading: NaiveDateTime) -> Option<NaiveDateTime> {
    let minute = minute_of(reading);
    if minute == reading { Some(minute) } else { minute.checked_add_signed(TimeDelta::minutes(1)) }
}
