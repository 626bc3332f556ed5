//! How fast a store may add to its repository: its policy's limits, and the line in which all stores of that policy on this
//! host stand. Knows nothing of what is stored; the repository's own limits are kept by its storage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use journal::effect::{Bandwidth, Limit, Store};
use journal::{Failure, FailureClass, PolicyName};
use repository::{Line, Pace, Rate, Timetable, UnknownZone};

/// The line of each policy whose stores this agent has performed.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<PolicyName, Arc<Line>>>);

impl Lines {
    fn of(&self, policy: &PolicyName) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(policy.clone()).or_default())
    }
}

/// The pace of a store.
pub(super) fn pace(effect: &Store, lines: &Lines) -> Result<Pace, Failure> {
    let line = effect.policy.as_ref().map(|policy| lines.of(policy)).unwrap_or_default();
    let timetable = effect.bandwidth.as_ref().map(timetable).transpose()?.unwrap_or_default();
    Ok(Pace::new(timetable, line))
}

fn timetable(bandwidth: &Bandwidth) -> Result<Timetable, Failure> {
    let zone = bandwidth.time_zone.parse().map_err(|unknown: UnknownZone| {
        let what = format!(
            "{unknown}, and the hours of the policy's bandwidth are meant by it: name another one in the policy's schedule, or \
             update this host's time zones with a newer Backstay"
        );
        Failure::new(FailureClass::Invalid, what)
    })?;
    let rates = bandwidth.limits.iter().map(|Limit { days, rate }| Rate {
        days: *days,
        from: rate.from_minute.into(),
        to: rate.to_minute.into(),
        bytes_per_second: rate.bytes_per_second,
    });
    Ok(Timetable { rates: rates.collect(), zone })
}
