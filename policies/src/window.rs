//! The hours in which a policy may start a backup: ranges of civil time, on all days or on some. Knows the
//! zone it is read in, nothing of schedules.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use crate::schedule;

/// Minutes.
pub(crate) const DAY: u32 = 24 * 60;
/// All weekdays.
pub(crate) const EVERY_DAY: u8 = 0b111_1111;

/// A range of hours that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a window; write `22:00-06:00`, `mon-fri 20:00-06:00` or `sat,sun 00:00-24:00`")]
pub struct WindowError {
    text: String,
}

/// One or more ranges of hours; a window is open when one of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    ranges: Vec<Range>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    text: String,
    hours: Hours,
}

/// A range of hours, on all days of the week or on some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hours {
    /// Weekdays on which the range opens, bit 0 = Sunday.
    pub(crate) days: u8,
    /// Minutes of the day; a range that ends before it starts ends on the next day.
    pub(crate) opens: u32,
    pub(crate) closes: u32,
}

impl Window {
    /// Reads ranges such as `22:00-06:00` and `mon-fri 20:00-06:00`. The end is exclusive, may be `24:00`,
    /// and lies on the next day when it is not after the start; the weekday is that of the start.
    ///
    /// # Errors
    /// On the first range that cannot be read, or when there is none.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, WindowError> {
        let ranges: Vec<Range> = texts.into_iter().map(Range::parse).collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            return Err(WindowError { text: String::new() });
        }
        Ok(Self { ranges })
    }

    /// The ranges as they were written.
    pub fn ranges(&self) -> impl Iterator<Item = &str> {
        self.ranges.iter().map(|range| range.text.as_str())
    }

    /// Whether the window is open at an instant, by the clock of the zone.
    #[must_use]
    pub fn is_open(&self, zone: Tz, at: DateTime<Utc>) -> bool {
        let reading = schedule::reading(zone, at);
        self.ranges.iter().any(|range| range.hours.end_of(reading).is_some())
    }

    /// `at` when the window is open then, else the next instant at which it opens.
    #[must_use]
    pub fn open_from(&self, zone: Tz, at: DateTime<Utc>) -> DateTime<Utc> {
        if self.is_open(zone, at) {
            return at;
        }
        let today = schedule::reading(zone, at).date();
        let openings = (0..=8).filter_map(|days| today.checked_add_days(Days::new(days))).flat_map(|date| {
            let hours = self.ranges.iter().map(|range| range.hours);
            hours.filter(move |hours| hours.days & weekday_bit(date) != 0).filter_map(move |hours| {
                let time = NaiveTime::from_num_seconds_from_midnight_opt(hours.opens * 60, 0)?;
                Some(schedule::instant(zone, date.and_time(time)))
            })
        });
        // A range swallowed by a gap never opens; `at` is then as good as any other instant.
        openings.filter(|opening| *opening > at && self.is_open(zone, *opening)).min().unwrap_or(at)
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, WindowError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let hours = Hours::parse(text).ok_or_else(|| WindowError { text: text.to_owned() })?;
        Ok(Self { text: words.join(" "), hours })
    }
}

impl Hours {
    /// All of them.
    pub(crate) const ALWAYS: Hours = Hours { days: EVERY_DAY, opens: 0, closes: DAY };

    /// Reads `22:00-06:00` or `mon-fri 20:00-06:00`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] => (EVERY_DAY, hours),
            [days, hours] => (days_of(days)?, hours),
            _ => return None,
        };
        let (opens, closes) = hours.split_once('-')?;
        let opens = minute_of_day(opens).filter(|minute| *minute < DAY)?;
        Some(Self { days, opens, closes: minute_of_day(closes)? })
    }

    /// Where the range ends, if a civil time lies in it.
    pub(crate) fn end_of(&self, reading: NaiveDateTime) -> Option<NaiveDateTime> {
        let minute = reading.hour() * 60 + reading.minute();
        let (today, over_midnight) = (reading.date(), self.closes <= self.opens);
        let until = if over_midnight { DAY } else { self.closes };
        let opened = |date: NaiveDate| self.days & weekday_bit(date) != 0;
        let closes =
            |date: NaiveDate| Some(date.and_time(NaiveTime::MIN) + TimeDelta::minutes(self.closes.into()));
        if opened(today) && (self.opens..until).contains(&minute) {
            let closing = if over_midnight { today.succ_opt()? } else { today };
            return closes(closing);
        }
        let since_yesterday = over_midnight && minute < self.closes && opened(today.pred_opt()?);
        since_yesterday.then(|| closes(today))?
    }
}

fn days_of(text: &str) -> Option<u8> {
    text.split(',').try_fold(0, |days, item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (schedule::weekday(first)? % 7, schedule::weekday(last)? % 7);
        // `fri-mon` goes round the end of the week.
        let length = (last + 7 - first) % 7;
        Some((0..=length).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn minute_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str, fewest: usize| {
        ((fewest..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u32>().ok())?
    };
    let (hour, minute) = (number(hour, 1)?, number(minute, 2)?);
    (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
}

fn weekday_bit(date: NaiveDate) -> u8 {
    1 << date.weekday().num_days_from_sunday()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_opens() {
        let window = Window::parse(["fri 22:00-06:00"]).unwrap();
        for (instant, open) in [
            ("2026-01-02T21:59:00Z", false),
            ("2026-01-02T22:00:00Z", true),
            ("2026-01-03T05:59:59Z", true),
            ("2026-01-03T06:00:00Z", false),
            ("2026-01-03T23:00:00Z", false),
        ] {
            assert_eq!(window.is_open(Tz::UTC, at(instant)), open, "{instant}");
        }
    }

    #[test]
    fn it_opens_next_by_the_local_clock() {
        let window = Window::parse(["mon-fri 20:00-24:00", "sat,sun 00:00-24:00"]).unwrap();
        let zone = Tz::Europe__Berlin;
        assert_eq!(window.open_from(zone, at("2026-07-01T10:00:00Z")), at("2026-07-01T18:00:00Z"));
        assert_eq!(window.open_from(zone, at("2026-07-01T19:00:00Z")), at("2026-07-01T19:00:00Z"));
        assert_eq!(window.open_from(zone, at("2026-07-03T22:00:00Z")), at("2026-07-03T22:00:00Z"));
        assert_eq!(window.open_from(zone, at("2026-07-05T22:00:00Z")), at("2026-07-06T18:00:00Z"));
    }

    #[test]
    fn it_opens_after_the_gap_that_swallows_its_start() {
        let window = Window::parse(["02:30-06:00"]).unwrap();
        let opening = window.open_from(Tz::Europe__Berlin, at("2026-03-29T00:00:00Z"));
        assert_eq!(opening, at("2026-03-29T01:00:00Z"));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "22-06",
            "22:00",
            "25:00-26:00",
            "22:60-23:00",
            "22:0-23:00",
            "022:00-23:00",
            "24:00-06:00",
            "noday 22:00-06:00",
            "+2:00-06:00",
        ] {
            assert!(Window::parse([text]).is_err(), "{text}");
        }
        assert!(Window::parse([]).is_err());
    }
}
