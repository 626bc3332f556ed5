//! How fast bytes may go, by the hour and weekday.
//!
//! Owns the arithmetic of limits over a week and the line that transfers stand in. Knows nothing of what is transferred.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Local, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;

const DAY: u32 = 24 * 60;

/// Clocks are put forward and back at quarters of an hour of UTC, and days begin there: in between the time of day goes on
/// evenly.
const QUARTER: u32 = 15;

/// A limit for some hours of some days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// The weekdays on which it begins to hold, bit 0 for Sunday.
    pub days: u8,
    /// The minute of the day from which it holds.
    pub from: u32,
    /// The minute of the day up to which it holds; before `from` it is one of the next day, and equal to it the whole
    /// day.
    pub to: u32,
    /// How many bytes in a second, at least [`Rate::LEAST`].
    pub bytes_per_second: u64,
}

impl Rate {
    /// Below this the packs of a backup's end would take longer than whoever waits for them.
    pub const LEAST: u64 = 256 << 10;

    /// All weekdays.
    pub const EVERY_DAY: u8 = 0b111_1111;

    fn holds(self, reading: NaiveDateTime) -> bool {
        let minute = minute_of(reading);
        let began = |day: u32| self.days & (1 << (day % 7)) != 0;
        let today = reading.weekday().num_days_from_sunday();
        if self.from < self.to {
            return began(today) && (self.from..self.to).contains(&minute);
        }
        (minute >= self.from && began(today)) || (minute < self.to && began(today + 6))
    }
}

fn minute_of(reading: NaiveDateTime) -> u32 {
    reading.hour() * 60 + reading.minute()
}

fn into_minute(time: NaiveTime) -> TimeDelta {
    TimeDelta::seconds(time.second().into()) + TimeDelta::nanoseconds(time.nanosecond().into())
}

/// By whose clock hours and days are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Zone {
    /// This machine's.
    #[default]
    Here,
    /// That of an IANA time zone.
    Named(Tz),
}

/// A time zone that this machine knows nothing of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time zone that is known here")]
pub struct UnknownZone(String);

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        name.parse().map(Self::Named).map_err(|_| UnknownZone(name.to_owned()))
    }
}

impl Zone {
    fn reading(self, at: DateTime<Utc>) -> NaiveDateTime {
        match self {
            Self::Here => at.with_timezone(&Local).naive_local(),
            Self::Named(zone) => at.with_timezone(&zone).naive_local(),
        }
    }
}

/// Which limits hold when. Of several that hold at once the lowest counts; where none holds there is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timetable {
    /// The limits.
    pub rates: Vec<Rate>,
    /// By whose clock.
    pub zone: Zone,
}

impl Timetable {
    /// When so many bytes are through that begin at `begin`: hour by hour, at the limit of each.
    fn through(&self, begin: DateTime<Utc>, bytes: u64) -> DateTime<Utc> {
        let (mut at, mut left) = (begin, bytes as f64);
        // No limit is lower than LEAST: whatever is sent at once is through within a day or two.
        while let Some((rate, until)) = self.segment(at) {
            let span = (until - at).to_std().unwrap_or_default();
            let needed = left / rate as f64;
            if needed <= span.as_secs_f64() {
                return at + TimeDelta::from_std(Duration::from_secs_f64(needed)).unwrap_or_default();
            }
            left -= rate as f64 * span.as_secs_f64();
            at = until;
        }
        at
    }

    /// The limit at this time, and until when it surely stays so; none where there is no limit.
    fn segment(&self, at: DateTime<Utc>) -> Option<(u64, DateTime<Utc>)> {
        let reading = self.zone.reading(at);
        let held = self.rates.iter().filter(|rate| rate.holds(reading));
        let lowest = held.map(|rate| rate.bytes_per_second).min()?;
        let minute = minute_of(reading);
        let edges = self.rates.iter().flat_map(|rate| [rate.from % DAY, rate.to % DAY]);
        let ahead = edges.map(|edge| (edge + DAY - minute - 1) % DAY + 1).min().unwrap_or(DAY);
        // Not every zone has whole minutes.
        let edge = at - into_minute(reading.time()) + TimeDelta::minutes(ahead.into());
        let quarter = QUARTER - at.minute() % QUARTER;
        let even = at - into_minute(at.time()) + TimeDelta::minutes(quarter.into());
        Some((lowest.max(Rate::LEAST), edge.min(even)))
    }
}

/// A line that transfers stand in, each at its own pace: one behind the other, so that together they are no faster than
/// each may be.
#[derive(Debug, Default)]
pub struct Line(Mutex<Option<Standing>>);

/// How far a line is.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// When somebody last entered it.
    seen: DateTime<Utc>,
    /// When what was let in so far is through.
    free: DateTime<Utc>,
}

/// Some bytes' place in a line, counted from now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// When those before them are through.
    pub begins: Duration,
    /// When they are through themselves.
    pub ends: Duration,
}

/// How fast one transfer may go, and the line that it shares with others.
#[derive(Debug)]
pub struct Pace {
    timetable: Timetable,
    line: Arc<Line>,
}

impl Pace {
    /// Under these limits, in this line.
    #[must_use]
    pub fn new(timetable: Timetable, line: Arc<Line>) -> Self {
        Self { timetable, line }
    }

    /// Under these limits by this machine's clock, in a line of its own.
    pub(crate) fn of(rates: &[Rate]) -> Self {
        Self::new(Timetable { rates: rates.to_vec(), zone: Zone::Here }, Arc::default())
    }

    /// Lets `bytes` in, and says when it is their turn.
    #[must_use]
    pub fn enter(&self, bytes: usize) -> Turn {
        self.enter_at(Utc::now(), bytes)
    }

    fn enter_at(&self, now: DateTime<Utc>, bytes: usize) -> Turn {
        if self.timetable.rates.is_empty() {
            return Turn::default();
        }
        let mut standing = self.line.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not make anybody wait for the time before: what was ahead then is ahead now.
        let ahead =
            standing.map_or(TimeDelta::zero(), |it| (it.free - it.seen.max(now)).max(TimeDelta::zero()));
        let free = self.timetable.through(now + ahead, bytes as u64);
        *standing = Some(Standing { seen: now, free });
        Turn { begins: ahead.to_std().unwrap_or_default(), ends: (free - now).to_std().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests;
