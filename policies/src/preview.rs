//! What policies would do in a range of dates (`policy preview`, `policy apply --dry-run`), and how much of it comes to each
//! host at once. Knows no past: nothing is missed here and no machine is busy, for neither can be foreseen.

use std::collections::HashMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Serialize;

use crate::occurrence::{NotRun, Occurrence, Plan, Run, Why};
use crate::policy::Policy;
use crate::select::Vm;

/// So many runs and refusals fit into one preview; it is for reading, and must not exhaust the memory.
pub const LIMIT: usize = 1_000_000;

/// What would happen, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preview<'a> {
    /// What would start.
    pub runs: Vec<Run<'a>>,
    /// What a schedule asks for and would not start, each with its reason.
    pub not_run: Vec<NotRun<'a>>,
    /// How many backups start on each host in each hour in which any does.
    pub load: Vec<Load<'a>>,
}

/// What comes to one host in one hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Load<'a> {
    /// When the hour begins, by the clock of UTC.
    pub hour: DateTime<Utc>,
    /// The host; none for machines whose host is not known.
    pub host: Option<&'a str>,
    /// The backups that start in it: of each run one into each of its policy's repositories.
    pub backups: usize,
}

/// A range too long to be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the preview would list more than {LIMIT} runs by {reached}; ask for a shorter range or one policy")]
pub struct TooLong {
    reached: DateTime<Utc>,
}

/// What happens at the instants of all policies at or after `from` and before `to`. The range is that of the
/// schedules' instants; jitter may carry a start over its end.
///
/// # Errors
/// When the answer would have more than [`LIMIT`] entries.
pub fn preview<'a>(
    policies: &'a [Policy],
    vms: &'a [Vm<'a>],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Preview<'a>, TooLong> {
    let mut preview = Preview::default();
    let hosts = vms.iter().map(|vm| (vm.name, vm.host)).collect();
    let mut load = HashMap::new();
    for policy in policies {
        let selected: Vec<&str> = policy.selected(vms).collect();
        let mut plan = Plan::new(policy);
        let mut occurrences = Vec::new();
        let mut entries = preview.runs.len() + preview.not_run.len();
        for timing in &policy.schedules {
            for at in timing.schedule.between(from, to) {
                match plan.obstacle(timing, at) {
                    Some(reason) => plan.refuse(timing, at, reason),
                    None => occurrences.push(Occurrence {
                        timing,
                        scheduled: at,
                        start: at,
                        slot: at,
                        caught_up: false,
                    }),
                }
                entries += selected.len().max(1);
                if entries > LIMIT {
                    return Err(TooLong { reached: at });
                }
            }
        }
        let occurrences = plan.merge(occurrences);
        plan.foresee(&occurrences, &selected);
        count(&mut load, &plan, &hosts);
        preview.runs.append(&mut plan.runs);
        preview.not_run.append(&mut plan.not_run);
    }
    preview.runs.sort_by_key(|run| (run.at, run.policy, run.vm));
    preview.not_run.sort_by_key(|not_run| (not_run.at, not_run.policy, not_run.schedule));
    preview.load.extend(load.into_iter().map(|((hour, host), backups)| Load { hour, host, backups }));
    preview.load.sort_by_key(|load| (load.hour, load.host));
    Ok(preview)
}

/// Adds the runs of one policy to what starts on each host in each hour.
fn count<'a>(
    load: &mut HashMap<(DateTime<Utc>, Option<&'a str>), usize>,
    plan: &Plan<'a>,
    hosts: &HashMap<&str, Option<&'a str>>,
) {
    for run in &plan.runs {
        // An instant too far away to be rounded is an hour of its own.
        let hour = run.at.duration_trunc(TimeDelta::hours(1)).unwrap_or(run.at);
        let host = hosts.get(run.vm).copied().flatten();
        *load.entry((hour, host)).or_default() += plan.policy.repositories.len();
    }
}

impl<'a> Plan<'a> {
    /// One run of each occurrence for each machine, none of them busy.
    fn foresee(&mut self, occurrences: &[Occurrence<'a>], vms: &[&'a str]) {
        for occurrence in occurrences {
            if vms.is_empty() {
                self.refuse(occurrence.timing, occurrence.scheduled, Why::NoMachine);
            }
            let policy = self.policy;
            self.runs.extend(vms.iter().map(|vm| occurrence.run(policy, vm)));
        }
    }
}
