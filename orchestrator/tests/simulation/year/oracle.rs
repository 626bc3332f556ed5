//! What should happen, worked out on its own: every instant of every schedule, found by walking the clock of its zone minute by
//! minute; and the account of what was answered for each of its VMs.
//!
//! Shares nothing with the product but the zones' rules. Knows no job and no decision.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Timelike};
use chrono_tz::Tz;

use super::site::{POLICIES, policy_name, selected};

/// A run that is due: of one VM, by one schedule, at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Answer {
    /// Jobs, by the place of their repository in the policy.
    jobs: [u8; 2],
    /// Records that say why there is none.
    skips: u8,
}

/// One instant of a schedule.
struct Instant {
    vms: Vec<usize>,
    answers: Vec<Answer>,
    /// What is said of all its VMs at once.
    skips_all: u8,
}

pub struct Oracle {
    due: HashMap<(String, String), BTreeMap<i64, Instant>>,
    /// Instants of which a crash cut the answer in two, after jobs of theirs were written.
    cut: BTreeSet<(String, String, i64)>,
}

/// Which minutes a cron text means, read without the product's reader.
struct Cron {
    fields: [BTreeSet<u32>; 5],
    any_day: bool,
    any_weekday: bool,
}

impl Cron {
    fn read(text: &str) -> Cron {
        let fields: Vec<&str> = text.split(' ').collect();
        let ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
        let read = |place: usize| -> BTreeSet<u32> {
            let (low, high) = ranges[place];
            fields[place].split(',').flat_map(|part| of_part(part, low, high)).collect()
        };
        let fields_read = [read(0), read(1), read(2), read(3), read(4)];
        Cron { any_day: fields[2] == "*", any_weekday: fields[4] == "*", fields: fields_read }
    }

    fn matches(&self, at: NaiveDateTime) -> bool {
        let day = self.fields[2].contains(&at.day());
        let weekday = self.fields[4].contains(&at.weekday().num_days_from_sunday());
        // Where both are restricted either is enough.
        let both = !self.any_day && !self.any_weekday;
        self.fields[0].contains(&at.minute())
            && self.fields[1].contains(&at.hour())
            && self.fields[3].contains(&at.month())
            && if both { day || weekday } else { day && weekday }
    }
}

/// `*`, `7`, `1-5`, each perhaps with a step.
fn of_part(part: &str, low: u32, high: u32) -> Vec<u32> {
    let (range, step) =
        part.split_once('/').map_or((part, 1), |(range, step)| (range, step.parse().unwrap()));
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
        None if range == "*" => (low, high),
        None => (range.parse().unwrap(), range.parse().unwrap()),
    };
    (from..=to).step_by(step).collect()
}

const MINUTE: i64 = 60;

/// The instants of a schedule in `(from, to]`, in seconds since 1970.
fn instants(cron: &str, zone: &str, from: i64, to: i64) -> BTreeSet<i64> {
    if let Some(hours) = cron.strip_prefix("@every ").and_then(|length| length.strip_suffix('h')) {
        let every = hours.parse::<i64>().unwrap() * 3600;
        return (from + 1..=to).filter(|second| second % every == 0).collect();
    }
    let zone: Tz = zone.parse().unwrap();
    let shown = |second: i64| DateTime::from_timestamp(second, 0).unwrap().with_timezone(&zone).naive_local();
    let cron = Cron::read(cron);
    let every_hour = cron.fields[1].len() == 24;
    let mut found = BTreeSet::new();
    // Two days before, so that an hour that is shown a second time is known to be.
    let mut second = (from - 2 * 86_400) / MINUTE * MINUTE;
    let (mut before, mut highest) = (shown(second), shown(second));
    while second < to {
        second += MINUTE;
        let now = shown(second);
        let minute = TimeDelta::minutes(1);
        // Civil minutes that no clock showed count at the first instant after them.
        let mut skipped = before + minute;
        let mut hit = false;
        while !every_hour && skipped < now {
            hit |= skipped > highest && cron.matches(skipped);
            skipped += minute;
        }
        hit |= cron.matches(now) && (every_hour || now > highest);
        if hit && second > from {
            found.insert(second);
        }
        (before, highest) = (now, highest.max(now));
    }
    found
}

