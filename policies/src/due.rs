//! What must be queued now: the instants between a schedule's cursor and `now`, which of them were missed,
//! and what becomes of those. Knows no queue and no job, and keeps nothing: cursors go in and come out.

use chrono::{DateTime, TimeDelta, Utc};

pub use crate::occurrence::{Activity, NotRun, Run, Why};
use crate::occurrence::{Occurrence, Plan};
use crate::policy::{Missed, Policy, Timing};
use crate::select::Vm;

/// An instant that is at most this old is on time; the one who asks should ask more often than that.
pub const ON_TIME: TimeDelta = TimeDelta::minutes(5);

/// With `missed = "all"`, so many of a schedule's instants are made up for, the newest.
pub const MOST_MADE_UP: usize = 100;

/// The answer about one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due<'a> {
    /// To be queued, each with its start; a start may lie after `now` (jitter, or a window that must open).
    pub runs: Vec<Run<'a>>,
    /// What does not happen, each with its reason.
    pub not_run: Vec<NotRun<'a>>,
    /// The new cursor of each schedule, by [`Timing::key`]: everything up to it has been answered for.
    pub cursors: Vec<(&'a str, DateTime<Utc>)>,
}

/// The first instant of the policy that is not answered for yet. Before it [`due`] has nothing to say.
pub fn next(policy: &Policy, cursor: impl Fn(&str) -> Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let next = |timing: &Timing| timing.schedule.next_after(cursor(timing.key())?);
    policy.schedules.iter().filter_map(next).min()
}

/// Answers for every instant of the policy after its cursor and up to `now`, once.
///
/// `cursor` gives the last instant considered, by [`Timing::key`]; a schedule without one is new and starts at
/// `now`. A cursor in the future (the clock was set back) stays, so that nothing runs twice. `activity` says
/// which machines are busy under this policy.
pub fn due<'a>(
    policy: &'a Policy,
    vms: &'a [Vm<'a>],
    cursor: impl Fn(&str) -> Option<DateTime<Utc>>,
    activity: impl Fn(&str) -> Activity,
    now: DateTime<Utc>,
) -> Due<'a> {
    let mut plan = Plan::new(policy);
    let mut cursors = Vec::with_capacity(policy.schedules.len());
    let mut occurrences = Vec::new();
    for timing in &policy.schedules {
        let since = cursor(timing.key()).unwrap_or(now);
        cursors.push((timing.key(), since.max(now)));
        occurrences.extend(answer(&mut plan, timing, since, now));
    }
    let occurrences = plan.merge(occurrences);
    if !occurrences.is_empty() {
        let selected: Vec<&str> = policy.selected(vms).collect();
        plan.expand(&occurrences, &selected, activity);
    }
    Due { runs: plan.runs, not_run: plan.not_run, cursors }
}

/// The occurrences of one schedule in `(since, now]`; what does not occur is refused in the plan.
fn answer<'a>(
    plan: &mut Plan<'a>,
    timing: &'a Timing,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Vec<Occurrence<'a>> {
    let instants =
        std::iter::successors(timing.schedule.next_after(since), |at| timing.schedule.next_after(*at));
    let mut open = Vec::new();
    for at in instants.take_while(|at| *at <= now) {
        match plan.obstacle(timing, at) {
            Some(reason) => plan.refuse(timing, at, reason),
            None => open.push(at),
        }
    }
    // Only the newest can be on time: whoever is late for two has missed the first.
    let on_time = open.pop_if(|at| now - *at <= ON_TIME);
    let mut occurrences = make_up(plan, timing, &open, on_time, now);
    occurrences.extend(on_time.map(|at| Occurrence {
        timing,
        scheduled: at,
        start: at,
        slot: at,
        caught_up: false,
    }));
    occurrences
}

/// What becomes of the missed instants, oldest first.
fn make_up<'a>(
    plan: &mut Plan<'a>,
    timing: &'a Timing,
    missed: &[DateTime<Utc>],
    on_time: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<Occurrence<'a>> {
    let Some((&newest, older)) = missed.split_last() else { return Vec::new() };
    let start = plan.policy.opening(timing).open_from(now);
    let made_up = |scheduled, slot| Occurrence { timing, scheduled, start, slot, caught_up: true };
    match (timing.missed, on_time) {
        (Missed::Skip, _) => {
            missed.iter().for_each(|&at| plan.refuse(timing, at, Why::Missed));
            Vec::new()
        }
        (Missed::Once, Some(run)) => {
            missed.iter().for_each(|&at| plan.refuse(timing, at, Why::CoveredBy(run)));
            Vec::new()
        }
        (Missed::Once, None) => {
            older.iter().for_each(|&at| plan.refuse(timing, at, Why::CoveredBy(newest)));
            vec![made_up(newest, start)]
        }
        (Missed::All, _) => {
            let (given_up, kept) = missed.split_at(missed.len().saturating_sub(MOST_MADE_UP));
            given_up.iter().for_each(|&at| plan.refuse(timing, at, Why::TooManyMissed(MOST_MADE_UP)));
            kept.iter().map(|&at| made_up(at, at)).collect()
        }
    }
}

#[cfg(test)]
mod tests;
