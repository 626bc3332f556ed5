//! Times in which nothing of a policy starts: dates, once or every year, and hours of the week. Knows the zone it is read in,
//! nothing of schedules.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use chrono_tz::Tz;

use crate::schedule;
use crate::window::Hours;

/// A time that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a blackout; write `2026-12-24`, `2026-12-24/2026-12-26`, `12-24/01-02` for every year, \
     `2026-12-31T18:00/2027-01-01T06:00`, `08:00-12:00` or `mon-fri 08:00-12:00`"
)]
pub struct BlackoutError {
    text: String,
}

/// Any number of times in which nothing starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blackout {
    spans: Vec<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    text: String,
    when: When,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    /// From one civil time up to another, once.
    Once(NaiveDateTime, NaiveDateTime),
    /// From one day through another, month and day, every year; through the next year where the first is the later.
    Yearly((u32, u32), (u32, u32)),
    /// Hours of the week.
    Weekly(Hours),
}

impl Blackout {
    /// Reads times, each as [`BlackoutError`] shows them. A range of dates includes its last day; one of times ends before
    /// its end.
    ///
    /// # Errors
    /// On the first that cannot be read.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, BlackoutError> {
        Ok(Self { spans: texts.into_iter().map(Span::parse).collect::<Result<_, _>>()? })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The times as they were written.
    pub fn spans(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().map(|span| span.text.as_str())
    }

    /// The first of the times that an instant lies in, as it was written, by the clock of the zone.
    #[must_use]
    pub fn covering(&self, zone: Tz, at: DateTime<Utc>) -> Option<&str> {
        let reading = schedule::reading(zone, at);
        self.spans.iter().find(|span| span.when.end_of(reading).is_some()).map(|span| span.text.as_str())
    }

    /// The end of the time that an instant lies in, the latest of several; `None` when it lies in none.
    #[must_use]
    pub fn end(&self, zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let reading = schedule::reading(zone, at);
        let ends = self.spans.iter().filter_map(|span| span.when.end_of(reading));
        ends.max().map(|end| schedule::instant(zone, end))
    }

    /// The same without dates: what it forbids week after week.
    #[must_use]
    pub fn weekly(&self) -> Self {
        let weekly = self.spans.iter().filter(|span| matches!(span.when, When::Weekly(_)));
        Self { spans: weekly.cloned().collect() }
    }
}

impl Span {
    fn parse(text: &str) -> Result<Self, BlackoutError> {
        let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let (from, to) = text.split_once('/').unwrap_or((&text, &text));
        let when =
            once(from, to).or_else(|| yearly(from, to)).or_else(|| Hours::parse(&text).map(When::Weekly));
        match when {
            Some(when) => Ok(Self { text, when }),
            None => Err(BlackoutError { text }),
        }
    }
}

impl When {
    /// Where it ends, if a civil time lies in it.
    fn end_of(&self, reading: NaiveDateTime) -> Option<NaiveDateTime> {
        match self {
            When::Once(from, to) => (*from <= reading && reading < *to).then_some(*to),
            When::Yearly(first, last) => {
                let today = (reading.month(), reading.day());
                let over_new_year = last < first;
                let covered = match over_new_year {
                    true => today >= *first || today <= *last,
                    false => (*first..=*last).contains(&today),
                };
                let year = reading.year() + i32::from(over_new_year && today >= *first);
                covered.then(|| day_after(year, *last))?
            }
            When::Weekly(hours) => hours.end_of(reading),
        }
    }
}

/// The midnight after a day of a year. A 29th of February that a year does not have ends as the 28th does.
fn day_after(year: i32, (month, day): (u32, u32)) -> Option<NaiveDateTime> {
    let date = NaiveDate::from_ymd_opt(year, month, day)
        .or_else(|| NaiveDate::from_ymd_opt(year, month, day - 1))?;
    Some(date.checked_add_days(Days::new(1))?.and_time(NaiveTime::MIN))
}

