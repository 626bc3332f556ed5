//! From the tables of a policy file to policies, each value checked where it stands. Knows TOML only through
//! the reader.

use std::ops::RangeInclusive;

use chrono::{DateTime, TimeDelta, Utc};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{Keys, Report, Text, kind};
use super::{FileError, Problem};
use crate::bandwidth::Limit;
use crate::blackout::Blackout;
use crate::duration;
use crate::keep::{Rule, Style};
use crate::policy::{Consistency, Hooks, Missed, Mode, Overlap, Policy, Timing};
use crate::retry::Retry;
use crate::schedule::{self, Schedule};
use crate::select::Selection;
use crate::window::Window;

/// More would make the day of a backup a matter of luck.
const MOST_JITTER: TimeDelta = TimeDelta::hours(24);

/// Longer than this a hook would hold a backup up that others wait for.
const LONGEST_HOOK: TimeDelta = TimeDelta::hours(24);

/// Longer than this a deadline or a backoff would outlive what it is for.
const LONGEST: TimeDelta = TimeDelta::days(30);

const PRIORITIES: RangeInclusive<i8> = Policy::PRIORITIES;

/// The counts and spans of a `keep` table. A rule's text has the same names with `-` for `_`.
const KEEP_KEYS: [&str; 12] = [
    "last",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "yearly",
    "within",
    "within_hourly",
    "within_daily",
    "within_weekly",
    "within_monthly",
    "within_yearly",
];

/// Reads and checks a policy file.
///
/// # Errors
/// With every problem found, each with line and column.
pub fn read(text: &str) -> Result<Vec<Policy>, FileError> {
    let mut report = Report::new(text);
    let root = DeTable::parse(text).map_err(|error| {
        let mut report = Report::new(text);
        report.add(&error.span().unwrap_or(0..0), error.message());
        FileError { problems: report.finish() }
    })?;
    let mut file = Keys::new(root.get_ref(), 0..0);
    let policies = if root.get_ref().contains_key("name") {
        vec![policy(file, &mut report)]
    } else {
        let tables = file.tables("policy", &mut report);
        file.finish(&mut report);
        if tables.is_empty() && report.count() == 0 {
            report.add(&(0..0), "the file has no policy; begin one with `[[policy]]`");
        }
        tables.into_iter().map(|table| policy(table, &mut report)).collect()
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, span) in policies.iter().flatten().map(|(policy, span)| (policy.name.as_str(), span)) {
        if names.contains(&name) {
            report.add(span, format!("the file has two policies named `{name}`"));
        }
        names.push(name);
    }
    let problems: Vec<Problem> = report.finish();
    if problems.is_empty() {
        Ok(policies.into_iter().flatten().map(|(policy, _)| policy).collect())
    } else {
        Err(FileError { problems })
    }
}

