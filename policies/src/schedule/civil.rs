//! Civil time and instants of one zone: gaps, repeats and where the offset changes. Knows nothing of cron.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// Further than any zone's clock has ever been set at once (a whole day, at the date line), both ways.
const FAR: TimeDelta = TimeDelta::hours(26);

/// The zone's offset from UTC at an instant.
pub(crate) fn offset(zone: Tz, at: DateTime<Utc>) -> TimeDelta {
    TimeDelta::seconds(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc().into())
}

/// What a clock in the zone shows at an instant.
pub(crate) fn reading(zone: Tz, at: DateTime<Utc>) -> NaiveDateTime {
    at.with_timezone(&zone).naive_local()
}

/// The one instant that stands for a civil time: the earlier where it is repeated, and the first valid
/// instant after the gap where it does not exist. Never decreases as the civil time increases.
pub(crate) fn instant(zone: Tz, civil: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&civil).earliest() {
        Some(at) => at.with_timezone(&Utc),
        None => {
            let near = civil.and_utc();
            first_where(near - FAR, near + FAR, |at| reading(zone, at) >= civil)
        }
    }
}

/// The first instant in `(from, to]` at which the offset is no longer what it was at `from`.
pub(crate) fn next_change(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let before = offset(zone, from);
    (offset(zone, to) != before).then(|| first_where(from, to, |at| offset(zone, at) != before))
}

/// Bisects for the first whole second in `(from, to]` where `holds`, which must be false at `from`, true at
/// `to` and change once.
fn first_where(
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    holds: impl Fn(DateTime<Utc>) -> bool,
) -> DateTime<Utc> {
    let at = |second| DateTime::from_timestamp(second, 0).expect("between two instants that exist");
    let (mut no, mut yes) = (from.timestamp(), to.timestamp());
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if holds(at(middle)) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    at(yes)
}
