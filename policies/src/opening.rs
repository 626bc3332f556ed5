//! When runs of one schedule may start: inside its window, outside the policy's blackout.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::blackout::Blackout;
use crate::occurrence::Why;
use crate::window::Window;

/// So many ends of blackouts and openings of windows are gone through for the next start; a start that is not found
/// among them is not worth looking for.
const MOST_STEPS: usize = 1000;

/// When runs may start, by the clock of a zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub window: Option<&'a Window>,
    pub blackout: &'a Blackout,
    pub zone: Tz,
}

impl<'a> Opening<'a> {
    pub(crate) fn is_open(&self, at: DateTime<Utc>) -> bool {
        self.closed(at).is_none()
    }

    /// Why no run may start at an instant.
    pub(crate) fn closed(&self, at: DateTime<Utc>) -> Option<Why<'a>> {
        if self.window.is_some_and(|window| !window.is_open(self.zone, at)) {
            return Some(Why::OutsideWindow);
        }
        self.blackout.covering(self.zone, at).map(Why::Blackout)
    }

    /// `at` when runs may start then, else the next instant at which they may. Where there is none, as with a window that
    /// the change of the clocks swallows, `at` is as good as any.
    pub(crate) fn open_from(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let steps = std::iter::successors(Some(at), |from| self.next_step(*from));
        steps.take(MOST_STEPS).find(|step| self.is_open(*step)).unwrap_or(at)
    }

    /// Adds a delay, unless that would carry a start to where none may be.
    pub(crate) fn delayed(&self, start: DateTime<Utc>, delay: TimeDelta) -> DateTime<Utc> {
        let later = start + delay;
        if self.is_open(later) { later } else { start }
    }

    /// What is to be waited for at an instant at which no run may start; always later.
    fn next_step(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if let Some(end) = self.blackout.end(self.zone, at) {
            // An end inside an hour that comes twice lies before the second one.
            return Some(end.max(at + TimeDelta::minutes(1)));
        }
        let closed = self.window.filter(|window| !window.is_open(self.zone, at))?;
        Some(closed.open_from(self.zone, at).max(at + TimeDelta::minutes(1)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_start_waits_for_the_window_and_for_the_end_of_the_blackout() {
        let window = Window::parse(["22:00-23:00"]).unwrap();
        let blackout = Blackout::parse(["2026-12-24/2026-12-26", "sun 00:00-24:00"]).unwrap();
        let opening = Opening { window: Some(&window), blackout: &blackout, zone: Tz::UTC };
        // The 27th is a Sunday.
        assert_eq!(opening.open_from(at("2026-12-23T23:30:00Z")), at("2026-12-28T22:00:00Z"));
        assert_eq!(opening.open_from(at("2026-12-23T22:30:00Z")), at("2026-12-23T22:30:00Z"));
        assert!(!opening.is_open(at("2026-12-25T22:30:00Z")));
    }

    #[test]
    fn a_delay_leads_nowhere_closed() {
        let window = Window::parse(["22:00-23:00"]).unwrap();
        let (none, start) = (Blackout::default(), at("2026-01-02T22:50:00Z"));
        let opening = Opening { window: Some(&window), blackout: &none, zone: Tz::UTC };
        assert_eq!(opening.delayed(start, TimeDelta::minutes(5)), at("2026-01-02T22:55:00Z"));
        assert_eq!(opening.delayed(start, TimeDelta::minutes(15)), start);
        let free = Opening { window: None, ..opening };
        assert_eq!(free.delayed(start, TimeDelta::minutes(15)), at("2026-01-02T23:05:00Z"));
        let blackout = Blackout::parse(["2026-01-02T22:52/2026-01-03T06:00"]).unwrap();
        let dark = Opening { blackout: &blackout, ..free };
        assert_eq!(dark.delayed(start, TimeDelta::minutes(5)), start);
    }
}
