//! From "this schedule comes at this instant" to runs of machines: what falls together, who is selected, who
//! is still busy, and how starts are spread. Shared by [`due`](crate::due) and [`preview`](crate::preview);
//! knows neither cursors nor ranges of dates.

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::jitter;
use crate::policy::{Mode, Overlap, Policy, Timing};

/// A backup that should start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// [`Timing::key`] of the schedule.
    pub schedule: &'a str,
    /// The machine.
    pub vm: &'a str,
    /// When it starts, jitter and window included.
    pub at: DateTime<Utc>,
    /// The instant of the schedule that it stands for.
    pub scheduled: DateTime<Utc>,
    /// What it reads.
    pub mode: Mode,
    /// It makes up for a missed instant.
    pub caught_up: bool,
    /// What the machine has under way or waiting under this policy is to be cancelled for it.
    #[serde(skip)]
    pub cancels_older: bool,
}

/// An instant at which a backup would have started and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRun<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// [`Timing::key`] of the schedule.
    pub schedule: &'a str,
    /// The machine; none when it concerns all that the policy selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<&'a str>,
    /// The instant of the schedule.
    pub at: DateTime<Utc>,
    /// Why not.
    pub reason: Why<'a>,
}

/// Why a backup does not start. Shown, and serialised, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why<'a> {
    /// The policy is paused.
    Paused,
    /// The policy selects no machine.
    NoMachine,
    /// The window is closed at that instant.
    OutsideWindow,
    /// The instant lies in this time of the policy's blackout.
    Blackout(&'a str),
    /// It was missed, and `missed = "skip"`.
    Missed,
    /// It was missed, and the run that stands for this instant makes up for it.
    CoveredBy(DateTime<Utc>),
    /// It was missed, as were so many more recent ones that this one is given up.
    TooManyMissed(usize),
    /// Another schedule of the policy falls on the same instant and does the work of both.
    SameInstant {
        /// The key of the other schedule.
        schedule: &'a str,
        /// Its mode.
        mode: Mode,
    },
    /// The machine's previous run is not over, and `overlap = "skip"`.
    Overlaps,
    /// The machine's next run already waits, and `overlap = "queue"` lets one wait.
    AlreadyWaiting,
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Paused => f.write_str("the policy is paused"),
            Why::NoMachine => f.write_str("the policy selects no VM"),
            Why::OutsideWindow => f.write_str("outside the schedule's window"),
            Why::Blackout(span) => write!(f, "in the policy's blackout `{span}`"),
            Why::Missed => f.write_str("missed, and missed = \"skip\""),
            Why::CoveredBy(at) => write!(f, "missed; the run of {} makes up for it", at.format("%FT%TZ")),
            Why::TooManyMissed(limit) => write!(f, "missed; only the newest {limit} are made up for"),
            Why::SameInstant { schedule, mode } => {
                write!(
                    f,
                    "the schedule `{schedule}` ({mode}) falls on the same instant and does the work of both"
                )
            }
            Why::Overlaps => f.write_str("the previous run is not over, and overlap = \"skip\""),
            Why::AlreadyWaiting => f.write_str("one run already waits for the previous one"),
        }
    }
}

impl Serialize for Why<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a machine's runs under one policy are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// One is running.
    pub running: bool,
    /// One is queued.
    pub queued: bool,
}

/// One instant of one schedule, to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrence<'a> {
    pub timing: &'a Timing,
    pub scheduled: DateTime<Utc>,
    /// Not before.
    pub start: DateTime<Utc>,
    /// Occurrences of different schedules in one slot are one run.
    pub slot: DateTime<Utc>,
    pub caught_up: bool,
}