/// A policy and the place of its name; `None` after a problem that leaves nothing to return.
fn policy(mut keys: Keys<'_>, report: &mut Report<'_>) -> Option<(Policy, std::ops::Range<usize>)> {
    let place = keys.span.clone();
    let problems = report.count();
    let name = keys.string("name", report);
    match &name {
        None if report.count() > problems => {}
        None => report.add(&place, "the policy has no `name`"),
        Some(name) if !is_name(name.text) => {
            report.add(&name.span, "a name has 1 to 64 letters, digits, `-`, `_` or `.`");
        }
        Some(_) => {}
    }
    let description = keys.string("description", report).map(|text| text.text.to_owned());
    let paused = keys.boolean("paused", report).unwrap_or(false);
    let blackout = blackout(&mut keys, report);
    let repositories = repositories(&mut keys, report);
    let consistency = keys.word("consistency", Consistency::WORDS, Consistency::from_word, report);
    let problems = report.count();
    let select = match keys.table("select", report) {
        Some(select) => selection(select, report),
        None if report.count() > problems => Selection::default(),
        None => {
            report.add(
                &place,
                "the policy has no `select`; to take every VM write `select = { names = [\"*\"] }`",
            );
            Selection::default()
        }
    };
    let mut schedules: Vec<Timing> = Vec::new();
    for table in keys.tables("schedules", report) {
        let place = table.span.clone();
        let Some(timing) = timing(table, &blackout, report) else { continue };
        if schedules.iter().any(|other| other.key() == timing.key()) {
            report.add(&place, format!("two schedules of this policy are `{}`", timing.key()));
        }
        schedules.push(timing);
    }
    let keep = keys.take("keep").and_then(|value| keep(value, report));
    let priority =
        number(&mut keys, "priority", i64::from(*PRIORITIES.start())..=i64::from(*PRIORITIES.end()), report);
    let concurrency = number(&mut keys, "concurrency", 1..=1000, report);
    let deadline = length(&mut keys, "deadline", report);
    let after = keys.strings("after", report);
    let retry = keys.table("retry", report).map_or_else(Retry::default, |table| retry(table, report));
    let hooks = keys.table("hooks", report).map_or_else(Hooks::default, |table| hooks(table, report));
    let bandwidth = bandwidth(&mut keys, report);
    keys.finish(report);
    let name = name?;
    if let Some(itself) = after.iter().find(|it| it.text == name.text) {
        report.add(&itself.span, "a policy cannot wait for itself");
    }
    let policy = Policy {
        name: name.text.to_owned(),
        description,
        paused,
        blackout,
        select,
        schedules,
        repositories,
        consistency,
        keep,
        priority: priority.and_then(|it| i8::try_from(it).ok()).unwrap_or(0),
        concurrency: concurrency.and_then(|it| u32::try_from(it).ok()),
        deadline,
        after: after.into_iter().map(|it| it.text.to_owned()).collect(),
        retry,
        hooks,
        bandwidth,
    };
    Some((policy, name.span))
}

/// A whole number within a range.
fn number(
    keys: &mut Keys<'_>,
    key: &'static str,
    range: RangeInclusive<i64>,
    report: &mut Report<'_>,
) -> Option<i64> {
    let value = keys.take(key)?;
    let given = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
        _ => None,
    };
    let number = given.filter(|number| range.contains(number));
    if number.is_none() {
        let (from, to) = range.into_inner();
        report.add(&value.span(), format!("`{key}` is a whole number from {from} to {to}"));
    }
    number
}

/// A length of time that is not zero.
fn length(keys: &mut Keys<'_>, key: &'static str, report: &mut Report<'_>) -> Option<TimeDelta> {
    let text = keys.string(key, report)?;
    let length = report.check(&text.span, duration::parse(text.text))?;
    if length.is_zero() || length > LONGEST {
        report.add(&text.span, format!("`{key}` is more than nothing and at most 30d"));
    }
    Some(length)
}

fn retry(mut keys: Keys<'_>, report: &mut Report<'_>) -> Retry {
    let (place, usual) = (keys.span.clone(), Retry::default());
    let attempts = number(&mut keys, "attempts", 1..=20, report).and_then(|it| u32::try_from(it).ok());
    let backoff = length(&mut keys, "backoff", report).unwrap_or(usual.backoff);
    let most = length(&mut keys, "backoff_max", report);
    keys.finish(report);
    if most.is_some_and(|most| most < backoff) {
        report.add(&place, "`backoff_max` is less than `backoff`");
    }
    let backoff_max = most.unwrap_or(usual.backoff_max.max(backoff));
    Retry { attempts: attempts.unwrap_or(usual.attempts), backoff, backoff_max }
}

