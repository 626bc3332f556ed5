//! The five cron fields as sets, and the search for the next civil minute in them. Knows nothing of zones.
//!
//! The `cron` crate expands minutes, hours, days of the month and months. Weekdays are expanded here: the
//! crate counts from 1 = Sunday, cron from 0 = Sunday with 7 as a second Sunday.

use std::str::FromStr;

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use cron::TimeUnitSpec;

use super::CronError;
use crate::suggest;

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// 29 February may be eight years away (2096 to 2104), and nothing that matches at all is further.
const SEARCH_DAYS: u64 = 9 * 366;

/// Which minutes of civil time match; each set is a bit mask, bit n standing for the value n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both day fields are restricted, so either is enough (see [`Fields::parse`]).
    either_day: bool,
}

impl Fields {
    /// Reads five fields or a nickname.
    ///
    /// When day of month and weekday are both restricted, a day matches that satisfies *either*; a field that
    /// begins with `*` counts as not restricted, so that `*/2` and a weekday must *both* match. This is Vixie
    /// cron's rule (crontab(5), "the day of a command's execution"), which Debian's cron and cronie share.
    pub(super) fn parse(text: &str) -> Result<Fields, CronError> {
        let text = text.trim();
        let expanded = if text.starts_with('@') { nickname(text)? } else { text };
        let parts: Vec<&str> = expanded.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(CronError::FieldCount { text: text.to_owned(), found: parts.len() });
        };
        let fields = Fields {
            minutes: expand(
                "minute",
                minutes,
                "0 to 59",
                |f| format!("0 {f} * * * *"),
                |s| mask(s.minutes()),
            )?,
            hours: expand("hour", hours, "0 to 23", |f| format!("0 0 {f} * * *"), |s| mask(s.hours()))?,
            days: expand(
                "day of month",
                days,
                "1 to 31",
                |f| format!("0 0 0 {f} * *"),
                |s| mask(s.days_of_month()),
            )?,
            months: expand(
                "month",
                months,
                "1 to 12 or jan to dec",
                |f| format!("0 0 0 1 {f} *"),
                |s| mask(s.months()),
            )?,
            weekdays: weekday_mask(weekdays)?,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        let leap_year = NaiveDate::from_ymd_opt(2024, 1, 1).expect("a date").and_time(NaiveTime::MIN);
        match fields.next_at_or_after(leap_year) {
            Some(_) => Ok(fields),
            None => Err(CronError::NeverMatches { text: text.to_owned() }),
        }
    }

    /// True when every hour of the day is in the set: such a schedule follows the clock through a change of
    /// offset instead of being pinned to civil times.
    pub(super) fn every_hour(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    /// The first civil minute at or after `from` (a whole minute) that matches.
    pub(super) fn next_at_or_after(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        if self.matches_day(from.date())
            && let Some(time) = self.next_time(from.hour(), from.minute())
        {
            return Some(from.date().and_time(time));
        }
        let first = self.next_time(0, 0)?;
        let last_day = from.date().checked_add_days(Days::new(SEARCH_DAYS))?;
        let mut date = from.date().succ_opt()?;
        while date <= last_day {
            if !has(self.months, date.month()) {
                date = first_of_next_month(date)?;
            } else if self.matches_day(date) {
                return Some(date.and_time(first));
            } else {
                date = date.succ_opt()?;
            }
        }
        None
    }

    fn matches_day(&self, date: NaiveDate) -> bool {
        let by_day = has(self.days, date.day());
        let by_weekday = has(self.weekdays, date.weekday().num_days_from_sunday());
        let day = if self.either_day { by_day || by_weekday } else { by_day && by_weekday };
        day && has(self.months, date.month())
    }

    fn next_time(&self, hour: u32, minute: u32) -> Option<NaiveTime> {
        if has(self.hours, hour)
            && let Some(minute) = lowest_from(self.minutes, minute)
        {
            return NaiveTime::from_hms_opt(hour, minute, 0);
        }
        NaiveTime::from_hms_opt(lowest_from(self.hours, hour + 1)?, lowest_from(self.minutes, 0)?, 0)
    }
}

fn nickname(text: &str) -> Result<&'static str, CronError> {
    let known = |(name, _): &&(&str, &str)| name.eq_ignore_ascii_case(text);
    NICKNAMES.iter().find(known).map(|(_, fields)| *fields).ok_or_else(|| CronError::Nickname {
        text: text.to_owned(),
        suggestion: suggest::nearest(text, &NICKNAMES.map(|(name, _)| name)).unwrap_or("@daily"),
    })
}

fn expand(
    field: &'static str,
    text: &str,
    allowed: &'static str,
    place: impl Fn(&str) -> String,
    read: impl Fn(&cron::Schedule) -> u64,
) -> Result<u64, CronError> {
    let error = || CronError::Field { field, text: text.to_owned(), allowed };
    // The crate would take `?` and blanks; cron does not, and one spelling for one thing is enough.
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"*-,/".contains(&b)) {
        return Err(error());
    }
    cron::Schedule::from_str(&place(text)).map(|schedule| read(&schedule)).map_err(|_| error())
}

fn mask(values: &impl TimeUnitSpec) -> u64 {
    values.iter().fold(0, |mask, value| mask | 1 << value)
}

fn weekday_mask(text: &str) -> Result<u64, CronError> {
    let allowed = "0 to 7 or sun to sat";
    text.split(',').try_fold(0, |mask, item| {
        weekday_item(item)
            .map(|days| days.fold(mask, |mask, day| mask | 1 << (day % 7)))
            .ok_or_else(|| CronError::Field { field: "weekday", text: text.to_owned(), allowed })
    })
}

fn weekday_item(item: &str) -> Option<impl Iterator<Item = u32> + use<>> {
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(step.parse::<usize>().ok().filter(|n| (1..=7).contains(n))?)),
        None => (item, None),
    };
    let (first, last) = match base.split_once('-') {
        _ if base == "*" => (0, 6),
        // `sat-sun` ends on the second Sunday.
        Some((first, last)) if last.eq_ignore_ascii_case("sun") => (weekday(first)?, 7),
        Some((first, last)) => (weekday(first)?, weekday(last)?),
        // As in the other fields, `1/2` starts at 1 and goes on to the end.
        None if step.is_some() => (weekday(base)?, 6),
        None => (weekday(base)?, weekday(base)?),
    };
    (first <= last).then(|| (first..=last).step_by(step.unwrap_or(1)))
}

/// A weekday as cron counts: 0 and 7 are Sunday.
pub(crate) fn weekday(text: &str) -> Option<u32> {
    match text.as_bytes() {
        [digit @ b'0'..=b'7'] => Some(u32::from(digit - b'0')),
        _ => (0..).zip(WEEKDAYS).find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(number, _)| number),
    }
}

fn has(mask: u64, value: u32) -> bool {
    mask >> value & 1 == 1
}

fn lowest_from(mask: u64, start: u32) -> Option<u32> {
    let rest = mask & u64::MAX.checked_shl(start)?;
    (rest != 0).then(|| rest.trailing_zeros())
}

fn first_of_next_month(date: NaiveDate) -> Option<NaiveDate> {
    if date.month() == 12 {
        NaiveDate::from_ymd_opt(date.year() + 1, 1, 1)
    } else {
        NaiveDate::from_ymd_opt(date.year(), date.month() + 1, 1)
    }
}