impl Oracle {
    /// All that is due in `(from, to]`, in seconds since 1970.
    pub fn new(vms: usize, hosts: usize, from: i64, to: i64) -> Oracle {
        let mut due = HashMap::new();
        for (number, policy) in POLICIES.iter().enumerate() {
            let vms: Vec<usize> = selected(number, vms, hosts).collect();
            for (schedule, cron) in policy.crons.iter().enumerate() {
                let of_schedule = instants(cron, policy.zone, from, to).into_iter().map(|at| {
                    (
                        at,
                        Instant {
                            answers: vec![Answer::default(); vms.len()],
                            vms: vms.clone(),
                            skips_all: 0,
                        },
                    )
                });
                due.insert((policy_name(number), policy.key(schedule)), of_schedule.collect());
            }
        }
        Oracle { due, cut: BTreeSet::new() }
    }

    /// How many runs are due.
    pub fn runs(&self) -> usize {
        self.due.values().flat_map(BTreeMap::values).map(|instant| instant.vms.len()).sum()
    }

    fn at(&mut self, policy: &str, schedule: &str, at: i64) -> Option<&mut Instant> {
        let of_schedule = self.due.get_mut(&(policy.to_owned(), schedule.to_owned()));
        let of_schedule = of_schedule.unwrap_or_else(|| panic!("{policy} has no schedule `{schedule}`"));
        let last = of_schedule.keys().next_back().copied();
        let there = of_schedule.get_mut(&(at / 1_000_000));
        // What comes after the last day is answered too, and not of interest.
        assert!(
            there.is_some() || last.is_none_or(|last| at / 1_000_000 > last),
            "{policy} `{schedule}` is not due at {at}"
        );
        there
    }

    /// A job was queued for a run.
    pub fn job(&mut self, policy: &str, schedule: &str, at: i64, vm: usize, repository: usize) {
        let Some(instant) = self.at(policy, schedule, at) else { return };
        let place =
            instant.vms.binary_search(&vm).unwrap_or_else(|_| panic!("{policy} does not speak of VM {vm}"));
        instant.answers[place].jobs[repository] += 1;
    }

    /// A run, or all of an instant, was said not to happen. One that a crash leaves without its cursor is taken back: it is
    /// decided again.
    pub fn skip(&mut self, policy: &str, schedule: &str, at: i64, vm: Option<usize>, back: bool) {
        let Some(instant) = self.at(policy, schedule, at) else { return };
        let said = match vm {
            None => &mut instant.skips_all,
            Some(vm) => &mut instant.answers[instant.vms.binary_search(&vm).unwrap()].skips,
        };
        if back { *said -= 1 } else { *said += 1 }
    }

    /// A crash came between a run's job and the cursor behind it.
    pub fn cut(&mut self, policy: &str, schedule: &str, at: i64) {
        self.cut.insert((policy.to_owned(), schedule.to_owned(), at / 1_000_000));
    }

    /// Every run has exactly one answer: a job in each repository, or one record of why there is none.
    pub fn check(&self) {
        for ((policy, schedule), instants) in &self.due {
            let repositories = POLICIES[policy[7..].parse::<usize>().unwrap()].repositories.len();
            for (at, instant) in instants {
                let cut = self.cut.contains(&(policy.clone(), schedule.clone(), *at));
                for (vm, answer) in instant.vms.iter().zip(&instant.answers) {
                    let skips = answer.skips + instant.skips_all;
                    let one_each = answer.jobs[..repositories].iter().all(|jobs| *jobs == 1);
                    let none = answer.jobs == [0, 0];
                    // What was missed may be made up for by a later run, once the crash is over: then both are recorded.
                    let answered =
                        (one_each && skips == 0) || (none && skips == 1) || (cut && one_each && skips == 1);
                    let at = DateTime::from_timestamp(*at, 0).unwrap();
                    assert!(
                        answered,
                        "{policy} `{schedule}` at {at}: VM {vm} got {answer:?}, and {} for all",
                        instant.skips_all
                    );
                }
            }
        }
    }
}
