//! Limits of bandwidth as people write them, in policies and for repositories: a rate, for some hours, on some days. Knows
//! neither whose clock counts nor what is transferred.

use crate::size;
use crate::window::{DAY, EVERY_DAY, Hours};

/// A limit that cannot be read, or that nobody could live with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It has another form.
    #[error(
        "`{text}` is not a limit of bandwidth; write what may go in a second, such as `20M`, for some hours \
         `08:00-18:00=5M`, on some days `mon-fri 08:00-18:00=5M`"
    )]
    Form {
        /// What was given.
        text: String,
    },
    /// It is lower than [`Limit::LEAST`].
    #[error("`{text}` is too low: at least 256K a second, or a backup would seem to hang")]
    TooLow {
        /// What was given.
        text: String,
    },
}

/// How many bytes may go in a second, at all hours or at some. Of several that hold at once the lowest counts; where none
/// holds there is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    text: String,
    /// The weekdays on which it begins to hold, bit 0 for Sunday.
    pub days: u8,
    /// The minute of the day from which it holds.
    pub from_minute: u16,
    /// The minute of the day up to which it holds: one of the next day where it is before `from_minute`, and a whole day
    /// later where they are the same.
    pub to_minute: u16,
    /// How many bytes.
    pub bytes_per_second: u64,
}

impl Limit {
    /// The lowest limit that there is, in bytes a second.
    pub const LEAST: u64 = 256 << 10;

    /// All weekdays.
    pub const EVERY_DAY: u8 = EVERY_DAY;

    /// Reads `20M`, `08:00-18:00=5M` or `mon-fri 08:00-18:00=5M`. The hours are as a window's, the rate is a size, with or
    /// without `/s`.
    ///
    /// # Errors
    /// When it is none of these, or lower than [`Limit::LEAST`].
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        let form = || LimitError::Form { text: text.to_owned() };
        let (hours, rate) = match text.split_once('=') {
            Some((hours, rate)) => (Some(hours), rate.trim()),
            None => (None, text.trim()),
        };
        let words = hours.map(|hours| hours.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        let hours = match &words {
            Some(words) => Hours::parse(words).ok_or_else(form)?,
            None => Hours::ALWAYS,
        };
        let bytes_per_second = size::parse(rate.strip_suffix("/s").unwrap_or(rate)).map_err(|_| form())?;
        if bytes_per_second < Self::LEAST {
            return Err(LimitError::TooLow { text: text.to_owned() });
        }
        let minute = |minute: u32| u16::try_from(minute % DAY).expect("a day has fewer minutes");
        Ok(Self {
            text: words.map_or_else(|| rate.to_owned(), |words| format!("{words}={rate}")),
            days: hours.days,
            from_minute: minute(hours.opens),
            to_minute: minute(hours.closes),
            bytes_per_second,
        })
    }

    /// The limit as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_hours_and_days_are_read() {
        let read = |text| {
            let limit = Limit::parse(text).unwrap();
            (limit.days, limit.from_minute, limit.to_minute, limit.bytes_per_second)
        };
        assert_eq!(read("20M"), (EVERY_DAY, 0, 0, 20 << 20));
        assert_eq!(read("20MiB/s"), (EVERY_DAY, 0, 0, 20 << 20));
        assert_eq!(read("262144"), (EVERY_DAY, 0, 0, Limit::LEAST));
        assert_eq!(read("08:00-18:30=512K"), (EVERY_DAY, 480, 1110, 512 << 10));
        assert_eq!(read("8:00-24:00=1M"), (EVERY_DAY, 480, 0, 1 << 20));
        assert_eq!(read("mon-fri 22:00-06:00=1M/s"), (0b011_1110, 1320, 360, 1 << 20));
        assert_eq!(read("sat,sun 00:00-24:00=1M"), (0b100_0001, 0, 0, 1 << 20));
        assert_eq!(Limit::parse(" mon-fri  08:00-18:00 = 5M ").unwrap().text(), "mon-fri 08:00-18:00=5M");
    }

    #[test]
    fn what_is_no_limit_is_refused_with_the_form() {
        for text in [
            "",
            "fast",
            "8-18=1M",
            "25:00-26:00=1M",
            "08:60-09:00=1M",
            "08:00=1M",
            "08:00-09:00=",
            "08:00-09:00 1M",
            "mon-fry 08:00-09:00=1M",
            "20M/h",
            "=1M",
        ] {
            let error = Limit::parse(text).unwrap_err().to_string();
            assert!(error.contains("is not a limit of bandwidth; write"), "{text}: {error}");
        }
        assert_eq!(
            Limit::parse("08:00-18:00=255K").unwrap_err().to_string(),
            "`08:00-18:00=255K` is too low: at least 256K a second, or a backup would seem to hang"
        );
    }
}
