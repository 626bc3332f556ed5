//! Policies as canonical TOML: what [`read`](super::read) reads back as the same policies. Two policies are equal exactly when
//! their texts are, so the text is what the journal keeps.

use std::fmt::Write as _;

use crate::bandwidth::Limit;
use crate::duration;
use crate::keep::Rule;
use crate::policy::{Hooks, Policy, Timing};
use crate::retry::Retry;
use crate::select::Selection;

/// Prints policies as a file, with every default that decides something written out.
#[must_use]
pub fn print(policies: &[Policy]) -> String {
    let tables: Vec<String> = policies.iter().map(policy).collect();
    tables.join("\n")
}

/// One policy as the table that its text is, for whoever shows it in another form (JSON).
#[must_use]
pub fn table(one: &Policy) -> toml::Table {
    let mut file: toml::Table = policy(one).parse().expect("what is printed is TOML");
    match file.remove("policy") {
        Some(toml::Value::Array(mut policies)) => policies.pop().and_then(|value| value.try_into().ok()),
        _ => None,
    }
    .expect("what is printed is a list of one table")
}

/// Lines of `key = value` under a header.
struct Lines(String);

impl Lines {
    fn under(header: &str) -> Self {
        Self(format!("{header}\n"))
    }

    fn put(&mut self, key: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn put_unless(&mut self, empty: bool, key: &str, value: &str) {
        if !empty {
            self.put(key, value);
        }
    }
}

fn policy(policy: &Policy) -> String {
    let mut head = Lines::under("[[policy]]");
    head.put("name", &quoted(&policy.name));
    if let Some(description) = &policy.description {
        head.put("description", &quoted(description));
    }
    head.put_unless(!policy.paused, "paused", "true");
    head.put_unless(policy.blackout.is_empty(), "blackout", &list(policy.blackout.spans()));
    head.put("repositories", &list(&policy.repositories));
    head.put("consistency", &quoted(policy.consistency.word()));
    head.put_unless(policy.priority == 0, "priority", &policy.priority.to_string());
    if let Some(concurrency) = policy.concurrency {
        head.put("concurrency", &concurrency.to_string());
    }
    if let Some(deadline) = policy.deadline {
        head.put("deadline", &quoted(&duration::print(deadline)));
    }
    head.put_unless(policy.after.is_empty(), "after", &list(&policy.after));
    head.put_unless(
        policy.bandwidth.is_empty(),
        "bandwidth",
        &list(policy.bandwidth.iter().map(Limit::text)),
    );
    let mut tables = vec![head.0, selection(&policy.select), retry(&policy.retry)];
    if !policy.hooks.is_empty() {
        tables.push(hooks(&policy.hooks));
    }
    tables.extend(policy.schedules.iter().map(timing));
    tables.extend(policy.keep.as_ref().map(keep));
    tables.join("\n")
}

fn selection(select: &Selection) -> String {
    let mut lines = Lines::under("[policy.select]");
    lines.put_unless(select.names.is_empty(), "names", &list(&select.names));
    let labels: Vec<String> =
        select.labels.iter().map(|(name, value)| format!("{} = {}", key(name), quoted(value))).collect();
    lines.put_unless(labels.is_empty(), "labels", &format!("{{ {} }}", labels.join(", ")));
    lines.put_unless(select.hosts.is_empty(), "hosts", &list(&select.hosts));
    lines.put_unless(select.exclude.is_empty(), "exclude", &list(&select.exclude));
    lines.0
}

fn retry(retry: &Retry) -> String {
    let mut lines = Lines::under("[policy.retry]");
    lines.put("attempts", &retry.attempts.to_string());
    lines.put("backoff", &quoted(&duration::print(retry.backoff)));
    lines.put("backoff_max", &quoted(&duration::print(retry.backoff_max)));
    lines.0
}

fn hooks(hooks: &Hooks) -> String {
    let mut lines = Lines::under("[policy.hooks]");
    for (key, name) in [("before", &hooks.before), ("after", &hooks.after)] {
        if let Some(name) = name {
            lines.put(key, &quoted(name));
        }
    }
    lines.put("limit", &quoted(&duration::print(hooks.limit)));
    lines.0
}

fn timing(timing: &Timing) -> String {
    let mut lines = Lines::under("[[policy.schedules]]");
    lines.put("cron", &quoted(timing.schedule.cron()));
    lines.put("time_zone", &quoted(timing.schedule.zone().name()));
    lines.put("mode", &quoted(timing.mode.word()));
    lines.put_unless(timing.jitter.is_zero(), "jitter", &quoted(&duration::print(timing.jitter)));
    if let Some(window) = &timing.window {
        lines.put("window", &list(window.ranges()));
    }
    lines.put("missed", &quoted(timing.missed.word()));
    lines.put("overlap", &quoted(timing.overlap.word()));
    lines.0
}

fn keep(rule: &Rule) -> String {
    let mut lines = Lines::under("[policy.keep]");
    lines.put("style", &quoted(rule.style.word()));
    lines.put("time_zone", &quoted(rule.zone.name()));
    for (name, value) in rule.parts().into_iter().filter(|(name, _)| name != "tag") {
        let number = value.bytes().all(|b| b.is_ascii_digit());
        lines.put(&name.replace('-', "_"), &if number { value } else { quoted(&value) });
    }
    lines.put_unless(rule.tags.is_empty(), "tags", &list(rule.tags.iter().map(|tags| tags.join("+"))));
    lines.0
}

pub(super) fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.to_owned() } else { quoted(name) }
}
