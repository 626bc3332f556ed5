//! What applying a file would change, field by field, for people to read before they agree. Knows no store:
//! it compares two lists of policies.

use serde::Serialize;

use super::print::{list, quoted};
use crate::bandwidth::Limit;
use crate::duration;
use crate::policy::{Policy, Timing};

/// What becomes of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "change")]
pub enum Change {
    /// It is new.
    Added {
        /// Its name.
        policy: String,
    },
    /// It goes.
    Removed {
        /// Its name.
        policy: String,
    },
    /// It becomes another.
    Changed {
        /// Its name.
        policy: String,
        /// In what, at least one.
        fields: Vec<FieldChange>,
    },
}

/// One field that changes. Values are as in the file; `None` is a field that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The place, such as `select.names`, `keep.daily` or `schedules[30 2 * * *].mode`.
    pub field: String,
    /// What it was.
    pub from: Option<String>,
    /// What it will be.
    pub to: Option<String>,
}

/// The changes from the old policies to the new, by name; those that stay the same are left out. The order
/// of schedules means nothing, so a different order is no change.
#[must_use]
pub fn difference(old: &[Policy], new: &[Policy]) -> Vec<Change> {
    let find = |policies: &[Policy], name: &str| policies.iter().position(|policy| policy.name == name);
    let mut changes = Vec::new();
    for policy in new {
        let name = policy.name.clone();
        match find(old, &name) {
            None => changes.push(Change::Added { policy: name }),
            Some(before) => {
                let fields = changed_fields(&rows(&old[before]), &rows(policy));
                if !fields.is_empty() {
                    changes.push(Change::Changed { policy: name, fields });
                }
            }
        }
    }
    let gone = old.iter().filter(|policy| find(new, &policy.name).is_none());
    changes.extend(gone.map(|policy| Change::Removed { policy: policy.name.clone() }));
    changes
}

type Row = (String, String);

fn changed_fields(old: &[Row], new: &[Row]) -> Vec<FieldChange> {
    let value = |rows: &[Row], field: &str| rows.iter().find(|row| row.0 == field).map(|row| row.1.clone());
    let kept = old.iter().map(|row| &row.0);
    let added = new.iter().map(|row| &row.0).filter(|field| value(old, field).is_none());
    let changes = kept.chain(added).map(|field| FieldChange {
        field: field.clone(),
        from: value(old, field),
        to: value(new, field),
    });
    changes.filter(|change| change.from != change.to).collect()
}

/// A policy as places and values.
fn rows(policy: &Policy) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut put = |field: &str, value: String| rows.push((field.to_owned(), value));
    if let Some(description) = &policy.description {
        put("description", quoted(description));
    }
    put("paused", policy.paused.to_string());
    if !policy.blackout.is_empty() {
        put("blackout", list(policy.blackout.spans()));
    }
    put("repositories", list(&policy.repositories));
    put("consistency", quoted(policy.consistency.word()));
    put("priority", policy.priority.to_string());
    if let Some(concurrency) = policy.concurrency {
        put("concurrency", concurrency.to_string());
    }
    if let Some(deadline) = policy.deadline {
        put("deadline", quoted(&duration::print(deadline)));
    }
    if !policy.after.is_empty() {
        put("after", list(&policy.after));
    }
    if !policy.bandwidth.is_empty() {
        put("bandwidth", list(policy.bandwidth.iter().map(Limit::text)));
    }
    put("retry.attempts", policy.retry.attempts.to_string());
    put("retry.backoff", quoted(&duration::print(policy.retry.backoff)));
    put("retry.backoff_max", quoted(&duration::print(policy.retry.backoff_max)));
    for (field, name) in [("hooks.before", &policy.hooks.before), ("hooks.after", &policy.hooks.after)] {
        if let Some(name) = name {
            put(field, quoted(name));
        }
    }
    if !policy.hooks.is_empty() {
        put("hooks.limit", quoted(&duration::print(policy.hooks.limit)));
    }
    for (field, patterns) in [
        ("select.names", &policy.select.names),
        ("select.hosts", &policy.select.hosts),
        ("select.exclude", &policy.select.exclude),
    ] {
        if !patterns.is_empty() {
            put(field, list(patterns));
        }
    }
    for (label, value) in &policy.select.labels {
        put(&format!("select.labels.{label}"), quoted(value));
    }
    for timing in &policy.schedules {
        for (field, value) in timing_rows(timing) {
            put(&format!("schedules[{}].{field}", timing.key()), value);
        }
    }
    if let Some(rule) = &policy.keep {
        put("keep.style", quoted(rule.style.word()));
        put("keep.time_zone", quoted(rule.zone.name()));
        for (field, value) in rule.parts().into_iter().filter(|(name, _)| name != "tag") {
            put(&format!("keep.{}", field.replace('-', "_")), value);
        }
        if !rule.tags.is_empty() {
            put("keep.tags", list(rule.tags.iter().map(|tags| tags.join("+"))));
        }
    }
    rows
}

fn timing_rows(timing: &Timing) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("mode", quoted(timing.mode.word())),
        ("jitter", quoted(&duration::print(timing.jitter))),
        ("missed", quoted(timing.missed.word())),
        ("overlap", quoted(timing.overlap.word())),
    ];
    rows.extend(timing.window.as_ref().map(|window| ("window", list(window.ranges()))));
    rows
}
