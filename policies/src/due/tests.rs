//! What is due, what was missed, what overlaps; and that nothing is answered for twice or not at all.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::file;
use crate::policy::Mode;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

/// A policy of all machines with these schedules, each the lines of its table.
fn policy(schedules: &[&str]) -> Policy {
    let tables: String = schedules.iter().map(|lines| format!("[[schedules]]\n{lines}\n")).collect();
    let text = format!("name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\n{tables}");
    file::read(&text).unwrap().remove(0)
}

/// The answer in short: `+ vm at mode`, with `!` when made up for, and `- vm at reason`.
fn asked(policy: &Policy, since: &str, now: &str, activity: impl Fn(&str) -> Activity) -> Vec<String> {
    let vms = [Vm { name: "a", labels: &[], host: None }];
    let due = due(policy, &vms, |_| Some(at(since)), activity, at(now));
    let mut lines: Vec<String> = due
        .runs
        .iter()
        .map(|run| {
            let mark = if run.caught_up { "!" } else { "" };
            format!("+ {} {}{mark} {}", run.vm, run.at.format("%dT%H:%M"), run.mode)
        })
        .collect();
    lines.extend(due.not_run.iter().map(|not_run| {
        format!("- {} {} {}", not_run.vm.unwrap_or("*"), not_run.at.format("%dT%H:%M"), not_run.reason)
    }));
    for (_, cursor) in due.cursors {
        assert_eq!(cursor, at(now));
    }
    lines
}

#[test]
fn overlap_cancels_the_older() {
    let policy = policy(&["cron = \"0 2 * * *\"\noverlap = \"cancel-older\""]);
    let vms = [Vm { name: "a", labels: &[], host: None }];
    let (since, now) = (at("2026-06-01T12:00:00Z"), at("2026-06-02T02:00:00Z"));
    for (running, queued) in [(false, false), (true, false), (false, true), (true, true)] {
        let due = due(&policy, &vms, |_| Some(since), |_| Activity { running, queued }, now);
        let [run] = &due.runs[..] else { panic!("{due:?}") };
        assert_eq!(run.cancels_older, running || queued);
        assert!(due.not_run.is_empty());
    }
}

#[test]
fn nothing_is_due_before_the_next_instant() {
    let policy = policy(&[DAILY, "cron = \"0 5 * * *\""]);
    let next = next(&policy, |_| Some(at("2026-06-01T03:00:00Z"))).unwrap();
    assert_eq!(next, at("2026-06-01T05:00:00Z"));
    let cursor = "2026-06-01T03:00:00Z";
    assert!(asked(&policy, cursor, "2026-06-01T04:59:59Z", idle).is_empty());
    assert_eq!(asked(&policy, cursor, "2026-06-01T05:00:00Z", idle).len(), 1);
}

fn idle(_: &str) -> Activity {
    Activity::default()
}

const DAILY: &str = "cron = \"0 2 * * *\"";

#[test]
fn on_time_and_not_yet() {
    let policy = policy(&[DAILY]);
    let since = "2026-06-01T12:00:00Z";
    assert!(asked(&policy, since, "2026-06-02T01:59:59Z", idle).is_empty());
    assert_eq!(asked(&policy, since, "2026-06-02T02:00:00Z", idle), ["+ a 02T02:00 auto"]);
    assert_eq!(asked(&policy, since, "2026-06-02T02:05:00Z", idle), ["+ a 02T02:00 auto"]);
    assert!(asked(&policy, "2026-06-02T02:00:00Z", "2026-06-02T02:00:30Z", idle).is_empty(), "only once");
}

#[test]
fn missed_runs() {
    let missed = |word: &str| policy(&[&format!("{DAILY}\nmissed = \"{word}\"")]);
    let (since, now) = ("2026-06-01T12:00:00Z", "2026-06-04T10:00:00Z");
    assert_eq!(
        asked(&missed("skip"), since, now, idle),
        [
            "- * 02T02:00 missed, and missed = \"skip\"",
            "- * 03T02:00 missed, and missed = \"skip\"",
            "- * 04T02:00 missed, and missed = \"skip\"",
        ]
    );
    assert_eq!(
        asked(&missed("once"), since, now, idle),
        [
            "+ a 04T10:00! auto",
            "- * 02T02:00 missed; the run of 2026-06-04T02:00:00Z makes up for it",
            "- * 03T02:00 missed; the run of 2026-06-04T02:00:00Z makes up for it",
        ]
    );
    assert_eq!(
        asked(&missed("all"), since, now, idle),
        ["+ a 04T10:00! auto", "+ a 04T10:00! auto", "+ a 04T10:00! auto"]
    );
    // Back in time for the last one: it stands for the others, or comes after them.
    let now = "2026-06-04T02:01:00Z";
    assert_eq!(
        asked(&missed("once"), since, now, idle),
        [
            "+ a 04T02:00 auto",
            "- * 02T02:00 missed; the run of 2026-06-04T02:00:00Z makes up for it",
            "- * 03T02:00 missed; the run of 2026-06-04T02:00:00Z makes up for it",
        ]
    );
    assert_eq!(asked(&missed("skip"), since, now, idle).len(), 3);
}