/// Collects the answers about one policy.
pub(crate) struct Plan<'a> {
    pub policy: &'a Policy,
    pub runs: Vec<Run<'a>>,
    pub not_run: Vec<NotRun<'a>>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        Self { policy, runs: Vec::new(), not_run: Vec::new() }
    }

    pub(crate) fn refuse(&mut self, timing: &'a Timing, at: DateTime<Utc>, reason: Why<'a>) {
        self.not_run.push(NotRun { policy: &self.policy.name, schedule: timing.key(), vm: None, at, reason });
    }

    /// Why no run of this schedule can start at this instant, whatever the machine.
    pub(crate) fn obstacle(&self, timing: &'a Timing, at: DateTime<Utc>) -> Option<Why<'a>> {
        if self.policy.paused { Some(Why::Paused) } else { self.policy.opening(timing).closed(at) }
    }

    /// Leaves one occurrence in each slot, the one that reads most, and refuses the others. The result is in
    /// the order of the slots.
    pub(crate) fn merge(&mut self, mut occurrences: Vec<Occurrence<'a>>) -> Vec<Occurrence<'a>> {
        occurrences.sort_by_key(|occurrence| (occurrence.slot, std::cmp::Reverse(occurrence.timing.mode)));
        let mut merged: Vec<Occurrence<'a>> = Vec::with_capacity(occurrences.len());
        for occurrence in occurrences {
            match merged.last() {
                Some(winner) if winner.slot == occurrence.slot => {
                    let reason = Why::SameInstant { schedule: winner.timing.key(), mode: winner.timing.mode };
                    self.refuse(occurrence.timing, occurrence.scheduled, reason);
                }
                _ => merged.push(occurrence),
            }
        }
        merged
    }

    /// Makes one run of each occurrence for each machine, unless the machine is busy. A run that is made is
    /// taken into account for those that follow it.
    pub(crate) fn expand(
        &mut self,
        occurrences: &[Occurrence<'a>],
        vms: &[&'a str],
        activity: impl Fn(&str) -> Activity,
    ) {
        let mut busy: HashMap<&str, Activity> = vms.iter().map(|&vm| (vm, activity(vm))).collect();
        for occurrence in occurrences {
            let Occurrence { timing, scheduled, caught_up, .. } = *occurrence;
            if vms.is_empty() {
                self.refuse(timing, scheduled, Why::NoMachine);
            }
            for &vm in vms {
                let (policy, schedule) = (self.policy.name.as_str(), timing.key());
                let activity = busy.entry(vm).or_default();
                if let Some(reason) = overlap(timing, caught_up, *activity) {
                    self.not_run.push(NotRun { policy, schedule, vm: Some(vm), at: scheduled, reason });
                    continue;
                }
                let cancels_older = timing.overlap == Overlap::CancelOlder
                    && (activity.running || activity.queued)
                    && !(caught_up && timing.missed == crate::Missed::All);
                activity.queued = true;
                self.runs.push(Run { cancels_older, ..occurrence.run(self.policy, vm) });
            }
        }
    }
}

impl<'a> Occurrence<'a> {
    /// The run of one machine: the jitter added, unless it would carry the start to where none may be.
    pub(crate) fn run(&self, policy: &'a Policy, vm: &'a str) -> Run<'a> {
        let Occurrence { timing, scheduled, start, caught_up, .. } = *self;
        let delay = jitter::delay(&policy.name, vm, timing.jitter);
        let at = policy.opening(timing).delayed(start, delay);
        let mode = timing.mode;
        let (policy, schedule) = (policy.name.as_str(), timing.key());
        Run { policy, schedule, vm, at, scheduled, mode, caught_up, cancels_older: false }
    }
}

/// Whether the machine's earlier runs forbid one more. What is made up for one by one always waits its turn:
/// that is what `missed = "all"` asks for.
fn overlap(timing: &Timing, caught_up: bool, activity: Activity) -> Option<Why<'static>> {
    if caught_up && timing.missed == crate::Missed::All {
        return None;
    }
    match timing.overlap {
        Overlap::Skip if activity.running || activity.queued => Some(Why::Overlaps),
        Overlap::Queue if activity.queued => Some(Why::AlreadyWaiting),
        _ => None,
    }
}