fn once(from: &str, to: &str) -> Option<When> {
    let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10);
    let time =
        |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").ok().filter(|_| text.len() == 16);
    let begins = time(from).or_else(|| Some(date(from)?.and_time(NaiveTime::MIN)))?;
    let ends =
        time(to).or_else(|| Some(date(to)?.checked_add_days(Days::new(1))?.and_time(NaiveTime::MIN)))?;
    (begins < ends).then_some(When::Once(begins, ends))
}

fn yearly(first: &str, last: &str) -> Option<When> {
    // Any leap year: the 29th of February is a day.
    let day = |text: &str| {
        let date = NaiveDate::parse_from_str(&format!("2024-{text}"), "%Y-%m-%d").ok()?;
        (text.len() == 5).then_some((date.month(), date.day()))
    };
    Some(When::Yearly(day(first)?, day(last)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn end(span: &str, instant: &str) -> Option<DateTime<Utc>> {
        Blackout::parse([span]).unwrap().end(Tz::UTC, at(instant))
    }

    #[test]
    fn each_way_to_write_one_covers_what_it_says() {
        for (span, last_before, first_in, last_in, first_after) in [
            (
                "2026-12-24",
                "2026-12-23T23:59:59Z",
                "2026-12-24T00:00:00Z",
                "2026-12-24T23:59:59Z",
                "2026-12-25T00:00:00Z",
            ),
            (
                "2026-12-24/2026-12-26",
                "2026-12-23T23:59:59Z",
                "2026-12-24T00:00:00Z",
                "2026-12-26T23:59:59Z",
                "2026-12-27T00:00:00Z",
            ),
            (
                "2026-12-31T18:00/2027-01-01T06:00",
                "2026-12-31T17:59:59Z",
                "2026-12-31T18:00:00Z",
                "2027-01-01T05:59:59Z",
                "2027-01-01T06:00:00Z",
            ),
            (
                "12-24/01-02",
                "2030-12-23T23:59:59Z",
                "2030-12-24T00:00:00Z",
                "2031-01-02T23:59:59Z",
                "2031-01-03T00:00:00Z",
            ),
            (
                "05-01",
                "2030-04-30T23:59:59Z",
                "2030-05-01T00:00:00Z",
                "2030-05-01T23:59:59Z",
                "2030-05-02T00:00:00Z",
            ),
            (
                "02-27/02-29",
                "2030-02-26T23:59:59Z",
                "2030-02-27T00:00:00Z",
                "2030-02-28T23:59:59Z",
                "2030-03-01T00:00:00Z",
            ),
            (
                "mon 08:00-12:00",
                "2026-06-01T07:59:59Z",
                "2026-06-01T08:00:00Z",
                "2026-06-01T11:59:59Z",
                "2026-06-01T12:00:00Z",
            ),
            (
                "fri 22:00-06:00",
                "2026-06-05T21:59:59Z",
                "2026-06-05T22:00:00Z",
                "2026-06-06T05:59:59Z",
                "2026-06-06T06:00:00Z",
            ),
        ] {
            assert_eq!(end(span, last_before), None, "{span}");
            assert_eq!(end(span, first_in), Some(at(first_after)), "{span}");
            assert_eq!(end(span, last_in), Some(at(first_after)), "{span}");
            assert_eq!(end(span, first_after), None, "{span}");
        }
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let blackout = Blackout::parse(["2026-03-29"]).unwrap();
        let zone = Tz::Europe__Berlin;
        // The day of the change has 23 hours.
        assert_eq!(blackout.end(zone, at("2026-03-28T23:00:00Z")), Some(at("2026-03-29T22:00:00Z")));
        assert_eq!(blackout.covering(zone, at("2026-03-28T22:59:59Z")), None);
        assert_eq!(blackout.covering(zone, at("2026-03-29T21:59:59Z")), Some("2026-03-29"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "never",
            "2026-13-01",
            "2026-02-29",
            "2026-12-26/2026-12-24",
            "2026-12-24/",
            "26-12-24",
            "2026-12-24T18:00",
            "2026-12-24T18:00/2026-12-24T18:00",
            "12-24/2026-12-26",
            "02-30",
            "1-5",
            "25:00-26:00",
        ] {
            assert!(Blackout::parse([text]).is_err(), "{text}");
        }
    }
}
