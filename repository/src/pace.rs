//! How fast bytes may go to and from a storage, by the hour.
//!
//! Owns the arithmetic of limits over a day and the line that all transfers of one repository stand in. Knows no clock
//! but the one that it is given, and nothing of what is transferred.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{Local, NaiveDateTime, TimeDelta, Timelike as _};

const DAY: u32 = 24 * 60;

/// A limit for some hours of each day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// The minute of the day, local time, from which it holds.
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

    fn holds(self, minute: u32) -> bool {
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Less => (self.from..self.to).contains(&minute),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => minute >= self.from || minute < self.to,
        }
    }
}

/// What time it is.
pub(crate) trait Clock: Send + Sync + fmt::Debug {
    /// On the wall, here. It may jump.
    fn now(&self) -> NaiveDateTime;
}

/// The machine's clock.
#[derive(Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> NaiveDateTime {
        Local::now().naive_local()
    }
}

/// The line that transfers stand in: each learns how long it has to wait until those before it are through.
#[derive(Debug)]
pub(crate) struct Pace<C = WallClock> {
    rates: Vec<Rate>,
    clock: C,
    /// When what was let in so far is through.
    free: Mutex<Option<NaiveDateTime>>,
}

impl<C: Clock> Pace<C> {
    /// Of several rates that hold at once, the lowest counts; where none holds, there is no limit.
    pub(crate) fn new(rates: Vec<Rate>, clock: C) -> Self {
        Self { rates, clock, free: Mutex::default() }
    }

    /// Lets `bytes` in, and says how long they wait before they go.
    pub(crate) fn enter(&self, bytes: usize) -> Duration {
        if self.rates.is_empty() {
            return Duration::ZERO;
        }
        let now = self.clock.now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not make anybody wait for the time before.
        let begin = free.filter(|free| *free > now && *free - now < TimeDelta::days(1)).unwrap_or(now);
        *free = Some(self.through(begin, bytes as u64));
        (begin - now).to_std().unwrap_or_default()
    }

    /// When so many bytes are through that begin at `begin`: hour by hour, at the limit of each.
    fn through(&self, begin: NaiveDateTime, bytes: u64) -> NaiveDateTime {
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

    /// The limit at this time, and until when it stays so; none where there is no limit.
    fn segment(&self, at: NaiveDateTime) -> Option<(u64, NaiveDateTime)> {
        let minute = at.hour() * 60 + at.minute();
        let held = self.rates.iter().filter(|rate| rate.holds(minute));
        let lowest = held.map(|rate| rate.bytes_per_second).min()?;
        let edges = self.rates.iter().flat_map(|rate| [rate.from % DAY, rate.to % DAY]);
        let ahead = edges.map(|edge| (edge + DAY - minute - 1) % DAY + 1).min().unwrap_or(DAY);
        let whole = at.with_second(0).and_then(|at| at.with_nanosecond(0)).unwrap_or(at);
        Some((lowest.max(Rate::LEAST), whole + TimeDelta::minutes(ahead.into())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    /// A clock that stands until somebody waits.
    #[derive(Debug, Clone)]
    struct Virtual(Arc<Mutex<NaiveDateTime>>);

    impl Virtual {
        fn at(time: &str) -> Self {
            Self(Arc::new(Mutex::new(format!("2026-11-20T{time}").parse().unwrap())))
        }
        fn wait(&self, time: Duration) {
            *self.0.lock().unwrap() += TimeDelta::from_std(time).unwrap();
        }
    }

    impl Clock for Virtual {
        fn now(&self) -> NaiveDateTime {
            *self.0.lock().unwrap()
        }
    }

    const MIB: usize = 1 << 20;

    /// Sends so many MiB in slices, each after the wait that it is told, and answers when it was through.
    fn send(pace: &Pace<Virtual>, mib: usize) -> String {
        for _ in 0..mib * 16 {
            let wait = pace.enter(MIB / 16);
            pace.clock.wait(wait);
        }
        // Whoever comes next waits until all of it is through.
        let rest = pace.enter(0);
        pace.clock.wait(rest);
        pace.clock.now().format("%d %H:%M:%S").to_string()
    }

    fn rate(from: u32, to: u32, mib: u64) -> Rate {
        Rate { from: from * 60, to: to * 60, bytes_per_second: mib << 20 }
    }

    #[test]
    fn a_limit_all_day_is_kept_to_the_second_over_midnight_too() {
        let pace = Pace::new(vec![rate(0, 0, 2)], Virtual::at("10:00:00"));
        assert_eq!(send(&pace, 120), "20 10:01:00");
        let pace = Pace::new(vec![rate(0, 0, 1)], Virtual::at("23:59:30"));
        assert_eq!(send(&pace, 60), "21 00:00:30");
    }

    #[test]
    fn each_hour_has_its_own_and_outside_there_is_none() {
        let office = vec![rate(8, 18, 1), rate(12, 13, 4)];
        let pace = Pace::new(office.clone(), Virtual::at("07:59:00"));
        assert_eq!(send(&pace, 100_000), "20 07:59:00", "no limit before eight");
        // The lower of two counts: the pause at noon does not lift the limit.
        let pace = Pace::new(office, Virtual::at("12:59:00"));
        assert_eq!(send(&pace, 120), "20 13:01:00");
        let pace = Pace::new(vec![rate(8, 18, 1)], Virtual::at("17:59:30"));
        assert_eq!(send(&pace, 500), "20 18:00:00", "half a minute with the limit, the rest at once");
        let night = Pace::new(vec![rate(22, 6, 1)], Virtual::at("05:59:00"));
        assert_eq!(send(&night, 90), "20 06:00:00");
    }

    #[test]
    fn all_transfers_stand_in_one_line_and_nobody_pays_for_an_idle_hour() {
        let clock = Virtual::at("10:00:00");
        let pace = Pace::new(vec![rate(0, 0, 1)], clock.clone());
        assert_eq!(pace.enter(3 * MIB), Duration::ZERO);
        assert_eq!(pace.enter(MIB), Duration::from_secs(3));
        assert_eq!(pace.enter(MIB), Duration::from_secs(4));
        clock.wait(Duration::from_secs(3600));
        assert_eq!(pace.enter(MIB), Duration::ZERO);
        assert_eq!(pace.enter(MIB), Duration::from_secs(1), "an hour without work is no credit");
        assert_eq!(Pace::new(Vec::new(), clock).enter(usize::MAX), Duration::ZERO);
    }
}