#[test]
fn all_has_a_limit() {
    let policy = policy(&["cron = \"* * * * *\"\nmissed = \"all\""]);
    let lines = asked(&policy, "2026-06-01T00:00:00Z", "2026-06-01T12:00:30Z", idle);
    assert_eq!(lines.iter().filter(|line| line.contains('!')).count(), MOST_MADE_UP);
    assert_eq!(lines.len(), 720, "each minute is answered for");
}

#[test]
fn a_missed_run_waits_for_its_window() {
    let policy = policy(&["cron = \"0 * * * *\"\nwindow = \"22:00-02:00\""]);
    let lines = asked(&policy, "2026-06-01T23:30:00Z", "2026-06-02T04:00:00Z", idle);
    assert_eq!(
        lines,
        [
            "+ a 02T22:00! auto",
            "- * 02T02:00 outside the schedule's window",
            "- * 02T03:00 outside the schedule's window",
            "- * 02T04:00 outside the schedule's window",
            "- * 02T00:00 missed; the run of 2026-06-02T01:00:00Z makes up for it",
        ]
    );
}

/// [`policy`] with times in which nothing starts.
fn dark(blackout: &str, schedule: &str) -> Policy {
    let dark = crate::blackout::Blackout::parse([blackout]).unwrap();
    Policy { blackout: dark, ..policy(&[schedule]) }
}

#[test]
fn nothing_starts_in_a_blackout_and_each_run_says_why() {
    let policy =
        dark("2026-06-02", "cron = \"0 */12 * * *\"\nmissed = \"all\"\ntime_zone = \"Europe/Berlin\"");
    let lines = asked(&policy, "2026-06-01T12:00:00Z", "2026-06-02T22:00:00Z", idle);
    assert_eq!(
        lines,
        [
            "+ a 02T22:00 auto",
            "- * 01T22:00 in the policy's blackout `2026-06-02`",
            "- * 02T10:00 in the policy's blackout `2026-06-02`",
        ]
    );
}

#[test]
fn a_missed_run_waits_for_the_end_of_the_blackout() {
    let policy = dark("2026-06-02", "cron = \"0 23 * * *\"\njitter = \"1h\"");
    let lines = asked(&policy, "2026-06-01T22:00:00Z", "2026-06-02T04:00:00Z", idle);
    let delayed = |line: &String| line.starts_with("+ a 03T00:") || line.starts_with("+ a 03T01:00");
    assert!(matches!(&lines[..], [line] if delayed(line)), "{lines:?}");
    // On time, and jitter would lead into it.
    let lines = asked(&policy, "2026-06-01T22:00:00Z", "2026-06-01T23:00:00Z", idle);
    assert!(matches!(&lines[..], [line] if line.starts_with("+ a 01T23:")), "{lines:?}");
}

#[test]
fn overlap() {
    let (since, now) = ("2026-06-01T12:00:00Z", "2026-06-02T02:00:00Z");
    let busy = |running, queued| move |_: &str| Activity { running, queued };
    let (skip, queue) = (policy(&[DAILY]), policy(&[&format!("{DAILY}\noverlap = \"queue\"")]));
    let skipped = ["- a 02T02:00 the previous run is not over, and overlap = \"skip\""];
    assert_eq!(asked(&skip, since, now, busy(true, false)), skipped);
    assert_eq!(asked(&skip, since, now, busy(false, true)), skipped);
    assert_eq!(asked(&queue, since, now, busy(true, false)), ["+ a 02T02:00 auto"]);
    assert_eq!(
        asked(&queue, since, now, busy(true, true)),
        ["- a 02T02:00 one run already waits for the previous one"]
    );
}

#[test]
fn of_two_on_one_instant_the_one_that_reads_more_runs() {
    let policy =
        policy(&["cron = \"0 2 * * *\"\nmode = \"incremental\"", "cron = \"0 2 * * sun\"\nmode = \"full\""]);
    assert_eq!(
        asked(&policy, "2026-06-06T12:00:00Z", "2026-06-07T02:00:00Z", idle),
        [
            "+ a 07T02:00 full",
            "- * 07T02:00 the schedule `0 2 * * sun` (full) falls on the same instant and does the work of both",
        ]
    );
}