fn hooks(mut keys: Keys<'_>, report: &mut Report<'_>) -> Hooks {
    let (place, problems) = (keys.span.clone(), report.count());
    let mut name = |key| {
        let text: Text<'_> = keys.string(key, report)?;
        // A name in a folder of the host, and nothing that leads out of it.
        if !is_name(text.text) || text.text.starts_with(['.', '-', '_']) {
            let rule = "a hook's name has 1 to 64 letters, digits, `-`, `_` or `.`, and begins with a letter or digit; the \
                        program of that name is in the host's folder for hooks";
            report.add(&text.span, rule);
        }
        Some(text.text.to_owned())
    };
    let (before, after) = (name("before"), name("after"));
    let limit = length(&mut keys, "limit", report);
    keys.finish(report);
    if limit.is_some_and(|limit| limit > LONGEST_HOOK) {
        report.add(&place, "a hook's `limit` is at most 24h");
    }
    let hooks = Hooks { before, after, limit: limit.unwrap_or(Hooks::default().limit) };
    if hooks.is_empty() && report.count() == problems {
        report.add(&place, "`hooks` names none; give `before`, `after` or both");
    }
    hooks
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn repositories(keys: &mut Keys<'_>, report: &mut Report<'_>) -> Vec<String> {
    let problems = report.count();
    let names = keys.strings("repositories", report);
    if names.is_empty() && report.count() == problems {
        report.add(&keys.span, "the policy has no `repositories`; name at least one");
    }
    let mut repositories: Vec<String> = Vec::new();
    for name in names {
        if name.text.is_empty() || repositories.iter().any(|other| other == name.text) {
            report.add(&name.span, format!("the repository `{}` is empty or named twice", name.text));
        }
        repositories.push(name.text.to_owned());
    }
    repositories
}

fn selection(mut keys: Keys<'_>, report: &mut Report<'_>) -> Selection {
    let (place, problems) = (keys.span.clone(), report.count());
    let patterns = |texts: Vec<Text<'_>>| texts.into_iter().map(|text| text.text.to_owned()).collect();
    let select = Selection {
        names: patterns(keys.strings("names", report)),
        labels: match keys.table("labels", report) {
            Some(labels) => labels.string_entries(report).into_iter().collect(),
            None => Default::default(),
        },
        hosts: patterns(keys.strings("hosts", report)),
        exclude: patterns(keys.strings("exclude", report)),
    };
    keys.finish(report);
    if select.is_open_ended() && report.count() == problems {
        report.add(&place, "`select` names nothing; to take every VM write `names = [\"*\"]`");
    }
    select
}

fn timing(mut keys: Keys<'_>, blackout: &Blackout, report: &mut Report<'_>) -> Option<Timing> {
    let (place, problems) = (keys.span.clone(), report.count());
    let cron = keys.string("cron", report);
    if cron.is_none() && report.count() == problems {
        report.add(&place, "the schedule has no `cron`");
    }
    let zone = match keys.string("time_zone", report) {
        Some(name) => report.check(&name.span, schedule::zone(name.text)).unwrap_or_default(),
        None => chrono_tz::Tz::UTC,
    };
    let mode = keys.word("mode", Mode::WORDS, Mode::from_word, report);
    let jitter = keys.string("jitter", report).and_then(|text| jitter(&text, report)).unwrap_or_default();
    let window = window(&mut keys, report);
    let missed = keys.word("missed", Missed::WORDS, Missed::from_word, report);
    let overlap = keys.word("overlap", Overlap::WORDS, Overlap::from_word, report);
    keys.finish(report);
    let cron = cron?;
    let schedule = report.check(&cron.span, Schedule::new(cron.text, zone))?;
    if window.as_ref().is_some_and(|window| never(&schedule, |at| window.is_open(schedule.zone(), at))) {
        report.add(&place, "the window is closed whenever the schedule comes, so nothing would ever run");
    }
    // Dates pass, whatever they are.
    let weekly = blackout.weekly();
    if never(&schedule, |at| weekly.covering(schedule.zone(), at).is_none()) {
        report.add(&place, "the blackout covers the schedule whenever it comes, so nothing would ever run");
    }
    let mut timing = Timing::new(schedule);
    (timing.mode, timing.jitter, timing.window) = (mode, jitter, window);
    (timing.missed, timing.overlap) = (missed, overlap);
    Some(timing)
}

fn jitter(text: &Text<'_>, report: &mut Report<'_>) -> Option<TimeDelta> {
    let jitter = report.check(&text.span, duration::parse(text.text))?;
    if jitter > MOST_JITTER {
        report.add(&text.span, "a jitter is at most 24h");
    }
    Some(jitter)
}

/// One range as a string, or several as a list.
fn window(keys: &mut Keys<'_>, report: &mut Report<'_>) -> Option<Window> {
    let (place, texts) = keys.one_or_several("window", report)?;
    // Each range by itself first, so that a mistake is reported where it stands.
    for range in &texts {
        report.check(&range.span, Window::parse([range.text]))?;
    }
    report.check(&place, Window::parse(texts.iter().map(|range| range.text)))
}

/// The policy's times in which nothing starts: one as a string, or several as a list.
fn blackout(keys: &mut Keys<'_>, report: &mut Report<'_>) -> Blackout {
    let Some((_, texts)) = keys.one_or_several("blackout", report) else { return Blackout::default() };
    // Each by itself first, so that a mistake is reported where it stands.
    let wrong =
        texts.iter().filter(|it| report.check(&it.span, Blackout::parse([it.text])).is_none()).count();
    let all = Blackout::parse(texts.iter().map(|it| it.text));
    all.ok().filter(|_| wrong == 0).unwrap_or_default()
}

/// Limits of bandwidth: one as a string, or several as a list.
fn bandwidth(keys: &mut Keys<'_>, report: &mut Report<'_>) -> Vec<Limit> {
    let (_, texts) = keys.one_or_several("bandwidth", report).unwrap_or_default();
    texts.iter().filter_map(|it| report.check(&it.span, Limit::parse(it.text))).collect()
}

/// Whether a schedule never comes at an instant that will do. Looks at some years that hold every kind of day; the rest
/// repeat them.
fn never(schedule: &Schedule, will_do: impl Fn(DateTime<Utc>) -> bool) -> bool {
    const LOOKED_AT: usize = 2000;
    let start = DateTime::<Utc>::from_timestamp(1_704_067_200, 0).expect("2024-01-01, a leap year");
    let end = start + TimeDelta::days(4 * 366);
    !schedule.between(start, end).take(LOOKED_AT).any(will_do)
}

/// A rule as a text, or as a table.
fn keep(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Rule> {
    let table = match value.get_ref() {
        DeValue::String(text) => return report.check(&value.span(), Rule::parse(text, Style::Restic)),
        DeValue::Table(table) => table,
        other => {
            report.add(
                &value.span(),
                format!("`keep` is a table or a text such as \"last=3,daily=7\", not {}", kind(other)),
            );
            return None;
        }
    };
    let problems = report.count();
    let mut keys = Keys::new(table, value.span());
    let mut rule = Rule::empty(keys.word("style", Style::WORDS, Style::from_word, report));
    if let Some(name) = keys.string("time_zone", report) {
        rule.zone = report.check(&name.span, schedule::zone(name.text)).unwrap_or_default();
    }
    for key in KEEP_KEYS {
        let Some(value) = keys.take(key) else { continue };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            other => {
                report.add(&value.span(), format!("`{key}` is a number or a text, not {}", kind(other)));
                continue;
            }
        };
        report.check(&value.span(), rule.set(&key.replace('_', "-"), &text));
    }
    for tags in keys.strings("tags", report) {
        report.check(&tags.span, rule.set("tag", tags.text));
    }
    keys.finish(report);
    if rule.is_empty() && report.count() == problems {
        report.add(&value.span(), "`keep` says nothing; leave it out to keep everything");
    }
    Some(rule)
}