#[test]
fn a_pause_and_an_empty_selection_are_reasons() {
    let mut policy = policy(&[DAILY]);
    let (since, now) = ("2026-06-01T12:00:00Z", "2026-06-02T02:00:00Z");
    policy.select.exclude = vec!["*".to_owned()];
    assert_eq!(asked(&policy, since, now, idle), ["- * 02T02:00 the policy selects no VM"]);
    policy.paused = true;
    assert_eq!(asked(&policy, since, now, idle), ["- * 02T02:00 the policy is paused"]);
}

#[test]
fn a_new_schedule_begins_now_and_a_clock_set_back_repeats_nothing() {
    let policy = policy(&[DAILY]);
    let now = at("2026-06-02T02:00:00Z");
    let answer = due(&policy, &[], |_| None, idle, now);
    assert!(answer.runs.is_empty() && answer.not_run.is_empty());
    assert_eq!(answer.cursors, [("0 2 * * *", now)]);
    let ahead = now + TimeDelta::hours(3);
    let answer = due(&policy, &[], |_| Some(ahead), idle, now);
    assert!(answer.runs.is_empty() && answer.not_run.is_empty());
    assert_eq!(answer.cursors, [("0 2 * * *", ahead)]);
}

#[test]
fn jitter_spreads_the_starts_and_stays_in_the_window() {
    let policy = policy(&["cron = \"0 2 * * *\"\njitter = \"2h\"\nwindow = \"02:00-03:00\""]);
    let names: Vec<String> = (0..50).map(|number| format!("vm-{number}")).collect();
    let vms: Vec<Vm<'_>> = names.iter().map(|name| Vm { name, labels: &[], host: None }).collect();
    let start = at("2026-06-02T02:00:00Z");
    let answer = due(&policy, &vms, |_| Some(start - TimeDelta::hours(1)), idle, start);
    assert_eq!(answer.runs.len(), 50);
    assert!(answer.runs.iter().all(|run| run.at >= start && run.at < start + TimeDelta::hours(1)));
    let distinct: std::collections::BTreeSet<_> = answer.runs.iter().map(|run| run.at).collect();
    assert!(distinct.len() > 15, "{}", distinct.len());
}

proptest! {
    /// However the questions fall, each instant of each schedule gets exactly one answer for a machine.
    #[test]
    fn every_instant_is_answered_once(
        gaps in prop::collection::vec(1..100_000_i64, 1..40),
        missed in prop::sample::select(Missed::WORDS),
        paused in prop::bool::weighted(0.2),
        busy in any::<bool>(),
        modes in prop::array::uniform3(prop::sample::select(Mode::WORDS)),
    ) {
        let crons = ["*/20 * * * *", "30 2 * * *", "0 */6 * * mon-fri"];
        let tables: Vec<String> = crons.iter().zip(modes)
            .map(|(cron, mode)| format!(
                "cron = \"{cron}\"\nmissed = \"{missed}\"\nmode = \"{mode}\"\ntime_zone = \"Europe/Berlin\"\nwindow = \"00:00-20:00\""
            ))
            .collect();
        let mut policy = policy(&tables.iter().map(String::as_str).collect::<Vec<_>>());
        policy.paused = paused;
        let vms = [Vm { name: "a", labels: &[], host: None }];
        let begin = at("2026-10-23T00:00:00Z");
        let mut cursors: BTreeMap<String, DateTime<Utc>> =
            policy.schedules.iter().map(|timing| (timing.key().to_owned(), begin)).collect();
        let mut answered: BTreeMap<(String, DateTime<Utc>), u32> = BTreeMap::new();
        let mut now = begin;
        for gap in gaps {
            now += TimeDelta::seconds(gap);
            let activity = |_: &str| Activity { running: busy, queued: false };
            let answer = due(&policy, &vms, |key| cursors.get(key).copied(), activity, now);
            let runs = answer.runs.iter().map(|run| (run.schedule.to_owned(), run.scheduled));
            let not_run = answer.not_run.iter().map(|not_run| (not_run.schedule.to_owned(), not_run.at));
            for key in runs.chain(not_run) {
                *answered.entry(key).or_default() += 1;
            }
            cursors = answer.cursors.iter().map(|(key, cursor)| ((*key).to_owned(), *cursor)).collect();
        }
        let expected: BTreeMap<(String, DateTime<Utc>), u32> = policy.schedules.iter()
            .flat_map(|timing| {
                let instants = timing.schedule.between(begin + TimeDelta::seconds(1), now + TimeDelta::seconds(1));
                instants.map(|at| ((timing.key().to_owned(), at), 1)).collect::<Vec<_>>()
            })
            .collect();
        prop_assert_eq!(answered, expected);
    }
}
